"""Whether a continued run shows where it was continued: steps lost, repeated otherwise, a jump.

Pure, on the series of each start of the trainer in order. No baseline is needed: the run itself
tells how much neighbouring stretches differ where nothing happened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from evenkeel.convergence.metric_kinds import Direction, Family, kind_of
from evenkeel.convergence.statistics import Array

TOLERANCE = 1e-3
"""Relative difference of the first repeated step that rounding on a GPU may cause."""
GROWTH = 1.2
"""Factor by which differences of rounding may grow from one repeated step to the next."""
LIMIT = 6.0
"""Robust standard deviations from which a change at a boundary is a jump."""

_WINDOW = 5
_LEAST_ELSEWHERE = 20
_NEAR = 20
_LEAST_BEFORE = 5
_ABOVE_NEAR = 2.0


class SeamKind(StrEnum):
    """What is wrong at a boundary."""

    MISSING = "missing"
    CONFLICT = "conflict"
    JUMP = "jump"


@dataclass(frozen=True)
class Seam:
    """One fault at one boundary of a metric.

    Args:
        metric: where it shows.
        kind: what is wrong.
        step: where.
        message: in words.
        decides: whether no run with it can pass. A diagnostic, such as a gradient norm, does not
            decide.
    """

    metric: str
    kind: SeamKind
    step: int
    message: str
    decides: bool = True

    def to_json(self) -> dict[str, Any]:
        """An element of ``evenkeel seams --json`` and of ``seams`` in verdict.json."""
        return {**vars(self), "kind": self.kind.value}


def find_seams(
    segments: Sequence[Mapping[str, Mapping[int, float]]], tolerance: float = TOLERANCE
) -> list[Seam]:
    """Every seam of the metrics that belong to the training, not to the machine.

    Args:
        segments: metric → step → value of each start, in order.
        tolerance: relative difference of the first repeated step that is no conflict.
    """
    found: list[Seam] = []
    names = {name for segment in segments for name in segment}
    for name in sorted(names):
        kind = kind_of(name)
        if kind.family is not Family.CONVERGENCE:
            continue
        parts = [segment[name] for segment in segments if segment.get(name)]
        if len(parts) > 1:
            decides = kind.weight > 1 or kind.direction is Direction.EXACT
            seams = _of_metric(name, parts, tolerance, kind.direction)
            found += [replace(one, decides=decides) for one in seams]
    return sorted(found, key=lambda seam: (seam.step, seam.metric))


def _of_metric(
    name: str, parts: Sequence[Mapping[int, float]], tolerance: float, direction: Direction
) -> list[Seam]:
    found: list[Seam] = []
    merged: dict[int, float] = dict(parts[0])
    boundaries = []
    for part in parts[1:]:
        first, last = min(part), max(merged)
        period = _period(merged) or _period(part)
        if period is not None and first > last + period:
            text = f"nothing between step {last} and step {first}, where it was continued"
            found.append(Seam(name, SeamKind.MISSING, last + period, text))
        conflict = _conflict(name, merged, part, tolerance)
        if conflict is not None:
            found.append(conflict)
        boundaries.append(first)
        merged.update(part)
    if direction is Direction.EXACT:
        return found  # a schedule has corners, and no noise to hold them against
    return found + find_jumps(name, dict(sorted(merged.items())), boundaries)


def _period(series: Mapping[int, float]) -> int | None:
    """How many steps lie between values; None where fewer than three cannot tell."""
    steps = sorted(series)
    return int(np.median(np.diff(steps))) if len(steps) > 2 else None


def _conflict(
    name: str, before: Mapping[int, float], after: Mapping[int, float], tolerance: float
) -> Seam | None:
    """Steps that were trained again and came out more different than rounding can have grown."""
    shared = sorted(before.keys() & after.keys())
    off = [
        step
        for number, step in enumerate(shared)
        if not abs(after[step] - before[step])
        <= tolerance * GROWTH**number * max(abs(before[step]), 1e-12)
        and not (after[step] != after[step] and before[step] != before[step])
    ]
    if not off:
        return None
    first = off[0]
    text = (
        f"{len(off)} of {len(shared)} repeated steps came out differently, first step {first}:"
        f" {before[first]:.7g}, then {after[first]:.7g}"
    )
    return Seam(name, SeamKind.CONFLICT, first, text)


def find_jumps(name: str, curve: Mapping[int, float], boundaries: Sequence[int]) -> list[Seam]:
    """Boundaries at which the curve changes more than it does anywhere else.

    With B0, B1 the means of the two stretches of ``_WINDOW`` steps before a place and A1, A2 of
    those after it, the jump is (A1 - B1) - ((B1 - B0) + (A2 - A1)) / 2: what remains of the change
    without the trend on both sides. Positive metrics are taken as logarithms, in which a loss
    falls more evenly. It must be ``LIMIT`` times the noise of all other places (median absolute
    deviation) and ``_ABOVE_NEAR`` times the largest jump of the ``_NEAR`` places before and after:
    where a curve is steep, it bends more than where it is flat.

    Args:
        name: the metric.
        curve: step → value, ascending.
        boundaries: first step of each later start. One that has less than 25 steps before it
            cannot be told from a steep start; curves too short have no jumps.
    """
    steps = np.array(list(curve), dtype=np.int64)
    values = np.array(list(curve.values()), dtype=np.float64)
    log = kind_of(name).positive and bool((values > 0).all())
    jumps = _jumps(np.log(values) if log else values)
    places = np.arange(len(jumps)) + 2 * _WINDOW
    at = [int(np.searchsorted(steps, boundary)) for boundary in boundaries]
    elsewhere = np.isfinite(jumps)
    for place in at:
        elsewhere &= np.abs(places - place) >= 2 * _WINDOW
    noise = jumps[elsewhere]
    if len(noise) < _LEAST_ELSEWHERE:
        return []
    center = float(np.median(noise))
    spread = 1.4826 * float(np.median(np.abs(noise - center)))
    largest = 1.0 if log else float(np.abs(values[np.isfinite(values)]).max())
    spread = max(spread, 1e-6 * largest, 1e-300)
    found = []
    for place, boundary in zip(at, boundaries, strict=True):
        index = place - 2 * _WINDOW
        near = elsewhere & (np.abs(places - place) <= 2 * _WINDOW + _NEAR)
        if not 0 <= index < len(jumps) or (near & (places < place)).sum() < _LEAST_BEFORE:
            continue
        jump = float(jumps[index])
        nearby = _ABOVE_NEAR * float(np.abs(jumps[near]).max())
        if abs(jump - center) > LIMIT * spread and abs(jump) > nearby:
            size = f"{np.expm1(jump):+.2%}" if log else f"{jump:+.4g}"
            text = (
                f"jumps by {size} where it was continued, {abs(jump - center) / spread:.0f} times"
                " what it does elsewhere"
            )
            found.append(Seam(name, SeamKind.JUMP, int(boundary), text))
    return found


def _jumps(values: Array) -> Array:
    """The jump at each place that has two stretches on both sides, (steps - 4 windows + 1,)."""
    if len(values) < 4 * _WINDOW:
        return np.empty(0)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    means = (sums[_WINDOW:] - sums[:-_WINDOW]) / _WINDOW
    count = len(values) - 4 * _WINDOW + 1
    b0, b1, a1, a2 = (means[k * _WINDOW : k * _WINDOW + count] for k in range(4))
    return np.asarray((a1 - b1) - 0.5 * ((b1 - b0) + (a2 - a1)))
