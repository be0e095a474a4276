"""From a request to jobs: check, snapshot, submit; and picking up what an earlier call left.

Order is what makes a launch safe to interrupt at any moment. The record of the launch, complete
with every submission, is on disk before the first job is submitted; each submit is recorded
before and after. So a launch whose record does not exist has submitted nothing, and one whose
record exists can be picked up with the same calls.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from evenkeel.errors import EXIT_FINDING, EXIT_MACHINE, EXIT_OK, InputError, MachineError
from evenkeel.launch import refusal
from evenkeel.launch.cluster import Cluster, ClusterUnreachableError
from evenkeel.launch.executor import SlurmSubmitter
from evenkeel.launch.launch_record import (
    LAUNCHES,
    LaunchRecord,
    LaunchState,
    read_record,
    read_state,
    write_state,
)
from evenkeel.launch.plan import Plan, error_lines
from evenkeel.launch.request import DryRun, ExecutorKind, JobShape, LaunchRequest, Submission
from evenkeel.launch.snapshot import take
from evenkeel.launch.submission import (
    SubmitState,
    limit_problem,
    run_chain_locally,
    submit_chain,
    write_scripts,
)

Say = Callable[[str], None]
ONE_NIGHT = timedelta(hours=12)
"""A launch that is younger is tonight's, for one who picks it up."""
# where a driver would otherwise write its results to; one value for many recipes of a launch
_NOT_FOR_JOBS = ("EVENKEEL_EXP_DIR", "EVENKEEL_STARTED_AT", "EXTRA_ENV", "EXTRA_SCRIPT_ARGS")


def check_plan(request: LaunchRequest, plan: Plan) -> list[JobShape]:
    """The shape of every driver, when all of them can be launched.

    Raises:
        InputError: one is broken, or asks for more than the profile's cluster has.
    """
    if plan.broken:
        raise InputError(
            f"{len(plan.broken)} of {len(plan.recipes)} drivers are broken, so nothing is"
            " launched:\n" + "\n".join(error_lines(plan.broken))
        )
    shapes = []
    for recipe in plan.recipes:
        shape = recipe.shape
        if shape is None:
            continue
        for what, asked, most, who in (
            ("NUM_NODES", shape.num_nodes, request.max_nodes, "profile"),
            ("GPUS_PER_NODE", shape.gpus_per_node, request.max_gpus_per_node, "profile"),
            ("NUM_MINUTES", shape.num_minutes, request.max_minutes, "suite"),
        ):
            if most is not None and asked > most:
                raise InputError(
                    f"{what} is {asked}, and the {who} allows {most}",
                    path=recipe.driver,
                    fix=f"mend the driver or the {who}, or launch it elsewhere",
                )
        shapes.append(shape)
    return shapes


def check_limits(request: LaunchRequest, plan: Plan, cluster: Cluster) -> None:
    """Refuse what no job of the partition can ever do.

    Raises:
        InputError: a driver is above a limit of the partition; all such drivers are named.
        ClusterUnreachableError: the controller did not answer.
    """
    partition = cluster.partition(request.options.partition)
    gpus = None if request.options.exclude_gres else cluster.gpus_per_node(partition.name)
    problems = [
        f"{recipe.driver}: {problem}"
        for recipe in plan.recipes
        if recipe.shape and (problem := limit_problem(recipe.shape, partition, gpus))
    ]
    if problems:
        raise InputError("nothing is submitted:\n" + "\n".join(problems))


def start(request: LaunchRequest, plan: Plan, secrets: Mapping[str, str], say: Say) -> LaunchRecord:
    """Take the snapshot and record the launch; with ``DryRun.PREPARE`` also write its scripts.

    Raises:
        EvenkeelError: see ``snapshot.take``, ``check_plan`` and ``check_limits``.
    """
    shapes = check_plan(request, plan)
    on_slurm = request.options.executor is ExecutorKind.SLURM
    submitter = SlurmSubmitter(job_environment(secrets)) if on_slurm else None
    if submitter:
        try:
            check_limits(request, plan, Cluster())
            refusal.check(request, plan, submitter, os.environ)
        except MachineError as error:
            if request.dry_run is DryRun.OFF:
                raise
            say(f"[WARNING]: the limits of the partition are unknown: {error.message}")
    if request.options.container and not on_slurm:
        say("[WARNING]: a local run uses this machine's software, not the container")
    taken = take(request, shapes)
    for warning in taken.warnings:
        say(f"[WARNING]: {warning}")
    record = taken.record
    say(f"[INFO]: launch {record.launch_id}: commit {record.commit[:12]} in {record.snapshots_dir}")
    if request.dry_run is DryRun.PREPARE:
        for submission in record.submissions():
            write_scripts(submission, submitter)
    return record


def submit(
    record: LaunchRecord,
    secrets: Mapping[str, str],
    say: Say,
    chains: Sequence[Submission] | None = None,
) -> int:
    """Submit (or, locally, run) what is not submitted yet; the exit status of the launch.

    Args:
        record: of the launch.
        secrets: name → value of those that its jobs get.
        say: takes a line for each thing that is done.
        chains: other runs of its recipes; None: the one of each.

    Raises:
        MachineError: the cluster failed; the same call goes on from here.
    """
    with only_launcher(record.folder):
        write_state(record.folder, LaunchState.SUBMITTING)
        status = submit_chains(record.submissions() if chains is None else chains, secrets, say)
        write_state(record.folder, LaunchState.SUBMITTED)
    return status


