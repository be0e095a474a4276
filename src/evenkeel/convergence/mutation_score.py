"""How many planted bugs several ways of judging find, and how often each is wrong. Pure.

Every run is judged by our comparison with a baseline (and confirming runs, where it asks for
them): with the run of the same seed, as on the baseline's machine and as on another one, and
without it; by hand-typed thresholds; and by one golden curve with a tolerance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from evenkeel.convergence import curves, matched, pool
from evenkeel.convergence.comparison import Options, compare
from evenkeel.convergence.curves import Curve, MetricsView
from evenkeel.convergence.customary_judges import GOLDEN_TOLERANCE, deviation, fails
from evenkeel.convergence.error_budget import MAX_LOOKS, Budget
from evenkeel.convergence.results import Comparison, MetricResult
from evenkeel.convergence.statistics import Prior
from evenkeel.convergence.verdict import Verdict

JUDGES = (
    "ours",
    "elsewhere",
    "statistics",
    "thresholds",
    "golden",
    "golden_widened",
    "golden_same_seed",
)
_OPEN = (Verdict.PASS, Verdict.INCONCLUSIVE)


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
        return self.verdict not in _OPEN

    @property
    def by_golden(self) -> bool:
        """By the golden curve."""
        return self.deviation > GOLDEN_TOLERANCE


@dataclass(frozen=True)
class Alarms:
    """Share of healthy runs or nights on which each judge raised an alarm."""

    num: int
    ours: int
    elsewhere: int
    statistics: int
    thresholds: int
    golden: int


@dataclass(frozen=True)
class Score:
    """The whole table."""

    mutants: tuple[Judged, ...]
    healthy: tuple[Judged, ...]
    harmless: tuple[Judged, ...]
    runs: Alarms
    changes: Alarms
    nights: Alarms
    family_error: float
    widened_tolerance: float
    """Of the golden curve, so that it flags no more healthy runs than ours."""
    same_seed_tolerance: float
    """Of the golden curve, so that it flags no more harmless changes than ours: what it could be
    where nobody ever trains with another seed."""
    without_runs: tuple[str, ...] = field(default=())
    """Recipes that lack the runs to be judged."""

    def found(self, judge: str, *, detectable: bool = False) -> int:
        """Mutants found by one of ``JUDGES``."""
        tests: dict[str, Callable[[Judged], bool]] = {
            "ours": lambda one: one.found,
            "elsewhere": lambda one: one.elsewhere not in _OPEN,
            "statistics": lambda one: one.by_statistics not in _OPEN,
            "thresholds": lambda one: one.by_thresholds,
            "golden": lambda one: one.by_golden,
            "golden_widened": lambda one: one.deviation > self.widened_tolerance,
            "golden_same_seed": lambda one: one.deviation > self.same_seed_tolerance,
        }
        chosen = self.detectable if detectable else self.mutants
        return sum(tests[judge](one) for one in chosen)

    @property
    def detectable(self) -> tuple[Judged, ...]:
        """Mutants whose effect exceeds the stated minimum detectable change of some check."""
        return tuple(one for one in self.mutants if one.effect is not None and one.effect > 1)


def score(
    recipes: Sequence[RecipeRuns],
    *,
    family_error: float = 0.01,
    num_nights: int = 1000,
    seed: int = 0,
) -> Score:
    """Judge every run of every recipe.

    Args:
        recipes: with at least two baseline runs and one healthy run, or they are left out.
        family_error: false alarms that are allowed, share of nights.
        num_nights: to resample: every night draws each recipe's baseline, run and confirming runs
            anew from all its healthy runs.
        seed: of the nights.
    """
    ready = [one for one in recipes if len(one.baseline) > 1 and one.healthy]
    left_out = tuple(one.name for one in recipes if one not in ready)
    budget = Budget(family_error, max(len(ready), 1))
    judge = _Judge(budget, [curves.of_runs([r.metrics for r in one.baseline]) for one in ready])
    mutants, healthy, harmless = [], [], []
    for one in ready:
        known = _Known.of(one)
        for name, runs in one.mutants.items():
            mutants.append(judge.mutant(known, name, runs))
        for place in range(len(one.healthy)):
            confirmed = [*one.healthy[place:], *one.healthy[:place]][:MAX_LOOKS]
            healthy.append(judge.judged(known, "healthy", confirmed))
        harmless += [judge.judged(known, name, [run]) for name, run in one.harmless.items()]
    return Score(
        mutants=tuple(mutants),
        healthy=tuple(healthy),
        harmless=tuple(harmless),
        runs=_alarms(healthy),
        changes=_alarms(harmless),
        nights=_nights(judge, ready, num_nights, seed),
        family_error=family_error,
        widened_tolerance=_tolerance(healthy),
        same_seed_tolerance=_tolerance(harmless),
        without_runs=left_out,
    )


class _Judge:
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

    def judged(self, known: _Known, name: str, runs: Sequence[TrainedRun]) -> Judged:
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

    def mutant(self, known: _Known, name: str, runs: Sequence[TrainedRun]) -> Judged:
        """``judged``, with the effect in the runs that it does not judge at once."""
        first, *others = runs
        seeds = {run.seed for run in known.recipe.baseline}
        confirming = [run for run in others if run.seed not in seeds]
        found = self.judged(known, name, [first, *confirming])
        crashed = found.verdict is Verdict.CRASHED
        return replace(found, effect=float("inf") if crashed else self._effect(known, others))

    def _effect(self, known: _Known, runs: Sequence[TrainedRun]) -> float | None:
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


@dataclass(frozen=True, eq=False)
class _Known:
    """What the judges know of a recipe."""

    recipe: RecipeRuns
    curves: Mapping[str, Curve]
    pairs: matched.Pairs

    @classmethod
    def of(cls, recipe: RecipeRuns) -> _Known:
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


def _tolerance(judged: Sequence[Judged]) -> float:
    """Of the golden curve, so that it flags no more of these than ours; at least the usual one."""
    deviations = sorted((one.deviation for one in judged), reverse=True)
    ours = sum(one.found for one in judged)
    least = deviations[min(ours, len(deviations) - 1)] if deviations else 0.0
    return max(least, GOLDEN_TOLERANCE)


def _alarms(judged: Sequence[Judged]) -> Alarms:
    return Alarms(
        len(judged),
        sum(one.found for one in judged),
        sum(one.elsewhere not in _OPEN for one in judged),
        sum(one.by_statistics not in _OPEN for one in judged),
        sum(one.by_thresholds for one in judged),
        sum(one.by_golden for one in judged),
    )


def _nights(judge: _Judge, recipes: Sequence[RecipeRuns], num_nights: int, seed: int) -> Alarms:
    """Alarms on nights of healthy runs."""
    random = np.random.default_rng(seed)
    counts = np.zeros(3, dtype=int)
    for _ in range(num_nights if recipes else 0):
        night = np.zeros(3, dtype=bool)
        for one in recipes:
            everything = [*one.baseline, *one.healthy]
            drawn = [everything[i] for i in random.permutation(len(everything))]
            num_baseline = min(len(one.baseline), len(drawn) - 1)
            baseline, new = drawn[:num_baseline], drawn[num_baseline:][:MAX_LOOKS]
            verdict = judge.ours(curves.of_runs([run.metrics for run in baseline]), new).verdict
            golden = deviation(baseline[0].metrics, new[0].metrics) > GOLDEN_TOLERANCE
            night |= [verdict not in _OPEN, fails(one.checks, new[0].metrics), golden]
        counts += night
    ours, thresholds, golden_curve = map(int, counts)
    # fresh seeds: the statistics alone decides
    return Alarms(num_nights if recipes else 0, ours, ours, ours, thresholds, golden_curve)
