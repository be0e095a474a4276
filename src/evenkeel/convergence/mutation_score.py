"""How many planted bugs several ways of judging find, and how often each is wrong. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from evenkeel.convergence import curves
from evenkeel.convergence.customary_judges import GOLDEN_TOLERANCE, deviation, fails
from evenkeel.convergence.error_budget import MAX_LOOKS, Budget
from evenkeel.convergence.mutation_judge import OPEN, Judge, Judged, Known, RecipeRuns

JUDGES = (
    "ours",
    "elsewhere",
    "statistics",
    "thresholds",
    "golden",
    "golden_widened",
    "golden_same_seed",
)


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
            "elsewhere": lambda one: one.elsewhere not in OPEN,
            "statistics": lambda one: one.by_statistics not in OPEN,
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
    judge = Judge(budget, [curves.of_runs([r.metrics for r in one.baseline]) for one in ready])
    mutants, healthy, harmless = [], [], []
    for one in ready:
        known = Known.of(one)
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
        sum(one.elsewhere not in OPEN for one in judged),
        sum(one.by_statistics not in OPEN for one in judged),
        sum(one.by_thresholds for one in judged),
        sum(one.by_golden for one in judged),
    )


def _nights(judge: Judge, recipes: Sequence[RecipeRuns], num_nights: int, seed: int) -> Alarms:
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
            night |= [verdict not in OPEN, fails(one.checks, new[0].metrics), golden]
        counts += night
    ours, thresholds, golden_curve = map(int, counts)
    # fresh seeds: the statistics alone decides
    return Alarms(num_nights if recipes else 0, ours, ours, ours, thresholds, golden_curve)
