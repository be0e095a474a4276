"""The megatron backend follows the torch backend's curve, in every layout, and resumes on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_runs import curves, losses, train, train_on_two_ranks

# the library warns of what its own parts leave out
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron")

# a deeper model than the others train, to have two pieces per stage; with their learning rate it
# would be chaotic after 20 steps, for the torch backend with another micro-batch size, too
SETUP = (
    "policy.model_config.num_hidden_layers=4",
    "policy.optimizer.lr=2e-3",
    "sft.max_num_steps=30",
)
MEGATRON = ("policy.backend=megatron", *SETUP)


@pytest.fixture(scope="module")
def by_torch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference: the torch backend on one process."""
    folder = tmp_path_factory.mktemp("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        assert train(folder, *SETUP, "checkpointing.enabled=false") == 0
    return folder


def test_one_process_follows_torch_and_resumes_bit_equal(by_torch: Path, tmp_path: Path) -> None:
    assert train(tmp_path / "whole", *MEGATRON, "policy.train_micro_batch_size=2") == 0
    assert_same_curve(by_torch, tmp_path / "whole")
    halves = (*MEGATRON, "policy.train_micro_batch_size=2", "sft.steps_per_run=15")
    assert train(tmp_path / "halves", *halves) == 0
    assert train(tmp_path / "halves", *halves) == 0
    assert_equal_curve(tmp_path / "whole", tmp_path / "halves")


TP2 = "policy.parallel.tensor_parallel_size=2"
PP2 = "policy.parallel.pipeline_parallel_size=2"
LAYOUTS = {
    "tp2": [TP2],
    "tp2 with sequence parallelism": [TP2, "policy.parallel.sequence_parallel=true"],
    "pp2": [PP2, "policy.train_micro_batch_size=2"],
    "pp2, interleaved": [
        PP2,
        "policy.parallel.virtual_pipeline_parallel_size=2",
        "policy.train_micro_batch_size=2",
    ],
    "dp2, recomputed": [
        "policy.train_micro_batch_size=2",
        "policy.activation_checkpointing=true",
    ],
    "cp2": ["policy.parallel.context_parallel_size=2"],
    "cp2 packed": [
        "policy.parallel.context_parallel_size=2",
        "policy.sequence_packing.enabled=true",
    ],
    "pp2 packed": [PP2, "policy.sequence_packing.enabled=true", "policy.train_micro_batch_size=1"],
}
RESUMED = "pp2 from a tp2 checkpoint"


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp("layout") for name in (*LAYOUTS, RESUMED)}
    runs = [
        (folders[name], [*MEGATRON, "checkpointing.enabled=false", *overrides])
        for name, overrides in LAYOUTS.items()
    ]
    half = "sft.steps_per_run=15"
    runs += [
        (folders[RESUMED], [*MEGATRON, half, TP2]),
        (folders[RESUMED], [*MEGATRON, half, PP2, "policy.train_micro_batch_size=2"]),
    ]
    assert train_on_two_ranks(runs) == [0] * len(runs)
    return folders


@pytest.mark.parametrize("layout", [*LAYOUTS, RESUMED])
def test_layout_does_not_change_the_curve(
    by_torch: Path, on_two_ranks: dict[str, Path], layout: str
) -> None:
    assert_same_curve(by_torch, on_two_ranks[layout])


TOLERANCES = {
    "train/loss": 1e-4,
    "train/grad_norm": 1e-3,
    "train/global_valid_toks": 0.0,
    "validation/loss": 1e-4,
}
"""Relative; other orders of the same sums in fp32, grown over the steps."""


def assert_same_curve(reference: Path, found: Path) -> None:
    wanted, got = curves(reference), curves(found)
    for name, tolerance in TOLERANCES.items():
        assert sorted(got[name]) == sorted(wanted[name])
        for step, value in got[name].items():
            assert value == pytest.approx(wanted[name][step], rel=tolerance), (name, step)


def assert_equal_curve(reference: Path, found: Path) -> None:
    wanted, got = curves(reference), curves(found)
    assert losses(found) == losses(reference)
    for name in ("train/grad_norm", "validation/loss"):
        assert got[name] == wanted[name]
