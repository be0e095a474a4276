"""Bring the runs of a baseline and new runs onto the same steps, and say where that fails.

Nothing is filled in: a metric that is missing, cut short, has holes or is not finite is a fault
with its own verdict, found before anything is compared.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evenkeel.convergence.statistics import Array
from evenkeel.convergence.verdict import Verdict

Steps = NDArray[np.int64]
MetricsView = Mapping[str, Mapping[int, float]]

_STEPS_TO_BE_STUCK = 10
_ALL_THE_TIME = 0.9
"""Share of the steps that have values of their own."""


@dataclass(frozen=True, eq=False)
class Curve:
    """One metric of the K runs of a baseline, on the steps that all of them have.

    Args:
        steps: ascending, shape (steps,).
        values: shape (runs, steps); may hold NaN and infinity where a run had them.
    """

    steps: Steps
    values: Array


@dataclass(frozen=True)
class Fault:
    """Why a metric of a new run cannot be compared."""

    verdict: Verdict
    message: str
    step: int | None = None


@dataclass(frozen=True, eq=False)
class Aligned:
    """Baseline and new runs of a metric on common steps, all finite.

    Args:
        steps: shape (steps,).
        values: shape (K + n, steps), baseline runs first.
        notes: what a reader should know of the alignment.
    """

    steps: Steps
    values: Array
    notes: tuple[str, ...] = ()


def of_runs(runs: Sequence[MetricsView]) -> dict[str, Curve]:
    """The curves of a baseline from its runs, of every metric that all runs have.

    Steps that not all runs have are left out; a metric without a common step has no curve.
    """
    curves = {}
    for name in runs[0] if runs else ():
        series = [run.get(name) for run in runs]
        if all(series):
            curve = _curve([one for one in series if one])
            if len(curve.steps):
                curves[name] = curve
    return curves


def _curve(series: Sequence[Mapping[int, float]]) -> Curve:
    keys = [list(one) for one in series]
    if all(one == keys[0] for one in keys[1:]):
        steps = np.array(keys[0], dtype=np.int64)
        values = np.array([list(one.values()) for one in series], dtype=np.float64)
    else:
        common = sorted(set(keys[0]).intersection(*keys[1:]))
        steps = np.array(common, dtype=np.int64)
        values = np.array([[one[step] for step in common] for one in series], dtype=np.float64)
    if len(steps) > 1 and not (np.diff(steps) > 0).all():
        order = np.argsort(steps)
        steps, values = steps[order], values[:, order]
    return Curve(steps, values.reshape(len(series), len(steps)))


def align(curve: Curve, new: Sequence[Mapping[int, float] | None]) -> Aligned | Fault:
    """Put new runs beside a baseline's curve; the first fault that is found is the answer.

    Args:
        curve: of the baseline.
        new: the same metric of each new run; None where a run lacks it.
    """
    steps = curve.steps
    wanted = steps.tolist()
    rows = []
    notes: list[str] = []
    keep = np.ones(len(steps), dtype=bool)
    for series in new:
        if not series:
            return Fault(Verdict.INCOMPLETE, "the run did not log it, the baseline did")
        if list(series) == wanted:
            row = np.array(list(series.values()), dtype=np.float64)
        else:
            fault = _missing_steps(wanted, series, notes)
            if fault is not None:
                return _first_non_finite(series, curve) or fault
            row = np.array([series.get(step, math.nan) for step in wanted], dtype=np.float64)
            keep &= np.array([step in series for step in wanted])
        rows.append(row)
    values = np.vstack([curve.values, np.array(rows)])[:, keep]
    finite = np.isfinite(values)
    if not finite.all():
        num_baseline = len(curve.values)
        usable = finite[:num_baseline].all(axis=0)
        for series in new:
            fault = _first_non_finite(series or {}, curve)
            if fault is not None:
                return fault
        keep_steps = steps[keep][usable]
        if not len(keep_steps):
            return Fault(Verdict.INCOMPARABLE, "the baseline has no finite value to compare with")
        notes.append(f"{int((~usable).sum())} steps left out: not finite in the baseline either")
        return Aligned(keep_steps, values[:, usable], tuple(notes))
    return Aligned(steps[keep], values, tuple(notes))


def stuck(aligned: Aligned, num_baseline: int) -> Fault | None:
    """A new run whose value never changes, though that of the baseline's runs does all the time.

    A loss of 0 from the first step on is nothing learned and all masked, not an improvement.

    Args:
        aligned: baseline and new runs.
        num_baseline: how many of its rows are the baseline's.
    """
    num_steps = len(aligned.steps)
    if num_steps < _STEPS_TO_BE_STUCK:
        return None
    distinct = [len(np.unique(row)) for row in aligned.values]
    if min(distinct[:num_baseline]) < _ALL_THE_TIME * num_steps:
        return None
    for row, count in zip(aligned.values[num_baseline:], distinct[num_baseline:], strict=True):
        if count == 1:
            text = f"{row[0]:.6g} at all of {num_steps} steps, while the baseline's runs change"
            return Fault(Verdict.REGRESSED, text, int(aligned.steps[0]))
    return None


def _first_non_finite(series: Mapping[int, float], curve: Curve) -> Fault | None:
    """The first value that is not finite at a step where a run of the baseline is (or has none)."""
    bad = [step for step, value in series.items() if not math.isfinite(value)]
    if not bad:
        return None
    finite = np.isfinite(curve.values).any(axis=0)
    excused = set(curve.steps[~finite].tolist())
    unexcused = sorted(step for step in bad if step not in excused)
    if not unexcused:
        return None
    first = unexcused[0]
    more = f", and at {len(unexcused) - 1} more" if len(unexcused) > 1 else ""
    text = f"{series[first]} at step {first} for the first time{more} of {len(series)} steps"
    return Fault(Verdict.NON_FINITE, text, first)


def _missing_steps(
    wanted: list[int], series: Mapping[int, float], notes: list[str]
) -> Fault | None:
    """Whether steps of the baseline are missing beyond a coarser logging period."""
    missing = [step for step in wanted if step not in series]
    extra = len(series) - (len(wanted) - len(missing))
    if extra:
        beyond = sum(1 for step in series if step > wanted[-1])
        where = f", {beyond} of them after its last step {wanted[-1]}" if beyond else ""
        notes.append(f"{extra} steps that the baseline does not have are not compared{where}")
    if not missing:
        return None
    have = sorted(series)
    if len(missing) == len(wanted):
        if have[-1] < wanted[0]:
            text = f"last step {have[-1]} of {wanted[-1]}"
            return Fault(Verdict.INCOMPLETE, text, have[-1])
        text = f"no step in common: the baseline logs {_span(wanted)}, the run {_span(have)}"
        return Fault(Verdict.INCOMPARABLE, text)
    period = _period(have)
    base_period = _period(wanted) or 1
    if wanted[-1] - have[-1] >= max(period or 1, base_period):
        text = f"last step {have[-1]} of {wanted[-1]}: {_missing(missing, wanted)}"
        return Fault(Verdict.INCOMPLETE, text, have[-1])
    if period is not None and period > base_period:
        notes.append(
            f"logged every {period} steps, by the baseline every {base_period}: "
            f"{len(wanted) - len(missing)} common steps are compared"
        )
        return None
    text = f"{_missing(missing, wanted)}, the first is step {missing[0]}"
    return Fault(Verdict.INCOMPLETE, text, missing[0])


def _period(steps: Sequence[int]) -> int | None:
    """The distance of neighbouring steps where it is the same throughout (but for the first)."""
    gaps = {b - a for a, b in itertools.pairwise(steps[1:])}
    if len(gaps) == 1:
        return gaps.pop()
    return steps[1] - steps[0] if len(steps) == 2 else None


def _missing(missing: Sequence[int], wanted: Sequence[int]) -> str:
    return f"{len(missing)} of the baseline's {len(wanted)} steps are missing"


def _span(steps: Sequence[int]) -> str:
    return f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
