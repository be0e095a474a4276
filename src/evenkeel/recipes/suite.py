"""Suites: the listings ``tests/test_suites/*.txt``, one driver a line.

    # A comment.
    #: gpus_per_node: 8
    #: budget_gpu_hours_per_night: 4000
    tests/test_suites/llm/sft-llama3.2-1b-1n8g-fsdp2tp1.sh
    llm/x.sh  # why it is parked; owner: @name; since: 2026-11-20

A line ``#: key: value`` declares something of the whole suite. An entry is a path relative to the
root of the tree or to the folder of the listings. The note behind an entry of a listing whose
name starts with ``disabled`` gives the reason, the owner and the date.
"""

from __future__ import annotations

import datetime
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from evenkeel.errors import InputError, did_you_mean
from evenkeel.run_paths import SUITES, Repository

DIRECTIVES: Mapping[str, str] = {
    "device": "cpu or cuda: what the nodes of this suite compute on",
    "gpus_per_node": "GPUs (on CPU: processes) of a node of this suite's hardware; 4,8 for either",
    "max_minutes": "the partition's time limit, the most that NUM_MINUTES may say",
    "budget_gpu_hours_per_night": "GPU-hours that one night may cost",
    "budget_gpu_hours_per_week": "GPU-hours that seven nights may cost",
    "confirm_gpu_hours_per_night": "GPU-hours for confirming runs of doubtful results; 0 for none",
}
"""Key of a ``#: key: value`` line → what it declares."""

_DIRECTIVE = re.compile(r"#:[ \t]*([a-z_]+)[ \t]*:[ \t]*(.*?)[ \t]*")
_NOTE_FIELD = re.compile(r"(?:\A|;)[ \t]*(reason|owner|since|date)[ \t]*:[ \t]*([^;]*)")
_DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Parked:
    """Why a driver stands in a disabled listing, as far as its note says."""

    reason: str | None
    owner: str | None
    since: datetime.date | None

    @property
    def missing(self) -> list[str]:
        """Which of reason, owner and since the note lacks."""
        return [key for key in ("reason", "owner", "since") if not getattr(self, key)]


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a listing that names a driver."""

    line: int
    text: str
    """The path as written."""
    note: str
    """The comment behind it."""
    heading: str = ""
    """The comment lines directly above the block of entries that it stands in."""

    @property
    def name(self) -> str:
        """The driver's file name without ``.sh``."""
        return self.text.rpartition("/")[2].removesuffix(".sh")

    @property
    def parked(self) -> Parked:
        """The note, or else the heading, read as reason, owner and date."""
        note = self.note or self.heading
        fields = {match[1]: match[2].strip() for match in _NOTE_FIELD.finditer(note)}
        first = note.partition(";")[0].strip()
        reason = fields.get("reason") or ("" if _NOTE_FIELD.match(first) else first)
        since = fields.get("since") or fields.get("date") or ""
        return Parked(reason or None, fields.get("owner") or None, _date(since))


@dataclass(frozen=True, slots=True)
class Declared:
    """What a suite declares of its hardware and budget; None: it does not say."""

    device: str | None = None
    gpus_per_node: tuple[int, ...] | None = None
    max_minutes: int | None = None
    budget_gpu_hours_per_night: Fraction | None = None
    budget_gpu_hours_per_week: Fraction | None = None
    confirm_gpu_hours_per_night: Fraction | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """One suite."""

    path: Path
    entries: tuple[Entry, ...]
    declared: Declared

    @property
    def name(self) -> str:
        """``nightly`` of ``nightly.txt``."""
        return self.path.stem

    @property
    def is_disabled(self) -> bool:
        """Its drivers are parked: no suite trains them."""
        return self.name.startswith(_DISABLED)


def parse(text: str, path: Path) -> Listing:
    """The listing in ``text``; ``path`` names it.

    Raises:
        InputError: a declaration with an unknown key or a value that is not one.
    """
    entries: list[Entry] = []
    declared: dict[str, object] = {}
    above: list[str] = []
    after_entry = False
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if match := _DIRECTIVE.fullmatch(stripped):
            declared[match[1]] = _value(match[1], match[2], path, number)
        elif not stripped or stripped.startswith("#"):
            if not stripped or after_entry:
                above, after_entry = [], False
            above.extend([stripped.lstrip("#").strip()] if stripped else [])
        else:
            driver, _, note = stripped.partition("#")
            entries.append(Entry(number, driver.strip(), note.strip(), " ".join(above)))
            after_entry = True
    return Listing(path, tuple(entries), Declared(**declared))  # type: ignore[arg-type]


