"""A listing: one driver a line, with comments."""

from __future__ import annotations

import posixpath
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """A line that names a driver.

    Args:
        line: from 1.
        text: as written, without comment.
        driver: the driver's path relative to the root, or None where there is no such file.
        notes: the comments that belong to it: on its line and in the block of lines above it.
    """

    line: int
    text: str
    driver: str | None
    notes: str


class ListingFile:
    """A listing, read.

    Args:
        root: the tree's root.
        path: of the listing, relative to the root.
        suites: the suites folder, relative to the root.
        drivers: every script of the tree.
    """

    def __init__(self, root: Path, path: str, suites: str, drivers: Collection[str]) -> None:
        self.path = path
        self.problem: str | None = None
        self.text = ""
        try:
            self.text = (root / path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            self.problem = f"cannot read it: {error}"
        self.entries = tuple(_entries(self.text, suites, drivers, root))

    @property
    def suite(self) -> str:
        """``nightly`` of ``nightly.txt``."""
        return Path(self.path).stem


def _entries(text: str, suites: str, drivers: Collection[str], root: Path) -> list[Entry]:
    entries: list[Entry] = []
    notes: list[str] = []
    after_entry = False
    for number, row in enumerate(text.split("\n"), 1):
        stripped = row.strip()
        if not stripped:
            notes, after_entry = [], False
        elif stripped.startswith("#"):
            if after_entry:
                notes, after_entry = [], False
            notes.append(stripped.lstrip("#").strip())
        else:
            named, _, comment = stripped.partition("#")
            named = named.strip()
            entries.append(
                Entry(
                    number,
                    named,
                    resolve(named, suites, drivers, root),
                    " ".join([*notes, comment.strip()]).strip(),
                )
            )
            after_entry = True
    return entries


def resolve(text: str, suites: str, drivers: Collection[str], root: Path) -> str | None:
    """The driver that an entry names: relative to the root or to the suites folder."""
    for candidate in (text, f"{suites}/{text}"):
        path = posixpath.normpath(candidate)
        if path in drivers:
            return path
    path = posixpath.normpath(text)
    if not path.startswith(("/", "..")) and path.endswith(".sh") and (root / path).is_file():
        return path
    return None
