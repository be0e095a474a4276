"""Drawing tokens, and generating with the training model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evenkeel.errors import InputError
from evenkeel.recipes import config
from evenkeel.training import models
from evenkeel.training.backends.decoding import RecomputingDecoder, last_logits_by
from evenkeel.training.backends.fsdp2 import Fsdp2Backend
from evenkeel.training.backends.interface import DataParallelPlace
from evenkeel.training.distributed import joined
from evenkeel.training.generation import engines
from evenkeel.training.generation.builtin import BuiltinEngine
from evenkeel.training.generation.interface import GREEDY, Completion, Request, Sampling
from evenkeel.training.generation.sampling import next_tokens, uniforms

TINY = Path(__file__).parents[2] / "training/tiny.yaml"
PROMPTS = [[257, 258, 262, 49, 43, 50], [257, 258, 262, 51], [257] * 9]
STOP = 260


def test_draws_are_uniform_and_belong_to_seed_and_position() -> None:
    draws = torch.cat([uniforms(range(500), position) for position in range(4)])
    assert float(draws.mean()) == pytest.approx(0.5, abs=0.02)
    assert 0 <= float(draws.min()) < float(draws.max()) < 1
    assert uniforms([7, 9], 3)[1] == uniforms([9], 3)[0]


def test_tokens_are_drawn_by_their_probability() -> None:
    probs = torch.tensor([0.5, 0.2, 0.3])
    logits = probs.log().repeat(6000, 1)
    tokens, log_probs = next_tokens(logits, Sampling(), uniforms(range(6000), 0))
    counts = Counter(tokens.tolist())
    for token, prob in enumerate(probs.tolist()):
        assert counts[token] / 6000 == pytest.approx(prob, abs=0.02)
    assert log_probs.exp().tolist() == pytest.approx(probs[tokens].tolist())


@pytest.mark.parametrize(
    ("sampling", "drawn"),
    [
        (Sampling(top_k=2), {0, 2}),
        (Sampling(top_p=0.5), {0}),
        (Sampling(top_p=0.51), {0, 2}),
        (Sampling(top_k=2, top_p=0.9), {0, 2}),
        (Sampling(temperature=0.01), {0}),
    ],
)
def test_unlikely_tokens_are_cut_off(sampling: Sampling, drawn: set[int]) -> None:
    logits = torch.tensor([0.5, 0.2, 0.3]).log().repeat(300, 1)
    tokens, log_probs = next_tokens(logits, sampling, uniforms(range(300), 1))
    assert set(tokens.tolist()) == drawn
    if sampling.temperature == 1:
        assert float(log_probs[tokens == 0][0]) == pytest.approx(-0.6931, abs=1e-3)


@pytest.fixture(scope="module")
def backend() -> object:
    recipe = config.load(TINY, []).recipe
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID"):
            patch.delenv(name, raising=False)
        with joined(recipe) as world:
            yield Fsdp2Backend(recipe, models.load_config(recipe.policy), world)


def generate(
    backend: Fsdp2Backend, sampling: Sampling, rows: int | None = None
) -> list[Completion]:
    requests = [Request(ids, 7 + place, 40 + place) for place, ids in enumerate(PROMPTS)]
    return BuiltinEngine(backend, [STOP], pad_id=256, max_rows=rows).generate(requests, sampling)


def test_greedy_generation_is_the_argmax_of_whole_forward_passes(backend: Fsdp2Backend) -> None:
    for ids, found in zip(PROMPTS, generate(backend, GREEDY), strict=True):
        so_far = list(ids)
        for token, log_prob in zip(found.token_ids, found.log_probs, strict=True):
            with torch.no_grad():
                logits = backend.model(input_ids=torch.tensor([so_far]), use_cache=False).logits
            expected = logits[0, -1].log_softmax(-1)
            assert token == int(expected.argmax())
            assert log_prob == pytest.approx(float(expected[token]), abs=1e-4)
            so_far.append(token)


@pytest.mark.parametrize("rows", [1, 2])
def test_the_size_of_a_batch_changes_nothing(backend: Fsdp2Backend, rows: int) -> None:
    together, apart = (generate(backend, Sampling(temperature=0.7), n) for n in (None, rows))
    for a, b in zip(together, apart, strict=True):
        assert a.token_ids == b.token_ids
        assert a.log_probs == pytest.approx(b.log_probs, abs=1e-4)


def test_answers_end_with_their_stop_token_or_at_their_limit(backend: Fsdp2Backend) -> None:
    for place, found in enumerate(generate(backend, Sampling(temperature=50.0))):
        assert len(found.token_ids) == len(found.log_probs)
        assert STOP not in found.token_ids[:-1]
        assert found.is_finished == (found.token_ids[-1] == STOP)
        assert found.is_finished or len(found.token_ids) == 7 + place


def test_recomputing_gives_what_the_cache_gives(backend: Fsdp2Backend) -> None:
    ids = torch.tensor([[256, 256, 257, 49], [257, 258, 262, 51]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    recompute = RecomputingDecoder(lambda batch: last_logits_by(backend.read, batch))
    more = torch.tensor([[50], [52]])
    with backend.decoder() as cached:
        for new, seen in ((ids, mask), (more, torch.cat([mask, torch.ones_like(more)], 1))):
            expected = cached(new, seen).log_softmax(-1)
            assert torch.allclose(recompute(new, seen), expected, atol=1e-4)


def test_rows_that_are_chosen_anew_go_on_as_they_were(backend: Fsdp2Backend) -> None:
    ids = torch.tensor([[256, 256, 257, 49], [257, 258, 262, 51], [257, 258, 262, 53]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]])
    rows = torch.tensor([2, 0, 2, 2])
    more = torch.tensor([[50], [52], [54], [50]])
    seen = torch.cat([mask[rows], torch.ones_like(more)], 1)
    recompute = RecomputingDecoder(lambda batch: last_logits_by(backend.read, batch))
    with backend.decoder() as chosen, backend.decoder() as whole:
        for decode in (chosen, recompute):
            decode(ids, mask)
            decode.select(rows)
        whole(ids[rows], mask[rows])
        for _ in range(20):  # beyond the room that the cache grows to first
            expected = whole(more, seen).log_softmax(-1)
            for decode in (chosen, recompute):
                assert torch.allclose(decode(more, seen).log_softmax(-1), expected, atol=1e-4)
            seen = torch.cat([seen, torch.ones_like(more)], 1)


def test_answers_to_one_prompt_are_those_of_their_own(backend: Fsdp2Backend) -> None:
    sampling = Sampling(temperature=20.0)
    requests = [Request(PROMPTS[n % 2], 3 + 5 * (n % 3), 90 + n) for n in range(9)]
    together = BuiltinEngine(backend, [STOP, 5, 6, 7], pad_id=256).generate(requests, sampling)
    alone = BuiltinEngine(backend, [STOP, 5, 6, 7], pad_id=256, max_rows=1)
    for a, b in zip(together, alone.generate(requests, sampling), strict=True):
        assert (a.token_ids, a.is_finished) == (b.token_ids, b.is_finished)
        assert a.log_probs == pytest.approx(b.log_probs, abs=1e-4)
    assert len({len(each.token_ids) for each in together}) > 2


def test_no_requests_give_no_answers(backend: Fsdp2Backend) -> None:
    assert BuiltinEngine(backend, [STOP], pad_id=256).generate([], GREEDY) == []


@pytest.mark.parametrize(
    ("backend", "num_replicas", "is_refused"),
    [("megatron", 1, False), ("megatron", 2, True), ("fsdp2", 2, False)],
)
def test_experts_that_other_answers_would_wait_for_are_refused(
    backend: str, num_replicas: int, is_refused: bool
) -> None:
    layout = [f"policy.backend={backend}", "policy.parallel.expert_parallel_size=2"]
    recipe = config.load(TINY, layout).recipe
    place = SimpleNamespace(place=DataParallelPlace(0, num_replicas))
    ingredients: Any = SimpleNamespace(recipe=recipe, backend=place, pad_id=256)
    if not is_refused:
        assert isinstance(engines.build(ingredients, [STOP]), BuiltinEngine)
        return
    with pytest.raises(InputError, match="expert_parallel_size is 2 over 2 data-parallel ranks"):
        engines.build(ingredients, [STOP])
