"""From aligned curves to the summaries that are judged: values, spreads and shares. Pure.

Curves of the same length are measured together: values have shape (metrics, K + n, steps), the K
baseline runs first. Each summary becomes one item per metric: the difference of new mean and
baseline mean in relative units, what is known of its spread, and its share of the metric's budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evenkeel.convergence import summaries
from evenkeel.convergence.error_budget import COST_SHARES, SUMMARY_SHARES
from evenkeel.convergence.metric_kinds import Family, Kind
from evenkeel.convergence.statistics import Array, Prior, Spread
from evenkeel.convergence.units import NDArrayBool, Units, level, quantum, rounding, units_of_blocks

DF_KEPT = 0.8
"""A sample variance of heavy-tailed values tells less than its degrees of freedom say: with excess
kurtosis k, df * 2 / (2 + k * (K - 1) / K). This is k = 0.6 at K = 5."""

_SHARES = COST_SHARES | SUMMARY_SHARES
_LEAST_STEPS_FOR_SHAPE = 5
_LEAST_STEPS_FOR_TARGET = 20
_LEAST_STEPS_FOR_NOISE = 10
_PER_STEP_NOISE = 6.0
_NOISE_SPREAD = 1.5
_TIED = 0.1
"""Numbers that differ by no more than this share of the usual spread may lie on one tick."""
_HIDDEN = 2.0
"""Times 1/K: the spread that K numbers on one tick may hide, in units of the usual one. With it,
one healthy run in a hundred is flagged, for K of 1 to 8 (``benchmarks/calibration.py``)."""


@dataclass(frozen=True, eq=False)
class Items:
    """One summary of all metrics of a group; arrays of shape (metrics,).

    Args:
        summary: its name.
        center: baseline mean, relative units.
        difference: new mean minus center.
        spread: what is known of sigma.
        share: of the metric's budget.
        place: position of the block that the summary is about; -1: the whole curve.
        applies: where the summary makes sense.
    """

    summary: str
    center: Array
    difference: Array
    spread: Spread
    share: Array
    place: Array
    applies: NDArrayBool


@dataclass(frozen=True, eq=False)
class Measured:
    """A group of metrics with the same number of steps, measured.

    Args:
        units: of the metrics.
        items: one entry per summary.
        factor: sqrt(1/K + 1/n).
        fine: fine blocks in relative units, (metrics, runs, blocks).
        fine_spread: smoothed sigma of each fine block, (metrics, blocks).
    """

    units: Units
    items: tuple[Items, ...]
    factor: float
    fine: Array
    fine_spread: Array
    fine_df: Array


def measure(
    values: Array, num_baseline: int, kinds: Sequence[Kind], priors: Sequence[Prior]
) -> Measured:
    """All summaries of a group.

    Args:
        values: (metrics, K + n, steps), finite.
        num_baseline: K, at least 1.
        kinds: of each metric.
        priors: of each metric's relative spread.
    """
    num_new = values.shape[1] - num_baseline
    factor = float(np.sqrt(1 / num_baseline + 1 / num_new)) if num_new else 1.0
    raw_fine = summaries.blocks(values, summaries.FINE)
    units = units_of_blocks(raw_fine, num_baseline, kinds)
    block_size = values.shape[2] // raw_fine.shape[2]
    relative = units.relative(raw_fine)
    fine = summaries.steadied(relative, block_size)
    coarse = summaries.blocks(relative, summaries.COARSE)
    old = values[:, :num_baseline]
    tick = np.maximum(quantum(old), rounding(old)) / np.where(
        units.log, np.abs(level(raw_fine)), units.scale
    )
    floor = np.hypot([kind.numeric_floor for kind in kinds], tick / np.sqrt(12.0))
    if values.shape[2] >= _LEAST_STEPS_FOR_NOISE:
        pair = values[:, summaries.noise_pair(values.shape[1], num_baseline)]
        noise = summaries.step_noise(units.of_steps(pair).relative(pair))
        if num_baseline == 1:
            # a run beside itself, as where a baseline of one run is shown, tells nothing
            noise = np.where((pair[:, :1] == pair).all(axis=(1, 2)), np.inf, noise)
        priors = _narrowed(priors, noise)
    context = _Context(num_baseline, factor, units, floor, tuple(priors))
    items = [_final(coarse, context, _tie_floor(relative, context))]
    if coarse.shape[-1] > 1:
        items.append(_mean(coarse, context))
    if values.shape[2] >= _LEAST_STEPS_FOR_TARGET:
        items.append(_steps_to_target(coarse, context))
    sd, df = _block_spread(fine, context)
    if values.shape[2] >= _LEAST_STEPS_FOR_SHAPE:
        items.append(_end(fine, sd, df, context))
        items.append(_shape(fine, sd, df, context))
        items.append(_median(fine, context))
    return Measured(units, _shared(_by_family(items, kinds)), factor, fine, sd, df)


@dataclass(frozen=True, eq=False)
class _Context:
    num_baseline: int
    factor: float
    units: Units
    floor: Array
    priors: tuple[Prior, ...]

    def spread(self, variance: Array, df: Array) -> Spread:
        """``Spread`` with this group's floors and priors."""
        return Spread(
            variance,
            DF_KEPT * df,
            self.floor,
            np.array([prior.log_center for prior in self.priors]),
            np.array([prior.log_spread for prior in self.priors]),
        )


