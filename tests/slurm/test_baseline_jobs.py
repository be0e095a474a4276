"""``evenkeel baseline record`` on a real Slurm: a baseline from jobs, each submitted once."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from launches import TRAINER
from mini_cluster import MiniCluster, _wait
from test_launch_command import repository

from evenkeel.convergence import baseline as baseline_file
from evenkeel.launch.launch_record import LaunchRecord, read_record
from evenkeel.run_paths import RunPaths

NAME = "sft-a-1n1g-fsdp2tp1"
VARIANTS = ["own-seed", "seed1001", "seed1002", "twin1"]


def body(cause: Path) -> str:
    """Trains the stand-in, five steps at a time, and judges; seed 1001 fails where ``cause`` is."""
    python, trainer = shlex.quote(sys.executable), shlex.quote(str(TRAINER))
    return f"""
out=${{EVENKEEL_EXP_DIR:-$out}}
fault=
[ "${{1:-}}" != seed=1001 ] || [ ! -e {shlex.quote(str(cause))} ] || fault=assert=3
{python} {trainer} --recipe {NAME} --per-run 5 --step-s 0.01 "$out" "$@" $fault
{python} -m evenkeel.cli.main driver judge --run-dir "$out" --max-steps 10
"""


class Recorder:
    """A repository with one driver, what is called in it, and the jobs that are submitted."""

    def __init__(self, cluster: MiniCluster, folder: Path) -> None:
        self.root = folder / "a repo"
        self.cause = folder / "cause"
        self.hold = folder / "hold"
        self.calls = folder / "calls"
        self.output = folder / "B.json"
        repository(self.root, body(self.cause), NAME)
        programs = folder / "bin"
        programs.mkdir()
        real = shutil.which("sbatch", path=cluster.env()["PATH"])
        (programs / "sbatch").write_text(
            f"""#!/bin/bash
case " $* " in *' --test-only '*) exec {real} "$@" ;; esac
for script in "$@"; do :; done
echo "$script" >> '{self.calls}'
# whoever would read a complaint may be dead, and it would die of making one
while most=$(cat '{self.hold}' 2> /dev/null) && [ "$(wc -l < '{self.calls}')" -gt "$most" ]; do
    sleep 0.05
