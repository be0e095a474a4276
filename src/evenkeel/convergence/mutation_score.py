"""How many planted bugs three ways of judging find, and how often each is wrong. Pure.

Every run is judged by our comparison with a baseline (and confirming runs, where it asks for
them), by hand-typed thresholds, and by one golden curve with a tolerance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from evenkeel.convergence import curves, pool
from evenkeel.convergence.comparison import Options, compare
from evenkeel.convergence.curves import Curve, MetricsView
from evenkeel.convergence.error_budget import MAX_LOOKS, Budget
from evenkeel.convergence.results import Comparison
from evenkeel.convergence.statistics import Prior
from evenkeel.convergence.verdict import Verdict
from evenkeel.metrics.evaluation import evaluate_text

GOLDEN_TOLERANCE = 0.05
GOLDEN_WINDOW = 10
GOLDEN_METRICS = ("train/loss", "validation/loss")
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
        mutants: by name, in the order of their seeds.
    """

    name: str
    checks: tuple[str, ...]
    baseline: Sequence[TrainedRun]
    healthy: Sequence[TrainedRun]
    mutants: Mapping[str, Sequence[TrainedRun]]


@dataclass(frozen=True)
class Judged:
    """One run, or one mutant, as the three judges see it.

    Args:
        verdict: ours.
        reason: in words.
        num_runs: that ours looked at.
        by_thresholds: whether they fail.
        deviation: largest relative distance from the golden curve.
        effect: largest change over its minimum detectable change, mean over the mutant's runs.
    """

    recipe: str
    mutant: str
    verdict: Verdict
    reason: str
    num_runs: int
    by_thresholds: bool
    deviation: float
    effect: float

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
    thresholds: int
    golden: int


@dataclass(frozen=True)
class Score:
    """The whole table."""

    mutants: tuple[Judged, ...]
    healthy: tuple[Judged, ...]
    runs: Alarms
    nights: Alarms
    family_error: float
    widened_tolerance: float
    """Of the golden curve, so that it flags no more healthy runs than ours."""
    without_runs: tuple[str, ...] = field(default=())
    """Recipes that lack the runs to be judged."""

    def found(self, judge: str, *, detectable: bool = False) -> int:
        """Mutants found by ``ours``, ``thresholds``, ``golden`` or ``golden_widened``."""
        tests = {
            "ours": lambda one: one.found,
            "thresholds": lambda one: one.by_thresholds,
            "golden": lambda one: one.by_golden,
            "golden_widened": lambda one: one.deviation > self.widened_tolerance,
        }
        chosen = self.detectable if detectable else self.mutants
        return sum(tests[judge](one) for one in chosen)

    @property
    def detectable(self) -> tuple[Judged, ...]:
        """Mutants whose effect exceeds the stated minimum detectable change of some check."""
        return tuple(one for one in self.mutants if one.effect > 1)


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
    mutants, healthy = [], []
    for one in ready:
        baseline = curves.of_runs([run.metrics for run in one.baseline])
        for name, runs in one.mutants.items():
            mutants.append(judge.judged(one, baseline, name, runs))
        for place in range(len(one.healthy)):
            confirmed = [*one.healthy[place:], *one.healthy[:place]][:MAX_LOOKS]
            healthy.append(judge.judged(one, baseline, "healthy", confirmed))
    flagged = Alarms(
        len(healthy),
        sum(one.found for one in healthy),
        sum(one.by_thresholds for one in healthy),
        sum(one.by_golden for one in healthy),
    )
    deviations = sorted((one.deviation for one in healthy), reverse=True)
    widened = deviations[min(flagged.ours, len(deviations) - 1)] if deviations else 0.0
    return Score(
        mutants=tuple(mutants),
        healthy=tuple(healthy),
        runs=flagged,
        nights=_nights(judge, ready, num_nights, seed),
        family_error=family_error,
        widened_tolerance=max(widened, GOLDEN_TOLERANCE),
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

    def judged(
        self,
        recipe: RecipeRuns,
        baseline: Mapping[str, Curve],
        name: str,
        runs: Sequence[TrainedRun],
    ) -> Judged:
        """The first run by three judges; the effect from all of them."""
        first = runs[0]
        if first.status != 0:
            verdict, reason = Verdict.CRASHED, f"exit status {first.status}"
            num_runs, change = 1, float("inf")
        else:
            found = self.ours(baseline, runs)
            verdict, reason, num_runs = found.verdict, found.message, found.num_new
            change = self._effect(baseline, runs)
        return Judged(
            recipe=recipe.name,
            mutant=name,
            verdict=verdict,
            reason=reason,
            num_runs=num_runs,
            by_thresholds=first.status != 0 or fails(recipe.checks, first.metrics),
            deviation=float("inf")
            if first.status
            else deviation(recipe.baseline[0].metrics, first.metrics),
            effect=change,
        )

    def _effect(self, baseline: Mapping[str, Curve], runs: Sequence[TrainedRun]) -> float:
        """Largest mean change of a summary over its minimum detectable change from one run."""
        options = Options(budget=self._budget, priors=self._priors, with_advice=False)
        ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
        for run in runs:
            for one in compare(baseline, [run.metrics], options).results:
                if one.minimum_detectable_change and one.change is not None:
                    ratio = one.change / one.minimum_detectable_change
                elif one.verdict is Verdict.PASS:
                    ratio = 0.0
                else:
                    ratio = float("inf")  # what must not change at all, or a curve at fault
                ratios[one.metric, one.summary].append(ratio)
        return max((abs(float(np.mean(found))) for found in ratios.values()), default=0.0)


def fails(checks: Iterable[str], metrics: MetricsView) -> bool:
    """Whether a run fails one of its hand-typed thresholds."""
    return not all(evaluate_text(check, metrics).passed for check in checks)


def deviation(golden: MetricsView, metrics: MetricsView) -> float:
    """Largest relative distance of a golden metric, over windows of ten logged steps.

    Losses are what golden curves usually hold; where the reward is the aim, it stands in.
    """
    names = [name for name in GOLDEN_METRICS if name in golden]
    if "train/reward" in golden:
        names = ["train/reward"]
    worst = 0.0
    for name in names:
        expected, found = golden[name], metrics.get(name, {})
        steps = sorted(expected)
        for start in range(0, len(steps), GOLDEN_WINDOW):
            window = steps[start : start + GOLDEN_WINDOW]
            if any(step not in found for step in window):
                return float("inf")
            before = float(np.mean([expected[step] for step in window]))
            after = float(np.mean([found[step] for step in window]))
            distance = abs(after - before) / max(abs(before), 1e-12)
            worst = max(worst, distance if np.isfinite(distance) else float("inf"))
    return worst


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
    return Alarms(num_nights if recipes else 0, *map(int, counts))
