"""tools/launch on a real Slurm: from the command to jobs, and what survives a killed launcher."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from mini_cluster import MiniCluster

from evenkeel.cli.main import main

REPOSITORY = Path(__file__).parents[2]
LAUNCH = REPOSITORY / "tools" / "launch"
BLOCK = """#!/bin/bash
# ===== BEGIN CONFIG =====
NUM_NODES=1
GPUS_PER_NODE=1
STEPS_PER_RUN=5
MAX_STEPS=10
NUM_RUNS=2
NUM_MINUTES=10
# ===== END CONFIG =====
"""
RESULTS = """
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$here/$(basename "${BASH_SOURCE[0]}" .sh)
mkdir -p "$out"
"""


def repository(root: Path, body: str, *names: str) -> Path:
    folder = root / "tests" / "test_suites" / "llm"
    folder.mkdir(parents=True)
    for name in names:
        (folder / f"{name}.sh").write_text(BLOCK + RESULTS + body)
    listing = "".join(f"llm/{name}.sh\n" for name in names)
    (folder.parent / "nightly.txt").write_text(listing)
    (root / ".gitignore").write_text("/round*\n/warm\n/whole\ncode_snapshots\n")
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.invalid"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
        subprocess.run(["git", "-C", str(root), *identity, *words], check=True)
    return folder


def call(cluster: MiniCluster, cwd: Path, *words: object, **variables: str) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=cluster.env(**variables),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def job_ids(output: str) -> list[int]:
    lines = [line for line in output.splitlines() if ": job" in line]
    return [
        int(word.strip(",")) for line in lines for word in line.split() if word.strip(",").isdigit()
    ]


def test_from_the_command_to_results_and_once_more(cluster: MiniCluster, tmp_path: Path) -> None:
    root = tmp_path / "a repo"
    body = 'printf "%s\\0" "$@" "$A" "$MY_TOKEN" "$OTHER_KEY" >> "$out/seen"\n'
    folder = repository(root, body, "sft-a-1n1g-fsdp2tp1")
    arguments = ["a b", "$HOME", "it's", 'say "x"', "two\nlines", "++x=[1, 2]"]
    output = call(
        cluster,
        folder.parent,
        LAUNCH,
        "./llm/sft-a-1n1g-fsdp2tp1.sh",
        PARTITION="main",
        EXTRA_ENV="A='b $c' OTHER_KEY='from the line'",
        EXTRA_SCRIPT_ARGS=shlex.join(arguments),
        MY_TOKEN="not to be written",
    )
    first, second = job_ids(output)
    assert cluster.wait_for(second, "COMPLETED") == "COMPLETED"
    shown = root / "code_snapshots" / "sft-a-1n1g-fsdp2tp1"
    seen = shown / "recipes" / "llm" / "sft-a-1n1g-fsdp2tp1" / "seen"
    once = [*arguments, "b $c", "not to be written", "from the line"]
    assert seen.read_text().split("\0")[:-1] == once * 2
    # the code goes on changing, and somebody else runs it once more from elsewhere
    (folder / "sft-a-1n1g-fsdp2tp1.sh").write_text("exit 1")
    output = call(cluster, tmp_path, shown / "continue.sh", MY_TOKEN="another", OTHER_KEY="too")
    (third,) = job_ids(output)
    assert cluster.wait_for(third, "COMPLETED") == "COMPLETED"
    again = [*arguments, "b $c", "another", "too"]
    assert seen.read_text().split("\0")[:-1] == [*once * 2, *again]
    seen.unlink()
    for secret in ("not to be written", "from the line", "another"):
        found = subprocess.run(["grep", "-r", secret, str(root)], capture_output=True, text=True)
        assert found.stdout == ""
    assert len({first, second, third}) == 3


def test_continue_refuses_while_a_run_is_under_way(cluster: MiniCluster, tmp_path: Path) -> None:
    folder = repository(tmp_path / "repo", "sleep 60\n", "sft-a-1n1g-fsdp2tp1")
    (first, _) = job_ids(call(cluster, folder, LAUNCH, "sft-a-1n1g-fsdp2tp1.sh", PARTITION="main"))
    cluster.wait_for(first, "RUNNING")
    script = tmp_path / "repo" / "code_snapshots" / "sft-a-1n1g-fsdp2tp1" / "continue.sh"
    done = subprocess.run([script], env=cluster.env(), capture_output=True, text=True)
    assert done.returncode == 2
    assert "pending or running" in done.stderr
    prune = ["snapshot", "prune", "--keep-nights", "0", "--root", str(tmp_path / "repo")]
    kept = call(cluster, tmp_path, sys.executable, "-m", "evenkeel.cli.main", *prune)
    assert "kept launch" in kept
    assert script.exists()


@pytest.mark.parametrize(
    ("line", "variables", "words"),
    [
        ("NUM_NODES=500", {}, "NUM_NODES=500 is more than a job can get in partition main (4)"),
        ("GPUS_PER_NODE=9", {}, "GPUS_PER_NODE=9 is more than a node of partition main has (8)"),
        ("", {"PARTITION": "mian"}, "no partition 'mian' on this cluster (did you mean 'main'?)"),
        (
            "NUM_MINUTES=45",
            {"PARTITION": "short"},
            "NUM_MINUTES=45 is above the limit of partition short (30 minutes)",
        ),
        (
            "",
            {"SBATCH_CONSTRAINT": "h200"},
            "Invalid feature specification: --constraint=h200 comes from SBATCH_CONSTRAINT",
        ),
    ],
)
def test_what_slurm_would_refuse_is_refused_before_anything_is_made(
    cluster: MiniCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    variables: dict[str, str],
    words: str,
) -> None:
    folder = repository(tmp_path / "repo", "", "sft-a-1n1g-fsdp2tp1", "sft-b-1n1g-fsdp2tp1")
    path = folder / "sft-a-1n1g-fsdp2tp1.sh"
    # the last line of a block wins
    path.write_text(path.read_text().replace("# ===== END", f"{line}\n# ===== END"))
    for name, value in {"PARTITION": "main", **variables}.items():
        monkeypatch.setenv(name, value)
    before = cluster.run("squeue", "-h", "-t", "all", "-o", "%i")
    assert main(["launch", str(folder / "sft-b-1n1g-fsdp2tp1.sh"), str(path)]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "repo" / "code_snapshots").exists()
    assert cluster.run("squeue", "-h", "-t", "all", "-o", "%i") == before


@pytest.mark.timeout(600)
def test_a_launcher_killed_at_any_moment_is_picked_up_and_nothing_is_doubled(
    cluster: MiniCluster, tmp_path: Path
) -> None:
    names = [f"sft-{letter}-1n1g-fsdp2tp1" for letter in "abc"]
    root = tmp_path / "repo"
    repository(root, "exit 0\n", *names)
    program = Path(__file__).with_name("killed_launches.py")
    rounds = int(os.environ.get("EVENKEEL_KILLED_LAUNCHES", "20"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(program), str(root), str(rounds), "7"],
        env=cluster.env(PARTITION="main"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["status"] for line in lines] == [0] * rounds, done.stderr
    queue = Counter(cluster.run("squeue", "-h", "-t", "all", "-o", "%j").split())
    for line in lines:
        launches = [[path.name] for path in Path(line["folder"], ".launches").iterdir()]
        submitted = [name for name in queue.elements() if name.split(":")[1:2] in launches]
        expected = {(name, run) for name in names for run in ("1", "2")}
        found = Counter((name.split(":")[0], name.split(":")[2]) for name in submitted)
        assert found == Counter(expected), line


def test_a_watched_night_ends_with_a_verdict_for_each_recipe(
    cluster: MiniCluster, tmp_path: Path
) -> None:
    root = tmp_path / "repo"
    repository(root, "exit 3\n", "sft-a-1n1g-fsdp2tp1", "sft-b-1n1g-fsdp2tp1")
    done = subprocess.run(
        [LAUNCH, "--suite", "nightly", "--watch"],
        cwd=root,
        env=cluster.env(PARTITION="main"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    for name in ("sft-a-1n1g-fsdp2tp1", "sft-b-1n1g-fsdp2tp1"):
        assert any(name in line and "CRASHED" in line for line in done.stdout.splitlines())
