"""``evenkeel watch`` on a real Slurm: survives everything, asks little, ends with verdicts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from launches import driver_that_trains, make_launch
from mini_cluster import MiniCluster, _wait

from evenkeel.launch.cluster import Cluster
from evenkeel.launch.executor import SlurmSubmitter
from evenkeel.launch.launch_record import LaunchRecord
from evenkeel.launch.submission import submit_chain

WATCH = [sys.executable, "-m", "evenkeel.cli.main", "watch", "--poll-s", "0.3"]


def submit(record: LaunchRecord) -> None:
    submitter, cluster = SlurmSubmitter(), Cluster()
    for submission in record.submissions():
        submit_chain(submission, submitter, cluster)


def start(record: LaunchRecord, *options: str) -> subprocess.Popen[str]:
    argv = [*WATCH, str(record.folder), "--forgotten-s", "30", *options]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def lines_of(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


def test_a_watcher_that_is_killed_is_simply_started_again(
    new_cluster: Callable[..., MiniCluster], tmp_path: Path
) -> None:
    cluster = new_cluster(nodes=2)
    record = make_launch(
        tmp_path,
        {
            "sft-good-1n1g-fsdp2tp1": driver_that_trains(step_s=0.6, max_steps=40, per_run=20),
            "sft-wrong-1n1g-fsdp2tp1": driver_that_trains("assert=3"),
        },
        num_runs=2,
        max_steps=40,
        steps_per_run=20,
    )
    submit(record)
    first = start(record)
    assert first.stdout is not None
    seen = [first.stdout.readline() for _ in range(3)]
    first.kill()
    seen.append(first.communicate()[0])
    assert "sft-good-1n1g-fsdp2tp1: job 1 (1/2)" in "".join(seen)
    with start(record) as second:
        _wait("the second job", lambda: cluster.state(2) == "RUNNING", 60)
        cluster.wait_until_saved()
        cluster.kill_controller()
        time.sleep(1)
        cluster.start_controller()
        assert second.stdout is not None
        text = second.stdout.read()
    assert second.returncode == 1
    assert lines_of(text)[-1].startswith("1 of 2 recipes are good; 0.0")
    assert any(
        line.startswith("PASS         sft-good-1n1g-fsdp2tp1   0.0")
        and line.endswith(" GPU-h  2 checks passed")
        for line in lines_of(text)
    )
    assert any(
        line.startswith("CRASHED      sft-wrong-1n1g-fsdp2tp1")
        and "GPU-h  AssertionError: shapes differ" in line
        for line in lines_of(text)
    )
    result = json.loads((record.folder / "result.json").read_text())
    assert [recipe["verdict"] for recipe in result["recipes"]] == ["PASS", "CRASHED"]
    assert [job["outcome"] for job in result["recipes"][0]["jobs"]] == ["incomplete", "completed"]
    # looking again, long after Slurm has forgotten, tells the same
    again = subprocess.run([*WATCH, str(record.folder), "--once", "--json"], capture_output=True)
    assert [one["verdict"] for one in json.loads(again.stdout)["recipes"]] == ["PASS", "CRASHED"]


def test_a_job_in_the_queue_is_no_verdict(cluster: MiniCluster, tmp_path: Path) -> None:
    record = make_launch(tmp_path, {"sft-a-1n1g-fsdp2tp1": "sleep 60"}, num_nodes=2)
    blocker = cluster.submit("sleep 60", "--nodes=4", "--exclusive")
    cluster.wait_for(blocker, "RUNNING")
    submit(record)
    done = subprocess.run([*WATCH, str(record.folder), "--once"], capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert "PENDING" in line
    assert "PASS" not in line


def test_a_launch_whose_launcher_died_is_named(cluster: MiniCluster, tmp_path: Path) -> None:
    record = make_launch(tmp_path, {"sft-a-1n1g-fsdp2tp1": "exit 0"})
    done = subprocess.run([*WATCH, str(record.folder)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "--resume" in done.stdout


def counting_path(folder: Path, programs: Sequence[str]) -> Path:
    """A folder for PATH whose programs note each call before they do it."""
    folder.mkdir()
    for program in programs:
        script = folder / program
        real = shutil.which(program)
        script.write_text(f'#!/bin/sh\necho {program} >> {folder}/calls\nexec {real} "$@"\n')
        script.chmod(0o755)
    return folder


def test_five_hundred_jobs_are_watched_with_few_calls_and_little_memory(
    cluster: MiniCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"sft-m{number}-1n1g-fsdp2tp1" for number in range(500)]
    record = make_launch(tmp_path, dict.fromkeys(names, "sleep 300"))
    submit(record)
    programs = ["squeue", "sacct", "scontrol", "sinfo", "scancel"]
    calls = counting_path(tmp_path / "counting", programs)
    monkeypatch.setenv("PATH", f"{calls}:{cluster.env()['PATH']}")
    process = start(record, "--hang-minutes", "0")
    assert process.stdout is not None
    for _ in range(500):
        assert process.stdout.readline()
    time.sleep(3)
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak_mib = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    assert 20 < peak_mib < 150
    cluster.run("scancel", "-p", "main")
    text = process.communicate()[0]
    assert process.returncode == 1
    assert "0 of 500 recipes are good" in text
    count = (calls / "calls").read_text().split().count
    assert count("squeue") >= 3
    assert count("sacct") <= count("squeue")
    assert count("scontrol") <= 1
    assert count("sinfo") + count("scancel") == 0
    print(f"watching 500 jobs took {peak_mib:.0f} MiB")
