"""Submitting a recipe's chain of jobs, each exactly once, whatever happens on the way.

Each job has a unique name. Before ``sbatch`` is called a record says that it will be; after it, the
record gets the id. Who finds a record without an id (the launcher was killed, the controller gave
no answer) first looks for a job of that name, and submits only if there is none. So a launch can be
interrupted anywhere and picked up with the same call.

The layout of the records is in ``docs/data-formats.md``.
"""

from __future__ import annotations

import enum
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evenkeel import atomic_file
from evenkeel.errors import InputError, MachineError
from evenkeel.launch import executor
from evenkeel.launch.cluster import Cluster, ClusterUnreachableError, Partition
from evenkeel.launch.executor import SlurmSubmitter
from evenkeel.launch.job_report import JobReport
from evenkeel.launch.job_script import BODY, job_files, job_name, render
from evenkeel.launch.request import JobShape, Submission
from evenkeel.run_record import TrainerExit, now

JOB_SCHEMA_VERSION = 1
PATIENCE_S = 120.0


class SubmitState(enum.Enum):
    """How far the submit of one job has come."""

    INTENDED = "intended"  # sbatch may or may not have been called
    SUBMITTED = "submitted"
    REFUSED = "refused"  # sbatch said no; ``error`` says why


@dataclass(frozen=True)
class JobRecord:
    """What the launcher knows of one job of a chain.

    Attributes:
        run: number of the job, counted from 1.
        name: its unique name in Slurm.
        job_id: Slurm's number; None until it is known, and for a local run.
        after: id of the job that it waits for.
        time: when the record was written, UTC.
        earlier_ids: ids under which the job was submitted before the controller forgot it.
        error: what sbatch said when it refused.
    """

    run: int
    name: str
    state: SubmitState
    job_id: int | None = None
    after: int | None = None
    time: str = ""
    earlier_ids: tuple[int, ...] = ()
    error: str | None = None


def read_record(submission: Submission, run: int) -> JobRecord | None:
    """The record of job ``run``; None when its submit was never begun.

    Raises:
        InputError: the file is not such a record.
    """
    path = job_files(submission, run).record
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        value.pop("schema_version")
        value["state"] = SubmitState(value["state"])
        value["earlier_ids"] = tuple(value["earlier_ids"])
        return JobRecord(**value)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"not the record of a job: {error!r}", path=path) from error


def read_records(submission: Submission) -> list[JobRecord]:
    """The records of all jobs of the recipe in order, later continuations and retries included."""
    runs = [path.stem.removeprefix("run-") for path in submission.launch_dir.glob("run-*.json")]
    found = (read_record(submission, run) for run in sorted(int(r) for r in runs if r.isdecimal()))
    return [record for record in found if record is not None]


def write_scripts(submission: Submission, submitter: SlurmSubmitter | None) -> list[Path]:
    """Write the batch script of every job of the chain.

    Args:
        submission: the recipe to run.
        submitter: makes the ``#SBATCH`` lines; None for a local run, which has none.
    """
    scripts = []
    body = job_files(submission, submission.first_run).body
    if not body.exists():
        atomic_file.write_text(body, BODY.read_text(encoding="utf-8"))
    for run in range(submission.first_run, submission.first_run + submission.runs):
        header = submitter.header(submission, run) if submitter else []
        script = job_files(submission, run).script
        atomic_file.write_text(script, render(header, submission, run, Path(sys.executable)))
        scripts.append(script)
    return scripts


def submit_chain(
    submission: Submission,
    submitter: SlurmSubmitter,
    cluster: Cluster,
    *,
    patience_s: float = PATIENCE_S,
) -> list[JobRecord]:
    """Submit every job of the chain that is not submitted yet; each waits for the one before.

    Calling it again is safe and picks up where an earlier call ended, however it ended. The chain
    ends with the first job that sbatch refuses.

    Raises:
        ClusterUnreachableError: the controller gave no answer for ``patience_s``; call it again
            later.
    """
    done: list[JobRecord] = []
    with _only_submitter(submission):
        if any(not path.exists() for path in _scripts(submission)):
            write_scripts(submission, submitter)
        after: int | None = None
        for run in range(submission.first_run, submission.first_run + submission.runs):
            record = read_record(submission, run)
            if record is None or record.state is not SubmitState.SUBMITTED:
                record = _submit_once(
                    submission, run, after, submitter, cluster, record, patience_s
                )
            done.append(record)
            if record.state is SubmitState.REFUSED:
                break
            after = record.job_id
    return done


def submit_forgotten(
    submission: Submission, run: int, submitter: SlurmSubmitter, cluster: Cluster
) -> JobRecord:
    """Submit a job again that the controller does not know (it crashed before it saved it).

    It waits for the newest job of the chain, so that two jobs never run at once.

    Raises:
        ClusterUnreachableError: the controller gives no answer; nothing was submitted.
    """
    with _only_submitter(submission):
        record = read_record(submission, run)
        others = [other.job_id for other in read_records(submission) if other.run != run]
        after = max((job_id for job_id in others if job_id is not None), default=None)
        return _submit_once(submission, run, after, submitter, cluster, record, PATIENCE_S)


