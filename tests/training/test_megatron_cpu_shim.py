"""Each patch of the CPU shim stands for something that the installed library still needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_runs import train

from evenkeel.training.backends.megatron import cpu_shim

# the library warns of what its own parts leave out
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron")

STEP = ("policy.backend=megatron", "sft.max_num_steps=1", "policy.activation_checkpointing=true")
ELSEWHERE = {"cuda.synchronize", "_set_cuda_rng_state"}
"""Reached by pipelines only; or queued, one call a recomputation, for a GPU that never starts."""
NEEDED = [
    patch
    for patch in cpu_shim.PATCHES
    if patch.attribute not in ELSEWHERE and "rope_utils" not in patch.module
]


def test_the_patches_suffice(tmp_path: Path) -> None:
    assert train(tmp_path, *STEP) == 0


@pytest.mark.parametrize("patch", NEEDED, ids=lambda patch: patch.attribute)
def test_without_one_of_them_a_step_or_its_checkpoint_fails(
    tmp_path: Path, patch: cpu_shim.Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu_shim.apply(cpu_shim.PATCHES)
    others = tuple(each for each in cpu_shim.PATCHES if each is not patch)
    monkeypatch.setattr(cpu_shim, "PATCHES", others)
    cpu_shim.revert(patch)
    outcome: int | str
    try:
        outcome = train(tmp_path, *STEP)
    except (RuntimeError, AssertionError, TypeError) as error:
        outcome = str(error)
    finally:
        cpu_shim.apply((patch,))
    assert outcome != 0
