"""Framing of TensorBoard's event files: records with checksums, and what survives damage.

A record is ``length: uint64, masked crc32c of length: uint32, data, masked crc32c of data:
uint32``, little-endian (the TFRecord format). A writer that was killed leaves a file whose end
is cut or, after a crash of the node, filled with zeros; a bad disk changes bytes in the middle.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import StrEnum

from google_crc32c import value as crc32c

HEADER_SIZE = 12
FOOTER_SIZE = 4
MASK_DELTA = 0xA282EAD8
_UINT32 = 0xFFFFFFFF
# the upper half of every length below 4 GiB is zeros; found by the literal it starts with
_ZEROS = re.compile(rb"\0\0\0\0\0*")


def masked_crc(data: bytes) -> int:
    """The checksum that the format stores for ``data``: crc32c, rotated and shifted."""
    crc: int = crc32c(data)
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & _UINT32


class Fault(StrEnum):
    """What is wrong with a stretch of the file."""

    CUT = "the last record is cut off"
    CORRUPT_TAIL = "its end is corrupt"
    CORRUPT = "a corrupt stretch in its middle was skipped"
    NO_EVENT = "a record with a good checksum is not an event, and was skipped"


@dataclass(frozen=True)
class Damage:
    """Bytes that hold no whole record."""

    fault: Fault
    offset: int
    size: int

    @property
    def in_the_middle(self) -> bool:
        """Whether whole records follow: this is no trace of a killed writer, values are lost."""
        return self.fault in (Fault.CORRUPT, Fault.NO_EVENT)


@dataclass(frozen=True)
class Record:
    """One whole record: where it starts in the file, and its data."""

    offset: int
    data: bytes


@dataclass(frozen=True)
class Records:
    """The whole records at the start of a buffer, and what lies between and behind them."""

    records: list[Record]
    skipped: list[Damage]
    end: int
    """Where the first record starts that is not whole (yet); the buffer's end if all are."""
    tail: Damage | None
    """What stands at ``end``, if anything does."""


def split(buffer: bytes, base: int = 0) -> Records:
    """The records of ``buffer``, which starts at a record ``base`` bytes into its file.

    After a corrupt record the next whole one is looked for byte by byte: both
    of its checksums must be good, so a false find is out of the question. Bytes
    behind the last whole record are left for the next call: the writer may
    not have finished them.
    """
    records: list[Record] = []
    skipped: list[Damage] = []
    position = 0
    while position < len(buffer):
        size = _whole(buffer, position)
        if size is not None:
            data = buffer[position + HEADER_SIZE : position + size - FOOTER_SIZE]
            records.append(Record(base + position, data))
            position += size
            continue
        following = _next_whole(buffer, position + 1)
        if following is None:
            break
        skipped.append(Damage(Fault.CORRUPT, base + position, following - position))
        position = following
    tail = None
    if position < len(buffer):
        fault = Fault.CUT if _is_cut(buffer, position) else Fault.CORRUPT_TAIL
        tail = Damage(fault, base + position, len(buffer) - position)
    return Records(records, skipped, base + position, tail)


def _length(buffer: bytes, position: int) -> int | None:
    """The data length that a whole, good header at ``position`` announces."""
    if len(buffer) - position < HEADER_SIZE:
        return None
    length, crc = struct.unpack_from("<QI", buffer, position)
    good = masked_crc(buffer[position : position + 8]) == crc
    return int(length) if good else None


def _whole(buffer: bytes, position: int) -> int | None:
    """The size of the record at ``position`` with header and footer, if it is whole and good."""
    length = _length(buffer, position)
    if length is None:
        return None
    start = position + HEADER_SIZE
    end = start + length
    if end + FOOTER_SIZE > len(buffer):
        return None
    (crc,) = struct.unpack_from("<I", buffer, end)
    return end + FOOTER_SIZE - position if masked_crc(buffer[start:end]) == crc else None


def _next_whole(buffer: bytes, position: int) -> int | None:
    """Where the first whole record at or behind ``position`` starts."""
    for zeros in _ZEROS.finditer(buffer, position):
        # the lower half of the length stands before its upper half, and is not zero itself
        first = max(position, zeros.start() - 4)
        for candidate in range(first, min(zeros.start(), zeros.end() - 7)):
            if _whole(buffer, candidate) is not None:
                return candidate
    return None


def _is_cut(buffer: bytes, position: int) -> bool:
    rest = len(buffer) - position
    if rest < HEADER_SIZE:
        return True
    length = _length(buffer, position)
    return length is not None and HEADER_SIZE + length + FOOTER_SIZE > rest
