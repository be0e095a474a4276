"""What must not change the curve, does not: repeats, interruptions, micro-batches, layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_runs import curves, losses, train, train_on_two_ranks

from evenkeel.training import attention
from evenkeel.training.attention import sample_lengths

STEPS = "sft.max_num_steps=60"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 steps at once on one process."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        assert train(folder, STEPS) == 0
    return folder


def test_it_learns(whole: Path) -> None:
    loss = losses(whole)
    assert sorted(loss) == list(range(1, 61))
    assert loss[1] > 5.0
    assert loss[60] < 2.5


def test_a_repeat_is_bit_equal(whole: Path, tmp_path: Path) -> None:
    assert train(tmp_path, STEPS, "sft.steps_per_run=20") == 0
    first = {step: loss for step, loss in losses(whole).items() if step <= 20}
    assert losses(tmp_path) == first


def test_stopped_and_continued_is_bit_equal(whole: Path, tmp_path: Path) -> None:
    assert train(tmp_path, "sft.max_num_steps=30") == 0
    assert train(tmp_path, STEPS) == 0
    stopped, unbroken = curves(tmp_path), curves(whole)
    for name in ("train/loss", "train/grad_norm", "train/lr"):
        assert stopped[name] == unbroken[name]
    assert stopped["validation/loss"][60] == unbroken["validation/loss"][60]


def test_steps_per_run_stops_without_changing_the_schedule(whole: Path, tmp_path: Path) -> None:
    run = ("policy.scheduler.decay_steps=null", "sft.max_num_steps=20", "sft.steps_per_run=12")
    assert train(tmp_path / "two", *run) == 0
    assert max(losses(tmp_path / "two")) == 12
    assert train(tmp_path / "two", *run) == 0
    assert train(tmp_path / "one", *run[:2]) == 0
    assert losses(tmp_path / "two") == losses(tmp_path / "one")


@pytest.mark.parametrize("size", [1, 2, 4, 3])
def test_micro_batch_size_does_not_change_the_curve(whole: Path, tmp_path: Path, size: int) -> None:
    steps = "sft.steps_per_run=30"
    assert train(tmp_path, STEPS, steps, f"policy.train_micro_batch_size={size}") == 0
    reference = losses(whole)
    for step, loss in losses(tmp_path).items():
        assert loss == pytest.approx(reference[step], abs=1e-5)


def test_packing_and_recomputation_do_not_change_the_curve(whole: Path, tmp_path: Path) -> None:
    overrides = ("policy.sequence_packing.enabled=true", "policy.activation_checkpointing=true")
    assert train(tmp_path, STEPS, "sft.steps_per_run=30", *overrides) == 0
    reference = losses(whole)
    for step, loss in losses(tmp_path).items():
        assert loss == pytest.approx(reference[step], abs=1e-5)


def test_long_packed_rows_do_not_change_the_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = (
        STEPS,
        "sft.steps_per_run=8",
        "policy.max_total_sequence_length=512",
        "policy.train_global_batch_size=24",
    )
    assert train(tmp_path / "one in a row", *long) == 0
    attended: list[list[list[int]]] = []

    def watched(segment_ids: torch.Tensor) -> list[list[int]]:
        attended.append(sample_lengths(segment_ids))
        return attended[-1]

    monkeypatch.setattr(attention, "sample_lengths", watched)
    packed = ("policy.sequence_packing.enabled=true", "policy.train_micro_batch_size=2")
    assert train(tmp_path / "packed", *long, *packed) == 0
    assert len(attended) == 8
    assert all(len(rows[0]) > 1 for rows in attended)
    reference = losses(tmp_path / "one in a row")
    for step, loss in losses(tmp_path / "packed").items():
        assert loss == pytest.approx(reference[step], abs=1e-5)


def test_logits_in_chunks_do_not_change_the_curve(whole: Path, tmp_path: Path) -> None:
    assert train(tmp_path, STEPS, "sft.steps_per_run=30", "policy.logits_chunk_size=7") == 0
    reference = losses(whole)
    for step, loss in losses(tmp_path).items():
        assert loss == pytest.approx(reference[step], abs=1e-5)


LAYOUTS = {
    "tp2 with logits in chunks": [
        "policy.parallel.tensor_parallel_size=2",
        "policy.logits_chunk_size=16",
    ],
    "dp2 with logits in chunks": [
        "policy.logits_chunk_size=16",
        "policy.train_micro_batch_size=2",
    ],
    "tp2": ["policy.parallel.tensor_parallel_size=2"],
    "tp2 with sequence parallelism": [
        "policy.parallel.tensor_parallel_size=2",
        "policy.parallel.sequence_parallel=true",
        "policy.activation_checkpointing=true",
    ],
    "dp2": ["policy.train_micro_batch_size=2", "policy.activation_checkpointing=true"],
    "dp2 packed": ["policy.sequence_packing.enabled=true", "policy.train_micro_batch_size=1"],
    "dp2 in bf16": ["policy.precision=bfloat16"],
    "tp2 in bf16": ["policy.precision=bfloat16", "policy.parallel.tensor_parallel_size=2"],
}
RESUMED = "tp2 from a dp2 checkpoint"


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """50 steps on each layout, and a run that changes its layout on the way."""
    folders = {name: tmp_path_factory.mktemp("layout") for name in (*LAYOUTS, RESUMED)}
    runs = [
        (folders[name], [STEPS, "sft.steps_per_run=50", *overrides])
        for name, overrides in LAYOUTS.items()
    ]
    runs += [
        (folders[RESUMED], [STEPS, "sft.steps_per_run=20"]),
        (folders[RESUMED], [STEPS, "sft.steps_per_run=30", *LAYOUTS["tp2"]]),
    ]
    assert train_on_two_ranks(runs) == [0] * len(runs)
    return folders


@pytest.mark.parametrize("layout", [name for name in (*LAYOUTS, RESUMED) if "bf16" not in name])
def test_layout_does_not_change_the_curve(
    whole: Path, on_two_ranks: dict[str, Path], layout: str
) -> None:
    reference, found = curves(whole), curves(on_two_ranks[layout])
    for name in ("train/loss", "train/grad_norm", "train/global_valid_toks"):
        assert sorted(found[name]) == list(range(1, 51))
        for step, value in found[name].items():
            assert value == pytest.approx(reference[name][step], rel=1e-4), (name, step)


@pytest.mark.parametrize("layout", ["dp2 in bf16", "tp2 in bf16"])
def test_bf16_stays_near_fp32(whole: Path, on_two_ranks: dict[str, Path], layout: str) -> None:
    reference, found = losses(whole), losses(on_two_ranks[layout])
    assert found[50] == pytest.approx(reference[50], rel=0.05)
    assert found[50] != reference[50]


def test_a_checkpoint_of_two_ranks_continues_on_one(
    whole: Path, on_two_ranks: dict[str, Path]
) -> None:
    folder = on_two_ranks["tp2"]
    assert train(folder, STEPS) == 0
    assert losses(folder)[60] == pytest.approx(losses(whole)[60], rel=1e-4)
    validation = curves(folder)["validation/loss"][60]
    assert validation == pytest.approx(curves(whole)["validation/loss"][60], rel=1e-4)
