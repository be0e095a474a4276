"""A listing as the linter sees it: each entry with the driver that it names."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from evenkeel.errors import InputError
from evenkeel.recipes import suite


@dataclass(frozen=True, slots=True)
class ListedDriver:
    """A line that names a driver.

    Args:
        line: from 1.
        text: the path as written.
        driver: the driver's path relative to the root, or None where there is no such file.
        notes: the comments that belong to it: on its line and above its block of lines.
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
        folders: what entries may be relative to beside the root, itself relative to the root.
        drivers: every script of the tree.
    """

    def __init__(
        self, root: Path, path: str, folders: Sequence[str], drivers: Collection[str]
    ) -> None:
        self.path = path
        self.text = ""
        self.unreadable: str | None = None
        self.bad_declaration: InputError | None = None
        try:
            self.text = (root / path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            self.unreadable = f"cannot read it: {error}"
        listing = self._parse()
        self.declared = listing.declared
        self.entries = tuple(
            ListedDriver(
                entry.line,
                entry.text,
                _resolve(entry.text, folders, drivers, root),
                f"{entry.heading} {entry.note}".strip(),
            )
            for entry in listing.entries
        )

    def _parse(self) -> suite.Listing:
        try:
            return suite.parse(self.text, Path(self.path))
        except InputError as error:
            self.bad_declaration = error
        rows = ("" if row.strip().startswith("#:") else row for row in self.text.split("\n"))
        return suite.parse("\n".join(rows), Path(self.path))

    @property
    def suite(self) -> str:
        """``nightly`` of ``nightly.txt``."""
        return Path(self.path).stem


def _resolve(text: str, folders: Sequence[str], drivers: Collection[str], root: Path) -> str | None:
    """The driver that an entry names: relative to the root or to one of the folders."""
    for candidate in (*(f"{folder}/{text}" for folder in folders), text):
        if candidate in drivers:
            return candidate
        path = posixpath.normpath(candidate)
        if path in drivers:
            return path
    path = posixpath.normpath(text)
    if not path.startswith(("/", "..")) and path.endswith(".sh") and (root / path).is_file():
        return path
    return None
