"""Submissions whose drivers are a few lines of bash, for tests of what lies around a driver."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from evenkeel.launch.request import JobShape, LaunchOptions, Submission

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
    script.write_text(f"#!/bin/bash\n{driver}\n")
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
