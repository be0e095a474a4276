"""Each patch of the CPU shim stands for something that the installed library still needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_vision import VLM
from training_runs import train

from evenkeel.training.backends.megatron import cpu_shim

# the library warns of what its own parts leave out
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron")

STEP = ("policy.backend=megatron", "sft.max_num_steps=1", "policy.activation_checkpointing=true")
WITH_IMAGES = (*VLM, *STEP)
ELSEWHERE = {"cuda.synchronize", "_set_cuda_rng_state"}
"""Reached by pipelines only; or queued, one call a recomputation, for a GPU that never starts."""
NEEDED = [
    (patch, STEP)
    for patch in cpu_shim.PATCHES
    if patch.attribute not in ELSEWHERE and "rope_utils" not in patch.module
]
NEEDED += [(patch, WITH_IMAGES) for patch in cpu_shim.WITHOUT_ENGINE if "llava" in patch.module]


@pytest.mark.parametrize("step", [STEP, WITH_IMAGES], ids=["text", "images"])
def test_the_patches_suffice(tmp_path: Path, step: tuple[str, ...]) -> None:
    assert train(tmp_path, *step) == 0


@pytest.mark.parametrize(("patch", "step"), NEEDED, ids=lambda case: getattr(case, "attribute", ""))
def test_without_one_of_them_a_step_or_its_checkpoint_fails(
    tmp_path: Path,
    patch: cpu_shim.Patch,
    step: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("PATCHES", "WITHOUT_ENGINE"):
        every = getattr(cpu_shim, name)
        cpu_shim.apply(every)
        monkeypatch.setattr(cpu_shim, name, tuple(each for each in every if each is not patch))
    cpu_shim.revert(patch)
    outcome: int | str
    try:
        outcome = train(tmp_path, *step)
    except (RuntimeError, AssertionError, TypeError) as error:
        outcome = str(error)
    finally:
        cpu_shim.apply((patch,))
    assert outcome != 0
