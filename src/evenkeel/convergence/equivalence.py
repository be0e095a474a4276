"""Whether recipes that should train the same curve do: layouts, backends, numbers of ranks.

Recipes of a group differ in parallelism or backend alone, and say how far apart their curves may
be: with the key ``equivalence``, or in a YAML file of groups (``docs/data-formats.md``). The first
member is the reference; no baseline is needed. The comparison is pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from evenkeel.convergence import summaries
from evenkeel.convergence.curves import MetricsView
from evenkeel.convergence.run_evidence import RunEvidence
from evenkeel.convergence.verdict import Verdict
from evenkeel.errors import InputError, did_you_mean
from evenkeel.recipes.config import ResolvedRecipe

DEFAULT_TOLERANCE = 0.02
DEFAULT_METRICS = ("train/loss",)
_KEYS = ("members", "tolerance", "metrics", "steps")


@dataclass(frozen=True)
class Pair:
    """Two recipes whose curves must be the same.

    Args:
        group: that both belong to.
        reference: the first recipe of the group.
        member: another one.
        tolerance: largest relative distance of the curves, block by block.
        metrics: which curves.
        steps: only up to this one; None: all.
    """

    group: str
    reference: str
    member: str
    tolerance: float = DEFAULT_TOLERANCE
    metrics: tuple[str, ...] = DEFAULT_METRICS
    steps: int | None = None


@dataclass(frozen=True)
class Finding:
    """How one member compares with the reference in one metric.

    Args:
        group: that both belong to.
        member: the recipe.
        metric: the curve.
        verdict: ``PASS``, ``REGRESSED``, ``NON_FINITE``, ``INCOMPLETE`` or ``INCOMPARABLE``.
        message: in words.
        distance: largest relative distance of a block; None where there is none.
        step: first step of the first block that is too far off.
    """

    group: str
    member: str
    metric: str
    verdict: Verdict
    message: str
    distance: float | None = None
    step: int | None = None

    def to_json(self) -> dict[str, Any]:
        """An element of ``evenkeel equivalence --json`` and of ``equivalence`` in result.json."""
        return {**vars(self), "verdict": self.verdict.value}


def compare_curves(pair: Pair, metric: str, reference: MetricsView, other: MetricsView) -> Finding:
    """Hold one curve against the reference's, on blocks of at most a fiftieth of the steps.

    The distance is relative to the reference's value; where a curve goes through 0, to a
    hundredth of its largest value.
    """
    found = partial(Finding, pair.group, pair.member, metric)
    ours, theirs = (_up_to(pair.steps, run.get(metric, {})) for run in (reference, other))
    if not ours or not theirs:
        return found(
            Verdict.INCOMPLETE, f"{pair.member if ours else pair.reference} did not log it"
        )
    for who, curve in ((pair.reference, ours), (pair.member, theirs)):
        bad = [step for step, value in curve.items() if not math.isfinite(value)]
        if bad:
            text = f"{who} is {curve[min(bad)]} at step {min(bad)}"
            return found(Verdict.NON_FINITE, text, step=min(bad))
    steps = sorted(ours.keys() & theirs.keys())
    if len(steps) < len(ours) or len(steps) < len(theirs):
        text = (
            f"{len(steps)} common steps; {pair.reference} has {len(ours)}, {pair.member}"
            f" {len(theirs)}"
        )
        return found(Verdict.INCOMPLETE, text)
    values = np.array([[[curve[step] for step in steps] for curve in (ours, theirs)]])
    one, two = summaries.blocks(values, summaries.FINE)[0]
    size = np.maximum(np.abs(one), 0.01 * np.abs(one).max())
    distance = np.abs(two - one) / np.where(size > 0, size, 1.0)
    largest = float(distance.max())
    allowed = f"allowed {pair.tolerance:.3g}"
    if largest <= pair.tolerance:
        text = f"within {largest:.2g} of {pair.reference} up to step {steps[-1]}, {allowed}"
        return found(Verdict.PASS, text, largest)
    place = int((distance > pair.tolerance).argmax())
    step = steps[summaries.block_edges(len(steps), summaries.FINE)[place][0]]
    text = f"up to {largest:.2g} from {pair.reference}, {allowed}; from step {step} on"
    return found(Verdict.REGRESSED, text, largest, step)


def _up_to(last: int | None, curve: Mapping[int, float]) -> Mapping[int, float]:
    return curve if last is None else {s: value for s, value in curve.items() if s <= last}


def compare_pairs(pairs: Iterable[Pair], runs: Mapping[str, RunEvidence]) -> list[Finding]:
    """Every member against its reference, metric by metric.

    A run that is not there is ``INCOMPLETE``; runs of another seed, or of recipes that differ in
    what shapes the curve, are ``INCOMPARABLE``.
    """
    return [
        _obstacle(pair, metric, runs)
        or compare_curves(pair, metric, runs[pair.reference].metrics, runs[pair.member].metrics)
        for pair in pairs
        for metric in pair.metrics
    ]


def _obstacle(pair: Pair, metric: str, runs: Mapping[str, RunEvidence]) -> Finding | None:
    """Why the curves cannot be held against each other."""
    found = partial(Finding, pair.group, pair.member, metric)
    for name in (pair.reference, pair.member):
        if name not in runs:
            return found(Verdict.INCOMPLETE, f"there is no run of {name}")
    reference, member = runs[pair.reference], runs[pair.member]
    for what, one, other in (
        ("fingerprint", reference.fingerprint, member.fingerprint),
        ("seed", reference.seed, member.seed),
    ):
        if None not in (one, other) and one != other:
            shown = f"{str(other)[:12]}, that of {pair.reference} {str(one)[:12]}"
            return found(Verdict.INCOMPARABLE, f"its {what} is {shown}")
    return None


def of_recipes(recipes: Iterable[ResolvedRecipe]) -> list[Pair]:
    """The pairs that recipes declare; the first one of a group is its reference.

    Args:
        recipes: in the order of their suite.
    """
    references: dict[str, str] = {}
    pairs = []
    for recipe in recipes:
        declared = recipe.recipe.equivalence
        if declared is None or declared.group is None:
            continue
        reference = references.setdefault(declared.group, recipe.name)
        if reference != recipe.name:
            allowed = (declared.tolerance, tuple(declared.metrics), declared.steps)
            pairs.append(Pair(declared.group, reference, recipe.name, *allowed))
    return pairs


def read_groups(path: Path) -> list[Pair]:
    """The pairs of the groups in a YAML file.

    Raises:
        InputError: it cannot be read, or a group is not as it must be: names it and its key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file of equivalence groups", path=path) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the equivalence groups: {error}", path=path) from error
    if not isinstance(content, dict) or not content:
        raise InputError(
            "expected groups by name",
            path=path,
            fix="write 'name: {members: [recipe, recipe], tolerance: 0.02}'",
        )
    return [pair for name, entry in content.items() for pair in _pairs(str(name), entry, path)]


