"""megatron-core's models compute what transformers' compute with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from model_families import BASE, FAMILIES, recipe_of, text_batch

from evenkeel.errors import InputError
from evenkeel.recipes import config
from evenkeel.recipes.schema import (
    Backend,
    GenerationBackend,
    Parallel,
    Precision,
)
from evenkeel.recipes.support import check_supported
from evenkeel.training import models
from evenkeel.training.backends import interface as backends
from evenkeel.training.backends.interface import ModelOutput, Sums
from evenkeel.training.data.batches import MicroBatch
from evenkeel.training.distributed import joined

# the library warns of what its own parts leave out
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron")

MAX_DIFFERENCE = 2e-6
"""Of log probabilities in fp32; 5e-7 was seen."""


def decoding_error(backend: backends.Backend, ids: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference of log probabilities, token by token, to those of whole rows.

    The second of the two rows is padded by 3 tokens. Halfway, rows change places and one doubles.
    """
    rows, mask = torch.stack([ids[0], ids[1].roll(3)]), torch.ones_like(ids)
    mask[1, :3] = 0
    error = 0.0
    order = torch.tensor([0, 1])
    with backend.decoder() as decode:
        start = 0
        for end in range(6, ids.shape[1] + 1):
            if end == 9:
                order = torch.tensor([1, 0, 1])
                decode.select(order)
            found = decode(rows[order, start:end], mask[order, :end]).log_softmax(-1)
            expected = torch.stack([wanted[0, end - 1], wanted[1, end - 4]])[order]
            error = max(error, float((found - expected).abs().max()))
            start = end
    return error


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_computes_and_decodes_what_transformers_computes_and_converts_back(
    family: str,
) -> None:
    from evenkeel.training.backends.megatron.backend import MegatronBackend

    recipe = recipe_of(FAMILIES[family])
    batch = text_batch()
    ids = batch.input_ids
    with joined(recipe, {}) as world:
        described = models.load_config(recipe.policy)
        backend = MegatronBackend(recipe, described, world)
        reference = models.build(recipe, described).eval()
        with torch.no_grad():
            wanted = reference(ids).logits.log_softmax(-1)
        found = backend.read([batch], lambda output, _: {"logs": output.log_probs()})[0]["logs"]
        assert wanted.std() > 0.1
        assert (found - wanted).abs().max() < MAX_DIFFERENCE
        assert decoding_error(backend, ids, wanted) < MAX_DIFFERENCE
        back = dict(backend.whole_weights())
    whole = reference.state_dict()
    if described.tie_word_embeddings:
        del whole["lm_head.weight"]
    assert set(back) == set(whole)
    assert all(torch.equal(back[name], weight) for name, weight in whole.items())


def test_frozen_routers_keep_their_weights() -> None:
    from evenkeel.training.backends.megatron.backend import MegatronBackend

    recipe = recipe_of(FAMILIES["mixtral"])
    assert recipe.policy.moe is not None
    recipe.policy.moe.freeze_router = True
    with joined(recipe, {}) as world:
        backend = MegatronBackend(recipe, models.load_config(recipe.policy), world)
        before = {name: weight.clone() for name, weight in backend.whole_weights()}
        backend.forward_backward([text_batch()], mean_loss)
        backend.clip_gradients(1.0)
        backend.step(1e-2)
        kept = [name for name, w in backend.whole_weights() if torch.equal(w, before[name])]
    assert kept == [f"model.layers.{layer}.mlp.gate.weight" for layer in range(2)]


def mean_loss(output: ModelOutput, batch: MicroBatch) -> tuple[torch.Tensor, Sums]:
    return output.sum_of_token_losses(batch.labels) / batch.labels.numel(), {}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"model_type": "gpt2"}, "which does not train models of type 'gpt2'"),
        ({"model_type": "llama", "attention_bias": True}, "has biases in its output projection"),
        ({"model_type": "mistral", "sliding_window": 8}, "a sliding window"),
        ({"model_type": "llama", "attention_dropout": 0.1}, "trains without dropout"),
    ],
)
def test_what_it_would_train_otherwise_is_refused(model: dict[str, Any], words: str) -> None:
    from evenkeel.training.backends.megatron.architecture import architecture

    described = models.described_config(
        model if model["model_type"] == "gpt2" else {**BASE, **model}
    )
    with pytest.raises(InputError, match=words):
        architecture(described, recipe_of(model).policy, torch.device("cpu"))


@pytest.mark.parametrize(
    ("parallel", "ranks", "words"),
    [
        (Parallel(tensor_parallel_size=2), 3, "asks for tensor 2 x pipeline 1 x context 1 = 2"),
        (Parallel(expert_parallel_size=4), 2, "does not divide the 2 rank"),
        (Parallel(virtual_pipeline_parallel_size=2), 2, "without a pipeline"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(parallel: Parallel, ranks: int, words: str) -> None:
    from evenkeel.training.backends.megatron.layout import check_sizes

    with pytest.raises(InputError, match=words):
        check_sizes(parallel, ranks)


ROOT = Path(__file__).parents[2]
GPU_RECIPES = sorted(
    path
    for path in (ROOT / "examples/configs/recipes/llm").glob("*.yaml")
    if config.load(path).recipe.policy.backend is Backend.MEGATRON
)


@pytest.mark.parametrize("path", GPU_RECIPES, ids=lambda path: path.stem)
def test_every_megatron_recipe_has_an_architecture(path: Path) -> None:
    from evenkeel.training.backends.megatron.architecture import architecture

    resolved = config.load(path)
    policy = resolved.recipe.policy
    vllm = policy.generation is not None and policy.generation.backend is GenerationBackend.VLLM
    is_pipeline = policy.parallel.pipeline_parallel_size > 1
    if policy.precision is Precision.FP8 or (vllm and is_pipeline):
        with pytest.raises(InputError, match=r"does not train with policy\.backend=megatron"):
            check_supported(resolved)
        return
    check_supported(resolved)
    described = models.described_config(policy.model_config)
    device = torch.device(resolved.recipe.cluster.device.value)
    made = architecture(described, policy, device)
    assert made.config.num_layers == described.num_hidden_layers
