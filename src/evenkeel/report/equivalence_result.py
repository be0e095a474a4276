"""The equivalence groups of a suite or a launch, with the runs that belong to them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evenkeel.convergence import equivalence
from evenkeel.convergence.equivalence import Finding, Pair
from evenkeel.convergence.run_evidence import RunEvidence, read_evidence
from evenkeel.convergence.verdict import Verdict
from evenkeel.errors import InputError
from evenkeel.launch.launch_record import LaunchRecord
from evenkeel.recipes import config, suite
from evenkeel.recipes.config import ResolvedRecipe
from evenkeel.run_paths import Repository, RunPaths


def of_suite(repository: Repository, name: str) -> tuple[list[Pair], dict[str, Path]]:
    """The pairs of a listing, its order deciding the references, and where its drivers' runs lie.

    Raises:
        InputError: there is no such listing, or a recipe does not resolve.
    """
    drivers = [
        suite.resolve(entry, repository) for entry in suite.find(repository.root, name).entries
    ]
    found = [Path(driver) for driver in drivers if driver is not None]
    recipes = [repository.recipe(path.parent.name, path.stem) for path in found]
    pairs = equivalence.of_recipes(config.load(path) for path in recipes if path.is_file())
    return pairs, {path.stem: repository.root / path.with_suffix("") for path in found}


def of_launch(record: LaunchRecord) -> tuple[list[Pair], dict[str, Path]]:
    """The pairs among the recipes of a launch, by its snapshots, and where its runs lie."""
    places = {one.name: one.run_dir for one in record.submissions()}
    return equivalence.of_recipes(_launched(record)), places


def _launched(record: LaunchRecord) -> Iterable[ResolvedRecipe]:
    for submission in record.submissions():
        kind = submission.driver.parent.name
        # a recipe of another schema has no such key, and one that is broken was not trained
        with contextlib.suppress(InputError):
            yield config.load(Repository(submission.tree).recipe(kind, submission.name))


def read_runs(pairs: Sequence[Pair], places: Mapping[str, Path]) -> dict[str, RunEvidence]:
    """The runs of the members that have left metrics."""
    wanted = {name for pair in pairs for name in (pair.reference, pair.member)}
    return {
        name: read_evidence(place)
        for name, place in places.items()
        if name in wanted and (place.is_file() or RunPaths(place).metrics.exists())
    }


def findings_of(record: LaunchRecord) -> list[Finding]:
    """How the members of each group of a launch compare."""
    pairs, places = of_launch(record)
    return equivalence.compare_pairs(pairs, read_runs(pairs, places))


def finding_lines(findings: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line per finding of ``Finding.to_json``, those that are not good first, and the sum."""
    if not findings:
        return []
    ordered = sorted(findings, key=lambda one: one["verdict"] == Verdict.PASS.value)
    lines = [
        f"{one['verdict']:<12} {one['group']}: {one['member']} {one['metric']}: {one['message']}"
        for one in ordered
    ]
    good = sum(one["verdict"] == Verdict.PASS.value for one in findings)
    return [*lines, f"{good} of {len(findings)} curves are those of their equivalence group"]
