"""Reading events of many plain scalars at once: those of one layout differ in their values only.

A trainer that writes one event per step repeats the same tags in the same order. The first such
event is taken apart into what is fixed (lengths, proto tags, metric tags) and where the values lie.
Of every later one of the same length the fixed part is compared as one big integer, and all values
are unpacked in one call. What does not compare equal is somebody else's to read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

_WALL_TIME, _STEP, _SUMMARY = 0x09, 0x10, 0x2A
_VALUE = _TAG = 0x0A
_SIMPLE_VALUE = 0x15
_STEP_AT = 9
_FLOAT_SIZE = 4
# layouts of one length; with more of them the parser is quicker than trying each
_MAX_TEMPLATES = 8


@dataclass
class _Template:
    """The layout of a summary, and what was read by it."""

    tags: list[str]
    mask: int
    fixed: int
    unpacker: struct.Struct
    steps: list[int] = field(default_factory=list)
    rows: list[tuple[float, ...]] = field(default_factory=list)

    def fits(self, summary: bytes) -> bool:
        return int.from_bytes(summary, "little") & self.mask == self.fixed


class SummaryTemplates:
    """Reads events of several scalars, as long as it knows or can learn their layout."""

    def __init__(self) -> None:
        self._templates: dict[int, list[_Template]] = {}

    def take(self, data: bytes) -> bool:
        """Read the event in ``data``; False where it is not exactly a summary of plain scalars."""
        if len(data) <= _STEP_AT or data[0] != _WALL_TIME:
            return False
        step, start = 0, _STEP_AT
        if data[_STEP_AT] == _STEP:
            found = _varint(data, _STEP_AT + 1)
            if found is None:
                return False
            step, start = found
        summary = data[start:]
        known = self._templates.setdefault(len(summary), [])
        template = next((one for one in known if one.fits(summary)), None)
        if template is None:
            template = _learn(summary) if len(known) < _MAX_TEMPLATES else None
            if template is None:
                return False
            known.append(template)
        template.steps.append(step)
        template.rows.append(template.unpacker.unpack(summary))
        return True

    def columns(self) -> list[tuple[str, list[int], tuple[float, ...]]]:
        """(tag, steps, values) of everything taken; a tag once for each layout it was in."""
        return [
            (tag, template.steps, values)
            for templates in self._templates.values()
            for template in templates
            for tag, values in zip(template.tags, zip(*template.rows, strict=True), strict=True)
        ]


def _learn(summary: bytes) -> _Template | None:
    """The layout of ``summary``: the field, in it values of a tag and a simple value each."""
    tags: list[str] = []
    places: list[int] = []
    position = _opened(summary, 0, _SUMMARY, len(summary))
    while position is not None and position < len(summary):
        end = _end(summary, position, _VALUE)
        inner = _opened(summary, position, _VALUE, end)
        tag_end = None if inner is None else _end(summary, inner, _TAG)
        start = None if inner is None else _opened(summary, inner, _TAG, tag_end)
        if end is None or start is None or tag_end is None or end > len(summary):
            return None
        if tag_end + 1 + _FLOAT_SIZE != end or summary[tag_end] != _SIMPLE_VALUE:
            return None
        try:
            tags.append(summary[start:tag_end].decode())
        except UnicodeDecodeError:
            return None
        places.append(tag_end + 1)
        position = end
    if position is None or not tags or len(set(tags)) < len(tags):
        return None
    return _template(summary, tags, places)


def _template(summary: bytes, tags: list[str], places: list[int]) -> _Template:
    mask = bytearray(b"\xff" * len(summary))
    form, before = "<", 0
    for place in places:
        mask[place : place + _FLOAT_SIZE] = bytes(_FLOAT_SIZE)
        form += f"{place - before}xf"
        before = place + _FLOAT_SIZE
    bits = int.from_bytes(mask, "little")
    fixed = int.from_bytes(summary, "little") & bits
    return _Template(tags, bits, fixed, struct.Struct(form))


def _opened(data: bytes, position: int, proto_tag: int, end: int | None) -> int | None:
    """Where the content starts of the field at ``position``, which must end at ``end``."""
    if position >= len(data) or data[position] != proto_tag:
        return None
    found = _varint(data, position + 1)
    return found[1] if found and found[1] + found[0] == end else None


def _end(data: bytes, position: int, proto_tag: int) -> int | None:
    """Where the field at ``position`` ends."""
    if position >= len(data) or data[position] != proto_tag:
        return None
    found = _varint(data, position + 1)
    return found[0] + found[1] if found and found[0] + found[1] <= len(data) else None


def _varint(data: bytes, position: int) -> tuple[int, int] | None:
    """(number of at most 63 bits at ``position``, where it ends)."""
    number = 0
    for index, byte in enumerate(data[position : position + 9]):
        number |= (byte & 127) << 7 * index
        if byte < 128:
            return number, position + index + 1
    return None