def _pairs(name: str, entry: Any, path: Path) -> list[Pair]:
    if not isinstance(entry, dict):
        raise InputError(f"group {name!r} is not a mapping with members", path=path)
    for key in entry:
        if key not in _KEYS:
            hint = did_you_mean(str(key), _KEYS)
            raise InputError(
                f"group {name!r}: no key {key!r}{hint}; valid: {', '.join(_KEYS)}", path=path
            )
    members = entry.get("members")
    if not isinstance(members, list) or len(members) < 2 or len(set(members)) < len(members):
        raise InputError(f"group {name!r}: members must be two or more recipes", path=path)
    tolerance = entry.get("tolerance", DEFAULT_TOLERANCE)
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or tolerance <= 0:
        raise InputError(f"group {name!r}: tolerance {tolerance!r} is not above 0", path=path)
    metrics = entry.get("metrics", list(DEFAULT_METRICS))
    if not isinstance(metrics, list) or not metrics:
        raise InputError(f"group {name!r}: metrics must be a list of names", path=path)
    reference, *others = map(str, members)
    steps = entry.get("steps")
    if steps is not None and (type(steps) is not int or steps < 1):
        raise InputError(f"group {name!r}: steps {steps!r} is not a positive number", path=path)
    shared = (float(tolerance), tuple(map(str, metrics)), steps)
    return [Pair(name, reference, other, *shared) for other in others]
