"""The CONFIG block of a driver: read, never run.

``tools/launch`` must answer for hundreds of drivers in a fraction of a second, so nothing heavy
is imported here and a file is looked at no further than its block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from evenkeel.errors import InputError
from evenkeel.recipes.shell_arithmetic import BadArithmeticError, evaluate
from evenkeel.recipes.shell_assignments import Assignment, NotAssignmentsError, read_assignments

DEFAULT_GPUS_PER_NODE = 8
REQUIRED = ("NUM_NODES", "STEPS_PER_RUN", "MAX_STEPS", "NUM_RUNS", "NUM_MINUTES")
BEGIN_LINE = "# ===== BEGIN CONFIG ====="
END_LINE = "# ===== END CONFIG ====="

# anything may follow the closing '=' signs, as existing launchers have it
_MARKER = re.compile(
    r"^[ \t]*#[ \t#=*-]*\b(BEGIN|END)[ \t]+CONFIG\b(?:[ \t#*-]*$|[ \t]*=+.*$)", re.MULTILINE
)
_INTEGER = re.compile(r"0|-?[1-9][0-9]*")


@dataclass(frozen=True, slots=True)
class Line:
    """One assignment of the block with its place, for whoever reports on it or mends it."""

    name: str
    value: int | str
    raw: str
    """The value as written, quotes and ``$(( … ))`` included."""
    line: int
    """Line of the value's first character, from 1."""
    column: int
    """Column of the value's first character, from 1."""


@dataclass(frozen=True, slots=True)
class RawBlock:
    """The assignments of a block, whatever they are; what ``ConfigBlock`` is made from."""

    path: str | None
    assignments: tuple[Line, ...]
    begin_line: int
    end_line: int
    crlf: bool
    """Lines end in CR LF, which bash does not read as a line's end; the values are read anyway."""

    @property
    def variables(self) -> dict[str, int | str]:
        """Name → value; of a name assigned twice, the last."""
        return {line.name: line.value for line in self.assignments}

    @property
    def missing(self) -> list[str]:
        """The required variables that are not assigned."""
        names = {line.name for line in self.assignments}
        return [name for name in REQUIRED if name not in names]

    def last(self, name: str) -> Line | None:
        """The assignment that counts, or None."""
        return next((line for line in reversed(self.assignments) if line.name == name), None)


@dataclass(frozen=True, slots=True)
class ConfigBlock:
    """What a driver says about its run: allocation, steps and time, as exact integers."""

    path: str | None
    num_nodes: int
    gpus_per_node: int
    """8 where the block does not say."""
    steps_per_run: int
    max_steps: int
    num_runs: int
    num_minutes: int
    """Minutes of one job."""
    variables: Mapping[str, int | str]
    """Every variable of the block: an int where its text is a plain decimal integer."""
    lines: Mapping[str, int]
    """Variable → line of the assignment that counts."""
    begin_line: int
    end_line: int
    assignments: tuple[Line, ...]
    """Every assignment in order, with its text as written."""
    crlf: bool = False

    @property
    def num_gpus(self) -> int:
        """GPUs of one job."""
        return self.num_nodes * self.gpus_per_node

    @property
    def gpu_minutes(self) -> int:
        """GPU-minutes of all jobs at their full time: exact, 60 times the GPU-hours."""
        return self.num_runs * self.num_gpus * self.num_minutes

    def text(self, name: str) -> str | None:
        """A variable as text, or None where the block has none of that name."""
        value = self.variables.get(name)
        return None if value is None else str(value)


def read(path: Path | str) -> ConfigBlock:
    """The CONFIG block of the driver at ``path``.

    Raises:
        InputError: the file cannot be read, or see ``parse``.
    """
    return parse(read_text(path), path)


