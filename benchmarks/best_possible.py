"""What the best possible judge finds in the population of times to a target.

    uv run python benchmarks/best_possible.py [--configurations 20000] [--alpha 0.01]

Two judges that no user can have, beside ours. Both know the population, and their thresholds are
set on it, so that exactly ``--alpha`` of the healthy runs are flagged:

- *likelihood ratio*: how much likelier a result is after a slow-down by 10 to 80 % than without
  one, averaged over the posterior of the spread: what Neyman and Pearson's lemma says is best on
  average over those slow-downs and all configurations, as far as the posterior is right.
- *true spread*: the difference in units of the spread that the configuration really has.

Where ours comes close, more power needs more runs, not another test.
"""

from __future__ import annotations

import argparse
import itertools
import sys

import numpy as np
import simulated_population as population
from numpy.typing import NDArray
from scipy import stats

from evenkeel.convergence.error_budget import Budget
from evenkeel.convergence.measurement import measure
from evenkeel.convergence.metric_kinds import kind_of
from evenkeel.convergence.statistics import critical_difference

Array = NDArray[np.float64]
SLOWER = (0.1, 0.2)
ALTERNATIVES = np.log1p([0.10, 0.14, 0.20, 0.28, 0.40, 0.56, 0.80])
LOG_SPREADS = np.linspace(np.log(1e-3), np.log(0.6), 50)
NOISE = stats.t(6, scale=np.sqrt(4 / 6))
RUNS_FOR_TRUE_SPREAD = 200


def likelihood_ratio(baseline: Array, difference: Array, num_new: int) -> Array:
    """Slow-down against none, (configurations,); log times, spreads by the population's prior."""
    num = baseline.shape[1]
    spreads = np.exp(LOG_SPREADS)
    # runs that are all equal hide a spread: 1 % in place of 0 finds most
    variance = np.maximum(baseline.var(axis=1, ddof=1), 0.01**2 * (np.ptp(baseline, axis=1) == 0))
    logs = -0.5 * ((LOG_SPREADS - np.log(0.04)) / 1.2) ** 2
    logs = logs - (num - 1) * 0.8 * (LOG_SPREADS + variance[:, None] / (2 * spreads**2))
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    scale = spreads * np.sqrt(1 / num + 1 / num_new)

    def density(at: Array) -> Array:
        return np.asarray((weights * NOISE.pdf(at[:, None] / scale) / scale).sum(axis=1))

    slower = np.mean([density(difference - change) for change in ALTERNATIVES], axis=0)
    return np.where(difference > 0, slower / np.maximum(density(difference), 1e-300), 0.0)


def shares(healthy: Array, slower: list[Array], limit: Array | float) -> list[float]:
    return [float((values > limit).mean()) for values in (healthy, *slower)]


def rows(
    num: int, num_baseline: int, num_new: int, alpha: float, seed: int
) -> dict[str, list[float]]:
    """Shares that are flagged: healthy, slower by 10 %, by 20 %; one decision on the new runs."""
    random = np.random.default_rng([seed, num_baseline])
    judged = num_baseline + num_new
    times = population.scalars(num, judged + RUNS_FOR_TRUE_SPREAD, random)
    logs = np.log(times)
    baseline = logs[:, :num_baseline]
    difference = logs[:, num_baseline:judged].mean(axis=1) - baseline.mean(axis=1)
    changed = [difference + np.log1p(change) for change in SLOWER]

    ratios = [likelihood_ratio(baseline, one, num_new) for one in (difference, *changed)]
    unit = logs[:, judged:].std(axis=1) * np.sqrt(1 / num_new + 1 / num_baseline)
    known = [one / unit for one in (difference, *changed)]
    kind = kind_of("time")
    measured = measure(times[:, :judged, None], num_baseline, [kind] * num, [kind.prior] * num)
    budget = Budget(alpha, looks=1)
    tail = np.full(num, budget.alarm(1.0, 1) * (1 - budget.good_side))
    item = measured.items[0]
    limit = critical_difference(tail, np.full(num, measured.factor), item.spread)
    return {
        "ours": shares(difference, changed, limit),
        "likelihood ratio": shares(ratios[0], ratios[1:], np.quantile(ratios[0], 1 - alpha)),
        "true spread": shares(known[0], known[1:], np.quantile(known[0], 1 - alpha)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configurations", type=int, default=20_000)
    parser.add_argument("--alpha", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    print("| K | new runs | judge | healthy | slower by 10 % | by 20 % |")
    print("| --- |" + " --- |" * 5)
    for num_new, num_baseline in itertools.product((1, 3), (2, 3, 5, 8)):
        found = rows(args.configurations, num_baseline, num_new, args.alpha, args.seed)
        for judge, values in found.items():
            cells = " | ".join(f"{x:.1%}" for x in values)
            print(f"| {num_baseline} | {num_new} | {judge} | {cells} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