def interrupted(request: LaunchRequest, names: tuple[str, ...]) -> LaunchRecord | None:
    """The newest launch of the same suite (or the same recipes), if it did not submit all.

    Raises:
        MachineError: its launcher is still at work.
    """
    record = _newest(request, names)
    if record is None or read_state(record.folder) is not LaunchState.SUBMITTING:
        return None
    with only_launcher(record.folder):
        return record


def resumable(request: LaunchRequest, names: tuple[str, ...]) -> LaunchRecord | None:
    """What ``--resume`` goes on with: an interrupted launch, or the one of this very night.

    The latter has nothing left to submit (its launcher died later, while it watched, say), and a
    second launch of it is not what was asked for.

    Raises:
        MachineError: its launcher is still at work.
    """
    record = interrupted(request, names) or _newest(request, names)
    if record is None or read_state(record.folder) is LaunchState.SUBMITTING:
        return record
    age = datetime.now(UTC) - datetime.fromisoformat(record.created)
    return record if age < ONE_NIGHT else None


def _newest(request: LaunchRequest, names: tuple[str, ...]) -> LaunchRecord | None:
    for folder in sorted((request.snapshots_dir / LAUNCHES).glob("[0-9]*"), reverse=True):
        try:
            record = read_record(folder)
        except InputError:
            continue
        same = record.suite == request.suite and (
            request.suite is not None or set(record.names) == set(names)
        )
        if record.recording is not None:
            continue  # its runs are others than those of a launch of the recipe
        if same and read_state(folder) is not LaunchState.PREPARED:
            return record
    return None


@contextmanager
def only_launcher(folder: Path) -> Iterator[None]:
    """Hold the lock of one launch.

    Raises:
        MachineError: another process holds it.
    """
    with _lock(folder / "launcher.lock", f"launch {folder.name} is being submitted"):
        yield


@contextmanager
def only_night(snapshots_dir: Path, suite: str) -> Iterator[None]:
    """Hold the lock of a suite's night.

    Raises:
        MachineError: another night of the suite is under way.
    """
    folder = snapshots_dir / LAUNCHES
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder / f".night-{suite.replace('/', '_')}.lock", f"a night of {suite} is on"):
        yield


def is_being_submitted(folder: Path) -> bool:
    """Whether a launcher is at work on the launch in ``folder``."""
    if read_state(folder) is not LaunchState.SUBMITTING:
        return False
    try:
        with only_launcher(folder):
            return False
    except MachineError:
        return True


def job_environment(secrets: Mapping[str, str]) -> dict[str, str]:
    """What a job inherits: this process's environment and the secrets, by name."""
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_JOBS}
    return {**kept, **secrets}


def submit_chains(submissions: Sequence[Submission], secrets: Mapping[str, str], say: Say) -> int:
    """Submit, or run here, the chains of one launch; the exit status.

    Raises:
        MachineError: the cluster gave no answer; what was submitted is recorded.
    """
    if any(submission.options.executor is ExecutorKind.LOCAL for submission in submissions):
        return _run_here(submissions, secrets, say)
    submitter, cluster = SlurmSubmitter(job_environment(secrets)), Cluster()
    status, explained = EXIT_OK, set[str]()
    for submission in submissions:
        try:
            jobs = submit_chain(submission, submitter, cluster)
        except ClusterUnreachableError as error:
            raise MachineError(
                f"launch {submission.launch_id} stopped at {submission.label}: {error.message}",
                fix="call it again (a launch with --resume, a recording with --launch); nothing is"
                " submitted twice",
            ) from error
        ids = [str(job.job_id) for job in jobs if job.state is SubmitState.SUBMITTED]
        if ids:
            say(f"[INFO]: {submission.label}: job{'s' if len(ids) > 1 else ''} {', '.join(ids)}")
        for job in jobs:
            if job.state is SubmitState.REFUSED:
                status, said = EXIT_MACHINE, str(job.error)
                if said not in explained:  # once, however many recipes it concerns
                    explained.add(said)
                    header = refusal.header_of(submission, job.run)
                    said = refusal.explain(said, header, os.environ, cluster)
                say(f"[ERROR]: {submission.label}: sbatch refused run {job.run}: {said}")
    return status


def _run_here(submissions: Sequence[Submission], secrets: Mapping[str, str], say: Say) -> int:
    os.environ.update(secrets)
    for name in _NOT_FOR_JOBS:
        os.environ.pop(name, None)
    failed = 0
    for submission in submissions:
        say(f"[INFO]: {submission.name}: running here; output in {shown_dir(submission)}/run-*.out")
        status = run_chain_locally(submission)
        say(f"[INFO]: {submission.name}: ended with exit status {status}")
        failed += status != 0
    return EXIT_FINDING if failed else EXIT_OK


def shown_dir(submission: Submission) -> Path:
    """``code_snapshots/<recipe>``, which shows the newest launch of the recipe."""
    return submission.launch_dir.parents[2] / submission.name


@contextmanager
def _lock(path: Path, what: str) -> Iterator[None]:
    """Hold ``path`` exclusively; the system takes the lock back when this process dies."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise MachineError(f"cannot lock: {error.strerror}", path=path) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(handle, 200, 0).decode(errors="replace").strip()
            raise MachineError(
                f"{what} already, by {owner or 'another process'}",
                path=path,
                fix="wait for it to end; the lock goes with its process",
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)
