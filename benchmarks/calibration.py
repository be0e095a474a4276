"""How often each way of judging cries wolf, and what it finds.

    python benchmarks/calibration.py [--recipes 400] [--scalars 2000] [--golden FILE.jsonl.gz]

Ours, a golden curve with 5 % tolerance, the mean of the baseline with 5 % tolerance, and the plain
t prediction interval, on a simulated population of recipes (``simulated_population``) and, where a
file of successive recordings of real curves is given, on those.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import simulated_population as population
from numpy.typing import NDArray
from scipy import stats

from evenkeel.convergence.comparison import Options, compare_runs
from evenkeel.convergence.error_budget import Budget
from evenkeel.convergence.verdict import Verdict

Array = NDArray[np.float64]
Judge = Callable[[Array, list[Array]], str]
GOOD = {Verdict.PASS, Verdict.IMPROVED}


def as_metrics(name: str, curve: Array) -> dict[str, dict[int, float]]:
    return {name: dict(enumerate(curve.tolist(), start=1))}


def ours(name: str, looks: int, alpha: float) -> Judge:
    options = Options(budget=Budget(alpha, looks=looks), with_advice=False)

    def judge(baseline: Array, new: list[Array]) -> str:
        runs = [as_metrics(name, curve) for curve in baseline]
        for count in range(1, looks + 1):
            found = compare_runs(runs, [as_metrics(name, one) for one in new[:count]], options)
            if not found.asks_for_confirmation:
                break
        return found.verdict.value

    return judge


def golden(baseline: Array, new: list[Array]) -> str:
    """``isclose(rtol=0.05)`` of the final value with one golden run, as suites do it."""
    return "PASS" if abs(new[0][-1] / baseline[0][-1] - 1) <= 0.05 else "REGRESSED"


def mean_of_baseline(baseline: Array, new: list[Array]) -> str:
    level = baseline[:, -1].mean()
    return "PASS" if abs(new[0][-1] / level - 1) <= 0.05 else "REGRESSED"


def plain_t(baseline: Array, new: list[Array]) -> str:
    """The textbook prediction interval of the final value, one-sided 1 %."""
    final = baseline[:, -1]
    count = len(final)
    limit = stats.t.ppf(0.99, count - 1) * final.std(ddof=1) * np.sqrt(1 + 1 / count)
    return "REGRESSED" if not new[0][-1] <= final.mean() + limit else "PASS"


def judges(name: str, alpha: float) -> dict[str, Judge]:
    return {
        "ours, one look": ours(name, 1, alpha),
        "ours, up to three looks": ours(name, 3, alpha),
        "golden run +-5 %": golden,
        "mean of baseline +-5 %": mean_of_baseline,
        "plain t 1 %": plain_t,
    }


def table(title: str, rows: dict[str, dict[str, Counter[str]]], columns: list[str]) -> None:
    print(f"\n{title}\n")
    print(f"| {'judge':24} | " + " | ".join(columns) + " |")
    print("| --- |" + " --- |" * len(columns))
    for judge, counts in rows.items():
        cells = []
        for column in columns:
            count = counts[column]
            total = sum(count.values())
            caught = sum(n for verdict, n in count.items() if verdict not in GOOD)
            doubt = count[Verdict.INCONCLUSIVE]
            cell = f"{(caught - doubt) / max(total, 1):.1%}"
            cells.append(cell + (f" (+{doubt / total:.1%} in doubt)" if doubt else ""))
        print(f"| {judge:24} | " + " | ".join(cells) + " |")


def simulated_curves(num_recipes: int, num_baseline: int, alpha: float, seed: int) -> None:
    rows: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for number in range(num_recipes):
        random = np.random.default_rng([seed, number])
        recipe = population.curve_recipe(random)
        runs = population.curves(recipe, num_baseline + 3, random)
        baseline, new = runs[:num_baseline], list(runs[num_baseline:])
        for judge, verdict in judges("train/loss", alpha).items():
            rows[judge]["healthy"][verdict(baseline, new)] += 1
            for fault, plant in population.FAULTS.items():
                if judge not in ("ours, one look", "ours, up to three looks"):
                    planted = [plant(new[0])]
                else:
                    planted = [plant(one) for one in new]
                rows[judge][fault][verdict(baseline, planted)] += 1
    title = f"Curves: {num_recipes} simulated recipes, K = {num_baseline}, promised {alpha:.1%}"
    table(title, rows, ["healthy", *population.FAULTS])


def simulated_scalars(num: int, num_baseline: int, alpha: float, seed: int) -> None:
    random = np.random.default_rng([seed, num_baseline])
    runs = population.scalars(num, num_baseline + 3, random)
    rows: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for one in runs:
        baseline = one[:num_baseline, None]
        for judge, verdict in judges("time", alpha).items():
            for name, factor in (("healthy", 1.0), ("slower by 10 %", 1.1), ("by 20 %", 1.2)):
                new = [np.array([value * factor]) for value in one[num_baseline:]]
                rows[judge][name][verdict(baseline, new)] += 1
    title = f"Times to a target: {num} configurations, K = {num_baseline}, promised {alpha:.1%}"
    table(title, rows, ["healthy", "slower by 10 %", "by 20 %"])


def golden_file(path: Path, alpha: float) -> None:
    """Each recording against those before it; the labels are unknown, most are harmless."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    judge = Options(budget=Budget(alpha, looks=1), with_advice=False)
    changed: dict[str, list[float]] = defaultdict(list)
    commits: Counter[str] = Counter()
    for case in _lines(path):
        versions = case["versions"]
        for number in range(1, len(versions)):
            past = [_loss(one) for one in versions[max(0, number - 5) : number]]
            new = _loss(versions[number])
            if not new or not all(past):
                continue
            found = compare_runs(past, [new], judge)
            counts[f"K = {len(past)}"][found.verdict.value] += 1
            if found.verdict is Verdict.REGRESSED:
                commits[str(versions[number]["commit"])] += 1
            for one in found.results:
                if one.summary == "final" and one.change is not None:
                    changed[found.verdict.value].append(abs(one.change))
    print("\nReal recordings, loss against up to five earlier ones:")
    for name, count in sorted(counts.items()):
        print(f"  {name}: " + ", ".join(f"{v} {n}" for v, n in count.most_common()))
    for verdict, sizes in changed.items():
        quantiles = np.quantile(sizes, [0.1, 0.5, 0.9, 1.0])
        print(f"  |change of the final window| of {verdict}: {np.array2string(quantiles)}")

    print(f"  alarms by commit: {commits.most_common()}")
    golden_faults(path, judge)


