"""A model that is not trained any more holds its weights and nothing else."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from training_runs import arguments

from evenkeel.recipes import config
from evenkeel.recipes.schema import Algorithm
from evenkeel.training.distributed import joined
from evenkeel.training.run import set_up

# the library warns of what its own parts leave out
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron")

SMALLEST = 32
"""Numbers of a weight, at least; the frequencies of positions are fewer, and fp32."""


def storages() -> dict[int, tuple[torch.dtype, int]]:
    """(type, bytes) of the memory of all tensors of this process that may be weights."""
    gc.collect()
    tensors = [
        found
        for found in gc.get_objects()
        # other kinds wrap these, or have no memory and are left from other tests
        if type(found) in (torch.Tensor, torch.nn.Parameter)
    ]
    return {
        tensor.untyped_storage().data_ptr(): (tensor.dtype, tensor.untyped_storage().nbytes())
        for tensor in tensors
        if tensor.is_floating_point() and tensor.numel() >= SMALLEST
    }


@pytest.mark.parametrize("algorithm", [Algorithm.DPO, Algorithm.DISTILLATION])
def test_a_frozen_model_in_bf16_has_no_fp32_weights(tmp_path: Path, algorithm: Algorithm) -> None:
    """Of two models of one shape, only the one in training has them; the teacher had a warm
    start, so it was trained once."""
    overrides = ["policy.backend=megatron", "policy.precision=bfloat16"]
    _, path, *rest = arguments(tmp_path, overrides, algorithm)
    resolved = config.load(Path(path), rest)
    before = storages()
    with joined(resolved.recipe, {}) as world:
        loop, log = set_up(resolved, world, lambda _: None)
        with log:
            assert loop.resume() == 0
            num_weights = sum(weight.numel() for _, weight in loop.backend.whole_weights())
            held = [found for place, found in storages().items() if place not in before]
    by_type = {
        dtype: sum(size for found, size in held if found is dtype)
        for dtype in (torch.float32, torch.bfloat16)
    }
    assert {dtype for dtype, _ in held} == by_type.keys()
    # beside them a table of positions, which the library keeps
    assert 1 <= by_type[torch.float32] / (4 * num_weights) < 1.01
    # the library pads the weights of a model that is trained
    assert 1 <= by_type[torch.bfloat16] / (2 * 2 * num_weights) < 1.1
