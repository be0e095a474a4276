"""Whether recipes that should train the same curve do: layouts, backends, numbers of ranks.

A group names recipes that differ in parallelism or backend alone, and how far apart their curves
may be. The first member is the reference; no baseline is needed. The comparison is pure; groups
are read from a YAML file, whose layout is in ``docs/data-formats.md``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from evenkeel.convergence import summaries
from evenkeel.convergence.curves import MetricsView
from evenkeel.convergence.verdict import Verdict
from evenkeel.errors import InputError, did_you_mean

GROUPS_FILE = "equivalence.yaml"
"""Beside the listings of the suites."""
DEFAULT_TOLERANCE = 0.02
DEFAULT_METRICS = ("train/loss",)
_KEYS = ("members", "tolerance", "metrics")


@dataclass(frozen=True)
class Group:
    """Recipes whose curves must be the same.

    Args:
        name: of the group.
        members: recipes, the reference first; at least two.
        tolerance: largest relative distance of the curves, block by block.
        metrics: which curves.
    """

    name: str
    members: tuple[str, ...]
    tolerance: float = DEFAULT_TOLERANCE
    metrics: tuple[str, ...] = DEFAULT_METRICS


@dataclass(frozen=True)
class Finding:
    """How one member compares with the reference in one metric.

    Args:
        member: the recipe.
        metric: the curve.
        verdict: ``PASS``, ``REGRESSED``, ``NON_FINITE`` or ``INCOMPLETE``.
        message: in words.
        distance: largest relative distance of a block; None where there is none.
        step: first step of the first block that is too far off.
    """

    member: str
    metric: str
    verdict: Verdict
    message: str
    distance: float | None = None
    step: int | None = None


def compare_curves(
    member: str,
    metric: str,
    reference: MetricsView,
    other: MetricsView,
    tolerance: float,
) -> Finding:
    """Hold one curve against the reference's, on blocks of at most a fiftieth of the steps.

    The distance is relative to the reference's value; where a curve goes through 0, to a
    hundredth of its largest value.
    """
    ours, theirs = reference.get(metric), other.get(metric)
    if not ours or not theirs:
        who = "the reference" if not ours else member
        return Finding(member, metric, Verdict.INCOMPLETE, f"{who} did not log it")
    for who, curve in (("the reference", ours), (member, theirs)):
        bad = [step for step, value in curve.items() if not math.isfinite(value)]
        if bad:
            text = f"{who} is {curve[min(bad)]} at step {min(bad)}"
            return Finding(member, metric, Verdict.NON_FINITE, text, step=min(bad))
    steps = sorted(ours.keys() & theirs.keys())
    if len(steps) < len(ours) or len(steps) < len(theirs):
        text = f"{len(steps)} common steps; the reference has {len(ours)}, {member} {len(theirs)}"
        return Finding(member, metric, Verdict.INCOMPLETE, text)
    values = np.array([[[curve[step] for step in steps] for curve in (ours, theirs)]])
    one, two = summaries.blocks(values, summaries.FINE)[0]
    size = np.maximum(np.abs(one), 0.01 * np.abs(one).max())
    distance = np.abs(two - one) / np.where(size > 0, size, 1.0)
    largest = float(distance.max())
    if largest <= tolerance:
        text = f"within {largest:.2%} throughout, allowed {tolerance:.2%}"
        return Finding(member, metric, Verdict.PASS, text, largest)
    place = int((distance > tolerance).argmax())
    step = steps[summaries.block_edges(len(steps), summaries.FINE)[place][0]]
    text = f"up to {largest:.2%} from the reference, allowed {tolerance:.2%}; from step {step} on"
    return Finding(member, metric, Verdict.REGRESSED, text, largest, step)


def compare_group(group: Group, runs: Mapping[str, MetricsView]) -> list[Finding]:
    """Every member but the first against the first; a member without a run is ``INCOMPLETE``."""
    reference, *others = group.members
    found = []
    for member in others:
        for metric in group.metrics:
            missing = next((name for name in (reference, member) if name not in runs), None)
            if missing is not None:
                text = f"there is no run of {missing}"
                found.append(Finding(member, metric, Verdict.INCOMPLETE, text))
                continue
            found.append(
                compare_curves(member, metric, runs[reference], runs[member], group.tolerance)
            )
    return found


def read_groups(path: Path) -> list[Group]:
    """The groups of a YAML file.

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
    return [_group(str(name), entry, path) for name, entry in content.items()]


def _group(name: str, entry: Any, path: Path) -> Group:
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
    return Group(name, tuple(map(str, members)), float(tolerance), tuple(map(str, metrics)))
