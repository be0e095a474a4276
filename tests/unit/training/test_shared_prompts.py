"""Rows that share a prompt: where their positions go, and that a model computes the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from evenkeel.recipes.schema import (
    Algorithm,
    Cluster,
    Device,
    Parallel,
    Policy,
    Precision,
    Recipe,
    SequencePacking,
)
from evenkeel.training import models
from evenkeel.training.backends.fsdp2 import Fsdp2Backend
from evenkeel.training.backends.interface import ModelOutput, Sums
from evenkeel.training.data.batches import NOT_TRAINED, MicroBatch
from evenkeel.training.distributed import joined
from evenkeel.training.shared_prompts import MODEL_TYPES, can_share, shared_prompts

PROMPTS = [[5, 6, 7, 8, 9, 10], [5, 6, 11, 12]]
ANSWERS = [(0, [1, 2, 3]), (0, [4]), (0, []), (1, [13, 14, 15, 16, 17]), (1, [13, 18])]
"""Prompt and answer of each row; an answer of one token is only a label."""


def batch_of(rows: list[tuple[int, list[int]]], seq: int) -> MicroBatch:
    ids = torch.zeros(len(rows), seq, dtype=torch.int64)
    labels = torch.full_like(ids, NOT_TRAINED)
    mask = torch.zeros_like(ids)
    for row, (prompt, answer) in enumerate(rows):
        tokens = PROMPTS[prompt] + answer
        ids[row, : len(tokens) - 1] = torch.tensor(tokens[:-1])
        mask[row, : len(tokens) - 1] = 1
        first = len(PROMPTS[prompt])
        labels[row, first - 1 : len(tokens) - 1] = torch.tensor(answer)
    return MicroBatch(
        input_ids=ids,
        labels=labels,
        position_ids=torch.arange(seq).expand(len(rows), seq),
        attention_mask=mask,
        segment_ids=None,
        num_trained_tokens=int((labels >= 0).sum()),
        sample_indices=tuple((row,) for row in range(len(rows))),
    )


def test_every_token_stands_at_its_place_with_its_position() -> None:
    batch = batch_of(ANSWERS, 12)
    shared = shared_prompts(batch.input_ids, batch.attention_mask, batch.labels)
    assert shared is not None
    # the row without an answer feeds all but the last token of its prompt, so it is one of its own
    assert (shared.num_prompts, shared.width) == (3, 6)
    assert shared.prompt_of_row.tolist() == [0, 0, 1, 2, 2]
    ids = batch.input_ids.flatten()[shared.sources]
    assert ids.numel() == 3 * 6 + 5 * 4
    is_token = batch.attention_mask.bool()
    assert torch.equal(ids[shared.places][is_token], batch.input_ids[is_token])
    assert torch.equal(
        shared.position_ids[0][shared.places][is_token], batch.position_ids[is_token]
    )


def test_what_follows_a_prompt_sees_it_and_itself() -> None:
    batch = batch_of([*ANSWERS[:2], *ANSWERS[3:]], 12)
    shared = shared_prompts(batch.input_ids, batch.attention_mask, batch.labels)
    assert shared is not None
    assert shared.mask.shape == (4, 1, 4, 6 + 4)
    assert shared.mask[0, 0].int().tolist() == [
        [1] * 6 + [1, 0, 0, 0],
        [1] * 6 + [1, 1, 0, 0],
        [1] * 6 + [1, 1, 1, 0],
        [1] * 6 + [1, 1, 1, 1],
    ]
    assert shared.mask[2, 0, 0].int().tolist() == [1, 1, 1, 1, 0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("rows", [[ANSWERS[0], ANSWERS[3]], [ANSWERS[1], ANSWERS[1]]])
def test_what_saves_nothing_is_not_shared(rows: list[tuple[int, list[int]]]) -> None:
    batch = batch_of(rows, 8)
    assert shared_prompts(batch.input_ids, batch.attention_mask, batch.labels) is None


MODELS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 4, "sliding_window": None},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "gemma": {"num_key_value_heads": 1, "head_dim": 8},
}
SIZES = {
    "vocab_size": 24,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def recipe_of(model_type: str, **policy: Any) -> Recipe:
    return Recipe(
        algorithm=Algorithm.GRPO,
        policy=Policy(
            model_config={"model_type": model_type, **SIZES, **MODELS[model_type]},
            precision=Precision.FLOAT32,
            **policy,
        ),
        cluster=Cluster(gpus_per_node=1, device=Device.CPU),
    )


def loss(output: ModelOutput, batch: MicroBatch) -> tuple[Tensor, Sums]:
    log_probs = output.token_log_probs(batch.labels)
    return log_probs.square().sum(), {}


@pytest.mark.parametrize("chunk_size", [None, 5])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_log_probabilities_and_gradients_are_those_of_whole_rows(
    model_type: str, chunk_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    recipe = recipe_of(model_type, logits_chunk_size=chunk_size, activation_checkpointing=True)
    whole = batch_of(ANSWERS, 12)
    shared = shared_prompts(whole.input_ids, whole.attention_mask, whole.labels)
    assert shared is not None
    with joined(recipe) as world:
        backend = Fsdp2Backend(recipe, models.load_config(recipe.policy), world)
        found = []
        for batch in (whole, replace(whole, shared=shared)):
            (read,) = backend.read(
                [batch], lambda output, batch: {"l": output.token_log_probs(batch.labels)}
            )
            backend.forward_backward([batch], loss)
            gradients = [weight.grad.clone() for weight in backend.model.parameters()]
            found.append([read["l"], *gradients])
            backend.optimizer.zero_grad()
    assert float(found[0][0].abs().sum()) > 1
    for plain, once in zip(*found, strict=True):
        torch.testing.assert_close(once, plain, atol=2e-5, rtol=1e-4)


def test_a_layer_that_ignores_the_sharing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    config = AutoConfig.for_model("llama", **SIZES)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    from evenkeel.training.shared_prompts import NOWHERE

    with pytest.raises(RuntimeError, match="size"):
        model(input_ids=torch.ones(1, 9, dtype=torch.int64), attention_mask=NOWHERE)


def test_where_prompts_are_shared() -> None:
    def shares(recipe: Recipe, device: str = "cpu", **config: Any) -> bool:
        built = AutoConfig.for_model(**{**recipe.policy.model_config, **config})
        return can_share(recipe, built, torch.device(device))

    assert all(shares(recipe_of(model_type)) for model_type in MODEL_TYPES)
    assert not shares(recipe_of("mistral"), sliding_window=8)
    assert not shares(recipe_of("llama"), device="cuda")
    assert not shares(recipe_of("llama", torch_compile=True))
    assert not shares(recipe_of("llama", sequence_packing=SequencePacking(enabled=True)))
    assert not shares(recipe_of("llama", parallel=Parallel(sequence_parallel=True)))
    assert not shares(replace(recipe_of("llama"), algorithm=Algorithm.SFT))
