"""A result in doubt on a real Slurm: the watcher submits confirming runs, once, within a budget."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from launches import TRAINER, make_launch
from mini_cluster import MiniCluster

from evenkeel import run_record
from evenkeel.convergence import baseline as baseline_file
from evenkeel.convergence import baseline_recording
from evenkeel.convergence.baseline import Acceptance
from evenkeel.convergence.baseline_judgement import compare_run
from evenkeel.convergence.run_evidence import RunEvidence
from evenkeel.convergence.verdict import Verdict
from evenkeel.launch.cluster import Cluster
from evenkeel.launch.executor import SlurmSubmitter
from evenkeel.launch.launch_record import LaunchRecord
from evenkeel.launch.submission import submit_chain
from evenkeel.metrics import series
from evenkeel.run_paths import Repository, RunPaths

NAME = "sft-doubt-1n1g-fsdp2tp1"
STEPS = 40


def driver(tree: Path) -> str:
    """Trains the stand-in, notes its last argument and judges, as a driver of a recipe does."""
    python = shlex.quote(sys.executable)
    return f"""
        set -e
        out=${{EVENKEEL_EXP_DIR:-${{0%.sh}}}}
        {python} {shlex.quote(str(TRAINER))} --max-steps {STEPS} --step-s 0.01 --recipe {NAME} \\
            "$out" ${{1:+"${{@: -1}}"}}
        printf '%s\\n' "$@" > "$out/arguments"
        export PROJECT_ROOT={shlex.quote(str(tree))}
        {python} -m evenkeel.cli.main driver judge --run-dir "$out" --max-steps {STEPS} \\
            'max(data["train/loss"]) < 9'
    """


def in_doubt(tree: Path, scratch: Path) -> None:
    """A baseline in the tree on which the stand-in's curve, alone, is neither good nor bad."""
    repository = Repository(tree)
    paths = RunPaths(scratch / NAME)
    curve = {step: 5.0 / step for step in range(1, STEPS + 1)}
    series.save(paths.metrics, {"train/loss": curve})
    run_record.add(paths.run_json, {"recipe": NAME})
    for thousandth in range(200):
        runs = []
        for number in (-1.2, -0.6, 0.0, 0.6, 1.2):
            factor = math.exp(0.01 * number - thousandth / 1000)
            metrics = {"train/loss": {step: value * factor for step, value in curve.items()}}
            runs.append(RunEvidence("", metrics, {}))
        accepted = Acceptance(by="a test", date="2026-11-20", reason="around the stand-in's curve")
        made = baseline_recording.of_evidence(runs, recipe=NAME, accepted=accepted)
        baseline_file.save(made, repository.baselines_dir / "llm" / NAME / "cpu.json")
        found = compare_run(paths, NAME, repository, None)
        if found is not None and found.verdict is Verdict.INCONCLUSIVE:
            return
    raise AssertionError("no band leaves this run in doubt")


def night(tmp_path: Path) -> LaunchRecord:
    """A submitted launch of one recipe whose result will be in doubt."""
    record = make_launch(tmp_path, {NAME: "true"}, max_steps=STEPS, steps_per_run=STEPS)
    record = replace(record, created=run_record.now())
    record.write(record.folder)
    (submission,) = record.submissions()
    submission.driver_path.write_text(f"#!/bin/bash\n{driver(submission.tree)}\n")
    (submission.tree / "tests/test_suites").mkdir(parents=True, exist_ok=True)
    in_doubt(submission.tree, tmp_path / "scratch")
    submit_chain(submission, SlurmSubmitter(), Cluster())
    return record


def watch(record: LaunchRecord, *options: str) -> tuple[int, str, dict[str, Any]]:
    argv = [sys.executable, "-m", "evenkeel.cli.main", "watch", "--poll-s", "0.3"]
    done = subprocess.run(
        [*argv, str(record.folder), *options], stdout=subprocess.PIPE, text=True, timeout=600
    )
    return done.returncode, done.stdout, json.loads((record.folder / "result.json").read_text())


def test_confirming_runs_are_submitted_once_and_within_the_budget(
    new_cluster: Callable[..., MiniCluster], tmp_path: Path
) -> None:
    cluster = new_cluster(nodes=2)
    record = night(tmp_path)
    (submission,) = record.submissions()
    paths = RunPaths(submission.run_dir)
    status, out, result = watch(record, "--confirm-budget", "0.1")
    assert (status, result["recipes"][0]["verdict"]) == (1, "INCONCLUSIVE")
    assert f"{NAME}: no {NAME}.confirm1: it may take 0.17 GPU-hours, and 0.10 of the" in out
    assert result["second_look"]["runs"] == []

    status, out, result = watch(record)  # a tenth, or two runs of the dearest recipe
    assert result["second_look"]["budget_gpu_hours"] == 0.3333
    looks = len(result["second_look"]["runs"]) + 1
    assert looks > 1
    verdict = json.loads(paths.verdict.read_text())
    assert verdict["comparison"]["num_new_runs"] == looks
    assert verdict["verdict"] == result["recipes"][0]["verdict"]
    assert verdict["checks"][0]["passed"]  # the driver's own checks are judged again, too
    assert status == (0 if verdict["verdict"] == "PASS" else 1)
    seeds = [(paths.confirming(n).root / "arguments").read_text() for n in range(1, looks)]
    assert seeds == ["seed=2001\n", "seed=2002\n"][: looks - 1]
    assert f"{looks - 1} confirming run" in out
    jobs = [job for one in result["second_look"]["runs"] for job in one["job_ids"]]
    assert jobs == [2, 3][: looks - 1]

    again = watch(record)
    assert again[0] == status
    assert again[2]["second_look"]["runs"] == result["second_look"]["runs"]
    assert [(paths.confirming(n).root / "trained").read_text() for n in range(1, looks)] == [
        (paths.root / "trained").read_text()
    ] * (looks - 1)
    assert cluster.state(1 + looks) in ("", None)
