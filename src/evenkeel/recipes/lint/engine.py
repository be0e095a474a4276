"""Runs the rules over a tree, or over some of its files, on as many cores as it pays to use."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from evenkeel.errors import InputError, did_you_mean
from evenkeel.recipes.lint import (
    rules_checks,
    rules_config,
    rules_groups,
    rules_names,
    rules_recipes,
    rules_structure,
    rules_suites,
    rules_versions,
    rules_words,
    waivers,
)
from evenkeel.recipes.lint.registry import RULES, Finding, Subject, findings_of
from evenkeel.recipes.lint.tree import (
    CONFIGS,
    RECIPES,
    SUITES,
    Tree,
    mirrored_driver,
    mirrored_recipe,
)
from evenkeel.recipes.lint.waivers import Waiver

FAMILIES = (
    rules_structure,
    rules_suites,
    rules_words,
    rules_names,
    rules_config,
    rules_recipes,
    rules_versions,
    rules_groups,
    rules_checks,
    waivers,
)
"""The modules that declare rules, in the order of their codes."""

# below this many files, starting processes costs more than it saves
_PARALLEL_FROM = 1500
_CHUNK = 100


class Unit(NamedTuple):
    """A driver with its recipe, or one of them alone: what is looked at together."""

    driver: str | None
    recipe: str | None


@dataclass(frozen=True)
class Report:
    """What was looked at and found; findings by path, line and code."""

    num_drivers: int
    num_recipes: int
    num_suites: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Selection:
    """Which rules count.

    Args:
        select: codes or beginnings of codes; empty: all.
        ignore: the same, to be left out.

    Raises:
        InputError: one of them is the beginning of no code.
    """

    select: Sequence[str] = ()
    ignore: Sequence[str] = ()

    def codes(self) -> set[str]:
        """The codes that count."""
        for start in (*self.select, *self.ignore):
            if not any(code.startswith(start) for code in RULES):
                raise InputError(
                    f"there is no rule {start!r}{did_you_mean(start, RULES)}",
                    fix="'evenkeel lint --explain all' lists the rules",
                )
        chosen = tuple(self.select) or ("",)
        return {
            code
            for code in RULES
            if code.startswith(chosen) and not (self.ignore and code.startswith(tuple(self.ignore)))
        }


def lint(
    root: Path,
    paths: Sequence[str] | None = None,
    selection: Selection | None = None,
    *,
    base: str | None = None,
    jobs: int | None = None,
) -> Report:
    """Look at a tree.

    Args:
        root: the folder that holds ``tests/test_suites`` and ``examples/configs/recipes``.
        paths: files relative to the root; findings are limited to them. None: all.
        selection: the rules that count; None: all.
        base: the git revision that recipes are compared with; None: found.
        jobs: processes; None: as many as it pays to use.

    Raises:
        InputError: the root is no such tree, or a rule is unknown.
    """
    wanted = (selection or Selection()).codes()
    tree = Tree(root.resolve())
    tree.base = base
    only = None if paths is None else frozenset(paths)
    units = _units(tree, only)
    raw, allowed = _run(tree, units, wanted, jobs)
    listings = [path for path in tree.listings if only is None or path in only]
    for path in listings:
        raw.update(findings_of(tree, Subject.LISTING, path, wanted))
        allowed[path] = waivers.waivers_of(tree.text_of(path))
    if only is not None:
        for path in sorted(only):
            inherited = path.startswith(CONFIGS) and path not in tree.recipe_paths
            if inherited and path.endswith((".yaml", ".yml")):
                raw.update(findings_of(tree, Subject.CONFIG, path, wanted))
    found = _without_waived(tree, raw, allowed, wanted)
    if only is not None:
        found = [finding for finding in found if finding.path in only]
    return Report(
        num_drivers=_count(tree.drivers, only),
        num_recipes=_count(tree.recipes, only),
        num_suites=len(listings),
        findings=tuple(sorted(found, key=lambda it: (it.path, it.line, it.code, it.message))),
    )


def _count(paths: Sequence[str], only: Collection[str] | None) -> int:
    return len(paths) if only is None else sum(path in only for path in paths)


def _units(tree: Tree, only: Collection[str] | None) -> list[Unit]:
    """Every driver with the recipe at the mirrored path; then recipes without such a driver."""
    drivers = frozenset(tree.drivers)
    units: list[Unit] = []
    for driver in tree.drivers:
        recipe: str | None = mirrored_recipe(driver)
        recipe = recipe if recipe in tree.recipe_paths else None
        if only is None or driver in only or recipe in only:
            units.append(Unit(driver, recipe))
    for recipe in tree.recipes:
        if mirrored_driver(recipe) in drivers and recipe.endswith(".yaml"):
            continue
        if only is None or recipe in only:
            units.append(Unit(None, recipe))
    return units


_Found = tuple[set[Finding], dict[str, list[Waiver]]]


def _run(tree: Tree, units: Sequence[Unit], wanted: set[str], jobs: int | None) -> _Found:
    workers = jobs or (os.cpu_count() or 1)
    can_fork = "fork" in multiprocessing.get_all_start_methods()
    if workers == 1 or not can_fork or (jobs is None and len(units) < _PARALLEL_FROM):
        return _look_at(tree, units, wanted)
    _prepare(tree)
    chunks = [units[start : start + _CHUNK] for start in range(0, len(units), _CHUNK)]
    findings: set[Finding] = set()
    allowed: dict[str, list[Waiver]] = {}
    global _shared
    _shared = (tree, wanted)
    try:
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            for more, waived in pool.imap_unordered(_look_at_chunk, chunks):
                findings |= more
                allowed |= waived
    finally:
        _shared = None
    return findings, allowed


# what forked workers inherit instead of receiving it
_shared: tuple[Tree, set[str]] | None = None


def _look_at_chunk(units: Sequence[Unit]) -> _Found:
    assert _shared is not None
    return _look_at(_shared[0], units, _shared[1])


def _prepare(tree: Tree) -> None:
    """What every worker needs, worked out once before they part."""
    _ = tree.listed, tree.names, tree.words
    rules_versions.history_of(tree)
    for listing in tree.listings:
        tree.listing(listing)


def _look_at(tree: Tree, units: Iterable[Unit], wanted: set[str]) -> _Found:
    findings: set[Finding] = set()
    allowed: dict[str, list[Waiver]] = {}
    for unit in units:
        if unit.driver is not None:
            findings.update(findings_of(tree, Subject.DRIVER, unit.driver, wanted))
            allowed[unit.driver] = waivers.waivers_of(tree.driver(unit.driver).text)
        if unit.recipe is not None:
            findings.update(findings_of(tree, Subject.RECIPE, unit.recipe, wanted))
            allowed[unit.recipe] = waivers.waivers_of(tree.text_of(unit.recipe))
    return findings, {path: found for path, found in allowed.items() if found}


def _without_waived(
    tree: Tree, raw: set[Finding], allowed: dict[str, list[Waiver]], wanted: set[str]
) -> list[Finding]:
    by_path: dict[str, list[Finding]] = {path: [] for path in allowed}
    for finding in sorted(raw, key=lambda it: (it.path, it.line, it.code)):
        by_path.setdefault(finding.path, []).append(finding)
    kept: list[Finding] = []
    for path, findings in by_path.items():
        if path in allowed:
            kept.extend(waivers.apply(path, allowed[path], findings, wanted))
        elif path.startswith((SUITES, RECIPES)):
            kept.extend(findings)
        else:  # a base, looked at through its heirs: waivers count, but are not judged
            found = waivers.waivers_of(tree.text_of(path))
            kept.extend(
                finding
                for finding in waivers.apply(path, found, findings, wanted)
                if finding in findings
            )
    return kept
