"""Submissions whose drivers are a few lines of bash, for tests of what lies around a driver."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from evenkeel import atomic_file
from evenkeel.launch.launch_record import (
    LAUNCHES,
    LaunchedRecipe,
    LaunchRecord,
    LaunchState,
    write_state,
)
from evenkeel.launch.request import JobShape, LaunchOptions, Submission
from evenkeel.launch.tree_store import TREES

TRAINER = Path(__file__).with_name("stand_in_trainer.py")
DRIVER = PurePosixPath("tests/test_suites/llm/sft-tiny-1n1g-fsdp2tp1.sh")
SHAPE = JobShape(
    num_nodes=1, gpus_per_node=1, num_runs=1, num_minutes=10, max_steps=10, steps_per_run=10
)


def make_submission(
    folder: Path,
    driver: str,
    *,
    name: str = "sft-tiny-1n1g-fsdp2tp1",
    launch_id: str | None = None,
    runs: int = 1,
    first_run: int = 1,
    options: LaunchOptions | None = None,
    **shape: Any,
) -> Submission:
    """A tree with one driver of the given body below ``folder``, ready to submit."""
    path = PurePosixPath(DRIVER.parent / f"{name}.sh")
    tree = folder / "tree"
    script = tree / path
    script.parent.mkdir(parents=True, exist_ok=True)
    # whole at any moment: a job may be reading it, and whoever writes it may be killed
    atomic_file.write_text(script, f"#!/bin/bash\n{driver}\n")
    return Submission(
        # tests share a cluster, so that every launch needs a name of its own, as in life
        launch_id=launch_id or f"20260102T030405-{sha256(bytes(folder)).hexdigest()[:6]}",
        name=name,
        driver=path,
        tree=tree,
        launch_dir=folder / "launch" / name,
        shape=replace(SHAPE, num_runs=runs, **shape),
        options=options or LaunchOptions(),
        commit="0" * 40,
        runs=runs,
        first_run=first_run,
    )


def make_launch(
    folder: Path,
    drivers: Mapping[str, str],
    *,
    options: LaunchOptions | None = None,
    num_runs: int = 1,
    **shape: Any,
) -> LaunchRecord:
    """The record of a launch of drivers with these bodies, below ``folder``."""
    launch_id = f"20260102T030405-{sha256(bytes(folder)).hexdigest()[:6]}"
    recipes = []
    for number, (name, driver) in enumerate(drivers.items()):
        path = PurePosixPath(DRIVER.parent / f"{name}.sh")
        script = folder / TREES / "tree" / path
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(f"#!/bin/bash\n{driver}\n")
        shape_of = replace(SHAPE, num_runs=num_runs, **shape)
        recipes.append(LaunchedRecipe(name, str(number), path, "tree", shape_of))
    record = LaunchRecord(
        folder=folder / LAUNCHES / launch_id,
        launch_id=launch_id,
        created="2026-01-02T03:04:05+00:00",
        user="somebody",
        host="here",
        python=sys.executable,
        commit="0" * 40,
        suite=None,
        options=options or LaunchOptions(),
        recipes=tuple(recipes),
    )
    record.folder.mkdir(parents=True)
    record.write(record.folder)
    write_state(record.folder, LaunchState.SUBMITTED)
    return record


def driver_that_trains(
    *faults: str, max_steps: int = 10, step_s: float = 0.05, per_run: int = 1000
) -> str:
    """The body of a driver that runs the stand-in trainer and leaves a verdict."""
    options = ["--max-steps", str(max_steps), "--step-s", str(step_s), "--per-run", str(per_run)]
    trainer = shlex.join([sys.executable, str(TRAINER), *options])
    verdict = json.dumps({"verdict": "PASS", "message": "2 checks passed", "last_step": max_steps})
    return (
        f'{trainer} -- "${{0%.sh}}" {shlex.join(faults)} || exit\n'
        f'[ "$(cat "${{0%.sh}}/ckpts/step")" -lt {max_steps} ] ||\n'
        f'    echo {shlex.quote(verdict)} > "${{0%.sh}}/verdict.json"'
    )
