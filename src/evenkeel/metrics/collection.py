"""From the event files of a run, one per start of its trainer, to one series per metric.

Files are merged in the order in which they were begun; at a step that several of them logged
the later one wins. A run that reached step 37, was taken up again at its checkpoint of step 30 and
was stopped at 35 thus has the second start's values at 31 to 35 and the first start's at 36 and
37: they were measured, and no later value replaces them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from evenkeel.errors import InputError
from evenkeel.metrics import event_file, series
from evenkeel.metrics.event_file import EventFile
from evenkeel.metrics.series import Conflict, Metrics


class OnConflict(StrEnum):
    """What to do about a step that was logged twice with different values."""

    LATER = "later"
    ERROR = "error"


@dataclass
class Collection:
    """What the event files below a directory hold."""

    metrics: Metrics = field(default_factory=dict)
    files: list[EventFile] = field(default_factory=list)
    """In the order in which they were merged; their own metrics have moved to ``metrics``."""
    notices: list[str] = field(default_factory=list)
    """Warnings about what an earlier collection read, and this one took up."""
    damaged: bool = False
    """Whether values were lost in the middle of a file, which a killed run does not explain."""
    num_conflicts: int = 0
    """Steps whose value a later one with another number replaced."""
    resumed: bool = False
    """Whether an earlier collection was taken up."""

    @property
    def num_values(self) -> int:
        """Values over all metrics."""
        return sum(map(len, self.metrics.values()))

    @property
    def warnings(self) -> list[str]:
        """What a user should know about the files."""
        return self.notices + [text for file in self.files for text in file.warnings]


def find_event_files(log_dir: Path) -> list[Path]:
    """Every event file at or below ``log_dir``, in the order in which they were begun.

    Raises:
        InputError: there is no such directory, or no event file in it.
    """
    if log_dir.is_file():
        return [log_dir]
    if not log_dir.is_dir():
        raise InputError(
            "no such log directory",
            path=log_dir,
            fix="name the directory that the trainer writes its TensorBoard event files to",
        )
    found = [
        Path(folder) / name
        for folder, _, names in os.walk(log_dir)
        for name in names
        # a link whose file is gone holds nothing to lose
        if "tfevents" in name and not name.startswith(".") and Path(folder, name).exists()
    ]
    if not found:
        raise InputError(
            "no event file (a name with 'tfevents' in it) at or below this directory",
            path=log_dir,
            fix="check that the run started, and that its logger writes TensorBoard events there",
        )
    return sorted(found, key=event_file.start_of)


def read_starts(log_dir: Path) -> list[Metrics]:
    """The metrics of each start of the trainer, in order.

    Raises:
        InputError: there is no event file, or one cannot be read.
    """
    return [event_file.read(path).metrics for path in find_event_files(log_dir)]


def collect(
    log_dir: Path,
    on_conflict: OnConflict = OnConflict.LATER,
    resume: Collection | None = None,
) -> Collection:
    """Read and merge the event files below ``log_dir``.

    Args:
        log_dir: a directory, or one event file.
        on_conflict: whether a step with two different values is an error.
        resume: an earlier collection of the same directory, to read only
            what is new (it is changed); taken up where that gives exactly
            what a full reading gives, else everything is read again.

    Raises:
        InputError: no event file, or no scalar in any; or a conflict where
            that is an error.
    """
    paths = find_event_files(log_dir)
    collection = _continued(paths, resume, on_conflict) if resume else None
    if collection is None:
        collection = Collection()
        for path in paths:
            _add(collection, event_file.read(path), on_conflict)
    if not collection.metrics:
        raise InputError(
            f"no scalar in {len(paths)} event file{'s' * (len(paths) > 1)}: "
            f"{'; '.join(collection.warnings) or 'they hold other events only'}",
            path=log_dir,
            fix="check in the run's log how far the trainer came",
        )
    return collection


def _continued(
    paths: list[Path], earlier: Collection, on_conflict: OnConflict
) -> Collection | None:
    """``earlier`` with what was written since; None where appending it would not be exact.

    It is exact if the earlier files are still the first ones and only the
    last of them has new values: then everything new comes after everything old.
    """
    if paths[: len(earlier.files)] != [file.path for file in earlier.files]:
        return None
    known = frozenset(earlier.metrics)
    read = [event_file.read(file.path, file.end, known, file.num_records) for file in earlier.files]
    if any(file.metrics for file in read[:-1]):
        return None
    earlier.files.clear()
    earlier.resumed = True
    for file in read:
        _add(earlier, file, on_conflict)
    for path in paths[len(read) :]:
        _add(earlier, event_file.read(path), on_conflict)
    return earlier


def _add(collection: Collection, file: EventFile, on_conflict: OnConflict) -> None:
    """Merge ``file`` over what stands in ``collection``."""
    metrics = collection.metrics
    conflicts = file.conflicts
    for name, steps in file.metrics.items():
        if name in metrics:
            conflicts += series.merge(metrics, name, list(steps), list(steps.values()))
        else:
            metrics[name] = steps
    file.metrics = {}
    if conflicts and on_conflict is OnConflict.ERROR:
        raise _conflict_error(conflicts, file.path)
    collection.num_conflicts += len(conflicts)
    collection.damaged |= any(damage.in_the_middle for damage in file.damages)
    collection.files.append(file)


def _conflict_error(conflicts: list[Conflict], path: Path) -> InputError:
    first = conflicts[0]
    more = f", and {len(conflicts) - 1} more" if len(conflicts) > 1 else ""
    return InputError(
        f"{first.metric!r} at step {first.step} was logged before as {first.earlier!r} "
        f"and is {first.later!r} here{more}",
        path=path,
        fix="keep one run per log directory, or let the later value win: --on-conflict later",
    )