def _narrowed(priors: Sequence[Prior], noise: Array) -> list[Prior]:
    """Priors of curves, with what their steps tell: two independent opinions are multiplied.

    Runs that follow each other closely from step to step (the same data, the same seed) do not
    drift far apart either: sigma is about ``_PER_STEP_NOISE`` times the noise of single steps
    between runs, give or take a factor of e^``_NOISE_SPREAD``. Runs on other data differ much
    more from step to step than as a whole, so this only ever lowers a prior.
    """
    made = []
    for prior, sd in zip(priors, noise, strict=True):
        center = float(np.log(max(_PER_STEP_NOISE * sd, 1e-9)))
        if center >= prior.log_center:
            made.append(prior)
            continue
        old, new = prior.log_spread**-2, _NOISE_SPREAD**-2
        mean = (old * prior.log_center + new * center) / (old + new)
        made.append(Prior(mean, float((old + new) ** -0.5), prior.num_groups))
    return made


def _means(values: Array, context: _Context) -> tuple[Array, Array, Array, int]:
    """(baseline mean, new minus baseline, own variance, df) of per-run numbers (metrics, runs)."""
    old, new = values[:, : context.num_baseline], values[:, context.num_baseline :]
    center = old.mean(axis=1)
    difference = new.mean(axis=1) - center if new.shape[1] else np.zeros_like(center)
    residuals, df = summaries.pooled_residuals(values, context.num_baseline)
    variance = (residuals**2).sum(axis=1) / max(df, 1)
    return center, difference, variance, df


def _tie_floor(relative: Array, context: _Context) -> Array:
    """What spread single numbers may hide that are nearly the same in all runs, (metrics,).

    They are deterministic, or the ticks of their quantum are too wide to tell the runs apart, and
    the next run may well be a tick away. (A time to a target comes in whole evaluation periods, of
    which each takes nearly, not exactly, the same time.) Ticks are about as wide as spreads usually
    are; the more runs agree, the narrower the spread must be, and a single run hides most.
    Whole curves that agree to the last digit cannot be an accident of rounding.

    Args:
        relative: values in relative units, (metrics, runs, steps).
    """
    num_baseline = context.num_baseline
    if relative.shape[2] >= _LEAST_STEPS_FOR_SHAPE:
        return np.zeros(len(relative))
    old = relative[:, :num_baseline]
    sd = old.std(axis=1, ddof=1 if num_baseline > 1 else 0).max(axis=1)
    usual = np.exp([prior.log_center for prior in context.priors])
    return np.asarray(np.where(sd <= _TIED * usual, usual * _HIDDEN / num_baseline, 0.0))


