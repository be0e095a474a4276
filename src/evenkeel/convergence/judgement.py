"""A run directory in, a judgement out; and ``verdict.json``, which keeps it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evenkeel import atomic_file, run_record
from evenkeel.convergence.verdict import Judgement, RunState, judge, with_comparison, with_seams
from evenkeel.crash_log import find_crash
from evenkeel.errors import InputError
from evenkeel.metrics import collection, series
from evenkeel.metrics.evaluation import CheckResult, evaluate_text
from evenkeel.run_paths import Repository, RunPaths

SCHEMA_VERSION = 1
LOG_TAIL_LINES = 20
MAX_LOG_BYTES = 4 << 20


def judge_run(
    paths: RunPaths,
    checks: Sequence[str],
    max_steps: int | None,
    damage: str = "",
    repository: Repository | None = None,
    *,
    by_own_baseline: bool = True,
) -> Judgement:
    """Judge a run directory by its ``metrics.json`` (empty where absent), ``run.json`` and log.

    Args:
        max_steps: how far it had to come; None: as far as ``run.json`` says.
        damage: what was lost of its metrics when they were collected, in words.
        repository: whose baselines it is compared with; default: the one it lies in, if any.
        by_own_baseline: off where the caller compares it with another one.
    """
    metrics = series.load(paths.metrics) if paths.metrics.exists() else {}
    record = run_record.read(paths.run_json)
    attempts = record["attempts"]
    if max_steps is None and isinstance(record.get("max_steps"), int):
        max_steps = record["max_steps"]
    last = attempts[-1] if attempts else {}
    exit_status = last.get("exit_status")
    state = RunState(
        last_step=last_training_step(metrics),
        max_steps=max_steps,
        exit_status=exit_status,
        last_words=_last_words(paths.run_log, last.get("log_offset", 0)) if exit_status else "",
        damage=damage,
    )
    judged = judge(state, metrics, [evaluate_text(check, metrics) for check in checks])
    repository = (repository or _around(paths)) if by_own_baseline else None
    if repository is not None and metrics:
        judged = _compared(judged, paths, repository)
    return _with_seams(judged, paths)


def _with_seams(judged: Judgement, paths: RunPaths) -> Judgement:
    """With what shows at the boundaries between starts, where there were several."""
    try:
        starts = collection.read_starts(paths.log_dir)
    except InputError:
        return judged  # a run without event files: there is only its metrics.json to judge by
    if len(starts) < 2:
        return judged
    from evenkeel.convergence import seams

    return with_seams(judged, seams.find_seams(starts))


def _around(paths: RunPaths) -> Repository | None:
    try:
        return Repository.around(paths.root)
    except InputError:
        return None


def _compared(judged: Judgement, paths: RunPaths, repository: Repository) -> Judgement:
    """With the comparison, where the recipe has a baseline."""
    name = run_record.read(paths.run_json).get("recipe") or paths.name
    if not any(repository.baselines_dir.glob(f"*/{name}/*.json")):
        return judged
    # numpy and scipy are loaded only where there is something to compare
    from evenkeel.convergence import baseline_judgement

    comparison = baseline_judgement.compare_run(
        paths, str(name), repository, judged.state.max_steps
    )
    return judged if comparison is None else with_comparison(judged, comparison)


def judge_metrics(path: Path, checks: Sequence[str], max_steps: int | None) -> Judgement:
    """Judge a bare ``metrics.json``: nothing is known of how its run ended.

    Raises:
        InputError: it holds no value; a check that reads none must not pass on it.
    """
    metrics = series.load(path)
    if not any(metrics.values()):
        raise InputError(
            "the file holds no value of any metric", path=path, fix="name the metrics of a run"
        )
    state = RunState(last_step=last_training_step(metrics), max_steps=max_steps)
    return judge(state, metrics, [evaluate_text(check, metrics) for check in checks])


def last_training_step(metrics: Mapping[str, Mapping[int, float]]) -> int:
    """The last step that was trained.

    Of ``train/loss``; else of any ``train/`` metric; else, in files that name their metrics in
    another way, of any metric at all. 0 where there is none.
    """
    ours = {name: steps for name, steps in metrics.items() if name.startswith("train/")}
    for found in ([metrics.get("train/loss", {})], ours.values(), metrics.values()):
        last = max((max(steps) for steps in found if steps), default=None)
        if last is not None:
            return last
    return 0


def write(judgement: Judgement, paths: RunPaths) -> None:
    """Keep the judgement as ``verdict.json``."""
    # results may lie elsewhere (EVENKEEL_EXP_DIR): the folder need not be called like the recipe
    recipe = run_record.read(paths.run_json).get("recipe") or paths.name
    record = {"schema_version": SCHEMA_VERSION, "recipe": recipe, **as_json(judgement)}
    atomic_file.write_json(paths.verdict, record)


def as_json(judgement: Judgement) -> dict[str, Any]:
    """What ``--json`` prints and ``verdict.json`` holds."""
    state = judgement.state
    return {
        "verdict": judgement.verdict.value,
        "message": judgement.message,
        "last_step": state.last_step,
        "max_steps": state.max_steps,
        "exit_status": state.exit_status,
        "checks": [_strict(check) for check in judgement.checks],
        "comparison": judgement.comparison.to_json() if judgement.comparison else None,
        "seams": [seam.to_json() for seam in judgement.seams],
    }


def _strict(check: CheckResult) -> dict[str, Any]:
    """A check in strict JSON, which has no NaN: readers in other languages load the file, too."""
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in check.to_json().items()
    }


def read(paths: RunPaths) -> dict[str, Any] | None:
    """The kept judgement, or None where there is none that can be read."""
    try:
        record = json.loads(paths.verdict.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and "verdict" in record else None


def _last_words(log: Path, offset: int) -> str:
    """The first real traceback of what was logged since ``offset``, else its last lines."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(offset, size - MAX_LOG_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    crash = find_crash(text)
    return crash.text if crash else "\n".join(text.splitlines()[-LOG_TAIL_LINES:])