def run_chain_locally(submission: Submission) -> int:
    """Run the jobs of the chain one after the other on this machine; the last exit status.

    A job that ends with a non-finite loss ends the chain.
    """
    status = 0
    with _only_submitter(submission):
        write_scripts(submission, None)
        for run in range(submission.first_run, submission.first_run + submission.runs):
            record = JobRecord(run, job_name(submission, run), SubmitState.SUBMITTED)
            _write_record(submission, record)
            status = executor.run_locally(submission, run)
            if status == TrainerExit.NON_FINITE:
                break
    return status


def limit_problem(
    shape: JobShape, partition: Partition, gpus_per_node: int | None = None
) -> str | None:
    """Why no job of this shape can ever start in the partition; None when it can.

    Args:
        shape: of the jobs.
        partition: with its limits.
        gpus_per_node: of its best node; None where that is unknown, or no GPU is asked for.
    """
    if partition.max_minutes is not None and shape.num_minutes > partition.max_minutes:
        return (
            f"NUM_MINUTES={shape.num_minutes} is above the limit of partition {partition.name} "
            f"({partition.max_minutes:g} minutes): set NUM_MINUTES to at most that and raise "
            "NUM_RUNS, or choose another partition"
        )
    if partition.max_nodes is not None and shape.num_nodes > partition.max_nodes:
        return (
            f"NUM_NODES={shape.num_nodes} is more than a job can get in partition "
            f"{partition.name} ({partition.max_nodes}): it would wait for ever"
        )
    if gpus_per_node is not None and shape.gpus_per_node > gpus_per_node:
        return (
            f"GPUS_PER_NODE={shape.gpus_per_node} is more than a node of partition "
            f"{partition.name} has ({gpus_per_node}): set at most that, or choose another partition"
        )
    if not partition.is_up:
        return f"partition {partition.name} is not up"
    return None


def _submit_once(
    submission: Submission,
    run: int,
    after: int | None,
    submitter: SlurmSubmitter,
    cluster: Cluster,
    record: JobRecord | None,
    patience_s: float,
) -> JobRecord:
    files, name = job_files(submission, run), job_name(submission, run)
    earlier = () if record is None else record.earlier_ids
    if record is not None and record.job_id is not None:
        earlier = (*earlier, record.job_id)
    begun = record is not None and record.state is not SubmitState.REFUSED
    if record and begun and (found := _find(submission, name, cluster, patience_s)):
        return _note_id(submission, record, found.job_id)
    intent = JobRecord(run, name, SubmitState.INTENDED, after=after, earlier_ids=earlier)
    _write_record(submission, intent)
    try:
        job_id = submitter.submit(files.script, _in_flight(submission), after)
    except ClusterUnreachableError:
        if found := _find(submission, name, cluster, patience_s):
            return _note_id(submission, intent, found.job_id)
        try:
            job_id = submitter.submit(files.script, _in_flight(submission), after)
        except MachineError as error:
            return _refused(submission, intent, error)
    except MachineError as error:
        return _refused(submission, intent, error)
    return _note_id(submission, intent, job_id)


def _refused(submission: Submission, intent: JobRecord, error: MachineError) -> JobRecord:
    if isinstance(error, ClusterUnreachableError):
        raise error
    refused = replace(intent, state=SubmitState.REFUSED, error=error.message)
    return _write_record(submission, refused)


def _note_id(submission: Submission, record: JobRecord, job_id: int) -> JobRecord:
    known = replace(record, state=SubmitState.SUBMITTED, job_id=job_id)
    return _write_record(submission, known)


def _find(
    submission: Submission, name: str, cluster: Cluster, patience_s: float
) -> JobReport | None:
    """The job of this name, asked for until the controller answers; None: there is none."""
    end = time.monotonic() + patience_s
    with _locked(_in_flight(submission)):  # an sbatch whose caller was killed may still be at work
        while True:
            try:
                found = cluster.find([name]).get(name, [])
                break
            except ClusterUnreachableError:
                if time.monotonic() > end:
                    raise
                time.sleep(1.0)
    alive = [report for report in found if not report.state.is_final]
    return next(iter([*alive, *reversed(found)]), None)


def _write_record(submission: Submission, record: JobRecord) -> JobRecord:
    record = replace(record, time=now())
    value = {
        "schema_version": JOB_SCHEMA_VERSION,
        "run": record.run,
        "name": record.name,
        "state": record.state.value,
        "job_id": record.job_id,
        "after": record.after,
        "time": record.time,
        "earlier_ids": list(record.earlier_ids),
        "error": record.error,
    }
    atomic_file.write_json(job_files(submission, record.run).record, value)
    return record


def _scripts(submission: Submission) -> Sequence[Path]:
    runs = range(submission.first_run, submission.first_run + submission.runs)
    return [job_files(submission, run).script for run in runs]


def _in_flight(submission: Submission) -> Path:
    return submission.launch_dir / "sbatch.lock"


@contextmanager
def _only_submitter(submission: Submission) -> Iterator[None]:
    submission.launch_dir.mkdir(parents=True, exist_ok=True)
    with _locked(submission.launch_dir / "submit.lock"):
        yield


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file; the system takes it back when the process dies."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
