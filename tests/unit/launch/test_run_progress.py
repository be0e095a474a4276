"""Following a run, and telling when it is lost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from evenkeel.launch.outcome import StopReason
from evenkeel.launch.run_progress import DoomPolicy, RunProgress, Step, doom, hang
from evenkeel.run_paths import RunPaths
from evenkeel.training.event_writer import EventWriter

NAN = float("nan")


def steps(*losses: float, first: int = 1) -> list[Step]:
    return [Step(first + n, loss, 100.0 + n) for n, loss in enumerate(losses)]


@pytest.mark.parametrize("bad", [NAN, float("inf"), float("-inf")])
def test_one_loss_that_is_not_finite_is_enough(bad: float) -> None:
    found = doom(steps(2.0, bad, 1.5), {}, DoomPolicy())
    assert found == (StopReason.NON_FINITE, f"train/loss is {bad} at step 2")


def test_only_a_row_of_steps_above_the_band_counts() -> None:
    band, policy = dict.fromkeys(range(1, 20), 2.0), DoomPolicy(steps_above=3)
    assert doom(steps(3, 3, 1, 3, 3), band, policy) is None
    assert doom(steps(3, 3, 3, 2.0), band, policy) is None
    found = doom(steps(1, 3, 3, 3.5), band, policy)
    assert found is not None
    assert found[0] is StopReason.ABOVE_BAND
    assert "3 steps in a row; at step 4 it is 3.5, the band ends at 2" in found[1]


def test_steps_outside_of_the_band_s_range_are_not_compared() -> None:
    assert doom(steps(9, 9, 9, first=100), {1: 2.0}, DoomPolicy(steps_above=1)) is None
    assert doom(steps(9, 9, 9), {}, DoomPolicy(steps_above=0)) is None


def test_no_number_of_steps_above_the_band_means_never() -> None:
    assert doom(steps(9, 9, 9), {1: 2.0, 2: 2.0, 3: 2.0}, DoomPolicy(steps_above=0)) is None


def test_silence_is_counted_from_the_last_step_or_the_start_of_the_job() -> None:
    policy, last = DoomPolicy(hang_s=60), Step(7, 1.0, 200.0)
    assert hang(250.0, 100.0, last, policy) is None
    assert hang(161.0, 100.0, None, policy) is not None
    assert hang(261.0, 250.0, last, policy) is None  # a job that has just begun
    found = hang(261.0, 100.0, last, policy)
    assert found == (StopReason.HUNG, "no step for 1.0 minutes after step 7")
    assert hang(1e9, 0.0, None, DoomPolicy(hang_s=None)) is None


def test_a_run_is_followed_over_its_starts(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    progress = RunProgress(paths)
    progress.poll([])
    assert (progress.last, progress.last_step, progress.step_time_s) == (None, 0, None)
    writer = EventWriter(paths.log_dir)
    for step in range(1, 8):
        writer.add_scalars({"train/loss": 8.0 - step, "other": 1.0}, step)
    progress.poll([])
    assert progress.last_step == 7
    assert progress.last is not None
    assert progress.last.loss == 1.0
    second = EventWriter(paths.log_dir)
    second.add_scalars({"train/loss": 2.5}, 6)  # resumed from the checkpoint of step 5
    progress.poll([])
    assert progress.last_step == 7
    assert [step.step for step in progress.recent] == [1, 2, 3, 4, 5, 6]
    assert progress.last.loss == 2.5
    far = progress.last.wall_time + 1
    progress.poll([1.0, far])  # another job, which has not logged yet
    assert progress.last_of_job is None
    assert progress.of_job(far, 100, 50).steps_done == 0
    writer.close()
    second.close()


def test_memory_does_not_grow_with_the_run(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    writer, progress = EventWriter(paths.log_dir), RunProgress(paths)
    for step in range(1, 2001):
        writer.add_scalars({"train/loss": 1.0}, step)
    writer.close()
    progress.poll([])
    assert progress.last_step == 2000
    assert len(progress.recent) == 50
    assert progress.of_job(0.0, 2000, 2000).steps_done == 2000


def test_what_each_start_did_is_known_long_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, clock = RunPaths(tmp_path), [0.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    # three starts: steps 1-60 at 2 s, 41-80 at 1 s after a requeue, then another job's 81-90
    for began, first, last, pace in ((100, 1, 60, 2), (500, 41, 80, 1), (900, 81, 90, 3)):
        clock[0] = began
        writer = EventWriter(paths.log_dir)
        for step in range(first, last + 1):
            clock[0] = began + 10 + (step - first) * pace
            writer.add_scalars({"train/loss": 1.0}, step)
        writer.close()
    progress = RunProgress(paths)
    progress.poll([100.0, 500.0, 900.0])
    assert (progress.last_step, progress.step_time_s) == (90, 3.0)
    killed, again, other = (progress.of_job(start, 90, 80) for start in (100.0, 500.0, 900.0))
    assert (killed.last_step, killed.steps_done, killed.step_time_s) == (60, 60, 2.0)
    assert (again.last_step, again.steps_done, again.step_time_s) == (80, 40, 1.0)
    assert (other.last_step, other.steps_done, other.step_time_s) == (90, 10, 3.0)
    assert progress.seen_alive_s(100.0) == 10 + 59 * 2
    assert progress.seen_alive_s(500.0) == 10 + 39
    assert progress.seen_alive_s(700.0) == 0  # a start that logged nothing
