"""Train what a mutation plan asks for, in a few processes; keep each run's metrics as it ends.

A results folder holds ``<recipe>/<mutant>/seed<n>/{metrics.json,result.json,run.log}``. A run with
a ``result.json`` is done; whatever interrupts, the next call goes on with the others.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from evenkeel import atomic_file
from evenkeel.errors import MachineError
from evenkeel.launch.mutation_plan import MUTATION_DIR, PlannedRun, job
from evenkeel.metrics import series
from evenkeel.metrics.collection import collect

SCHEMA_VERSION = 1
RESULT = "result.json"
UNJUDGED = ("timing/", "train/tokens_per_sec", "train/mfu", "train/max_memory", "memory/")
"""Speed and memory of trainings that share their cores with others say nothing."""


def is_done(run: PlannedRun, results: Path) -> bool:
    """Whether its result is kept."""
    return (run.folder(results) / RESULT).is_file()


def train(
    runs: Sequence[PlannedRun],
    results: Path,
    root: Path,
    num_workers: int,
    progress: Callable[[str], None],
) -> None:
    """Train those that are not done.

    Raises:
        MachineError: a worker process ended by itself.
    """
    missing = [run for run in runs if not is_done(run, results)]
    if not missing:
        return
    waiting: queue.SimpleQueue[PlannedRun] = queue.SimpleQueue()
    ended: queue.SimpleQueue[tuple[PlannedRun, int | None]] = queue.SimpleQueue()
    for run in missing:
        waiting.put(run)
    workers = [_worker(root) for _ in range(min(num_workers, len(missing)))]
    feeders = [
        threading.Thread(target=_feed, args=(worker, waiting, ended, results), daemon=True)
        for worker in workers
    ]
    try:
        for feeder in feeders:
            feeder.start()
        for number in range(1, len(missing) + 1):
            run, status = ended.get()
            if status is None:
                raise MachineError(
                    "a process that trains mutants ended by itself",
                    path=run.folder(results) / "run.log",
                    fix="call again to continue; with --workers 1 if memory was short",
                )
            keep(run, results, status)
            note = "" if status == 0 else f", status {status}"
            progress(f"{number}/{len(missing)} {run.recipe.name} {run.mutant} {run.seed}{note}")
    finally:
        _end(workers, feeders)


def _worker(root: Path) -> subprocess.Popen[str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "TORCHELASTIC_"))
        and name not in {"RANK", "WORLD_SIZE", "LOCAL_RANK"}
    }
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    source = str((root / "src").resolve())
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [source, environment.get("PYTHONPATH")])
    )
    return subprocess.Popen(
        [sys.executable, str(root / MUTATION_DIR / "train_jobs.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,  # Ctrl-C comes to us alone, and we end it
    )


def _end(workers: Sequence[subprocess.Popen[str]], feeders: Sequence[threading.Thread]) -> None:
    for worker in workers:
        worker.kill()  # its trainers end with it
        worker.wait()
    for feeder in feeders:
        if feeder.ident is not None:
            feeder.join()
    for worker in workers:
        for pipe in (worker.stdin, worker.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was not yet read is of no use
                    pipe.close()


def _feed(
    worker: subprocess.Popen[str],
    waiting: queue.SimpleQueue[PlannedRun],
    ended: queue.SimpleQueue[tuple[PlannedRun, int | None]],
    results: Path,
) -> None:
    assert worker.stdin is not None and worker.stdout is not None
    while True:
        try:
            run = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            worker.stdin.write(json.dumps(job(run, results)) + "\n")
            worker.stdin.flush()
            answer = worker.stdout.readline()
        except (OSError, ValueError):
            answer = ""
        if not answer:
            ended.put((run, None))
            return
        ended.put((run, int(json.loads(answer)["status"])))


def keep(run: PlannedRun, results: Path, status: int) -> None:
    """Turn a run's event files into ``metrics.json`` and say that it is done."""
    folder = run.folder(results)
    logs = folder / "logs"
    metrics = collect(logs).metrics if logs.is_dir() and any(logs.rglob("*")) else {}
    judged = {name: s for name, s in metrics.items() if not name.startswith(UNJUDGED)}
    series.save(folder / "metrics.json", judged)
    record = {
        "schema_version": SCHEMA_VERSION,
        "recipe": run.recipe.name,
        "mutant": run.mutant,
        "seed": run.seed,
        "status": status,
    }
    atomic_file.write_json(folder / RESULT, record)
    shutil.rmtree(logs, ignore_errors=True)


def read_all(results: Path) -> Iterator[tuple[dict[str, Any], series.Metrics]]:
    """(result.json, metrics) of every run that is done, by path."""
    for path in sorted(results.glob(f"*/*/*/{RESULT}")):
        yield (
            json.loads(path.read_text(encoding="utf-8")),
            series.load(path.with_name("metrics.json")),
        )
