from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.errors import InputError, MachineError
from evenkeel.recipes.schema import Logger, Recipe
from evenkeel.training.event_writer import EventWriter
from evenkeel.training.metric_logger import MetricLogger, Progress
from evenkeel.training.trackers import Tolerant


def recipe_logging_to(log_dir: Path) -> Recipe:
    return Recipe(logger=Logger(log_dir=str(log_dir)))


def read_back(log_dir: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard's own reader finds, checksums included."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    found: dict[str, dict[int, float]] = {}
    for path in sorted(log_dir.glob("events.out.tfevents.*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    with MetricLogger(recipe_logging_to(tmp_path), "r") as logger:
        for step in (1, 2, 300):
            logger.log({"train/loss": 1 / step, "train/lr": 0.5}, step)
        logger.log({"validation/accuracy": 0.75}, 300)
    third = pytest.approx(1 / 300, rel=1e-7)
    assert read_back(tmp_path) == {
        "train/loss": {1: 1.0, 2: 0.5, 300: third},
        "train/lr": {1: 0.5, 2: 0.5, 300: 0.5},
        "validation/accuracy": {300: 0.75},
    }


def test_values_that_are_not_finite_stay_as_they_are(tmp_path: Path) -> None:
    values = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "huge": -1e300}
    with MetricLogger(recipe_logging_to(tmp_path), "r") as logger:
        logger.log(values, 7)
    found = {tag: steps[7] for tag, steps in read_back(tmp_path).items()}
    assert math.isnan(found.pop("nan"))
    assert found == {"inf": math.inf, "-inf": -math.inf, "huge": -math.inf}


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1), st.floats(width=32)))
def test_any_tag_and_value_survive(tmp_path_factory: pytest.TempPathFactory, metrics) -> None:
    log_dir = tmp_path_factory.mktemp("logs")
    writer = EventWriter(log_dir)
    writer.add_scalars(metrics, 2**40)
    writer.close()
    found = {tag: steps[2**40] for tag, steps in read_back(log_dir).items()}
    assert {k: repr(v) for k, v in found.items()} == {k: repr(v) for k, v in metrics.items()}


def test_a_killed_run_loses_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from evenkeel.training.event_writer import EventWriter\n"
        "writer = EventWriter(Path(sys.argv[1]))\n"
        "writer.add_scalars({'train/loss': 0.5}, 1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert read_back(tmp_path) == {"train/loss": {1: 0.5}}


def test_a_second_start_writes_a_second_file(tmp_path: Path) -> None:
    for step in (1, 2):
        with MetricLogger(recipe_logging_to(tmp_path), "r") as logger:
            logger.log({"train/loss": step}, step)
    assert len(list(tmp_path.iterdir())) == 2
    assert read_back(tmp_path) == {"train/loss": {1: 1.0, 2: 2.0}}


def test_only_rank_0_writes(tmp_path: Path) -> None:
    with MetricLogger(recipe_logging_to(tmp_path / "logs"), "r", rank=1) as logger:
        logger.log({"train/loss": 1.0}, 1)
        logger.progress(1, 2, {})
    assert not (tmp_path / "logs").exists()


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path)
    writer._file.close()
    writer._file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115 - the writer closes it
    with pytest.raises(MachineError, match="cannot log metrics: No space left on device"):
        writer.add_scalars({"train/loss": 1.0}, 1)
    writer.close()


def test_a_log_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")
    with pytest.raises(MachineError, match="cannot log metrics: File exists"):
        MetricLogger(recipe_logging_to(tmp_path / "logs"), "r")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_in_a_file_is_a_line_now_and_then() -> None:
    stream, now = io.StringIO(), [0.0]
    progress = Progress(stream, lambda: now[0])
    for step in range(1, 401):
        now[0] = 3 + step / 2
        progress.show(step, 400, {"train/loss": 1 / step})
    progress.end()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "step 1/400  0%  train/loss 1"
    assert lines[1] == "step 11/400  2%  train/loss 0.09091  2 steps/s  3:14 left"
    assert lines[-1] == "step 400/400  100%  train/loss 0.0025  2 steps/s  0:00 left"
    shown = [int(line.split("/")[0].removeprefix("step ")) for line in lines]
    # every 5 s in the first two minutes, every 30 s later
    assert shown == [*range(1, 232, 10), 291, 351, 400]


def test_progress_on_a_terminal_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    stream, now = Terminal(), [0.0]
    progress = Progress(stream, lambda: now[0])
    for step in (1, 2, 3):
        now[0] = 3.0 * step
        progress.show(step, 3, {"train/loss": 0.5})
    progress.end()
    shown = stream.getvalue()
    assert shown.count("\n") == 1
    assert shown.endswith("\r\x1b[Kstep 3/3  100%  train/loss 0.\n")


def test_progress_of_slow_steps_counts_seconds_per_step() -> None:
    stream, now = io.StringIO(), [0.0]
    progress = Progress(stream, lambda: now[0])
    for step in (1, 2):
        now[0] = 90.0 * step
        progress.show(step, 100, {})
    assert stream.getvalue().splitlines()[-1] == "step 2/100  2%  90 s/step  2:27:00 left"


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_says_how_to_get_it(
    tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, tracker, None)
    recipe = recipe_logging_to(tmp_path)
    getattr(recipe.logger, tracker).enabled = True
    message = (
        rf"logger\.{tracker}\.enabled is true.*\n  fix: uv pip install 'evenkeel\[{tracker}\]'"
    )
    with pytest.raises(InputError, match=message):
        MetricLogger(recipe, "r")


def test_mlflow_gets_the_metrics_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    recipe = recipe_logging_to(tmp_path / "logs")
    recipe.logger.mlflow.enabled = True
    for step in (1, 2):
        with MetricLogger(recipe, "my-recipe") as logger:
            logger.log({"train/loss": 1 / step, "train/lr": math.inf}, step)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("evenkeel")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "my-recipe"
    assert run.info.status == "FINISHED"
    assert run.data.params["policy.optimizer.lr"] == "0.001"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5)]


def test_wandb_works_offline_and_keeps_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    recipe = recipe_logging_to(tmp_path)
    recipe.logger.wandb.enabled = True
    for step in (1, 2):
        with MetricLogger(recipe, "my-recipe") as logger:
            logger.log({"train/loss": math.nan}, step)
    run_id = json.loads((tmp_path / "tracker_ids.json").read_text())["wandb"]
    files = [path.name for path in (tmp_path / "wandb").rglob("*.wandb")]
    assert files
    assert set(files) == {f"run-{run_id}.wandb"}
    assert "WANDB_API_KEY" not in os.environ


def test_a_tracker_that_fails_is_left_alone() -> None:
    class Failing:
        calls = 0

        def log(self, metrics: object, step: int) -> None:
            self.calls += 1
            raise ConnectionError("gone")

        def close(self, *, failed: bool) -> None:
            raise AssertionError("closed a tracker that failed")

    tracker, stream = Failing(), io.StringIO()
    tolerant = Tolerant(tracker, stream)
    for step in (1, 2):
        tolerant.log({"train/loss": 1.0}, step)
    tolerant.close(failed=False)
    assert tracker.calls == 1
    assert stream.getvalue() == "warning: Failing failed and gets no more metrics: gone\n"
