"""What each way of judging says of one run of a recipe into which a bug may be planted. Pure.

Every run is judged by our comparison with a baseline (and confirming runs, where it asks for
them): with the run of the same seed, as on the baseline's machine and as on another one, and
without it; by hand-typed thresholds; and by one golden curve with a tolerance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from evenkeel.convergence import curves, matched, pool
from evenkeel.convergence.comparison import Options, compare
from evenkeel.convergence.curves import Curve, MetricsView
from evenkeel.convergence.customary_judges import GOLDEN_TOLERANCE, deviation, fails
from evenkeel.convergence.error_budget import Budget
from evenkeel.convergence.results import Comparison, MetricResult
from evenkeel.convergence.statistics import Prior
from evenkeel.convergence.verdict import Verdict

OPEN = (Verdict.PASS, Verdict.INCONCLUSIVE)
"""What finds nothing, at least not yet."""


@dataclass(frozen=True)
class TrainedRun:
    """A run of the table; ``status`` is the trainer's exit status."""

    mutant: str
    seed: int
    status: int
    metrics: MetricsView


@dataclass(frozen=True)
class RecipeRuns:
    """All runs of one recipe.

    Args:
        name: of the recipe.
        checks: its hand-typed thresholds.
        baseline: what ours compares with; the first is the golden curve.
        healthy: fresh seeds of the same code.
        mutants: by name; the first run is judged, with a seed of the baseline like a nightly run.
            Other seeds of the baseline tell how large the effect is, fresh ones also confirm.
        twins: numeric twins of baseline runs.
        harmless: runs of changed code that computes the same, by name of the change.
    """

    name: str
    checks: tuple[str, ...]
    baseline: Sequence[TrainedRun]
    healthy: Sequence[TrainedRun]
    mutants: Mapping[str, Sequence[TrainedRun]]
    twins: Sequence[TrainedRun] = ()
    harmless: Mapping[str, TrainedRun] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """One run, or one mutant, as the judges see it.

    Args:
        verdict: ours.
        reason: in words.
        num_runs: that ours looked at.
        elsewhere: verdict as on another machine than the baseline's.
        by_statistics: verdict without the run of the same seed.
        by_thresholds: whether they fail.
        deviation: largest relative distance from the golden curve.
        ratio: largest deviation from the run of the same seed over what rounding explains; None
            where there is no such run.
        effect: largest change over its minimum detectable change in runs that are not judged;
            None where there are none.
    """

    recipe: str
    mutant: str
    verdict: Verdict
    reason: str
    num_runs: int
    elsewhere: Verdict
    by_statistics: Verdict
    by_thresholds: bool
    deviation: float
    ratio: float | None = None
    effect: float | None = None

    @property
    def found(self) -> bool:
        """By ours: any verdict but a pass, an open question not counted."""
        return self.verdict not in OPEN

    @property
    def by_golden(self) -> bool:
        """By the golden curve."""
        return self.deviation > GOLDEN_TOLERANCE


@dataclass(frozen=True, eq=False)
class Known:
    """What the judges know of a recipe."""

    recipe: RecipeRuns
    curves: Mapping[str, Curve]
    pairs: matched.Pairs

    @classmethod
    def of(cls, recipe: RecipeRuns) -> Known:
        """Its baseline, and numeric twins on the same steps."""
        num = len(recipe.baseline)
        found = curves.of_runs([run.metrics for run in (*recipe.baseline, *recipe.twins)])
        own = {name: Curve(one.steps, one.values[:num]) for name, one in found.items()}
        twins = {name: Curve(one.steps, one.values[num:]) for name, one in found.items()}
        pairs = matched.Pairs(
            curves=own,
            seeds=[run.seed for run in recipe.baseline],
            twin_curves=twins if recipe.twins else {},
            twin_seeds=[run.seed for run in recipe.twins],
        )
        return cls(recipe, own, pairs)

    def same_seed(
        self, run: TrainedRun, rounding: matched.Rounding = matched.SAME_NUMERICS
    ) -> list[MetricResult]:
        """What the run of the same seed says; empty where there is none."""
        if not self.pairs.judges(run.seed):
            return []
        return matched.compare_matched(self.pairs, run.metrics, run.seed, rounding=rounding)


