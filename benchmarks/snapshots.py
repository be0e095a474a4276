"""Snapshots of 125 recipes of one tree against a copy of the tree per recipe, in one run.

    .venv/bin/python benchmarks/snapshots.py [--recipes 125] [--copies 5] [--scripts]

The tree has 1,800 files and 28 MB. The time of a snapshot is that of the whole command, from
reading the drivers to the records, with all data on disk; that of a copy is the median of a few.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from evenkeel.launch.executor import SlurmSubmitter
from evenkeel.launch.plan import shape_of
from evenkeel.launch.request import LaunchRequest
from evenkeel.launch.snapshot import take
from evenkeel.launch.submission import write_scripts
from evenkeel.launch.tree_store import remove_tree
from evenkeel.recipes.config_block import read

NUM_FILES, NUM_BYTES = 1_800, 28_000_000
BLOCK = """\
#!/bin/bash
# ===== BEGIN CONFIG =====
NUM_NODES=1
STEPS_PER_RUN=50
MAX_STEPS=100
NUM_RUNS=2
NUM_MINUTES=30
# ===== END CONFIG =====
"""


def write_tree(root: Path, recipes: int) -> list[Path]:
    rng = random.Random(0)
    drivers = []
    suites = root / "tests" / "test_suites" / "llm"
    suites.mkdir(parents=True)
    for i in range(recipes):
        driver = suites / f"sft-llama3.1-8b-1n8g-fsdp2tp1-variant{i}.sh"
        driver.write_text(BLOCK)
        drivers.append(driver)
    for i in range(NUM_FILES - recipes):
        path = root / f"src/package{i % 12}/part{i % 13}/file{i}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(NUM_BYTES // (NUM_FILES - recipes)))
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@example.invalid"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "all"], check=True)
    return drivers


def disk_bytes(*paths: Path) -> int:
    """As ``du`` counts: each inode once, in blocks."""
    words = ["du", "-s", "-c", "--block-size=1", "--exclude=.git", *map(str, paths)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1].split()[0])


def timed_copy(root: Path, target: Path) -> float:
    has_rsync = shutil.which("rsync") is not None
    tool = ["rsync", "-a", "--exclude=.git"] if has_rsync else ["cp", "-a"]
    items = [f"{root}/"] if has_rsync else [str(p) for p in root.iterdir() if p.name != ".git"]
    target.mkdir()
    start = time.perf_counter()
    subprocess.run([*tool, *items, str(target)], check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", type=int, default=125)
    parser.add_argument("--copies", type=int, default=5)
    parser.add_argument("--scripts", action="store_true", help="as DRYRUN=2; needs nemo-run")
    parser.add_argument("--folder", type=Path, help="where to work (default: the temporary folder)")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="snapshots", dir=args.folder))
    try:
        root = folder / "repo"
        drivers = write_tree(root, args.recipes)
        tree_bytes = disk_bytes(root)
        os.sync()
        copies = [timed_copy(root, folder / f"copy{i}") for i in range(args.copies)]
        os.sync()
        request = LaunchRequest(root, tuple(drivers), folder / "code_snapshots")
        start = time.perf_counter()
        take(request, [shape_of(read(driver)) for driver in drivers])
        first = time.perf_counter() - start
        store_bytes = disk_bytes(request.snapshots_dir)
        start = time.perf_counter()
        taken = take(request, [shape_of(read(driver)) for driver in drivers])
        second = time.perf_counter() - start
        two_bytes = disk_bytes(request.snapshots_dir)
        submitter = SlurmSubmitter({}) if args.scripts else None
        for submission in taken.record.submissions() if args.scripts else ():
            write_scripts(submission, submitter)
        script_bytes = disk_bytes(request.snapshots_dir) - two_bytes
    finally:
        remove_tree(folder)
    copy = statistics.median(copies)
    for what, seconds in (("first night", first), ("second launch of the same code", second)):
        per_recipe = seconds / args.recipes
        print(
            f"{what}: {seconds:.2f} s for {args.recipes} recipes, {per_recipe * 1e3:.1f} ms each;"
            f" a copy takes {copy * 1e3:.0f} ms: {copy / per_recipe:.0f} times faster"
        )
    print(
        f"disk: {store_bytes / 1e6:.1f} MB for {args.recipes} snapshots,"
        f" {store_bytes / tree_bytes:.3f} times one tree of {tree_bytes / 1e6:.1f} MB;"
        f" after the second launch {two_bytes / tree_bytes:.3f}"
    )
    if args.scripts:
        print(
            "with the scripts of two runs per recipe:"
            f" {(store_bytes + script_bytes) / tree_bytes:.3f} times one tree"
        )


if __name__ == "__main__":
    main()
