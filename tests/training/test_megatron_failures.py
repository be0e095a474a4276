"""What goes wrong on the megatron backend ends in a message, and in whole checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_interruptions import checkpoints, no_file_larger_than
from training_runs import curves, losses, train

from evenkeel.errors import EXIT_MACHINE
from evenkeel.run_record import TrainerExit

# the library warns of what its own parts leave out
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron")

MEGATRON = "policy.backend=megatron"


def test_a_missing_shard_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path, MEGATRON, "sft.steps_per_run=2") == 0
    (tmp_path / "ckpts/step_00000002/model/__0_0.distcp").unlink()
    assert train(tmp_path, MEGATRON, "sft.steps_per_run=2") == EXIT_MACHINE
    message = capsys.readouterr().err
    assert "the checkpoint of step 2 is damaged: model/__0_0.distcp is missing" in message


def test_a_full_disk_keeps_the_old_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, MEGATRON, "sft.steps_per_run=2") == 0
    with no_file_larger_than(100_000):
        assert train(tmp_path, MEGATRON, "sft.steps_per_run=2") == EXIT_MACHINE
    message = capsys.readouterr().err
    assert "cannot save the checkpoint of step 4" in message
    assert "that of step 2 is whole" in message
    assert checkpoints(tmp_path) == ["step_00000002"]


def test_a_bad_number_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = (MEGATRON, "policy.optimizer.lr=1e20", "policy.scheduler.warmup_steps=0")
    assert train(tmp_path, *overrides) == TrainerExit.NON_FINITE
    last = max(curves(tmp_path)["train/loss"])
    assert f"at step {last}" in capsys.readouterr().err
    assert not (tmp_path / "ckpts").exists()


@pytest.mark.parametrize(("first", "second"), [("fsdp2", "megatron"), ("megatron", "fsdp2")])
def test_a_checkpoint_of_the_other_backend_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], first: str, second: str
) -> None:
    assert train(tmp_path, f"policy.backend={first}", "sft.steps_per_run=1") == 0
    assert train(tmp_path, f"policy.backend={second}", "sft.steps_per_run=1") == EXIT_MACHINE
    message = capsys.readouterr().err
    assert f"the checkpoint of step 1 is the {first} backend's" in message
    assert f"set policy.backend={first} to continue" in message
    assert losses(tmp_path).keys() == {1}