class Judge:
    """The budget of a night, and how much runs of these recipes usually vary."""

    def __init__(self, budget: Budget, baselines: Sequence[Mapping[str, Curve]]) -> None:
        self._budget = budget
        names = {name for baseline in baselines for name in baseline}
        self._priors: Mapping[str, Prior] = pool.priors(baselines, names)

    def ours(self, baseline: Mapping[str, Curve], runs: Sequence[TrainedRun]) -> Comparison:
        """As many looks as it asks for and there are runs."""
        options = Options(budget=self._budget, priors=self._priors, with_advice=False)
        found = compare(baseline, [runs[0].metrics], options)
        for count in range(2, len(runs) + 1):
            if not found.asks_for_confirmation:
                break
            found = compare(baseline, [run.metrics for run in runs[:count]], options)
        return found

    def judged(self, known: Known, name: str, runs: Sequence[TrainedRun]) -> Judged:
        """The first run, which the others may confirm."""
        first = runs[0]
        golden = known.recipe.baseline[0].metrics
        if first.status != 0:
            return Judged(
                recipe=known.recipe.name,
                mutant=name,
                verdict=Verdict.CRASHED,
                reason=f"exit status {first.status}",
                num_runs=1,
                elsewhere=Verdict.CRASHED,
                by_statistics=Verdict.CRASHED,
                by_thresholds=True,
                deviation=float("inf"),
            )
        by_statistics = self.ours(known.curves, runs)
        same_seed = known.same_seed(first)
        found = matched.joined(by_statistics, same_seed)
        widely = known.same_seed(first, matched.OTHER_NUMERICS)
        return Judged(
            recipe=known.recipe.name,
            mutant=name,
            verdict=found.verdict,
            reason=found.message,
            num_runs=1 if found.verdict is not by_statistics.verdict else found.num_new,
            elsewhere=matched.joined(by_statistics, widely).verdict,
            by_statistics=by_statistics.verdict,
            by_thresholds=fails(known.recipe.checks, first.metrics),
            deviation=deviation(golden, first.metrics),
            ratio=max((one.ratio or 0.0 for one in same_seed), default=None),
        )

    def mutant(self, known: Known, name: str, runs: Sequence[TrainedRun]) -> Judged:
        """``judged``, with the effect in the runs that it does not judge at once."""
        first, *others = runs
        seeds = {run.seed for run in known.recipe.baseline}
        confirming = [run for run in others if run.seed not in seeds]
        found = self.judged(known, name, [first, *confirming])
        crashed = found.verdict is Verdict.CRASHED
        return replace(found, effect=float("inf") if crashed else self._effect(known, others))

    def _effect(self, known: Known, runs: Sequence[TrainedRun]) -> float | None:
        """Largest change over its minimum detectable change, by seed or by statistics.

        By statistics it is the mean over the runs, of which one alone says little.
        """
        if not runs:
            return None
        if any(run.status for run in runs):
            return float("inf")
        options = Options(budget=self._budget, priors=self._priors, with_advice=False)
        ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
        by_seed = [one.ratio or 0.0 for run in runs for one in known.same_seed(run)]
        for run in runs:
            for one in compare(known.curves, [run.metrics], options).results:
                if one.minimum_detectable_change and one.change is not None:
                    ratio = one.change / one.minimum_detectable_change
                elif one.verdict is Verdict.PASS:
                    ratio = 0.0
                else:
                    ratio = float("inf")  # what must not change at all, or a curve at fault
                ratios[one.metric, one.summary].append(ratio)
        means = [abs(float(np.mean(found))) for found in ratios.values()]
        return max([*means, *by_seed], default=0.0)
