"""Runs that are stopped, killed or refused: what is left is whole, and the next start continues."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from training_runs import arguments, curves, environment, losses, train

from evenkeel.errors import EXIT_INTERRUPTED, EXIT_MACHINE
from evenkeel.run_record import TrainerExit
from evenkeel.training.algorithms.interface import StepResult
from evenkeel.training.algorithms.sft import Sft


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The losses of 12 steps at once."""
    folder = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        assert train(folder) == 0
    return losses(folder)


def checkpoints(folder: Path) -> list[str]:
    return sorted(entry.name for entry in (folder / "ckpts").iterdir())


def before_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], object]) -> None:
    """Let something happen as the trainer begins a step."""
    original = Sft.train_step

    def train_step(self: Sft, number: int) -> StepResult:
        if number == step:
            action()
        return original(self, number)

    monkeypatch.setattr(Sft, "train_step", train_step)


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGTERM, TrainerExit.STOPPED),
        (signal.SIGUSR1, TrainerExit.STOPPED),
        (signal.SIGINT, EXIT_INTERRUPTED),
    ],
)
def test_a_signal_saves_and_stops(
    number: signal.Signals,
    status: int,
    tmp_path: Path,
    unbroken: dict[int, float],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        before_step(patch, 7, lambda: os.kill(os.getpid(), number))
        handler = signal.getsignal(number)
        assert train(tmp_path) == status
        assert signal.getsignal(number) is handler
    assert checkpoints(tmp_path) == ["step_00000005", "step_00000007"]
    assert f"stopped by {number.name} after step 7 of 12" in capsys.readouterr().out
    assert train(tmp_path) == 0
    assert losses(tmp_path) == unbroken


def test_a_stop_request_by_file(tmp_path: Path, unbroken: dict[int, float]) -> None:
    request = tmp_path / "stop_request"
    with pytest.MonkeyPatch.context() as patch:
        before_step(patch, 3, request.touch)
        assert train(tmp_path) == TrainerExit.STOPPED
    assert max(losses(tmp_path)) == 3
    request.unlink()
    assert train(tmp_path) == 0
    assert losses(tmp_path) == unbroken


def test_killed_at_any_moment(tmp_path: Path, unbroken: dict[int, float]) -> None:
    job = [arguments(tmp_path, ["checkpointing.save_period=1"]), str(tmp_path / "ckpts")]
    script = Path(__file__).with_name("killed_trainings.py")
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(job)],
        env=environment(0, 1, 0),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    killed_while_saving = json.loads(done.stdout.splitlines()[-1])
    assert killed_while_saving >= 2
    assert losses(tmp_path) == unbroken
    assert checkpoints(tmp_path) == ["step_00000011", "step_00000012"]


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """The system refuses to write beyond ``size`` bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_the_old_checkpoint(
    tmp_path: Path, unbroken: dict[int, float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, "sft.steps_per_run=5") == 0
    capsys.readouterr()
    with no_file_larger_than(100_000):
        assert train(tmp_path) == EXIT_MACHINE
    message = capsys.readouterr().err
    assert "cannot save the checkpoint of step 10" in message
    assert "the file system took only a part of it" in message
    assert "that of step 5 is whole" in message
    assert checkpoints(tmp_path) == ["step_00000005"]
    assert train(tmp_path) == 0
    assert losses(tmp_path) == unbroken


def test_a_missing_shard_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path) == 0
    (tmp_path / "ckpts/step_00000012/model/__0_0.distcp").unlink()
    assert train(tmp_path, "sft.max_num_steps=13") == EXIT_MACHINE
    message = capsys.readouterr().err
    assert "the checkpoint of step 12 is damaged: model/__0_0.distcp is missing" in message
    assert "remove this folder to continue from the checkpoint before it" in message


def test_a_checkpoint_of_another_recipe_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, "sft.steps_per_run=2") == 0
    assert train(tmp_path, "policy.optimizer.lr=1e-3") == EXIT_MACHINE
    assert "was written by another recipe" in capsys.readouterr().err
    assert max(losses(tmp_path)) == 2


def test_half_written_checkpoints_are_removed(tmp_path: Path) -> None:
    for name in (".saving-step_00000099", ".removing-step_00000001", "step_00000098"):
        (tmp_path / "ckpts" / name / "model").mkdir(parents=True)
    assert train(tmp_path) == 0
    assert sorted(losses(tmp_path)) == list(range(1, 13))
    assert [name for name in checkpoints(tmp_path) if name.startswith(".")] == []


def test_a_bad_number_is_logged_and_ends_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ("policy.optimizer.lr=1e20", "policy.scheduler.warmup_steps=0")
    assert train(tmp_path, *overrides) == TrainerExit.NON_FINITE
    found = curves(tmp_path)["train/loss"]
    last = max(found)
    assert last < 12
    assert f"at step {last}" in capsys.readouterr().err
    assert not (tmp_path / "ckpts").exists() or checkpoints(tmp_path) == []


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    assert train(tmp_path) == 0
    before = losses(tmp_path)
    assert train(tmp_path) == 0
    assert losses(tmp_path) == before


def test_a_larger_tokenizer_than_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, "policy.model_config.vocab_size=256") == 2
    message = capsys.readouterr().err
    assert "the tokenizer has 272 tokens" in message
    assert "policy.model_config.vocab_size" in message


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("policy.parallel.context_parallel_size=2", "context_parallel_size is 2"),
        ("policy.parallel.tensor_parallel_size=2", "1 rank(s) run"),
        ("policy.precision=fp8", "policy.precision is fp8"),
        ("policy.model_config.hiden_size=8", "did you mean"),
        ("policy.model_config.model_type=lama", "did you mean 'llama'"),
        ("cluster.device=cuda", "torch sees no GPU here"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, part: str
) -> None:
    if "hiden" in override:
        override = f"++{override}"
    assert train(tmp_path, override) == 2
    message = capsys.readouterr().err
    assert part in message
    assert message.count("evenkeel: error") == 1
