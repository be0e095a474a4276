"""Which driver scripts a command line means: paths, recipe names, or a whole suite."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evenkeel.errors import InputError, did_you_mean
from evenkeel.run_paths import SUITES, Repository

if TYPE_CHECKING:
    from evenkeel.recipes.suite import Listing


@dataclass(frozen=True, slots=True)
class DriverWord:
    """A driver as it was asked for, and the path that this means (which may not exist)."""

    word: str
    path: str


def find(words: Sequence[str], root: Path | None = None) -> list[DriverWord]:
    """Each word as a path: below the working directory, else below the repository or its suites.

    A word without a folder is the name of a recipe, with or without ``.sh``. A word that is
    nothing of all this keeps its own path, so that whoever reads it says what is missing.

    Args:
        words: as they were typed.
        root: the repository; None: the one around the working directory, looked for only where
            a word is no path from there.
    """
    by_name: dict[str, list[Path]] | None = None
    found = []
    for word in words:
        path = _path(word, root)
        if path is None:
            root = root or _root_around()
            path = _path(word, root)
        if path is None and root is not None and "/" not in word:
            by_name = Repository(root).drivers_by_name() if by_name is None else by_name
            named = by_name.get(word.removesuffix(".sh"), [])
            path = str(named[0]) if len(named) == 1 else None
        found.append(DriverWord(word, word if path is None else path))
    return found


def _root_around() -> Path | None:
    try:
        return Repository.around(Path.cwd()).root
    except InputError:
        return None


def _path(word: str, root: Path | None) -> str | None:
    if os.path.exists(word):  # noqa: PTH110 - hundreds of these stand between a user and an answer
        return word
    if root is not None and not os.path.isabs(word):  # noqa: PTH117
        for folder in (root, root / SUITES):
            if (folder / word).is_file():
                return str(folder / word)
    return None


def all_below(root: Path) -> list[DriverWord]:
    """Every driver of a repository, sorted by path.

    Raises:
        InputError: there is none.
    """
    found = Repository(root).drivers()
    if not found:
        raise InputError(
            f"no driver below {root / SUITES}", fix="pass --root DIR, or name drivers by path"
        )
    return [DriverWord(str(path.relative_to(root)), str(path)) for path in found]


def of_suite(name: str, root: Path | None) -> tuple[list[DriverWord], Listing]:
    """The drivers of a listing in its order, and the listing with what it declares.

    Raises:
        InputError: there is no such listing, it cannot be read, or it is empty.
    """
    from evenkeel.recipes import suite  # here, because drivers named by path need none of it

    repository = Repository.around(Path.cwd()) if root is None else Repository(root)
    listing = suite.find(repository.root, name)
    if not listing.entries:
        raise InputError("the suite is empty", path=listing.path)
    found = [suite.resolve(entry, repository) for entry in listing.entries]
    words = [
        DriverWord(entry.text, str(repository.root / (path or entry.text)))
        for entry, path in zip(listing.entries, found, strict=True)
    ]
    return words, listing


def require_files(drivers: Sequence[DriverWord]) -> tuple[Path, ...]:
    """The drivers as absolute paths, none of them twice.

    Raises:
        InputError: one does not exist, or one recipe is named twice: their results would land
            in one place.
    """
    paths: dict[str, Path] = {}
    for driver in drivers:
        path = Path(driver.path).absolute()
        if not path.is_file():
            beside = [other.name for other in path.parent.glob("*.sh")]
            raise InputError(
                f"no driver {driver.word!r}{did_you_mean(path.name, beside)}",
                fix="name an existing driver script, or a suite with --suite",
            )
        if path.name in paths:
            raise InputError(
                f"{path.name} is named twice: {paths[path.name]} and {path}",
                fix="name each recipe once; NUM_RUNS says how many jobs it gets",
            )
        paths[path.name] = path
    return tuple(paths.values())
