"""What past launches tell about a recipe: the time its jobs took, and how it went last.

The times are those of whole jobs, from the first line of the job's script to its last, as its
journal has them: that is what NUM_MINUTES limits and what is paid for.
"""

from __future__ import annotations

import filecmp
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path, PurePosixPath

from evenkeel.errors import InputError
from evenkeel.launch.request import Submission
from evenkeel.launch.snapshot_care import launches
from evenkeel.run_paths import RECIPES, SUITES, RunPaths

GOOD_VERDICTS = frozenset({"PASS", "IMPROVED"})
# the limit proposed for a job: what 95 of 100 took, and a quarter more for a slow night
MARGIN = 1.25
_ROUND_TO_MINUTES = 5
_GRACE_S = 600  # Slurm enforces a limit late, and clocks of nodes differ


@dataclass(frozen=True)
class PastLaunch:
    """One launch of a recipe that did something.

    Attributes:
        job_minutes: of each job that ended.
        num_cut_short: jobs that never noted their end: killed at the limit, or with their node.
        failed: it ended, and not with a good verdict.
    """

    submission: Submission
    night: date
    job_minutes: tuple[float, ...]
    num_cut_short: int
    failed: bool

    @property
    def gpu_minutes(self) -> float:
        """What its jobs used; one that was cut short counts with its full time."""
        shape = self.submission.shape
        minutes = sum(self.job_minutes) + self.num_cut_short * shape.num_minutes
        return minutes * shape.num_nodes * shape.gpus_per_node


@dataclass(frozen=True)
class Usage:
    """What a recipe used, over its past launches.

    Attributes:
        median_gpu_minutes: of one launch.
        p95_gpu_minutes: of one launch; the nearest rank, so the largest of fewer than 20.
        proposed_num_minutes: for one job; None where no job has ended yet.
    """

    num_launches: int
    median_gpu_minutes: float
    p95_gpu_minutes: float
    proposed_num_minutes: int | None
    num_cut_short: int


def read_history(snapshots_dir: Path, now: float | None = None) -> dict[str, list[PastLaunch]]:
    """The past launches of each recipe, newest first; those that never started are left out.

    Args:
        snapshots_dir: the folder of snapshots.
        now: seconds since 1970, by which a job without an end is known to be over.
    """
    now = time.time() if now is None else now
    found: dict[str, list[PastLaunch]] = {}
    for launch in launches(snapshots_dir)[0]:
        night = datetime.fromisoformat(launch.created).astimezone().date()
        for submission in launch.submissions():
            journals = _read_journals(submission.launch_dir)
            # a start without an end may still be at work
            limit_s = submission.shape.num_minutes * 60 + _GRACE_S
            cut_short = sum(now - start > limit_s for start in journals.open_since)
            if journals.minutes or cut_short:
                failed = _failed(submission, journals.last_status)
                past = PastLaunch(submission, night, journals.minutes, cut_short, failed)
                found.setdefault(submission.name, []).append(past)
    return found


def usage_of(past: Sequence[PastLaunch]) -> Usage:
    """The summary of at least one past launch."""
    costs = sorted(launch.gpu_minutes for launch in past)
    jobs = sorted(minutes for launch in past for minutes in launch.job_minutes)
    cut_short = sum(launch.num_cut_short for launch in past)
    proposed = None
    if jobs:
        proposed = _rounded(percentile(jobs, 0.95) * MARGIN)
        if cut_short:  # it was too little once: what ended in time says nothing about those
            proposed = max(proposed, _rounded(past[0].submission.shape.num_minutes * MARGIN))
    return Usage(
        num_launches=len(past),
        median_gpu_minutes=percentile(costs, 0.5),
        p95_gpu_minutes=percentile(costs, 0.95),
        proposed_num_minutes=proposed,
        num_cut_short=cut_short,
    )


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """The nearest rank: the smallest value that at least ``fraction`` of all do not exceed."""
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]


def changed_since(root: Path, last: Submission) -> bool:
    """Whether the driver, or a file that its recipe consists of, is not as in that launch."""
    paths = [PurePosixPath(last.driver)]
    below = last.driver.relative_to(SUITES) if last.driver.is_relative_to(SUITES) else last.driver
    recipe = RECIPES / below.parent / f"{below.name.removesuffix('.sh')}.yaml"
    try:
        if (root / recipe).exists():
            paths += _with_parents(root, root / recipe)
    except InputError:
        return True
    return not all(_same(root / path, last.tree / path) for path in paths)


def _with_parents(root: Path, recipe: Path) -> list[PurePosixPath]:
    from evenkeel.recipes.inheritance import parents_of
    from evenkeel.recipes.located_yaml import read_tree

    found: dict[Path, None] = {}
    waiting = [recipe]
    while waiting:
        path = waiting.pop().resolve()
        if path in found:
            continue
        found[path] = None
        parents = parents_of(read_tree(path, str(path)), str(path))
        waiting += [Path(parent) for parent, _ in parents if parent != "_self_"]
    base = root.resolve()
    return [PurePosixPath(path.relative_to(base)) for path in found if path.is_relative_to(base)]


def _same(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


@dataclass(frozen=True)
class _Journals:
    """What the journals of a launched recipe say: minutes of jobs, starts without an end."""

    minutes: tuple[float, ...]
    open_since: tuple[int, ...]
    last_status: str | None


def _read_journals(folder: Path) -> _Journals:
    starts: dict[tuple[str, str], int] = {}
    minutes: list[float] = []
    status = None
    for row in _rows(folder):
        event, seconds, key = row[0], int(row[1]), (row[2], row[3])
        if event == "start":
            starts[key] = seconds
        elif event == "end" and key in starts:
            minutes.append(max(0, seconds - starts.pop(key)) / 60)
            status = row[4] if len(row) > 4 else None
    return _Journals(tuple(minutes), tuple(starts.values()), status)


def _rows(folder: Path) -> Iterator[list[str]]:
    for path in sorted(folder.glob("run-*.journal")):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        rows = (line.split("\t") for line in lines)
        yield from (row for row in rows if len(row) >= 4 and row[1].isdecimal())


def _failed(submission: Submission, last_status: str | None) -> bool:
    try:
        value: Mapping[str, object] = json.loads(
            RunPaths(submission.run_dir).verdict.read_text(encoding="utf-8")
        )
        return value.get("verdict") not in GOOD_VERDICTS
    except (OSError, ValueError, AttributeError):
        return last_status != "0"  # nobody judged it


def _rounded(minutes: float) -> int:
    return max(_ROUND_TO_MINUTES, math.ceil(minutes / _ROUND_TO_MINUTES) * _ROUND_TO_MINUTES)
