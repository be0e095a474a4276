"""Reading what is known of a job from the files around it; ``outcome`` decides what it means."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from evenkeel import atomic_file, run_record
from evenkeel.errors import InputError
from evenkeel.launch.job_report import JobReport, JobState
from evenkeel.launch.job_script import job_files
from evenkeel.launch.outcome import (
    Evidence,
    JournalEvent,
    Progress,
    StopReason,
    parse_journal,
)
from evenkeel.launch.request import Submission
from evenkeel.launch.submission import JobRecord, SubmitState
from evenkeel.run_paths import RunPaths

OUTPUT_TAIL_BYTES = 4 * 1024 * 1024
STOPPED_SCHEMA_VERSION = 1


def gather(
    submission: Submission,
    record: JobRecord,
    report: JobReport | None,
    progress: Progress,
    *,
    with_output: bool,
) -> Evidence:
    """All that is known of one job.

    Args:
        submission: the recipe.
        record: the job.
        report: what Slurm says of it.
        progress: of the run.
        with_output: read what the job printed, too; only ended jobs need it.
    """
    files = job_files(submission, record.run)
    return Evidence(
        progress=progress,
        report=report,
        refused=record.error if record.state is SubmitState.REFUSED else None,
        journal=read_journal(files.journal),
        attempts=_attempts(submission, record),
        stopped=read_stopped(submission, record.run),
        output=_tail(files.output) if with_output else "",
        tree_exists=submission.tree.is_dir(),
    )


def read_journal(path: Path) -> tuple[JournalEvent, ...]:
    """The journal of a job; empty where it wrote none."""
    try:
        return parse_journal(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ()


def local_report(submission: Submission, record: JobRecord) -> JobReport | None:
    """What Slurm would say of a job that runs on this machine without it; None: not begun."""
    journal = read_journal(job_files(submission, record.run).journal)
    starts = [event for event in journal if event.event == "start"]
    if not starts:
        return None
    began, last = starts[-1], journal[-1]
    state, status, signal = JobState.RUNNING, None, None
    until = time.time()
    if last.event == "end":
        until = last.time_s
        status = int(last.detail) if last.detail.isdecimal() else None
        state = JobState.COMPLETED if status == 0 else JobState.FAILED
    elif began.detail == socket.gethostname() and not _lives(began.job):
        state, signal = JobState.FAILED, 9
        until = max(event.time_s for event in journal)
    return JobReport(
        job_id=0,
        name=record.name,
        state=state,
        nodes=began.detail,
        start=datetime.fromtimestamp(began.time_s),
        elapsed_s=max(0, round(until - began.time_s)),
        exit_status=status,
        signal=signal,
    )


def _lives(job: str) -> bool:
    """Whether the script of a local job, known by its ``local-<pid>``, still runs."""
    return Path("/proc", job.removeprefix("local-")).exists()


def stopped_path(submission: Submission, run: int) -> Path:
    """Where the watcher writes down that, and why, it ended a job."""
    return submission.launch_dir / f"run-{run}.stopped.json"


def write_stopped(
    submission: Submission, run: int, reason: StopReason, message: str, more: Mapping[str, Any]
) -> None:
    """Keep the reason and its evidence; the layout is in ``docs/data-formats.md``."""
    value = {
        "schema_version": STOPPED_SCHEMA_VERSION,
        "reason": reason.value,
        "message": message,
        "time": run_record.now(),
        **more,
    }
    atomic_file.write_json(stopped_path(submission, run), value)


def read_stopped(submission: Submission, run: int) -> tuple[StopReason, str] | None:
    """Why the watcher ended a job; None where it did not."""
    try:
        value = json.loads(stopped_path(submission, run).read_text(encoding="utf-8"))
        return StopReason(value["reason"]), str(value["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _attempts(submission: Submission, record: JobRecord) -> tuple[Mapping[str, object], ...]:
    """Entries of run.json that this job made, or a job that had its place before it."""
    try:
        attempts = run_record.read(RunPaths(submission.run_dir).run_json)["attempts"]
    except (InputError, OSError):
        return ()
    ids = {str(job_id) for job_id in (record.job_id, *record.earlier_ids) if job_id is not None}
    if not ids:  # a local run: its job id is the one in its journal
        journal = read_journal(job_files(submission, record.run).journal)
        since = min((event.time_s for event in journal if event.event == "start"), default=None)
        return tuple(entry for entry in attempts if since is not None and _began(entry, since))
    return tuple(entry for entry in attempts if entry.get("job_id") in ids)


def _began(attempt: Mapping[str, Any], since: float) -> bool:
    try:
        return datetime.fromisoformat(attempt["start"]).timestamp() >= since - 1
    except (KeyError, TypeError, ValueError):
        return False


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - OUTPUT_TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
