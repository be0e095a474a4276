"""Metrics that must not change at all, and whether two runs are the same to the last bit. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evenkeel.convergence.curves import Aligned, MetricsView
from evenkeel.convergence.metric_kinds import Direction, Kind
from evenkeel.convergence.results import MetricResult
from evenkeel.convergence.verdict import Verdict


def compare_exactly(
    name: str, kind: Kind, aligned: Aligned, num_baseline: int
) -> MetricResult | None:
    """The result for a metric that follows from the recipe; None where statistics must judge.

    Values may differ by rounding (``kind.numeric_floor`` of the largest). Where the runs of the
    baseline differ among themselves it is not exact after all.
    """
    if kind.direction is not Direction.EXACT:
        return None
    old, new = aligned.values[:num_baseline], aligned.values[num_baseline:]
    tolerance = kind.numeric_floor * float(np.abs(old).max())
    reference = old[0]
    if (np.abs(old - reference) > tolerance).any():
        return None
    off = (np.abs(new - reference) > tolerance).any(axis=0)
    place = int(off.argmax()) if off.any() else len(reference) - 1
    step = int(aligned.steps[place])
    value, wanted = float(new[np.abs(new[:, place] - reference[place]).argmax(), place]), float(
        reference[place]
    )  # fmt: skip
    message = (
        f"must not change, and is {value:.6g} instead of {wanted:.6g} at step {step}; "
        f"{int(off.sum())} of {len(off)} steps differ"
        if off.any()
        else f"the same at all {len(off)} steps"
    )
    return MetricResult(
        metric=name,
        summary="exact",
        verdict=Verdict.REGRESSED if off.any() else Verdict.PASS,
        message=message,
        family=kind.family,
        value=value,
        low=wanted - tolerance,
        high=wanted + tolerance,
        baseline=wanted,
        minimum_detectable_change=kind.numeric_floor,
        step=step if off.any() else None,
    )


@dataclass(frozen=True)
class BitDifference:
    """Where a run first differs from another one of the same numerics."""

    metric: str
    step: int
    expected: float
    found: float


def first_bit_difference(
    reference: MetricsView, run: MetricsView, metrics: Sequence[str]
) -> BitDifference | None:
    """The earliest step at which one of ``metrics`` is not the same 64-bit number.

    A step that one side lacks counts as a difference, with NaN for what is missing.
    """
    found = []
    for name in metrics:
        step = _first(reference.get(name, {}), run.get(name, {}))
        if step is not None:
            found.append((step, name))
    if not found:
        return None
    step, name = min(found)
    nan = float("nan")
    return BitDifference(
        name, step, reference.get(name, {}).get(step, nan), run.get(name, {}).get(step, nan)
    )


def _first(reference: Mapping[int, float], run: Mapping[int, float]) -> int | None:
    steps = sorted(reference.keys() | run.keys())
    for step in steps:
        a, b = reference.get(step), run.get(step)
        if a is None or b is None or not (a == b or (a != a and b != b)):
            return step
    return None
