"""Whether jobs of a launch are pending or running: asked before their files are touched."""

from __future__ import annotations

import enum
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

from evenkeel.errors import MachineError
from evenkeel.launch.cluster import Cluster
from evenkeel.launch.launch_record import LaunchRecord
from evenkeel.launch.request import ExecutorKind, Submission
from evenkeel.launch.submission import JobRecord, SubmitState, read_record


class Liveness(enum.Enum):
    """What is known of the jobs of one recipe of a launch."""

    LIVE = "pending or running"
    ENDED = "ended"
    UNKNOWN = "unknown, since the cluster gives no answer"


def last_run(submission: Submission) -> int:
    """Number of the last run that was submitted or begun; 0 where there was none."""
    numbers = [
        path.name[len("run-") : -len(".json")] for path in submission.launch_dir.glob("run-*.json")
    ]
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def liveness_of(
    launches: Sequence[LaunchRecord], cluster: Cluster, *, beside: bool = True
) -> dict[Path, Liveness]:
    """The state of every recipe of the launches, by its folder; one question for all of them.

    Args:
        launches: whose jobs are asked for.
        cluster: where they run.
        beside: the jobs of runs beside the recipe's own count, too: those that confirm it, and
            those that make up a baseline.
    """
    known: dict[Path, Liveness] = {}
    jobs: dict[Path, list[JobRecord]] = {}
    for launch in launches:
        being_submitted = _is_locked(launch.folder / "launcher.lock")
        for submission in launch.submissions():
            folder = submission.launch_dir
            chains = [submission, *(_beside(submission) if beside else ())]
            locks = (chain.launch_dir / "submit.lock" for chain in chains)
            if being_submitted or any(map(_is_locked, locks)):
                known[folder] = Liveness.LIVE
            elif launch.options.executor is ExecutorKind.LOCAL:
                known[folder] = Liveness.ENDED
            else:
                jobs[folder] = [job for chain in chains for job in _jobs(chain)]
    return known | _ask(jobs, cluster)


def _beside(submission: Submission) -> list[Submission]:
    """The runs beside the recipe's own: the folders in its one that do not show the tree."""
    try:
        with os.scandir(submission.launch_dir) as found:
            names = sorted(one.name for one in found if one.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
    return [submission.beside(name) for name in names]


def _jobs(submission: Submission) -> list[JobRecord]:
    found = (read_record(submission, run) for run in range(1, last_run(submission) + 1))
    return [job for job in found if job is not None and job.state is not SubmitState.REFUSED]


def _ask(jobs: dict[Path, list[JobRecord]], cluster: Cluster) -> dict[Path, Liveness]:
    if not any(jobs.values()):
        return dict.fromkeys(jobs, Liveness.ENDED)
    with_id = {job.job_id: job.name for found in jobs.values() for job in found if job.job_id}
    without = [job.name for found in jobs.values() for job in found if not job.job_id]
    try:
        reports = list(cluster.reports(with_id).values()) if with_id else []
        for found in cluster.find(without).values() if without else ():
            reports += found
    except MachineError:
        return {
            folder: Liveness.UNKNOWN if found else Liveness.ENDED for folder, found in jobs.items()
        }
    live = {report.name for report in reports if not report.state.is_final}
    return {
        folder: Liveness.LIVE if any(job.name in live for job in found) else Liveness.ENDED
        for folder, found in jobs.items()
    }


def _is_locked(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # not ours to open: whoever it belongs to may hold it
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
