"""The scalars of one TensorBoard event file, from any offset on; TensorBoard is not needed.

``read`` takes the quick way (``scalar_scan``) through whole files of plain scalars and the
thorough way (``record_file``, ``event_message``) through everything else; both give the same.
``follow`` gives every value with its wall time, for watching a run that is still writing.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from evenkeel.errors import InputError
from evenkeel.metrics.record_file import HEADER_SIZE, Damage, Fault, Records, split
from evenkeel.metrics.scalar_scan import Scan, scan
from evenkeel.metrics.series import Conflict, Metrics, merge

if TYPE_CHECKING:
    from evenkeel.metrics.event_message import Decoder, Scalar

BLOCK_SIZE = 16 << 20
_STAMP = re.compile(r"tfevents\.(\d+)")
_EPOCH_END = 1e11  # seconds; a wall time beyond it is no time


@dataclass
class EventFile:
    """What was read of one event file."""

    path: Path
    metrics: Metrics = field(default_factory=dict)
    conflicts: list[Conflict] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)
    not_single: dict[str, int] = field(default_factory=dict)
    """Tag → tensors that were left out because they are no single number."""
    num_records: int = 0
    end: int = 0
    """Where reading may continue when the file has grown: behind the last whole record."""

    @property
    def num_values(self) -> int:
        """How many steps of all metrics it holds."""
        return sum(map(len, self.metrics.values()))

    @property
    def lasting_warnings(self) -> list[str]:
        """What went wrong before ``end``: reading on from there will not tell it again."""
        found = [self._tell(damage) for damage in self.damages if damage.in_the_middle]
        return found + [
            f"{self.path}: {tag!r}: {count} tensors that are no single number were left out"
            for tag, count in sorted(self.not_single.items())
        ]

    @property
    def warnings(self) -> list[str]:
        """What a user should know about the file, each with its place."""
        tails = [self._tell(damage) for damage in self.damages if not damage.in_the_middle]
        return self.lasting_warnings + tails

    def _tell(self, damage: Damage) -> str:
        return (
            f"{self.path}: {damage.fault}: {damage.size} bytes at offset {damage.offset}; "
            f"{self.num_records} whole records kept"
        )


def start_of(path: Path) -> tuple[float, str]:
    """A key that sorts event files in the order in which they were begun.

    It is the wall time of the first event; where that cannot be read, the
    time stamp in the file's name; then the name.
    """
    with _opening(path), path.open("rb") as file:
        head = file.read(HEADER_SIZE + 9)
    if len(head) == HEADER_SIZE + 9 and head[HEADER_SIZE] == 0x09:
        (wall_time,) = struct.unpack_from("<d", head, HEADER_SIZE + 1)
        if 0 < wall_time < _EPOCH_END:
            return wall_time, str(path)
    stamp = _STAMP.search(path.name)
    return float(stamp[1]) if stamp else 0.0, str(path)


def read(
    path: Path, offset: int = 0, known: frozenset[str] = frozenset(), num_records: int = 0
) -> EventFile:
    """The scalars of ``path`` from ``offset`` (the ``end`` of an earlier read) on.

    Args:
        path: an event file.
        offset: where a record starts.
        known: tags that the part before ``offset`` showed to be scalars.
        num_records: how many whole records that part has.

    Raises:
        InputError: the file cannot be read.
    """
    result = EventFile(path, end=offset, num_records=num_records)
    thorough = _Thorough(result, set(known))
    for buffer in _buffers(path, result):
        quick = scan(buffer)
        if quick is None or not _take(result, thorough, quick):
            thorough.take(split(buffer, result.end))
    result.damages.sort(key=lambda damage: damage.offset)
    return result


def follow(path: Path, offset: int, decoder: Decoder) -> tuple[list[Scalar], int]:
    """(every scalar from ``offset`` on in the order written, where to continue)."""
    from evenkeel.metrics.event_message import Scalar

    scalars: list[Scalar] = []
    state = EventFile(path, end=offset)
    for buffer in _buffers(path, state):
        records = split(buffer, state.end)
        for record in records.records:
            decoded = decoder.decode(record.data)
            if decoded is not None:
                step, wall_time = decoded.step, decoded.wall_time
                scalars += [Scalar(tag, step, value, wall_time) for tag, value in decoded.values]
        state.end = records.end
    return scalars, state.end


def _buffers(path: Path, result: EventFile) -> Iterator[bytes]:
    """Stretches of the file from ``result.end`` on, which the caller moves forward.

    What a caller leaves of a stretch stands at the start of the next. What
    remains at the end of the file is noted as damage.
    """
    rest = b""
    with _opening(path), path.open("rb") as file:
        file.seek(result.end)
        # as much again as was left: a long corrupt stretch is searched a few times, not many
        while block := file.read(max(BLOCK_SIZE, len(rest))):
            buffer = rest + block if rest else block
            before = result.end
            yield buffer
            rest = buffer[result.end - before :]
    if rest:
        tail = split(rest, result.end).tail
        result.damages.append(tail or Damage(Fault.CUT, result.end, len(rest)))


def _take(result: EventFile, thorough: _Thorough, quick: Scan) -> bool:
    """Merge a quick scan into ``result``; False, with nothing changed, where that is not exact."""
    not_single = dict(result.not_single)
    decoded = _decode_others(thorough, quick) if quick.others else {}
    if decoded is None:
        result.not_single.clear()
        result.not_single.update(not_single)
        return False
    for name, (steps, _) in quick.columns.items():
        # the scan lost the order between its two kinds of records: it must not matter
        if name in decoded and not decoded[name].keys().isdisjoint(steps):
            result.not_single.clear()
            result.not_single.update(not_single)
            return False
    for name, series in decoded.items():
        result.conflicts += merge(result.metrics, name, list(series), list(series.values()))
    for name, (steps, values) in quick.columns.items():
        result.conflicts += merge(result.metrics, name, steps, values)
    result.num_records += quick.num_records
    result.end += quick.end
    return True


def _decode_others(thorough: _Thorough, quick: Scan) -> Metrics | None:
    """The scalars of the records that the scan handed back; None where they need more care."""
    metrics: Metrics = {}
    for _, data in quick.others:
        decoded = thorough.decoder.decode(data)
        if decoded is None:
            return None
        for tag, value in decoded.values:
            series = metrics.setdefault(tag, {})
            if decoded.step in series:
                return None
            series[decoded.step] = value
    return metrics


class _Thorough:
    """Record by record; loads protobuf at the first event that needs it."""

    def __init__(self, result: EventFile, known: set[str]) -> None:
        self._result = result
        self._known = known
        self._decoder: Decoder | None = None

    @property
    def decoder(self) -> Decoder:
        if self._decoder is None:
            from evenkeel.metrics.event_message import Decoder

            self._decoder = Decoder(self._known, self._result.not_single)
        return self._decoder

    def take(self, records: Records) -> None:
        result = self._result
        columns: dict[str, tuple[list[int], list[float]]] = {}
        for record in records.records:
            decoded = self.decoder.decode(record.data)
            if decoded is None:
                size = len(record.data)
                result.damages.append(Damage(Fault.NO_EVENT, record.offset, size))
                continue
            result.num_records += 1
            for tag, value in decoded.values:
                steps, values = columns.setdefault(tag, ([], []))
                steps.append(decoded.step)
                values.append(value)
        for name, (steps, values) in columns.items():
            result.conflicts += merge(result.metrics, name, steps, values)
        result.damages += records.skipped
        result.end = records.end


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    """Turns a failure to read ``path`` into an error for people."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot read the event file: {error.strerror}", path=path) from error
