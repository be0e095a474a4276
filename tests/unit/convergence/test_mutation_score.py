"""The mutation table as a pure function of curves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evenkeel.convergence.customary_judges import GOLDEN_TOLERANCE, deviation
from evenkeel.convergence.mutation_judge import RecipeRuns, TrainedRun
from evenkeel.convergence.mutation_score import score
from evenkeel.convergence.verdict import Verdict
from evenkeel.report import mutation_text


def run(seed: int, level: float = 1.0, mutant: str = "healthy", status: int = 0) -> TrainedRun:
    """A falling loss that ends near ``level``, with the noise of ``seed``."""
    random = np.random.default_rng(seed)
    steps = np.arange(1, 61)
    curve = level * (1 + 4 * np.exp(-steps / 10)) * np.exp(random.normal(0, 0.002))
    curve *= np.exp(random.normal(0, 0.01, len(steps)))
    loss = dict(zip(steps.tolist(), curve.tolist(), strict=True))
    return TrainedRun(mutant, seed, status, {"train/loss": loss})


def table(**mutants: list[TrainedRun]) -> RecipeRuns:
    return RecipeRuns(
        name="small",
        checks=('mean(data["train/loss"], -10, 0) < 1.3',),
        baseline=[run(seed) for seed in range(1, 6)],
        healthy=[run(seed) for seed in range(101, 113)],
        mutants=mutants,
    )


def test_a_bug_that_thresholds_forgive_is_found() -> None:
    worse = [run(seed, 1.2, "worse") for seed in (201, 202)]
    found = score([table(worse=worse)], num_nights=50)
    (mutant,) = found.mutants
    assert mutant.verdict is Verdict.REGRESSED
    assert mutant.found and mutant.by_golden and not mutant.by_thresholds
    assert mutant.effect is not None and mutant.effect > 1
    assert mutant.by_statistics is Verdict.REGRESSED and mutant.ratio is None
    assert found.detectable == found.mutants
    assert (found.runs.num, found.runs.ours, found.nights.num, found.nights.ours) == (12, 0, 50, 0)


def test_a_bug_without_an_effect_is_no_detectable_one() -> None:
    found = score([table(same=[run(201, 1.0, "same"), run(202, 1.0, "same")])], num_nights=0)
    assert found.found("ours") == 0 and found.detectable == ()
    assert found.mutants[0].num_runs == 1


def test_a_small_bug_is_found_by_the_run_of_the_same_seed() -> None:
    plain = table(small=[run(1, 1.001, "small"), run(2, 1.001, "small"), run(201, 1.001, "small")])
    twins = [run(1, 1 + 1e-6)]
    harmless = {"other-order": run(1, 1 + 3e-6)}
    found = score([replace(plain, twins=twins, harmless=harmless)], num_nights=0)
    (mutant,), (change,) = found.mutants, found.harmless
    assert (mutant.verdict, mutant.by_statistics) == (Verdict.REGRESSED, Verdict.PASS)
    judges = ("ours", "elsewhere", "statistics")
    assert [found.found(judge) for judge in judges] == [1, 1, 0]
    assert found.mutants[0].elsewhere is Verdict.REGRESSED
    assert mutant.effect is not None and mutant.effect > 1  # told by seed 2, which is not judged
    assert not change.found and change.ratio is not None and 0 < change.ratio < 1
    assert (found.changes.num, found.changes.ours, found.runs.ours) == (1, 0, 0)
    assert found.same_seed_tolerance == GOLDEN_TOLERANCE and not found.found("golden_same_seed")
    assert "| other-order | small | PASS |" in mutation_text.table(found)


def test_a_crash_is_found_by_everyone() -> None:
    found = score([table(crash=[TrainedRun("crash", 201, 1, {})])], num_nights=0)
    (mutant,) = found.mutants
    assert mutant.verdict is Verdict.CRASHED
    assert mutant.found and mutant.by_thresholds and mutant.by_golden
    assert mutation_text.as_json(found)["mutants"][0]["effect"] is None


def test_the_golden_curve_is_widened_to_our_false_alarms() -> None:
    noisy = table(worse=[run(201, 1.2, "worse")])
    healthy = [*noisy.healthy[:-1], run(112, 1.0 + 0.1)]  # beyond 5 %, but it may be healthy
    found = score([RecipeRuns("small", (), noisy.baseline, healthy, noisy.mutants)], num_nights=0)
    flagged = sum(one.deviation > found.widened_tolerance for one in found.healthy)
    assert flagged <= found.runs.ours
    assert found.widened_tolerance >= GOLDEN_TOLERANCE


def test_a_recipe_without_healthy_runs_is_left_out_and_said() -> None:
    empty = RecipeRuns("empty", (), [], [], {"worse": [run(1)]})
    found = score([empty, table()], num_nights=0)
    assert found.without_runs == ("empty",) and found.mutants == ()
    assert "for want of healthy runs: empty" in mutation_text.table(found)


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"train/loss": {1: 1.0, 2: 1.0}}, 0.0),
        ({"train/loss": {1: 1.2, 2: 1.0}}, 0.1),
        ({"train/loss": {1: 1.0}}, float("inf")),
        ({"train/loss": {1: 1.0, 2: float("nan")}}, float("inf")),
        ({}, float("inf")),
    ],
)
def test_distance_from_a_golden_curve(
    metrics: dict[str, dict[int, float]], expected: float
) -> None:
    assert deviation({"train/loss": {1: 1.0, 2: 1.0}}, metrics) == pytest.approx(expected)


def test_where_there_is_a_reward_it_is_the_golden_metric() -> None:
    golden = {"train/loss": {1: 1.0}, "train/reward": {1: 1.0}}
    assert deviation(golden, {"train/loss": {1: 9.0}, "train/reward": {1: 1.0}}) == 0.0