def read(path: Path) -> Listing:
    """The listing at ``path``.

    Raises:
        InputError: it cannot be read, or see ``parse``.
    """
    try:
        return parse(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read: {error}", path=path) from error


def listings(root: Path) -> list[Listing]:
    """Every listing of the tree at ``root``, by name, the disabled ones last."""
    found = [read(path) for path in sorted((root / SUITES).glob("*.txt"))]
    return sorted(found, key=lambda listing: (listing.is_disabled, listing.name))


def find(root: Path, name: str) -> Listing:
    """The listing called ``name``, with or without ``.txt``.

    Raises:
        InputError: there is none.
    """
    path = root / SUITES / f"{name.removesuffix('.txt')}.txt"
    if "/" not in name and path.is_file():
        return read(path)
    known = [found.stem for found in sorted((root / SUITES).glob("*.txt"))]
    raise InputError(
        f"no suite {name!r}{did_you_mean(name, known)}",
        path=root / SUITES,
        fix=f"name one of {', '.join(known)}" if known else "add a listing there: nightly.txt",
    )


def resolve(entry: Entry, repository: Repository) -> str | None:
    """The entry's driver relative to the root; None where there is no such file in the tree."""
    for candidate in (entry.text, f"{SUITES}/{entry.text}"):
        path = posixpath.normpath(candidate)
        inside = not path.startswith(("/", "../")) and path not in (".", "..")
        if inside and (repository.root / path).is_file():
            return path
    return None


def without(text: str, names: Sequence[str]) -> str:
    """A listing's text without the lines of the drivers called ``names``."""
    gone = set(names)
    kept = [line for line in text.splitlines(keepends=True) if _named(line) not in gone]
    return "".join(kept)


def renamed(text: str, old: str, new: str) -> str:
    """A listing's text with driver ``old`` called ``new``: same line, path style and note."""
    lines = text.splitlines(keepends=True)
    return "".join(
        _entry_renamed(line, old, new) if _named(line) == old else line for line in lines
    )


def with_entry(text: str, driver: str) -> str:
    """A listing's text with one more entry at its end, in the path style of the others.

    Args:
        text: the listing.
        driver: path relative to the root of the tree.
    """
    styles = [entry.text for entry in parse(text, Path()).entries]
    below = driver.removeprefix(f"{SUITES}/")
    short = bool(styles) and all(not style.startswith(f"{SUITES}/") for style in styles)
    if text and not text.endswith("\n"):
        text += "\n"
    return f"{text}{below if short else driver}\n"


def _named(line: str) -> str | None:
    path = line.partition("#")[0].strip()
    return path.rpartition("/")[2].removesuffix(".sh") if path else None


def _entry_renamed(line: str, old: str, new: str) -> str:
    path, mark, note = line.partition("#")
    head, slash, tail = path.rpartition("/")
    return head + slash + tail.replace(f"{old}.sh", f"{new}.sh", 1) + mark + note


def _date(text: str) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text.strip())
    except ValueError:
        return None


def _value(key: str, value: str, path: Path, line: int) -> object:
    """A declaration's value in its type."""
    if key not in DIRECTIVES:
        raise InputError(
            f"unknown declaration {key!r}{did_you_mean(key, DIRECTIVES)}",
            path=path,
            line=line,
            fix=f"use one of {', '.join(DIRECTIVES)}; an ordinary comment starts with '# '",
        )
    try:
        if key == "device":
            if value not in ("cpu", "cuda"):
                raise ValueError
            return value
        if key == "gpus_per_node":
            counts = tuple(int(part) for part in value.split(","))
            if min(counts) < 1:
                raise ValueError
            return counts
        number = int(value) if key == "max_minutes" else Fraction(value)
        if number < 0 or (number == 0 and not key.startswith("confirm_")):
            raise ValueError
    except (ValueError, ZeroDivisionError):
        raise InputError(
            f"{key}: {value!r} is no value for it",
            path=path,
            line=line,
            fix=f"{key}: {DIRECTIVES[key]}",
        ) from None
    return number
