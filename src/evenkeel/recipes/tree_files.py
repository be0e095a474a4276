"""Files of a tree of recipes: drivers, listings and YAML, without the results beside drivers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What stands in a folder; nothing where it cannot be read."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


def files_below(root: Path, folder: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Files below ``folder``, relative to the root; results beside a driver are no part of it."""
    entries = _entries(root / folder)
    names = {entry.name for entry in entries}
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = f"{folder}/{entry.name}"
        if entry.name.endswith(suffixes):
            # a link to nowhere is listed too: whoever reads it says what is wrong
            if not entry.is_dir():
                yield path
        elif entry.is_dir(follow_symlinks=False) and f"{entry.name}.sh" not in names:
            yield from files_below(root, path, suffixes)
