"""Driver ↔ recipe ↔ listing: everything has its counterpart, at the mirrored path, once."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from pathlib import Path

from evenkeel.recipes.lint.claims import read_claims
from evenkeel.recipes.lint.listing_file import ListedDriver
from evenkeel.recipes.lint.registry import (
    Edit,
    EditKind,
    Finding,
    Severity,
    Subject,
    declare,
    looks_at,
)
from evenkeel.recipes.lint.tree import SUITES, Tree, mirrored_driver

STALE_DAYS = 90

UNREADABLE = declare(
    "EK100",
    "file cannot be read",
    reason="What cannot be read is not tested, and nobody notices.",
    fix="Mend the file, its mode, or the link.",
)
NO_RECIPE = declare(
    "EK101",
    "driver without recipe",
    reason="A driver trains the recipe at the mirrored path; without one it fails at start.",
    fix="Add the recipe, or remove the driver.",
)
NO_DRIVER = declare(
    "EK102",
    "recipe without driver",
    reason="A recipe that no driver trains is never tested.",
    fix="Add a driver at the mirrored path, or remove the recipe.",
)
UNLISTED = declare(
    "EK103",
    "driver in no listing",
    reason="Only listed drivers are run by a suite; an unlisted one rots.",
    fix="List it in one suite, or in disabled.txt with a reason.",
)
LISTED_TWICE = declare(
    "EK104",
    "driver listed more than once",
    reason="A driver in two suites is paid for twice, and its results overwrite each other.",
    fix="Keep one entry.",
    fixable=True,
)
LISTED_MISSING = declare(
    "EK105",
    "listed file missing",
    reason="An entry that names no file stops a launch, or is skipped silently.",
    fix="Correct the path, or remove the entry.",
    fixable=True,
)
UNDOCUMENTED = declare(
    "EK106",
    "disabled entry without reason, owner or date",
    reason="A disabled test that nobody owns stays disabled for ever.",
    fix="Write a comment beside the entry: # <reason>; owner: <who>; since: YYYY-MM-DD.",
)
STALE = declare(
    "EK107",
    "disabled entry is stale",
    reason=f"What was switched off more than {STALE_DAYS} days ago needs a new decision.",
    fix="Enable it, remove it, or renew the reason and its date.",
    severity=Severity.WARNING,
)
NOT_EXECUTABLE = declare(
    "EK108",
    "driver is not executable",
    reason="'uv run ./llm/<recipe>.sh' refuses a file without the executable bit.",
    fix="chmod +x the driver.",
    fixable=True,
)

_DATE = re.compile(r"\b(20\d\d)-(\d\d)-(\d\d)\b")
_OWNER = re.compile(
    r"(?:\bowner\b\s*[:=]?\s*|\bby\s+|@)[\w.@<]|[\w.+-]+@[\w-]+\.\w+", re.IGNORECASE
)
_NOISE = re.compile(r"[\s;:,.|()\[\]#—–-]+")
_LABELS = re.compile(r"\b(owner|since|date|reason|disabled|by)\b", re.IGNORECASE)


@looks_at(Subject.DRIVER, UNREADABLE, NO_RECIPE, UNLISTED, LISTED_TWICE, NOT_EXECUTABLE)
def driver_has_its_place(tree: Tree, path: str) -> Iterator[Finding]:
    """A driver is readable and executable, has a recipe, and stands in one listing."""
    driver = tree.driver(path)
    if driver.problem is not None:
        yield Finding(
            UNREADABLE.code, path, 1, driver.problem.message, driver.problem.fix or UNREADABLE.fix
        )
        return
    if not driver.executable:
        yield Finding(
            NOT_EXECUTABLE.code,
            path,
            1,
            "the file is not executable",
            f"chmod +x {path}",
            edit=Edit(EditKind.EXECUTABLE),
        )
    if not tree.exists(driver.recipe):
        hint = _other_recipe(tree, Path(driver.recipe).stem)
        yield Finding(
            NO_RECIPE.code,
            path,
            1
            if driver.training is None or driver.recipe == driver.mirrored
            else driver.training.line,
            f"there is no recipe {driver.recipe}{hint}",
            f"add {driver.recipe}, or remove this driver",
        )
    if tree.listings:
        yield from _listed_once(tree, path)


def _other_recipe(tree: Tree, name: str) -> str:
    """Which recipe may be meant: one of that name elsewhere, or one called almost so."""
    elsewhere = next((path for path in tree.recipes if Path(path).stem == name), None)
    if elsewhere is not None:
        return f"; {elsewhere} has its name"
    return tree.nearest(name, (Path(path).stem for path in tree.recipes))


def _listed_once(tree: Tree, path: str) -> Iterator[Finding]:
    places = tree.listed.get(path, [])
    if not places:
        suites = ", ".join(Path(listing).name for listing in tree.listings)
        yield Finding(
            UNLISTED.code,
            path,
            1,
            f"the driver stands in none of the listings {suites}",
            f"add a line '{path.removeprefix(f'{SUITES}/')}' to one of them",
        )
    elif len({listing for listing, _ in places}) > 1:
        shown = " and ".join(f"{Path(listing).name}:{line}" for listing, line in places)
        yield Finding(
            LISTED_TWICE.code,
            path,
            1,
            f"the driver stands in more than one listing: {shown}",
            "keep one of the entries",
        )


@looks_at(Subject.RECIPE, NO_DRIVER)
def recipe_has_a_driver(tree: Tree, path: str) -> Iterator[Finding]:
    """A recipe is trained by the driver at the mirrored path, or by another that names it."""
    driver = mirrored_driver(path)
    if tree.exists(driver):
        return
    name = Path(path).stem
    if path in tree.recipe_users:
        return
    if not read_claims(name).looks_like_a_recipe and Path(path).name in tree.inherited:
        return  # a base that recipes share
    hint = tree.nearest(name, tree.names)
    elsewhere = tree.names.get(name)
    found = f"; {elsewhere[0]} has its name" if elsewhere else hint
    yield Finding(
        NO_DRIVER.code,
        path,
        1,
        f"there is no driver {driver}{found}",
        f"add {driver}, or remove this recipe",
    )


@looks_at(Subject.LISTING, UNREADABLE, LISTED_TWICE, LISTED_MISSING)
def listing_names_drivers(tree: Tree, path: str) -> Iterator[Finding]:
    """Every entry names a driver, and none twice."""
    listing = tree.listing(path)
    if listing.unreadable is not None:
        yield Finding(UNREADABLE.code, path, 1, listing.unreadable, UNREADABLE.fix)
        return
    rows = listing.text.split("\n")
    seen: dict[str, int] = {}
    for entry in listing.entries:
        if entry.driver is None:
            yield _missing(tree, path, entry, rows[entry.line - 1])
        elif entry.driver in seen:
            yield Finding(
                LISTED_TWICE.code,
                path,
                entry.line,
                f"{entry.text} is already listed on line {seen[entry.driver]}",
                "remove this line",
                edit=Edit(EditKind.DELETE, entry.line, entry.line, rows[entry.line - 1]),
            )
        else:
            seen[entry.driver] = entry.line


def _missing(tree: Tree, path: str, entry: ListedDriver, row: str) -> Finding:
    """An entry without file; corrected where one unlisted driver alone can be meant."""
    name = Path(entry.text).name.removesuffix(".sh").removesuffix(".yaml")
    meant = [driver for driver in tree.names.get(name, []) if driver not in tree.listed]
    hint = tree.nearest(name, tree.names)
    edit = None
    fix = "correct the path, or remove the line"
    if len(meant) == 1:
        right = meant[0] if entry.text.startswith(SUITES) else meant[0].removeprefix(f"{SUITES}/")
        edit = Edit(
            EditKind.REPLACE, entry.line, entry.line, row, row.replace(entry.text, right, 1)
        )
        hint, fix = "", f"write {right}"
    return Finding(
        LISTED_MISSING.code,
        path,
        entry.line,
        f"there is no driver {entry.text}{hint}",
        fix,
        edit=edit,
    )


@looks_at(Subject.LISTING, UNDOCUMENTED, STALE)
def disabled_entries_are_owned(tree: Tree, path: str) -> Iterator[Finding]:
    """What is disabled says why, by whom and since when, and not for too long."""
    listing = tree.listing(path)
    if not listing.suite.startswith("disabled"):
        return
    for entry in listing.entries:
        missing = missing_of(entry.notes)
        if missing:
            yield Finding(
                UNDOCUMENTED.code,
                path,
                entry.line,
                f"{entry.text} is disabled without {' and '.join(missing)}",
                UNDOCUMENTED.fix,
            )
        dates = [_date(match) for match in _DATE.finditer(entry.notes)]
        latest = max((date for date in dates if date is not None), default=None)
        age = 0 if latest is None else (today() - latest).days
        if age > STALE_DAYS:
            yield Finding(
                STALE.code,
                path,
                entry.line,
                f"{entry.text} has been disabled for {age} days, since {latest}",
                STALE.fix,
            )


def missing_of(notes: str) -> list[str]:
    """Which of reason, owner and date the comments of an entry lack."""
    missing = []
    rest = _DATE.sub(" ", re.sub(r"(?i)\bowner\b\s*[:=]?\s*\S+|@\S+|\bby\s+\S+", " ", notes))
    if not _NOISE.sub("", _LABELS.sub(" ", rest)):
        missing.append("a reason")
    if not _OWNER.search(notes):
        missing.append("an owner")
    if not any(_date(match) for match in _DATE.finditer(notes)):
        missing.append("a date")
    return missing


def _date(match: re.Match[str]) -> datetime.date | None:
    try:
        return datetime.date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        return None


def today() -> datetime.date:
    """The current date, for ``stale``; tests put another in its place."""
    return datetime.date.today()