def read_text(path: Path | str) -> str:
    """A driver's text; bytes that are not UTF-8 survive, since a comment may hold any.

    Raises:
        InputError: it is missing or cannot be read.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:  # noqa: PTH123
            return file.read()
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror or error}", path=path) from error


def parse(text: str, path: Path | str | None = None) -> ConfigBlock:
    """The CONFIG block of a driver's text; ``path`` is only for messages.

    Raises:
        InputError: no block, two, or one not closed; anything in it that is not a plain
            assignment; a variable missing or not an integer in range. With line and column.
    """
    return from_raw(scan(text, path))


def scan(text: str, path: Path | str | None = None) -> RawBlock:
    """The assignments of the block, without asking which they are.

    Raises:
        InputError: as ``parse``, except for missing and non-integer variables.
    """
    place = None if path is None else str(path)
    crlf = "\r\n" in text
    if crlf:
        text = text.replace("\r\n", "\n")
    begin, end = _markers(text, place)
    start = begin.end()
    first_line = text.count("\n", 0, start) + 1
    try:
        if "\0" in text[start : end.start()]:
            raise NotAssignmentsError("a NUL byte", text.index("\0", start), "remove it")
        found = read_assignments(text, start, end.start())
    except NotAssignmentsError as fault:
        line, column = _place(text, fault.offset)
        raise InputError(
            f"CONFIG block: {fault.message}", path=place, line=line, column=column, fix=fault.fix
        ) from None
    return RawBlock(
        path=place,
        assignments=tuple(_lines(text, found, start, first_line)),
        begin_line=first_line,
        end_line=first_line + text.count("\n", start, end.start()),
        crlf=crlf,
    )


def from_raw(raw: RawBlock) -> ConfigBlock:
    """The block with its required variables as integers.

    Raises:
        InputError: one is missing, not an integer, or out of range.
    """
    if missing := raw.missing:
        raise InputError(
            f"CONFIG block: no {', '.join(missing)}",
            path=raw.path,
            line=raw.begin_line,
            fix=f"assign {' and '.join(missing)} between the BEGIN CONFIG and END CONFIG lines",
        )
    texts = {line.name: str(line.value) for line in raw.assignments}
    latest = {line.name: line for line in raw.assignments}
    numbers = {name: _integer(latest[name], texts, raw.path, at_least=1) for name in REQUIRED}
    gpus = latest.get("GPUS_PER_NODE")
    return ConfigBlock(
        path=raw.path,
        num_nodes=numbers["NUM_NODES"],
        gpus_per_node=(
            DEFAULT_GPUS_PER_NODE if gpus is None else _integer(gpus, texts, raw.path, at_least=0)
        ),
        steps_per_run=numbers["STEPS_PER_RUN"],
        max_steps=numbers["MAX_STEPS"],
        num_runs=numbers["NUM_RUNS"],
        num_minutes=numbers["NUM_MINUTES"],
        variables=raw.variables,
        lines={line.name: line.line for line in raw.assignments},
        begin_line=raw.begin_line,
        end_line=raw.end_line,
        assignments=raw.assignments,
        crlf=raw.crlf,
    )


def _markers(text: str, path: str | None) -> tuple[re.Match[str], re.Match[str]]:
    markers = list(_MARKER.finditer(text)) if "CONFIG" in text else []
    kinds = [marker[1] for marker in markers]
    if kinds == ["BEGIN", "END"]:
        return markers[0], markers[1]
    if not markers:
        raise InputError(
            "no CONFIG block",
            path=path,
            fix=f"put the assignments between the lines '{BEGIN_LINE}' and '{END_LINE}'",
        )
    if kinds == ["BEGIN"]:
        wrong, message = markers[0], "the CONFIG block is not closed"
        fix = f"add the line '{END_LINE}' after its last assignment"
    elif kinds[0] == "END":
        wrong, message = markers[0], "END CONFIG without a BEGIN CONFIG before it"
        fix = f"add the line '{BEGIN_LINE}' before the first assignment"
    else:
        wrong = next(b for a, b in pairwise(markers) if _again(a, b, markers))
        message, fix = f"a second {wrong[1]} CONFIG line", "keep one CONFIG block"
    line, column = _place(text, wrong.start())
    raise InputError(message, path=path, line=line, column=column, fix=fix)


def _again(before: re.Match[str], marker: re.Match[str], markers: list[re.Match[str]]) -> bool:
    return before[1] == marker[1] or marker is markers[2]


def _lines(text: str, found: list[Assignment], start: int, first_line: int) -> Iterator[Line]:
    line, line_start = first_line, text.rfind("\n", 0, start)
    for assignment in found:
        newlines = text.count("\n", start, assignment.offset)
        if newlines:
            line += newlines
            line_start = text.rfind("\n", start, assignment.offset)
        start = assignment.offset
        plain = _INTEGER.fullmatch(assignment.text) and len(assignment.text) < 19
        value = int(assignment.text) if plain else assignment.text
        yield Line(assignment.name, value, assignment.raw, line, assignment.offset - line_start)


def _place(text: str, offset: int) -> tuple[int, int]:
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def _integer(line: Line, texts: Mapping[str, str], path: str | None, *, at_least: int) -> int:
    """The value as bash's arithmetic would read it."""
    problem = ""
    value = line.value
    if isinstance(value, str):
        try:
            if not value.strip():
                raise BadArithmeticError("it is empty", 0)
            value = evaluate(value, texts)
        except BadArithmeticError as fault:
            problem = f"{line.name} is {str(line.value)[:60]!r}, not an integer: {fault.message}"
    if isinstance(value, int) and value < at_least:
        problem = f"{line.name} is {value}, less than {at_least}"
    if problem or isinstance(value, str):
        raise InputError(
            f"CONFIG block: {problem}",
            path=path,
            line=line.line,
            column=line.column,
            fix=f"give {line.name} an integer of at least {at_least}",
        )
    return value
