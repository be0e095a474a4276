"""The quick way through an event file that holds plain scalars and is whole.

A trainer writes one event per scalar, and the events of one tag differ in four places only:
wall time, step, value and checksums. What lies between step and value, the *shape*, names the tag
and every length; so once a shape has been seen to be exactly how a summary of one simple value is
encoded, an event with the same shape can be read without parsing it again. Checksums are compared
for all events of a tag at once. Events of several plain scalars are read by ``summary_template``;
whatever else there is goes back to the caller, for the parser.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from google_crc32c import value as crc32c

from evenkeel.metrics.record_file import FOOTER_SIZE, HEADER_SIZE, MASK_DELTA, masked_crc
from evenkeel.metrics.summary_template import SummaryTemplates

# proto tags (field number << 3 | wire type) of what an event starts with
_WALL_TIME = 0x09
_STEP = 0x10
_FILE_VERSION = 0x1A
_SUMMARY = 0x2A
_SOURCE = 0x52
_WALL_TIME_END = 9
_SHORTEST = 20


@dataclass(frozen=True)
class Scan:
    """What a buffer of whole records holds."""

    columns: dict[str, tuple[list[int], tuple[float, ...]]]
    """Steps and values of each tag, in the order written."""
    others: list[tuple[int, bytes]]
    """(offset in the buffer, data) of the records that need the parser; checksums are good."""
    num_records: int
    end: int
    """Behind the last whole record."""


def scan(buffer: bytes) -> Scan | None:
    """The records of ``buffer`` up to the first that is not whole.

    None where it takes a record by record reading: a checksum is wrong, or a
    step of a tag stands in events of two kinds.
    """
    columns: dict[bytes, tuple[list[int], list[int], list[bytes]]] = {}
    others: list[tuple[int, bytes]] = []
    templates = SummaryTemplates()
    lengths: dict[bytes, int] = {}
    position = num_records = 0
    size = len(buffer)
    # the body of this loop runs once per logged value: it is written for few steps, not for few
    # lines, and takes two thirds of a microsecond
    while True:
        header = buffer[position : position + HEADER_SIZE]
        length = lengths.get(header)
        if length is None:
            if len(header) < HEADER_SIZE:
                break
            length, header_crc = struct.unpack("<QI", header)
            if masked_crc(header[:8]) != header_crc:
                return None
            lengths[header] = length
        start = position + HEADER_SIZE
        end = start + length
        if end + FOOTER_SIZE > size:
            break
        data = buffer[start:end]
        shape = b""
        if length > _SHORTEST and data[0] == _WALL_TIME:
            if data[9] == _STEP:
                # the step is a varint: seven bits a byte, the last byte below 128
                step = data[10]
                if step < 128:
                    shape = data[11:-4]
                elif data[11] < 128:
                    step = step & 127 | data[11] << 7
                    shape = data[12:-4]
                elif data[12] < 128:
                    step = step & 127 | (data[11] & 127) << 7 | data[12] << 14
                    shape = data[13:-4]
                elif data[13] < 128:  # trainers that count samples or tokens come this far
                    low = step & 127 | (data[11] & 127) << 7 | (data[12] & 127) << 14
                    step = low | data[13] << 21
                    shape = data[14:-4]
            elif data[9] == _SUMMARY:
                step = 0  # is not written
                shape = data[9:-4]
        column = columns.get(shape)
        if column is None and _tag(shape) is not None:
            column = columns[shape] = ([], [], [])
        if column is not None:
            column[0].append(step)
            column[1].append(crc32c(data))
            column[2].append(buffer[end - 4 : end + 4])
        elif struct.pack("<I", masked_crc(data)) != buffer[end : end + 4]:
            return None
        elif not (templates.take(data) or _is_opening(data)):
            others.append((position, data))
        num_records += 1
        position = end + FOOTER_SIZE
    read: dict[str, tuple[list[int], tuple[float, ...]]] = {}
    for shape, (steps, crcs, tails) in columns.items():
        values = _checked(crcs, tails)
        if values is None:
            return None
        read[_tag(shape) or ""] = (steps, values)
    for tag, more, values in templates.columns():
        steps, earlier = read.get(tag, ([], ()))
        if not set(steps).isdisjoint(more):
            return None  # which of the two was written last is not known here
        read[tag] = (steps + more, earlier + values)
    return Scan(read, others, num_records, position)


def _checked(crcs: list[int], tails: list[bytes]) -> tuple[float, ...] | None:
    """The values in ``tails``, each with its stored checksum; None if one is not as computed."""
    both = struct.unpack("<" + "fI" * len(tails), b"".join(tails))
    masked = [((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF for crc in crcs]
    return both[::2] if tuple(masked) == both[1::2] else None


def _tag(shape: bytes) -> str | None:
    """The tag, if ``shape`` is what stands before the value in a summary of one simple value."""
    # two to nine bytes of it are lengths and proto tags, depending on the tag's length
    for opening in range(6, 10):
        tag = shape[opening:-1]
        if tag and _shape(tag) == shape:
            try:
                return tag.decode()
            except UnicodeDecodeError:
                return None
    return None


def _shape(tag: bytes) -> bytes:
    value = b"\x0a" + _varint(len(tag)) + tag + b"\x15"
    summary = b"\x0a" + _varint(len(value) + 4) + value
    return b"\x2a" + _varint(len(summary) + 4) + summary


def _varint(number: int) -> bytes:
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])


def _is_opening(data: bytes) -> bool:
    """Whether an event is a file's first: wall time, version, source, and nothing else."""
    position = _WALL_TIME_END
    if len(data) <= position or data[0] != _WALL_TIME:
        return False
    while position + 1 < len(data) and data[position] in (_FILE_VERSION, _SOURCE):
        if data[position + 1] > 127:
            return False
        position += 2 + data[position + 1]
    return position == len(data)
