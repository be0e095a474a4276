"""New runs against the runs of a baseline: one verdict, and the evidence per metric and summary.

Pure. ``compare`` aligns the curves, measures all of them together, spends the error budget over
metrics and summaries, and folds what comes out into a verdict from the closed set.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from evenkeel.convergence import curves, metric_kinds
from evenkeel.convergence.curves import Aligned, Curve, Fault, MetricsView
from evenkeel.convergence.error_budget import Budget
from evenkeel.convergence.exactness import compare_exactly
from evenkeel.convergence.measurement import Items, Measured, measure
from evenkeel.convergence.metric_kinds import Direction, Family, Kind
from evenkeel.convergence.power import minimum_detectable, runs_needed
from evenkeel.convergence.results import Comparison, MetricResult, Picture
from evenkeel.convergence.statistics import Array, Prior, critical_difference, exceedance
from evenkeel.convergence.summaries import FINE, block_edges
from evenkeel.convergence.verdict import Verdict


@dataclass(frozen=True)
class Options:
    """How to judge.

    Args:
        budget: the false alarms that are allowed.
        directions: by metric name, over the table of ``metric_kinds``.
        priors: by metric name, from similar recipes; others have the declared prior.
        only: judge these metrics; empty: all of the baseline.
        picture_all: keep band and curve of every metric, not only of those that do not pass.
        with_advice: say how many baseline runs a coarse check would need.
    """

    budget: Budget = field(default_factory=Budget)
    directions: Mapping[str, Direction] = field(default_factory=dict)
    priors: Mapping[str, Prior] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    picture_all: bool = False
    with_advice: bool = True


def compare_runs(
    baseline: Sequence[MetricsView], new: Sequence[MetricsView], options: Options | None = None
) -> Comparison:
    """``compare`` for runs given as metric → step → value."""
    return compare(curves.of_runs(baseline), new, options)


def compare(
    baseline: Mapping[str, Curve], new: Sequence[MetricsView], options: Options | None = None
) -> Comparison:
    """Judge the first new run, confirmed by the others, against a baseline.

    Args:
        baseline: curves of the checked metrics, ``curves.of_runs`` makes them.
        new: the run to judge and up to two confirming runs of the same code.
        options: budget, directions, priors.
    """
    options = options or Options()
    names = [name for name in baseline if not options.only or name in options.only]
    kinds = {
        name: metric_kinds.kind_of(name, options.directions.get(name)) for name in sorted(names)
    }
    aligned: dict[str, Aligned] = {}
    results: list[MetricResult] = []
    notes: list[str] = []
    for name, kind in kinds.items():
        found = curves.align(baseline[name], [run.get(name) for run in new])
        if isinstance(found, Aligned) and kind.direction is not Direction.EXACT:
            found = curves.stuck(found, len(baseline[name].values)) or found
        if isinstance(found, Fault):
            results.append(_faulty(name, kind, found))
            continue
        notes += [f"{name}: {note}" for note in found.notes]
        exact = compare_exactly(name, kind, found, len(baseline[name].values))
        if exact is None:
            aligned[name] = found
        else:
            results.append(exact)
    results += _judged(aligned, baseline, kinds, len(new), options)
    if len(new) > 1:
        results = _with_outliers(results, baseline, new, options)
    order = {name: place for place, name in enumerate(kinds)}
    results.sort(key=lambda result: order[result.metric])
    return Comparison.of(results, options.budget, len(new), _num_runs(baseline), tuple(notes))


def _with_outliers(
    results: Sequence[MetricResult],
    baseline: Mapping[str, Curve],
    new: Sequence[MetricsView],
    options: Options,
) -> list[MetricResult]:
    """Results over several new runs, less what passes only because one of them is far off.

    Their own spread widens the interval of their mean, so that a run that would be ``REGRESSED``
    alone could let all of them pass. Each is held against the baseline as at the first look.
    """
    options = replace(options, picture_all=False)
    alone: dict[tuple[str, str], MetricResult] = {}
    for number, run in enumerate(new, start=1):
        for one in compare(baseline, [run], options).results:
            if one.verdict is Verdict.REGRESSED and one.family is Family.CONVERGENCE:
                which = f"run {number} of {len(new)} alone: {one.message}"
                alone.setdefault((one.metric, one.summary), replace(one, message=which))
    decided = (Verdict.NON_FINITE, Verdict.INCOMPLETE, Verdict.REGRESSED)
    return [
        one if one.verdict in decided else alone.get((one.metric, one.summary), one)
        for one in results
    ]


def _num_runs(baseline: Mapping[str, Curve]) -> int:
    return max((len(curve.values) for curve in baseline.values()), default=0)


def _faulty(name: str, kind: Kind, fault: Fault) -> MetricResult:
    return MetricResult(
        metric=name,
        summary="steps",
        verdict=fault.verdict,
        message=fault.message,
        family=kind.family,
        step=fault.step,
    )


def _judged(
    aligned: Mapping[str, Aligned],
    baseline: Mapping[str, Curve],
    kinds: Mapping[str, Kind],
    num_new: int,
    options: Options,
) -> list[MetricResult]:
    """Measure metrics of the same size together and judge them."""
    weights: dict[Family, float] = defaultdict(float)
    for kind in kinds.values():
        weights[kind.family] += kind.weight
    groups: dict[tuple[int, int], list[str]] = defaultdict(list)
    for name, one in aligned.items():
        groups[one.values.shape].append(name)
    results = []
    for names in groups.values():
        group_kinds = [kinds[name] for name in names]
        num_baseline = len(baseline[names[0]].values)
        measured = measure(
            np.stack([aligned[name].values for name in names]),
            num_baseline,
            group_kinds,
            [options.priors.get(name, kinds[name].prior) for name in names],
        )
        share = np.array([kind.weight / weights[kind.family] for kind in group_kinds])
        judge = _Judge(measured, names, share, options, num_new, num_baseline, aligned)
        results += judge.results()
    return results


@dataclass(frozen=True, eq=False)
class _Judge:
    """Applies the budget to one measured group."""

    measured: Measured
    names: Sequence[str]
    share: Array
    options: Options
    num_new: int
    num_baseline: int
    aligned: Mapping[str, Aligned]

    def results(self) -> list[MetricResult]:
        """One result per metric and summary that applies."""
        return [result for items in self.measured.items for result in self._of_items(items)]

    def _of_items(self, items: Items) -> list[MetricResult]:
        budget, units = self.options.budget, self.measured.units
        two_sided = units.bad == 0
        share = self.share * items.share
        look = min(self.num_new, budget.looks)
        bad_side = np.where(two_sided, 0.5, 1 - budget.good_side)
        good_side = np.where(two_sided, 0.5, budget.good_side)
        factor = np.full(len(share), self.measured.factor)
        unit = budget.alarm(1.0, look)
        alarm, good = unit * share * bad_side, unit * share * good_side
        doubt = budget.doubt(1.0, look) * share * bad_side
        sign = np.where(two_sided, np.where(items.difference < 0, -1.0, 1.0), units.bad)
        worse = sign * items.difference
        p_bad = exceedance(worse, factor, items.spread)
        limit = critical_difference(alarm, factor, items.spread)
        good_limit = np.where(two_sided, limit, critical_difference(good, factor, items.spread))
        detectable = minimum_detectable(limit, factor, items.spread)
        upper = np.where(two_sided | (units.bad > 0), limit, good_limit)
        lower = np.where(two_sided | (units.bad < 0), limit, good_limit)
        low, high = items.center - lower, items.center + upper
        shown = _Shown.of(items, self.measured, low, high)
        found = []
        for i, name in enumerate(self.names):
            if not items.applies[i]:
                continue
            one_sided_shape = items.summary == "shape" and not two_sided[i]
            if worse[i] > limit[i]:
                verdict = Verdict.REGRESSED
            elif -worse[i] > good_limit[i] and not two_sided[i] and not one_sided_shape:
                verdict = Verdict.IMPROVED
            elif p_bad[i] < doubt[i]:
                verdict = Verdict.INCONCLUSIVE
            else:
                verdict = Verdict.PASS
            result = self._result(items, i, name, verdict, shown, detectable[i], p_bad[i])
            if result.coarse and self.options.with_advice:
                coarse = units.kinds[i].coarse
                needed = runs_needed(coarse, alarm[i], self.num_baseline, items.spread, i)
                result = replace(result, runs_needed=needed)
            found.append(result)
        return found

    def _result(
        self,
        items: Items,
        i: int,
        name: str,
        verdict: Verdict,
        shown: _Shown,
        detectable: float,
        p_bad: float,
    ) -> MetricResult:
        plain, kind = verdict is Verdict.PASS, self.measured.units.kinds[i]
        step = None if plain else self._first_step_out(i, verdict)
        result = MetricResult(
            metric=name,
            summary=items.summary,
            verdict=verdict,
            message="",
            family=kind.family,
            value=float(shown.value[i]),
            low=float(shown.low[i]),
            high=float(shown.high[i]),
            baseline=float(shown.center[i]),
            minimum_detectable_change=float(detectable),
            change=float(shown.change[i]),
            p_value=float(p_bad),
            step=step,
            block=self._block_steps(items, i),
            coarse=bool(detectable > kind.coarse),
            picture=None if plain and not self.options.picture_all else self.picture(i),
        )
        # steps to a target are counted, whatever the metric is
        if kind.has_shares(self.aligned[name].values) and items.summary != "steps_to_target":
            result = result.of_a_share()
        return result.with_message()

    def _block_steps(self, items: Items, i: int) -> tuple[int, int] | None:
        place = int(items.place[i])
        if place < 0:
            return None
        steps = self.aligned[self.names[i]].steps
        edge = block_edges(len(steps), FINE)[place]
        return int(steps[edge[0]]), int(steps[edge[1] - 1])

    def _edges(self, i: int) -> list[tuple[int, int]]:
        steps = self.aligned[self.names[i]].steps
        return [(int(steps[a]), int(steps[b - 1])) for a, b in block_edges(len(steps), FINE)]

    def _band(self, i: int) -> Array:
        """Half the width of the band of a metric's fine blocks, relative units, (blocks,)."""
        measured = self.measured
        prior = self.options.priors.get(self.names[i], measured.units.kinds[i].prior)
        floor = measured.items[0].spread.floor[i]
        df = measured.fine_df[i]
        sd2 = (np.exp(2 * prior.log_center) + df * measured.fine_spread[i] ** 2) / (1 + df)
        return np.asarray(3.0 * np.sqrt(sd2 + floor**2) * measured.factor)

    def _first_step_out(self, i: int, verdict: Verdict) -> int | None:
        """First step from which a fine block lies outside three standard deviations."""
        fine = self.measured.fine[i]
        center = fine[: self.num_baseline].mean(axis=0)
        difference = fine[self.num_baseline :].mean(axis=0) - center
        bad = self.measured.units.bad[i]
        side = -bad if verdict is Verdict.IMPROVED else bad
        signed = np.abs(difference) if side == 0 else side * difference
        out = signed > self._band(i)
        return self._edges(i)[int(out.argmax())][0] if out.any() else None

    def picture(self, i: int) -> Picture:
        """Band, baseline mean and new mean of the fine blocks of metric ``i``, absolute units."""
        fine = self.measured.fine[i]
        center = fine[: self.num_baseline].mean(axis=0)
        new = fine[self.num_baseline :].mean(axis=0)
        half = self._band(i)
        units = self.measured.units
        one = [float(units.log[i]), float(units.scale[i])]

        def absolute(values: Array) -> tuple[float, ...]:
            return tuple(map(float, np.exp(values) if one[0] else values * one[1]))

        return Picture(
            steps=tuple(edge[0] for edge in self._edges(i)),
            center=absolute(center),
            low=absolute(center - half),
            high=absolute(center + half),
            value=absolute(new),
        )


@dataclass(frozen=True, eq=False)
class _Shown:
    """An item's numbers as people read them; arrays of shape (metrics,)."""

    value: Array
    center: Array
    low: Array
    high: Array
    change: Array

    @classmethod
    def of(cls, items: Items, measured: Measured, low: Array, high: Array) -> _Shown:
        """Absolute units; steps to target as a share of the run."""
        new = items.center + items.difference
        if items.summary == "steps_to_target":
            count = min(10, measured.fine.shape[-1])
            shares = [np.exp(x) / count for x in (new, items.center, low, high)]
            value, center, low, high = shares
            return cls(value, center, low, high, np.expm1(items.difference))
        absolute = measured.units.absolute
        change = np.where(measured.units.log, np.expm1(items.difference), items.difference)
        return cls(absolute(new), absolute(items.center), absolute(low), absolute(high), change)
