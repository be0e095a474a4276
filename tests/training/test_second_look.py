"""A night whose result is in doubt trains again by itself, until the evidence decides."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_driver import Tree

from evenkeel.convergence import baseline as baseline_file
from evenkeel.convergence import baseline_recording
from evenkeel.convergence.baseline import Acceptance, Baseline
from evenkeel.convergence.baseline_judgement import compare_run
from evenkeel.convergence.run_evidence import RunEvidence, read_evidence
from evenkeel.convergence.verdict import Verdict
from evenkeel.run_paths import Repository, RunPaths

METRIC = "train/loss"
SPREAD = 0.01
"""Of the logarithm of the loss between the runs of the baseline."""


def as_runs(run: RunEvidence, shift: float) -> Baseline:
    """Five runs around the curve of ``run``, times e^shift."""
    runs = []
    for number in (-1.2, -0.6, 0.0, 0.6, 1.2):
        factor = math.exp(shift + SPREAD * number)
        curve = {step: value * factor for step, value in run.metrics[METRIC].items()}
        runs.append(replace(run, metrics={METRIC: curve}))
    accepted = Acceptance(by="a test", date="2026-11-20", reason="around a real run")
    return baseline_recording.of_evidence(runs, recipe=str(run.record["recipe"]), accepted=accepted)


def baseline_in_doubt(paths: RunPaths, repository: Repository) -> Path:
    """Record a baseline on which the run, alone, is neither good nor bad."""
    run, name = read_evidence(paths.root), paths.name
    path = repository.baselines_dir / "llm" / name / "cpu.json"
    for thousandth in range(0, 200, 2):
        baseline_file.save(as_runs(run, -thousandth / 1000), path)
        found = compare_run(paths, name, repository, None)
        if found is not None and found.verdict is Verdict.INCONCLUSIVE:
            return path
    raise AssertionError("no band leaves this run in doubt")


def command(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("EVENKEEL_", "SLURM_"))}
    environment = kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(cwd / "src")}
    argv = [sys.executable, "-m", "evenkeel.cli.main", *words]
    return subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True)


def git(root: Path, *words: str) -> None:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.invalid"]
    subprocess.run(["git", "-C", str(root), *who, *words], check=True, capture_output=True)


def record_of(paths: RunPaths) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(paths.run_json.read_text())
    return found


@pytest.fixture
def night(tmp_path: Path) -> Repository:
    """A repository with one recipe, its own run trained once, and a baseline that leaves doubt."""
    tree = Tree(tmp_path / "repo", max_steps=40)
    root = tmp_path / "repo"
    status, out = tree.run()
    assert status == 0, out
    baseline_in_doubt(RunPaths(tree.results), Repository(root))
    driver = tree.driver.relative_to(root / "tests/test_suites")
    listing = f"#: device: cpu\n#: confirm_gpu_hours_per_night: 1\n{driver}\n"
    (root / "tests/test_suites/nightly.txt").write_text(listing)
    (root / ".gitignore").write_text("code_snapshots/\ntests/test_suites/llm/*/\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "a night")
    return Repository(root)


def test_a_night_in_doubt_trains_again_and_combines(night: Repository) -> None:
    words = ("launch", "--suite", "nightly", "--executor", "local", "--watch")
    done = command(*words, cwd=night.root)
    print(done.stdout, done.stderr)
    (folder,) = (night.root / "code_snapshots/.launches").glob("[0-9]*")
    result = json.loads((folder / "result.json").read_text())
    (recipe,) = result["recipes"]
    paths = RunPaths(Path(recipe["run_dir"]))
    verdict = json.loads(paths.verdict.read_text())
    looks = verdict["comparison"]["num_new_runs"]
    # every run of the night is of the code and the curve of the first, with a seed of its own
    confirming = [paths.confirming(number) for number in range(1, looks)]
    assert confirming and len(result["second_look"]["runs"]) == len(confirming)
    records = [record_of(one) for one in (paths, *confirming)]
    assert [one["config"]["seed"] for one in records] == [42, 2001, 2002][:looks]
    # the verdict is the combined one, and it was decided, or three looks were not enough
    together = compare_run(paths, paths.name, Repository(paths.root.parents[3]), None)
    assert together is not None and together.verdict.value == verdict["verdict"]
    assert recipe["verdict"] == verdict["verdict"]
    assert verdict["verdict"] != "INCONCLUSIVE" or looks == 3
    assert f"{looks - 1} confirming run" in done.stdout
    assert 0 < result["second_look"]["gpu_hours"] < result["gpu_hours"]
    assert done.returncode == (0 if verdict["verdict"] in ("PASS", "IMPROVED") else 1)
    # whoever watches again, or resumes, trains nothing again
    again = command("watch", str(folder), cwd=night.root)
    assert again.returncode == done.returncode
    resumed = command(*words, "--resume", cwd=night.root)
    assert "going on with launch" in resumed.stdout
    assert [record_of(one) for one in (paths, *confirming)] == records
    assert not paths.confirming(looks).root.exists()