def _final(coarse: Array, context: _Context, tie_floor: Array) -> Items:
    center, difference, own, df = _means(coarse[..., -1], context)
    num_local = max(1, coarse.shape[-1] // 2)
    residuals, _ = summaries.pooled_residuals(coarse[..., -num_local:], context.num_baseline)
    local = (residuals**2).sum(axis=(1, 2)) / max(df, 1) / num_local
    share = summaries.independent_share(residuals, df)
    dfs = df * np.maximum(1.0, share * num_local)
    variance = np.maximum(local, 0.5 * (own + local))
    name = "final" if coarse.shape[-1] > 1 else "value"
    spread = context.spread(variance, dfs)
    spread = replace(spread, floor=np.maximum(spread.floor, tie_floor))
    return _items(name, center, difference, spread, "final")


def _mean(coarse: Array, context: _Context) -> Items:
    center, difference, variance, df = _means(coarse.mean(axis=-1), context)
    spread = context.spread(variance, np.full(len(center), float(df)))
    return _items("mean", center, difference, spread, "mean")


def _median(fine: Array, context: _Context) -> Items:
    """The typical block after the first tenth, in which caches fill and kernels are compiled."""
    after = fine[..., max(1, fine.shape[-1] // 10) :]
    center, difference, variance, df = _means(np.median(after, axis=-1), context)
    spread = context.spread(variance, np.full(len(center), float(df)))
    return _items("median", center, difference, spread, "median")


def _by_family(items: Sequence[Items], kinds: Sequence[Kind]) -> list[Items]:
    """Convergence is told from its whole curve, a cost from its typical step and its end."""
    cost = np.array([kind.family is not Family.CONVERGENCE for kind in kinds])
    told = ("mean", "end", "shape", "steps_to_target")
    only = {"median": cost, **dict.fromkeys(told, ~cost)}
    return [
        replace(one, applies=one.applies & only[one.summary]) if one.summary in only else one
        for one in items
    ]


def _steps_to_target(coarse: Array, context: _Context) -> Items:
    """Judged in logarithms of blocks; only where a directed curve clearly moves to its target."""
    sign = context.units.bad
    falling = coarse * np.where(sign == 0, 1.0, sign)[:, None, None]
    base = falling[:, : context.num_baseline].mean(axis=1)
    start, end = base[:, 0], base[:, -1]
    target = start + 0.8 * (end - start)
    noise = np.sqrt(_means(coarse[..., -1], context)[2]) + context.floor
    applies = (sign != 0) & (start - end > 10 * noise)
    logs = np.log(summaries.steps_to_target(falling, target))
    center, difference, variance, df = _means(logs, context)
    quarter = np.full(len(center), 0.02)
    spread = Spread(
        variance,
        np.full(len(center), DF_KEPT * df),
        np.maximum(quarter, context.floor),
        np.full(len(center), np.log(0.05)),
        np.full(len(center), 1.0),
    )
    made = _items("steps_to_target", center, difference, spread, "steps_to_target")
    return Items(
        made.summary, made.center, made.difference, made.spread, made.share, made.place, applies
    )


def _block_spread(fine: Array, context: _Context) -> tuple[Array, Array]:
    """(sigma, df) of fine blocks, pooled with neighbours: (metrics, blocks), (metrics,)."""
    residuals, df = summaries.pooled_residuals(fine, context.num_baseline)
    variance = (residuals**2).sum(axis=1) / max(df, 1)
    reach = fine.shape[-1] // 10
    smooth = np.maximum(summaries.neighbourhood(variance, reach), 0.5 * variance)
    share = summaries.independent_share(residuals, df)
    return np.sqrt(smooth), df * np.maximum(1.0, 0.5 * share * (2 * reach + 1))


def _end(fine: Array, sd: Array, df: Array, context: _Context) -> Items:
    """The last block alone: what has begun to diverge is still a small part of the final window."""
    center, difference, _, _ = _means(fine[..., -1], context)
    return _items("end", center, difference, context.spread(sd[:, -1] ** 2, df), "end")


def _shape(fine: Array, sd: Array, df: Array, context: _Context) -> Items:
    """The block with the largest standardised excursion to the bad side."""
    center = fine[:, : context.num_baseline].mean(axis=1)
    new = fine[:, context.num_baseline :]
    difference = new.mean(axis=1) - center if new.shape[1] else np.zeros_like(center)
    usual = np.exp([2 * prior.log_center for prior in context.priors])
    moderated = (usual[:, None] + df[:, None] * sd**2) / (1 + df[:, None])
    z = difference / np.sqrt(moderated + context.floor[:, None] ** 2)
    sign = context.units.bad[:, None]
    place = np.where(sign == 0, np.abs(z), sign * z).argmax(axis=1)
    at = (np.arange(len(place)), place)
    items = _items("shape", center[at], difference[at], context.spread(sd[at] ** 2, df), "shape")
    return Items(
        items.summary,
        items.center,
        items.difference,
        items.spread,
        items.share / fine.shape[-1],
        place,
        items.applies,
    )


def _items(name: str, center: Array, difference: Array, spread: Spread, share: str) -> Items:
    count = len(center)
    shares = np.full(count, _SHARES[share])
    place = np.full(count, -1)
    return Items(name, center, difference, spread, shares, place, np.ones(count, dtype=bool))


def _shared(items: Sequence[Items]) -> tuple[Items, ...]:
    """The shares of the summaries that apply, scaled so that each metric spends its whole."""
    total = np.zeros(len(items[0].center))
    for one in items:
        total += np.where(one.applies, _SHARES.get(one.summary, _SHARES["final"]), 0)
    return tuple(
        Items(
            one.summary,
            one.center,
            one.difference,
            one.spread,
            one.share / total,
            one.place,
            one.applies,
        )
        for one in items
    )
