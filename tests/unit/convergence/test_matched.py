"""The comparison with the run of the same seed: changes are found, rounding is not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from simulated_runs import loss_curve

from evenkeel.convergence import baseline_judgement, baseline_recording, curves, matched
from evenkeel.convergence.baseline import Acceptance
from evenkeel.convergence.comparison import Options
from evenkeel.convergence.matched import Pairs, compare_matched
from evenkeel.convergence.results import Comparison
from evenkeel.convergence.run_evidence import RunEvidence
from evenkeel.convergence.verdict import Verdict
from evenkeel.metrics.series import Metrics
from evenkeel.report import baseline_text

STEPS = 100
SEEDS = (1, 2, 3)
PLATFORM = {"device": "cpu", "cpu": "one", "device_count": 1}
Change = Callable[[np.ndarray, np.ndarray], np.ndarray]


def rounded(size: float, seed: int) -> Change:
    """Differences that grow from ``size`` a thousandfold, as rounding does."""
    random = np.random.default_rng(seed)

    def change(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
        growth = 1000.0 ** (steps / len(steps))
        return np.asarray(values * (1 + size * growth * random.uniform(-1, 1, len(steps))))

    return change


def from_step(first: int, factor: float) -> Change:
    return lambda steps, values: values * np.where(steps >= first, factor, 1.0)


def loss(seed: int, change: Change | None = None) -> Metrics:
    return {"train/loss": loss_curve(seed, num_steps=STEPS, change=change)}


def pairs(twin_size: float = 1e-7) -> Pairs:
    runs = [loss(seed) for seed in SEEDS]
    twins = [loss(1, rounded(twin_size, seed)) for seed in (11, 12)]
    return Pairs(curves.of_runs(runs), SEEDS, curves.of_runs(twins), (1, 1))


@pytest.mark.parametrize("seed", range(20, 30))
def test_what_rounding_does_is_no_finding(seed: int) -> None:
    (found,) = compare_matched(pairs(), loss(1, rounded(3e-7, seed)), 1)
    assert found.verdict is Verdict.PASS
    assert found.ratio is not None and found.ratio < 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("factor", [1.002, 0.998])
def test_a_change_far_below_the_spread_of_seeds_is_found_at_its_step(
    seed: int, factor: float
) -> None:
    (found,) = compare_matched(pairs(), loss(seed, from_step(60, factor)), seed)
    assert (found.verdict, found.step) == (Verdict.REGRESSED, 60)
    assert "at step 60, recorded" in found.message and "rounding explains ±" in found.message
    assert found.low is not None and found.high is not None and found.value is not None
    assert not found.low <= found.value <= found.high


def test_where_rounding_outgrows_the_seeds_it_says_nothing() -> None:
    (found,) = compare_matched(pairs(1e-5), loss(1, from_step(95, 1.5)), 1)
    assert found.verdict is Verdict.PASS
    last = int(found.message.rpartition(" ")[2])
    assert 30 < last < 95
    assert compare_matched(pairs(1e-2), loss(1, from_step(95, 1.5)), 1) == []


def test_faults_are_left_to_the_statistics_and_coarser_logging_is_none() -> None:
    short = {"train/loss": dict.fromkeys(range(1, 50), 1.0)}
    assert compare_matched(pairs(), short, 1) == []
    assert compare_matched(pairs(), {}, 1) == []
    broken = loss(1, lambda steps, values: np.where(steps == 30, np.nan, values))
    assert compare_matched(pairs(), broken, 1) == []
    coarse = {step: value for step, value in loss(1)["train/loss"].items() if step % 10 == 0}
    (found,) = compare_matched(pairs(), {"train/loss": coarse}, 1)
    assert found.verdict is Verdict.PASS


def accuracy(*values: float) -> Metrics:
    return {"validation/accuracy": dict(zip((50, 100), values, strict=True))}


def test_a_sample_on_the_edge_may_tip_over_and_two_may_not() -> None:
    runs = curves.of_runs([accuracy(0.25, 0.375), accuracy(0.125, 0.625), accuracy(0.5, 0.25)])
    twins = curves.of_runs([accuracy(0.25, 0.375)])
    known = Pairs(runs, SEEDS, twins, (1,))
    assert compare_matched(known, accuracy(0.25, 0.5), 1)[0].verdict is Verdict.PASS
    assert compare_matched(known, accuracy(0.25, 0.625), 1)[0].verdict is Verdict.REGRESSED


def test_what_rounding_explains_of_a_share_ends_at_0_and_1() -> None:
    runs = [accuracy(0.0, 1.0), accuracy(0.125, 1.0), accuracy(0.25, 0.875)]
    known = Pairs(curves.of_runs(runs), SEEDS, curves.of_runs([accuracy(0.125, 1.0)]), (2,))
    (found,) = compare_matched(known, accuracy(0.125, 1.0), 2)
    assert (found.verdict, found.value) == (Verdict.PASS, 0.125)
    (found,) = compare_matched(known, accuracy(0.125, 0.75), 2)
    assert (found.verdict, found.high) == (Verdict.REGRESSED, 1.0)
    assert found.message == "0.75 at step 100, recorded 1, rounding explains ±0.13"


def test_counts_and_diagnostics_must_be_the_same_and_speed_is_not_looked_at() -> None:
    def metrics(tokens: float, seconds: float) -> Metrics:
        series = dict.fromkeys(range(1, 11), tokens)
        return {"train/global_valid_toks": series, "timing/train/total_step_time": {1: seconds}}

    known = Pairs(
        curves.of_runs([metrics(100 + seed, 1.0) for seed in SEEDS]), SEEDS,
        curves.of_runs([metrics(101, 1.0)]), (1,),
    )  # fmt: skip
    (same,) = compare_matched(known, metrics(101, 3.0), 1)
    (other,) = compare_matched(known, metrics(100, 1.0), 1)
    assert (same.verdict, other.verdict) == (Verdict.PASS, Verdict.REGRESSED)


def evidence(
    seed: int, change: Change | None = None, twin: int = 0, **platform: str | float
) -> RunEvidence:
    config = {"seed": seed, "policy": {"numeric_twin": twin}}
    weights = float(platform.pop("weights", 0.02 + 1e-9 * twin))
    record = {
        "config": config, "platform": {**PLATFORM, **platform}, "initial_weights": weights
    }  # fmt: skip
    return RunEvidence(f"seed{seed}", loss(seed, change), record)


def judged(run: RunEvidence, *, twins: bool = True) -> Comparison:
    recorded = [evidence(seed) for seed in range(1, 6)]
    recorded += [evidence(1, rounded(1e-7, 11), twin=1)] if twins else []
    baseline = baseline_recording.of_evidence(
        recorded, recipe="x", accepted=Acceptance("a", "b", "c")
    )
    return baseline_judgement.compare_evidence(baseline, [run], Options())


def test_a_small_change_of_the_same_seed_is_regressed_and_the_words_say_how() -> None:
    found = judged(evidence(1, from_step(60, 1.002)))
    assert found.verdict is Verdict.REGRESSED
    assert found.message.startswith(
        "same seed, same numerics, and not the same training: train/loss is "
    )
    assert "evenkeel baseline accept" in found.message
    assert [one.summary for one in found.results].count(matched.SUMMARY) == 1


@pytest.mark.parametrize(
    ("run", "twins"),
    [
        (evidence(9, from_step(60, 1.002)), True),  # a seed that the baseline does not have
        # other weights are drawn from the seed there
        (evidence(1, from_step(60, 1.002), cpu="other", weights=0.02002), True),
        (evidence(1, from_step(60, 1.002)), False),
    ],
)
def test_without_a_match_the_statistics_judges_alone(run: RunEvidence, twins: bool) -> None:
    found = judged(run, twins=twins)
    assert found.verdict in (Verdict.PASS, Verdict.INCONCLUSIVE)
    assert matched.SUMMARY not in {one.summary for one in found.results}


@pytest.mark.parametrize(
    ("platform", "numerics"),
    [
        ({}, "same numerics"),
        ({"cpu": "other"}, "other numerics"),
        ({"device_count": 8, "weights": 0.02 + 1e-9}, "other numerics"),
    ],
)
def test_another_processor_may_round_ten_times_as_much(
    platform: dict[str, str | float], numerics: str
) -> None:
    rounds = judged(evidence(1, rounded(3e-6, 30), **platform))
    changed = judged(evidence(1, from_step(1, 1.002), **platform))
    assert rounds.verdict is (Verdict.PASS if platform else Verdict.REGRESSED)
    assert changed.verdict is Verdict.REGRESSED
    assert changed.message.startswith(f"same seed, {numerics}, and not the same training: ")


def test_other_weights_on_the_same_numerics_are_a_change_of_the_code() -> None:
    found = judged(evidence(1, from_step(1, 1.002), weights=0.02002))
    assert found.verdict is Verdict.REGRESSED


def test_the_same_training_passes_with_a_note_of_how_near_it_was() -> None:
    found = judged(evidence(1, rounded(1e-7, 30)))
    assert found.verdict is Verdict.PASS
    assert any("of what rounding explains, up to step" in note for note in found.notes)


def test_what_the_statistics_calls_better_stays_so_and_is_noted() -> None:
    found = judged(evidence(1, from_step(1, 0.8)))
    assert found.verdict is Verdict.IMPROVED
    assert any("not the same training" in note for note in found.notes)


def test_what_it_would_find_is_shown_with_the_baseline(
    capsys: pytest.CaptureFixture[str],
) -> None:
    recorded = [evidence(1), evidence(2), evidence(1, rounded(1e-7, 11), twin=1)]
    baseline = baseline_recording.of_evidence(
        recorded, recipe="x", accepted=Acceptance("a", "b", "c")
    )
    shown = baseline_text.numbers(baseline, Options())
    detectable = {one["summary"]: one["minimum_detectable_change"] for one in shown["metrics"]}
    assert detectable[matched.SUMMARY] < 0.01 * detectable["final"]
    assert [twin["seed"] for twin in shown["twins"]] == [1]
    baseline_text.print_baseline(baseline, "b.json", Options())
    assert "numeric twins of run1 (seed 1, 1)" in capsys.readouterr().out