def golden_faults(path: Path, options: Options) -> None:
    """Faults planted into the last recording, where it agrees with those before within 0.2 %."""
    counts: dict[tuple[int, str], Counter[str]] = defaultdict(Counter)
    for case in _lines(path):
        curves = [_loss(one) for one in case["versions"]]
        for num_baseline in (1, 2, 3):
            runs = [one["lm loss"] for one in curves[-num_baseline - 1 :] if one]
            if len(runs) <= num_baseline or any(set(one) != set(runs[0]) for one in runs):
                continue
            steps = sorted(runs[0])
            values = np.array([[one[step] for step in steps] for one in runs])
            if not (np.abs(values - values[0]) <= 2e-3 * np.abs(values[0])).all():
                continue
            past = [{"lm loss": one} for one in runs[:-1]]
            for fault in ("higher by 1 %", "higher by 2 %", "drift to 3 %", "late divergence"):
                planted = np.round(population.FAULTS[fault](values[-1]), 5).tolist()
                new = {"lm loss": dict(zip(steps, planted, strict=True))}
                counts[num_baseline, fault][compare_runs(past, [new], options).verdict.value] += 1
    for (num_baseline, fault), count in sorted(counts.items()):
        print(f"  K = {num_baseline}, {fault}: {dict(count.most_common())}")


def _loss(version: dict[str, dict[str, dict[str, float | str]]]) -> dict[str, dict[int, float]]:
    series = version["metrics"].get("lm loss", {})
    return {"lm loss": {int(k): float(v) for k, v in series.items()}} if series else {}


def _lines(path: Path) -> Iterable[dict[str, list[dict[str, object]]]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", type=int, default=400)
    parser.add_argument("--scalars", type=int, default=2000)
    parser.add_argument("--alpha", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--golden", type=Path)
    args = parser.parse_args()
    for num_baseline in (3, 5):
        if args.recipes:
            simulated_curves(args.recipes, num_baseline, args.alpha, args.seed)
        if args.scalars:
            simulated_scalars(args.scalars, num_baseline, args.alpha, args.seed)
    if args.golden:
        golden_file(args.golden, args.alpha)
    return 0


if __name__ == "__main__":
    sys.exit(main())
