"""A run against the baseline run of its own seed: is it the same training, but for rounding? Pure.

Two runs of one seed differ only by what the code computes, and by how the platform rounds it. How
far rounding alone takes a curve is measured by numeric twins: the same seed from weights moved by
one unit in the last place. ``docs/convergence.md`` has the formula and what was measured with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evenkeel.convergence import curves
from evenkeel.convergence.baseline import Baseline
from evenkeel.convergence.curves import Aligned, Curve, Fault, MetricsView, Steps
from evenkeel.convergence.metric_kinds import Direction, Family, Kind, kind_of
from evenkeel.convergence.results import Comparison, MetricResult, Picture
from evenkeel.convergence.statistics import Array
from evenkeel.convergence.verdict import Verdict

SUMMARY = "matched"


@dataclass(frozen=True)
class Rounding:
    """How far apart the same training may end on two platforms.

    Args:
        label: for messages.
        factor: how many times farther than its twins a harmless change may take a run.
    """

    label: str
    factor: float


SAME_NUMERICS = Rounding("same numerics", 10.0)
"""Device and libraries are those of the baseline: the code alone may reorder sums."""
OTHER_NUMERICS = Rounding("other numerics", 100.0)
"""Another processor, driver or library of the same class: every kernel may round otherwise."""
LOOK_AHEAD = 0.1
"""Share of the steps by which a harmless change may be ahead of the twins."""
ROUNDING = 2e-6
"""Of values as they are written: 32-bit floats in event files, 7 digits in baselines."""
_LARGEST_DENOMINATOR = 4096
_STEPS_SHOWN = 60
_STEPS_BEFORE = 20


@dataclass(frozen=True, eq=False)
class Pairs:
    """What of a baseline this comparison needs.

    Args:
        curves: metric → one row per run.
        seeds: of the runs.
        twin_curves: metric → one row per numeric twin, on the same steps.
        twin_seeds: of the twins, each the seed of a run.
        only: judge these metrics; empty: all.
    """

    curves: Mapping[str, Curve]
    seeds: Sequence[int | None]
    twin_curves: Mapping[str, Curve]
    twin_seeds: Sequence[int | None]
    only: Sequence[str] = ()

    def judges(self, seed: int | None) -> bool:
        """Whether there are twins, and a run of this seed."""
        return seed is not None and seed in self.seeds and bool(self.twin_curves)


def pairs_of(baseline: Baseline, only: Sequence[str] = ()) -> Pairs:
    """What of a baseline file this comparison needs."""
    return Pairs(
        curves=baseline.curves,
        seeds=[run.seed for run in baseline.runs],
        twin_curves=baseline.twin_curves,
        twin_seeds=[twin.seed for twin in baseline.twins],
        only=only,
    )


def compare_matched(
    pairs: Pairs,
    new: MetricsView,
    seed: int,
    directions: Mapping[str, Direction] | None = None,
    rounding: Rounding = SAME_NUMERICS,
) -> list[MetricResult]:
    """One result per metric that can be compared: ``REGRESSED`` where rounding explains it not.

    Args:
        pairs: of the baseline.
        new: the run.
        seed: its seed, one of ``pairs.seeds``.
        directions: over the table of metric kinds.
        rounding: of the run's platform against the baseline's.
    """
    found = []
    for name in sorted(pairs.twin_curves):
        kind = kind_of(name, (directions or {}).get(name))
        if kind.family is not Family.CONVERGENCE or kind.direction is Direction.EXACT:
            continue
        if pairs.only and name not in pairs.only:
            continue
        aligned = curves.align(pairs.curves[name], [new.get(name)])
        if isinstance(aligned, Fault):
            continue  # the statistics says so
        result = _judged(name, kind, pairs, aligned, seed, rounding.factor)
        if result is not None:
            found.append(result.of_a_share() if kind.has_shares(aligned.values) else result)
    return found


def _judged(
    name: str, kind: Kind, pairs: Pairs, aligned: Aligned, seed: int, factor: float
) -> MetricResult | None:
    kept = np.isin(pairs.twin_curves[name].steps, aligned.steps)
    twins = pairs.twin_curves[name].values[:, kept]
    old, run = aligned.values[:-1], aligned.values[-1]
    log = kind.positive and bool((old > 0).all() and (run > 0).all() and (twins > 0).all())
    scale = float(np.abs(old).max()) or 1.0

    def units(values: Array) -> Array:
        return np.asarray(np.log(values) if log else values / scale)

    allowed = _allowed(units(old), units(twins), pairs, _quantum(kind, old) / scale, factor)
    reference = old[pairs.seeds.index(seed)]
    covered = np.isfinite(allowed)
    if not covered.any():
        return None
    deviation = np.abs(units(run) - units(reference))
    ratio = np.where(covered, deviation / np.where(covered, allowed, 1.0), 0.0)
    out = ratio > 1
    place = int(out.argmax()) if out.any() else int(ratio.argmax())
    low = reference * np.exp(-allowed) if log else reference - scale * allowed
    high = reference * np.exp(allowed) if log else reference + scale * allowed
    wanted = float(reference[place])
    step, last = int(aligned.steps[place]), int(aligned.steps[covered][-1])
    picture = _picture(
        aligned.steps[covered], [one[covered] for one in (reference, low, high, run)], step
    )
    return MetricResult(
        metric=name,
        summary=SUMMARY,
        verdict=Verdict.REGRESSED if out.any() else Verdict.PASS,
        message=_in_words(float(run[place]), wanted, float(high[place]) - wanted, step)
        if out.any()
        else f"at most {ratio[place]:.2g} of what rounding explains, up to step {last}",
        family=kind.family,
        value=float(run[place]),
        low=float(low[place]),
        high=float(high[place]),
        baseline=wanted,
        minimum_detectable_change=float(np.median(allowed[covered])),
        change=float(run[place] / wanted - 1) if wanted else None,
        step=step if out.any() else None,
        picture=picture if out.any() else None,
        ratio=float(ratio.max()),
    )


def _picture(steps: Steps, values: Sequence[Array], place: int) -> Picture:
    """The steps around the one at which the run leaves its band.

    Args:
        steps: those that the check covers.
        values: recorded, low, high and the run's, by step.
        place: the step.
    """
    first = max(0, int(np.searchsorted(steps, place)) - _STEPS_BEFORE)
    shown = slice(first, first + _STEPS_SHOWN)
    center, low, high, value = (tuple(map(float, one[shown])) for one in values)
    return Picture(tuple(map(int, steps[shown])), center, low, high, value)


def _in_words(found: float, wanted: float, width: float, step: int) -> str:
    return f"{found:.7g} at step {step}, recorded {wanted:.7g}, rounding explains ±{width:.2g}"


def _allowed(old: Array, twins: Array, pairs: Pairs, quantum: float, factor: float) -> Array:
    """Half the width of the envelope, relative units, (steps,); infinite where it says nothing.

    Args:
        old: (runs, steps); twins: (twins, steps); both in relative units.
        pairs: tells of which run each twin is.
        quantum: of a share of samples, else 0; NaN where it is not known.
        factor: times the distance of the twins.
    """
    originals = old[[pairs.seeds.index(seed) for seed in pairs.twin_seeds]]
    moved = np.abs(twins - originals).max(axis=0)
    moved = np.where(np.isfinite(moved), moved, np.inf)
    reach = math.ceil(LOOK_AHEAD * len(moved))
    envelope = np.maximum.accumulate(moved)
    envelope = envelope[np.minimum(np.arange(len(moved)) + reach, len(moved) - 1)]
    allowed = factor * envelope + ROUNDING + quantum
    if len(old) > 1:
        spread = float(np.median(old.std(axis=0, ddof=1)))
        allowed = np.where(factor * envelope > max(spread, ROUNDING), np.inf, allowed)
    return np.where(np.isnan(allowed), np.inf, allowed)


def _quantum(kind: Kind, values: Array) -> float:
    """The least change of a share of samples, 0 for other metrics, NaN where it does not show.

    The least n for which all values are multiples of 1/n; a sample on the edge may tip over in one
    run and not in its twins.
    """
    if kind.direction is not Direction.HIGHER or values.min() < 0 or values.max() > 1:
        return 0.0
    inner = values[(values > 0) & (values < 1)]
    if not len(inner):
        return math.nan
    counts = np.arange(2, _LARGEST_DENOMINATOR + 1)[:, None] * np.unique(inner)[None, :]
    whole = (np.abs(counts - counts.round()) < 1e-3).all(axis=1)
    return 1.0 / (2 + int(whole.argmax())) if whole.any() else 0.0


def joined(
    comparison: Comparison, matched: Sequence[MetricResult], rounding: Rounding = SAME_NUMERICS
) -> Comparison:
    """``comparison`` with the results of the matched check.

    A deviation is ``REGRESSED`` where the statistics found nothing, or was in doubt; what the
    statistics calls better, or worse, stays so, and the deviation is noted.
    """
    if not matched:
        return comparison
    found = replace(comparison, results=(*comparison.results, *matched))
    out = [one for one in matched if one.verdict is not Verdict.PASS]
    if not out:
        worst = max(matched, key=lambda one: one.ratio or 0.0)
        note = f"same seed, {rounding.label}: {worst.metric} is {worst.message}"
        return replace(found, notes=(*found.notes, note))
    first = min(out, key=lambda one: (one.step or 0, -(one.ratio or 0.0)))
    text = (
        f"same seed, {rounding.label}, and not the same training: {first.metric} is {first.message}"
    )
    if comparison.verdict not in (Verdict.PASS, Verdict.INCONCLUSIVE):
        return replace(found, notes=(*found.notes, text))
    fix = "if it is meant, accept new runs with 'evenkeel baseline accept'"
    return replace(found, verdict=Verdict.REGRESSED, message=f"{text}; {fix}")
