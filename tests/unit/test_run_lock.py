"""Two writers never share a run directory, and one that was asleep notices."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from evenkeel import run_lock
from evenkeel.errors import EXIT_INPUT, InputError
from evenkeel.run_lock import RunLock, RunLockedError, RunLostError
from evenkeel.run_paths import RunPaths

HOLD = """
import sys, time
from pathlib import Path
from evenkeel.run_lock import RunLock
from evenkeel.run_paths import RunPaths
lock = RunLock(RunPaths(Path(sys.argv[1])))
print(lock.token, flush=True)
sys.stdin.readline()
print(lock.is_current(), flush=True)
"""


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path / "run")


def pretend_elsewhere(paths: RunPaths, token: int) -> None:
    """Make a lock look as if another machine had made it."""
    file = paths.lock_dir / f"{token}.json"
    value = json.loads(file.read_text())
    file.write_text(json.dumps({**value, "boot_id": "another", "host": "far", "job_id": "12"}))


def test_the_second_writer_is_told_who_the_first_is(paths: RunPaths) -> None:
    with RunLock(paths) as lock, pytest.raises(RunLockedError) as caught:
        RunLock(paths)
    assert lock.token == 1
    assert f"process {os.getpid()}" in caught.value.message
    assert caught.value.exit_code == EXIT_INPUT


def test_each_holder_has_a_higher_token(paths: RunPaths) -> None:
    for token in range(1, 6):
        with RunLock(paths) as lock:
            assert lock.token == token
            assert lock.is_current()
            assert lock.previous is None
    assert sorted(path.name for path in paths.lock_dir.iterdir()) == ["4.json", "5.json"]
    assert not run_lock.is_current(paths, 3)
    assert not run_lock.is_current(paths, 4)


def test_a_killed_holder_is_found_at_once_and_named(paths: RunPaths) -> None:
    argv = [sys.executable, "-c", HOLD, str(paths.root)]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        with pytest.raises(RunLockedError):
            RunLock(paths)
        process.send_signal(signal.SIGKILL)
    with RunLock(paths) as lock:
        assert lock.token == 2
        assert lock.previous is not None
        assert lock.previous.pid == process.pid


def test_a_silent_holder_elsewhere_loses_the_directory_and_notices(paths: RunPaths) -> None:
    asleep = RunLock(paths, heartbeat_s=1000)
    pretend_elsewhere(paths, asleep.token)
    with RunLock(paths, stale_after_s=0.3) as lock:
        assert lock.token == 2
        assert lock.previous is not None
        assert lock.previous.host == "far"
        assert not asleep.is_current()
        assert lock.is_current()
        asleep.release()
        assert lock.is_current()
        holder = run_lock.read_holder(paths)
        assert holder == lock.holder


def test_a_living_holder_elsewhere_keeps_the_directory(paths: RunPaths) -> None:
    with RunLock(paths, heartbeat_s=0.02) as lock:
        pretend_elsewhere(paths, lock.token)
        os.close(lock._handle)
        lock._handle = os.open(paths.lock_dir / "1.json", os.O_RDWR)
        with pytest.raises(RunLockedError, match="job 12, process"):
            RunLock(paths, stale_after_s=20)
        assert lock.is_current()


def test_a_requeued_job_takes_over_from_its_own_first_start(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    with RunLock(paths) as first:
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        with RunLock(paths) as second:
            assert (second.token, second.is_current(), first.is_current()) == (2, True, False)
            monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
            with pytest.raises(RunLockedError):
                RunLock(paths)


def test_a_process_below_a_holder_learns_that_it_lost_the_directory(paths: RunPaths) -> None:
    asleep = RunLock(paths, heartbeat_s=1000)
    environ = {run_lock.TOKEN_VARIABLE: str(asleep.token)}
    run_lock.require_current(paths, environ)
    run_lock.require_current(paths, {})
    pretend_elsewhere(paths, asleep.token)
    with RunLock(paths, stale_after_s=0.1):
        with pytest.raises(RunLostError, match=f"process {os.getpid()} on"):
            run_lock.require_current(paths, environ)
        run_lock.require_current(paths, {})
    asleep.release()


def test_of_many_takers_one_gets_it(paths: RunPaths) -> None:
    asleep = RunLock(paths, heartbeat_s=1000)
    pretend_elsewhere(paths, asleep.token)
    got: list[RunLock] = []
    refused: list[RunLockedError] = []

    def take() -> None:
        try:
            got.append(RunLock(paths, stale_after_s=0.2))
        except RunLockedError as error:
            refused.append(error)

    takers = [threading.Thread(target=take) for _ in range(8)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert [lock.token for lock in got] == [2]
    assert len(refused) == 7
    got[0].release()
    asleep.release()


def test_a_broken_lock_is_named(paths: RunPaths) -> None:
    paths.lock_dir.mkdir(parents=True)
    (paths.lock_dir / "7.json").write_text("{")
    with pytest.raises(InputError, match="not a lock"):
        RunLock(paths)
