"""Merging the event files of a run, reading on where the last collection stopped, following."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from event_bytes import frame, opening, scalar, write, write_run

from evenkeel.errors import InputError
from evenkeel.metrics import resume_state, series
from evenkeel.metrics.collection import Collection, OnConflict, collect
from evenkeel.metrics.event_follower import EventFollower


def test_later_starts_win_and_what_they_did_not_reach_stays(tmp_path: Path) -> None:
    write_run(tmp_path, dict.fromkeys(range(1, 38), 1.0), start=1000)
    # by name this one comes first: what counts is when it was begun
    write_run(tmp_path / "a" / "deeper", dict.fromkeys(range(31, 36), 2.0), start=2000)
    found = collect(tmp_path)
    loss = found.metrics["train/loss"]
    assert {step for step, value in loss.items() if value == 2.0} == set(range(31, 36))
    assert (loss[36], loss[37], len(loss)) == (1.0, 1.0, 37)
    assert (found.num_conflicts, len(found.files), found.num_values) == (5, 2, 37)


def test_a_conflict_can_be_an_error(tmp_path: Path) -> None:
    write_run(tmp_path, {1: 0.5, 2: math.nan}, start=1000)
    second = write_run(tmp_path, {1: 0.5, 2: math.nan, 3: 1.0}, start=2000)
    assert collect(tmp_path, OnConflict.ERROR).num_conflicts == 0
    write_run(tmp_path, {2: math.nan, 3: 0.75}, start=3000)
    with pytest.raises(InputError) as caught:
        collect(tmp_path, OnConflict.ERROR)
    message = "'train/loss' at step 3 was logged before as 1.0 and is 0.75 here"
    assert message in str(caught.value)
    assert caught.value.path != str(second)
    assert collect(tmp_path, OnConflict.LATER).metrics["train/loss"][3] == 0.75


def test_a_link_to_nowhere_hides_no_other_file(tmp_path: Path) -> None:
    write_run(tmp_path, {1: 0.5})
    (tmp_path / "events.out.tfevents.2").symlink_to(tmp_path / "gone")
    assert collect(tmp_path).metrics == {"train/loss": {1: 0.5}}


def test_one_file_may_be_named(tmp_path: Path) -> None:
    path = write_run(tmp_path, {1: 0.5})
    assert collect(path).metrics == {"train/loss": {1: 0.5}}


def test_nothing_to_collect_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such log directory"):
        collect(tmp_path / "none")
    (tmp_path / "events.txt").write_text("x")
    with pytest.raises(InputError, match="no event file"):
        collect(tmp_path)
    (tmp_path / "events.out.tfevents.1.h").write_bytes(b"")
    with pytest.raises(InputError, match="no scalar in 1 event file: they hold other events only"):
        collect(tmp_path)
    (tmp_path / "events.out.tfevents.2.h").write_bytes(b"garbage" * 50)
    with pytest.raises(InputError, match=r"no scalar in 2 event files: .*its end is corrupt"):
        collect(tmp_path)


def test_damage_in_the_middle_is_told_from_a_killed_run(tmp_path: Path) -> None:
    path = write_run(tmp_path, {1: 0.5, 2: 0.25, 3: 0.125})
    content = path.read_bytes()
    path.write_bytes(content[:-3])
    cut = collect(tmp_path)
    assert (cut.damaged, list(cut.metrics["train/loss"])) == (False, [1, 2])
    assert "cut off" in cut.warnings[0]
    size = len(frame(opening()))
    path.write_bytes(content[: size + 20] + b"\xff" + content[size + 21 :])
    hurt = collect(tmp_path)
    assert (hurt.damaged, list(hurt.metrics["train/loss"])) == (True, [2, 3])
    assert f"at offset {size}" in hurt.warnings[0]


class Steps:
    """Collects a directory again and again, each time from where it stopped."""

    def __init__(self, root: Path) -> None:
        self.logs = root / "logs"
        self.output = root / "metrics.json"
        self.state = root / "state.json"

    def collect(self) -> Collection:
        found = collect(self.logs, resume=resume_state.load(self.state, self.logs, self.output))
        series.save(self.output, found.metrics)
        resume_state.save(self.state, found, self.logs, self.output)
        fresh = collect(self.logs)
        assert series.dumps(found.metrics) == series.dumps(fresh.metrics)
        assert (found.damaged, found.num_conflicts) == (fresh.damaged, fresh.num_conflicts)
        assert found.warnings == fresh.warnings
        return found


def test_reading_on_gives_what_reading_all_gives(tmp_path: Path) -> None:
    steps = Steps(tmp_path)
    events = [frame(scalar("train/loss", step, step / 7)) for step in range(1, 60)]
    first = steps.logs / "events.out.tfevents.1000.h"
    write(first, [opening(1000)])
    with first.open("ab") as file:
        file.write(b"".join(events[:20]) + events[20][:9])
    assert not steps.collect().resumed
    assert steps.collect().resumed
    with first.open("ab") as file:
        file.write(events[20][9:] + b"\xee" * 30 + b"".join(events[21:30]) + events[30][:5])
    assert steps.collect().resumed
    write_run(steps.logs, {29: 1.0, 30: 2.0, 31: 3.0}, start=2000)
    found = steps.collect()
    assert found.resumed
    assert found.damaged
    assert found.num_conflicts == 2
    assert steps.collect().resumed


def test_a_state_that_does_not_fit_is_worth_nothing(tmp_path: Path) -> None:
    steps = Steps(tmp_path)
    first = write_run(steps.logs, {1: 1.0, 2: 2.0}, start=1000)
    second = write_run(steps.logs, {2: 3.0}, start=2000)
    steps.collect()
    with first.open("ab") as file:  # the earlier file grew: its values must not win
        file.write(frame(scalar("train/loss", 2, 9.0)) + frame(scalar("train/loss", 3, 9.0)))
    assert not steps.collect().resumed
    write_run(steps.logs, {2: 5.0}, start=1500)  # a file came between
    assert not steps.collect().resumed
    write_run(steps.logs, {2: 7.0}, start=2000)  # a file was replaced
    assert not steps.collect().resumed
    second.unlink()
    assert not steps.collect().resumed
    steps.output.write_text('{"train/loss": {"1": 5.0}}')  # the output was edited
    assert not steps.collect().resumed
    for text in ("", "[]", '{"schema_version": 99}', '{"schema_version": 1}', "\x00"):
        steps.state.write_text(text)
        assert not steps.collect().resumed
    assert steps.collect().resumed


def test_following_a_run_that_writes(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    follower = EventFollower(logs, tags=["train/loss"])
    assert (follower.poll(), follower.newest) == ([], None)
    path = write_run(logs, {1: 0.5, 2: 0.25}, start=1000)
    assert [(found.step, found.value) for found in follower.poll()] == [(1, 0.5), (2, 0.25)]
    assert follower.poll() == []
    half = frame(scalar("train/loss", 3, math.nan, 1007.0))
    with path.open("ab") as file:
        file.write(frame(scalar("train/lr", 3, 1.0)) + half[:30])
    assert follower.poll() == []
    with path.open("ab") as file:
        file.write(half[30:])
    (found,) = follower.poll()
    assert (found.step, math.isnan(found.value), found.wall_time) == (3, True, 1007.0)
    write_run(logs, {2: 0.75}, start=2000)  # taken up again at an earlier step
    assert len(follower.poll()) == 1
    assert follower.newest is not None
    assert (follower.newest.step, follower.latest["train/loss"].value) == (2, 0.75)
    assert "train/lr" not in follower.latest
    path.write_bytes(b"")
    assert follower.poll() == []
    write_run(logs, {1: 8.0}, start=1000)  # another file of the same name
    assert [found.value for found in follower.poll()] == [8.0]
