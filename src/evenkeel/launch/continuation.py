"""One more run of a launched recipe: the same code, the same arguments, the same results folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from evenkeel.errors import InputError, MachineError
from evenkeel.launch import baseline_jobs
from evenkeel.launch.cluster import Cluster
from evenkeel.launch.launch_record import RECORD, LaunchRecord, read_record
from evenkeel.launch.liveness import Liveness, last_run, liveness_of
from evenkeel.launch.manifest import looks_untouched, read_manifest
from evenkeel.launch.plan import format_hours, gpu_minutes
from evenkeel.launch.request import ExecutorKind, LaunchOptions, Submission

_FIX = "name the folder of a continue.sh, such as code_snapshots/RECIPE"


def find(folder: Path) -> tuple[LaunchRecord, Submission]:
    """The launch and the recipe that the folder of a ``continue.sh`` belongs to.

    Raises:
        InputError: it is no such folder.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise InputError(
            "no such folder",
            path=folder,
            fix=_FIX,
        )
    if not (folder.parent / RECORD).is_file():
        raise InputError("not the folder of a launched recipe", path=folder, fix=_FIX)
    record = read_record(folder.parent)
    for recipe in record.recipes:
        if recipe.folder == folder.name:
            return record, record.submission(recipe.name)
    raise InputError(
        f"launch {record.launch_id} has no recipe in folder {folder.name!r}", path=folder
    )


def next_run(record: LaunchRecord, submission: Submission, cluster: Cluster) -> Submission:
    """The submission of one further run.

    Raises:
        InputError: an earlier run is pending or running, the snapshot is gone, or the launch was
            made for a baseline.
        MachineError: whether one runs cannot be known.
    """
    if record.recording is not None:
        raise InputError(
            f"launch {record.launch_id} trains the runs of a baseline, not one that goes on",
            path=record.folder,
            fix=f"{baseline_jobs.command(record)} goes on with them",
        )
    if not submission.driver_path.is_file():
        raise InputError(
            "the snapshot of this launch is gone, so it cannot be continued",
            path=submission.driver_path,
            fix=f"launch {submission.name} anew; its commit was {submission.commit}",
        )
    alone = replace(record, recipes=(record.recipe(submission.name),))
    found = liveness_of([alone], cluster, beside=False)[submission.launch_dir]
    if found is Liveness.LIVE:
        raise InputError(
            f"an earlier run of {submission.name} is pending or running, and two must not write"
            " to one results folder",
            path=submission.run_dir,
            fix="wait until it has ended, or cancel it with scancel",
        )
    if found is Liveness.UNKNOWN:
        raise MachineError(
            f"whether an earlier run of {submission.name} is still under way is {found.value}",
            fix="try again when Slurm answers",
        )
    return replace(submission, first_run=last_run(submission) + 1, runs=1)


def describe(
    record: LaunchRecord, submission: Submission, environment: Mapping[str, str]
) -> list[str]:
    """What the run will do, in the words of the dry run; warnings are among the lines."""
    options = submission.options
    one = replace(submission.shape, num_runs=1)
    lines = [
        f"[INFO]: run {submission.first_run} of {submission.name}, launched {record.created} by"
        f" {record.user}, commit {record.commit[:12]}",
        f"[INFO]: {format_hours(gpu_minutes(one))} GPUhrs to run {submission.driver_path}",
    ]
    if options.script_args:
        lines.append(f"[INFO]: arguments: {shlex.join(options.script_args)}")
    if options.variables:
        pairs = (f"{name}={shlex.quote(value)}" for name, value in options.environment)
        lines.append(f"[INFO]: environment: {' '.join(pairs)}")
    lines.append(f"[INFO]: {_where(submission)}; results in {submission.run_dir}")
    lines += missing_secrets(options, environment)
    changed = _changed(submission)
    if changed:
        lines.append(
            f"[WARNING]: {len(changed)} files of the snapshot were changed since, such as"
            f" {changed[0]}; see: evenkeel snapshot verify"
        )
    return lines


def missing_secrets(options: LaunchOptions, environment: Mapping[str, str]) -> list[str]:
    """A warning where a secret that earlier jobs had is not in the environment any more."""
    missing = [name for name in options.secret_names if not environment.get(name)]
    if not missing:
        return []
    names = ", ".join(missing)
    return [f"[WARNING]: set at launch and not set now: {names} (secrets are never stored)"]


def _where(submission: Submission) -> str:
    options = submission.options
    if options.executor is ExecutorKind.LOCAL:
        return "on this machine"
    names = {
        "account": options.account,
        "partition": options.partition,
        "container": options.container,
    }
    given = [f"{name} {value}" for name, value in names.items() if value]
    return ", ".join(["on Slurm", *given])


def _changed(submission: Submission) -> list[str]:
    try:
        manifest = read_manifest(Path(f"{submission.tree}.json"))
    except InputError:
        return ["its manifest, which cannot be read"]
    return [
        name
        for name, entry in manifest.files.items()
        if not looks_untouched(submission.tree / name, entry, manifest.newest_ns)
    ]
