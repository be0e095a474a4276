"""What a watched launch came to: one verdict per recipe, the nodes to suspect, the GPU-hours."""

from __future__ import annotations

from typing import Any

from evenkeel import atomic_file
from evenkeel.convergence import judgement
from evenkeel.convergence.verdict import Verdict
from evenkeel.launch.launch_record import LaunchRecord
from evenkeel.launch.outcome import JobOutcome, Outcome
from evenkeel.launch.recipe_watch import RecipeWatch
from evenkeel.launch.watch import Watcher
from evenkeel.run_paths import RunPaths

SCHEMA_VERSION = 1

# what is said of a run that has not reached its last step
VERDICT_OF = {
    Outcome.INCOMPLETE: Verdict.INCOMPLETE,
    Outcome.CANCELLED: Verdict.INCOMPLETE,
    Outcome.BAD_SUBMISSION: Verdict.INCOMPLETE,
    Outcome.DIVERGED: Verdict.NON_FINITE,
    Outcome.DOOMED: Verdict.REGRESSED,
    Outcome.HUNG: Verdict.CRASHED,
    Outcome.CRASHED: Verdict.CRASHED,
    Outcome.OUT_OF_MEMORY: Verdict.CRASHED,
    Outcome.WALLTIME: Verdict.WALLTIME,
    Outcome.NODE_FAILURE: Verdict.INFRA,
    Outcome.PREEMPTED: Verdict.INFRA,
    Outcome.HARDWARE: Verdict.INFRA,
}


def verdict_of(outcome: JobOutcome, paths: RunPaths) -> tuple[Verdict | None, str]:
    """The verdict and its reason; None while the recipe is under way.

    A run that did all its steps is judged by its driver, whose verdict stands in its directory;
    every other run is judged by how it ended, whatever its driver made of it.
    """
    if outcome.kind is Outcome.COMPLETED:
        recorded = judgement.read(paths)
        if recorded is None:
            return Verdict.INCOMPLETE, "all steps are done, but its driver left no verdict"
        return Verdict(recorded["verdict"]), str(recorded["message"])
    return VERDICT_OF.get(outcome.kind), outcome.message


def result_of(record: LaunchRecord, watcher: Watcher) -> dict[str, Any]:
    """The result as JSON values; the layout is in ``docs/data-formats.md``."""
    return {
        "schema_version": SCHEMA_VERSION,
        "launch_id": record.launch_id,
        "suite": record.suite,
        "recipes": [_recipe(recipe) for recipe in watcher.recipes],
        "gpu_hours": round(sum(recipe.gpu_hours for recipe in watcher.recipes), 4),
        "suspect_nodes": watcher.suspects(),
    }


def write_result(record: LaunchRecord, result: dict[str, Any]) -> None:
    """Keep it beside the record of the launch, as ``result.json``."""
    atomic_file.write_json(record.folder / "result.json", result)


def _recipe(recipe: RecipeWatch) -> dict[str, Any]:
    outcome = recipe.outcome
    verdict, message = verdict_of(outcome, recipe.paths)
    return {
        "recipe": recipe.submission.name,
        "verdict": None if verdict is None else verdict.value,
        "message": message,
        "outcome": outcome.kind.value,
        "last_step": recipe.progress.last_step,
        "max_steps": recipe.submission.shape.max_steps,
        "gpu_hours": round(recipe.gpu_hours, 4),
        "sufficient_minutes": outcome.sufficient_minutes,
        "traceback": outcome.traceback,
        "run_dir": str(recipe.paths.root),
        "jobs": [_job(recipe, run) for run in sorted(recipe.jobs)],
    }


def _job(recipe: RecipeWatch, run: int) -> dict[str, Any]:
    job = recipe.jobs[run]
    record = next(one for one in recipe.records if one.run == run)
    return {
        "run": run,
        "job_id": record.job_id,
        "earlier_ids": list(record.earlier_ids),
        "outcome": None if job.outcome is None else job.outcome.kind.value,
        "message": "" if job.outcome is None else job.outcome.message,
        "nodes": [] if job.outcome is None else list(job.outcome.nodes),
        "elapsed_s": 0 if job.report is None else job.report.elapsed_s,
    }