done
exec {real} "$@"
"""
        )
        (programs / "sbatch").chmod(0o755)
        path = f"{programs}:{cluster.env()['PATH']}"
        self.environment = cluster.env(PATH=path, PARTITION="main", PYTHONUNBUFFERED="1")

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "evenkeel.cli.main", "baseline", "record", NAME]
        return subprocess.Popen(
            [*argv, "--poll-s", "0.3", *map(str, words)],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # whoever runs the tests in the background may have it ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def call(self, *words: str | Path) -> tuple[int, str]:
        with self.start(*words) as process:
            assert process.stdout is not None
            text = process.stdout.read()
        return process.returncode, text

    @property
    def submitted(self) -> list[str]:
        """``<run>/run-<n>.sh`` of every call of sbatch."""
        if not self.calls.exists():
            return []
        scripts = map(Path, self.calls.read_text().splitlines())
        return [f"{script.parent.name}/{script.name}" for script in scripts]

    @property
    def launches(self) -> list[LaunchRecord]:
        folder = self.root / "code_snapshots" / ".launches"
        return [read_record(path) for path in sorted(folder.glob("[0-9]*"))]

    def paths(self, variant: str) -> RunPaths:
        (launch,) = self.launches
        return RunPaths(launch.submission(NAME).run_dir).beside(variant)

    def trained(self, variant: str) -> list[int]:
        """The steps that the run has done, in this order."""
        return [int(step) for step in (self.paths(variant).root / "trained").read_text().split()]


@pytest.fixture
def recorder(new_cluster: Callable[..., MiniCluster], tmp_path: Path) -> Recorder:
    return Recorder(new_cluster(nodes=2), tmp_path)


def chains(*variants: str) -> list[str]:
    return [f"{variant}/run-{run}.sh" for variant in variants for run in (1, 2)]


def test_runs_are_trained_at_once_and_recorded(recorder: Recorder) -> None:
    status, text = recorder.call("--runs", "3", "--executor", "slurm", "--reason", "a first one")
    assert status == 0, text
    assert recorder.submitted == chains(*VARIANTS)
    assert f"[INFO]: 4 runs of {NAME} in 8 jobs may take up to 1.33 GPU-hours\n" in text
    assert re.search(rf"{NAME}.seed1001: jobs \d+, \d+\n", text)
    assert "[INFO]: 4 of 4 runs finished; the jobs that were followed took 0.0" in text
    # that its driver found no baseline to judge it by is no failure here
    assert re.search(rf"{NAME}.twin1: job \d+ \(2/2\) FINISHED, step 10/10, .* GPU-h\n", text)
    assert "FAILED" not in text
    path = recorder.root / "tests" / "baselines" / "llm" / NAME / "cpu.json"
    made = baseline_file.load(path)
    assert [run.seed for run in made.runs] == [42, 1001, 1002]
    assert [(twin.seed, twin.numeric_twin) for twin in made.twins] == [(42, 1)]
    assert made.accepted.reason == "a first one"
    losses = made.curves["train/loss"]
    assert list(losses.steps) == list(range(1, 11))
    assert len({row[0] for row in losses.values}) == 3
    for variant in VARIANTS:
        assert recorder.trained(variant) == list(range(1, 11))
        assert json.loads(recorder.paths(variant).verdict.read_text())["verdict"] == "NO_BASELINE"
    # nobody takes it for a launch of the recipe
    assert not any(recorder.paths(VARIANTS[0]).root.with_name(NAME).iterdir())
    assert not (recorder.root / "code_snapshots" / NAME).exists()

    again = recorder.call("--runs", "3", "--executor", "slurm")
    assert again[0] == 2
    assert f"{path}: this recipe has a baseline already" in again[1]
    status, text = recorder.call("--executor", "slurm", "--output", path)
    assert (status, f"{path}: this baseline exists already" in text) == (2, True)
    assert (recorder.submitted, len(recorder.launches)) == (chains(*VARIANTS), 1)


def test_a_recorder_that_is_killed_is_picked_up_and_nothing_is_submitted_twice(
    recorder: Recorder,
) -> None:
    recorder.hold.write_text("2")  # the third job's sbatch hangs
    first = recorder.start("--runs", "2", "--executor", "slurm", "--output", recorder.output)
    _wait("the third submit", lambda: len(recorder.submitted) == 3, 120)
    first.kill()
    (launch,) = recorder.launches
    words = ("--launch", launch.launch_id, "--runs", "3", "--output", recorder.output)
    with recorder.start(*words) as second:
        assert second.stdout is not None
        line = second.stdout.readline()
        assert line == f"[INFO]: 3 runs of {NAME} in 6 jobs may take up to 1 GPU-hours\n"
        time.sleep(1)
        assert len(recorder.submitted) == 3  # it waits for the sbatch that outlived its caller
        second.send_signal(signal.SIGINT)
        text = second.stdout.read()
    assert second.returncode == 130, text
    again = f"--launch {shlex.quote(str(launch.folder))} --runs"
    assert f"the jobs go on; to go on with the recording: evenkeel baseline record {NAME}" in text
    assert f"{again} 3 --output" in text
    # how to go on had been said before the first one was killed
    assert f"{again} 2 --output" in first.communicate()[0]
    recorder.hold.unlink()
    status, text = recorder.call(*words)
    assert status == 0, text
    assert recorder.submitted == chains(*VARIANTS)
    assert [run.seed for run in baseline_file.load(recorder.output).runs] == [42, 1001, 1002]
    assert [recorder.trained(variant) for variant in VARIANTS] == [list(range(1, 11))] * 4


def test_a_run_that_failed_is_named_and_trained_on_alone(recorder: Recorder) -> None:
    recorder.cause.touch()
    words = ("--runs", "2", "--twins", "0", "--executor", "slurm", "--output", recorder.output)
    status, text = recorder.call(*words)
    assert status == 1, text
    assert "no baseline yet, since 1 of its runs did not come to their end:\n" in text
    assert f"  {NAME}.seed1001: crashed: AssertionError: shapes differ at step 3; see " in text
    (launch,) = recorder.launches
    assert f"{NAME} --launch {shlex.quote(str(launch.folder))} --runs 2 --twins 0 --output" in text
    assert not recorder.output.exists()
    assert recorder.submitted == chains("own-seed", "seed1001")

    recorder.cause.unlink()
    status, text = recorder.call("--launch", launch.folder, "--output", recorder.output)
    assert status == 0, text
    assert recorder.submitted == [
        *chains("own-seed", "seed1001"),
        "seed1001/run-3.sh",
        "seed1001/run-4.sh",
    ]
    assert recorder.trained("own-seed") == list(range(1, 11))
    assert recorder.trained("seed1001") == list(range(1, 11))
    made = baseline_file.load(recorder.output)
    assert [run.seed for run in made.runs] == [42, 1001]
    assert made.twins == ()

    # the launch is kept for its jobs, and is not the one that is watched
    evenkeel = [sys.executable, "-m", "evenkeel.cli.main"]
    watched = subprocess.run(
        [*evenkeel, "watch", "--once"],
        cwd=recorder.root,
        env=recorder.environment,
        capture_output=True,
        text=True,
    )
    assert watched.returncode == 2
    assert f"evenkeel baseline record {NAME} --launch" in watched.stderr
