"""One new run against K: what must be found, and what must not be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from simulated_runs import Change, loss_curve, run, scale

from evenkeel.convergence.comparison import Options, compare_runs
from evenkeel.convergence.error_budget import Budget
from evenkeel.convergence.metric_kinds import Direction
from evenkeel.convergence.results import MetricResult
from evenkeel.convergence.verdict import Verdict
from evenkeel.metrics.series import Metrics

BASELINE = [run(seed) for seed in range(5)]


def verdict(new: Metrics, baseline: list[Metrics] | None = None) -> Verdict:
    return compare_runs(baseline or BASELINE, [new]).verdict


def test_a_healthy_run_passes() -> None:
    assert verdict(run(77)) is Verdict.PASS


def late(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    return values * np.where(steps > 0.92 * steps[-1], 1.5, 1.0)


def drift(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    return values * (1 + 0.1 * steps / steps[-1])


def lost_resumption(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    half = len(steps) // 2
    return np.concatenate([values[:half], values[: len(steps) - half]])


@pytest.mark.parametrize("change", [scale(1.08), drift, late, lost_resumption])
def test_faults_are_found(change: Change) -> None:
    assert verdict(run(77, change=change)) is Verdict.REGRESSED


def test_what_has_just_begun_to_diverge_is_found_by_the_end_alone() -> None:
    """Three noisy runs, and the last twentieth of the steps: too little for the final window."""

    def begins(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
        return values * np.interp(steps, [0.95 * steps[-1], steps[-1]], [1.0, 1.3])

    noisy = {"between": 0.01, "within": 0.05, "num_steps": 100}
    baseline = [run(seed, **noisy) for seed in range(3)]
    found = compare_runs(baseline, [run(77, change=begins, **noisy)], Options(Budget(looks=1)))
    regressed = {one.summary for one in found.results if one.verdict is Verdict.REGRESSED}
    assert found.verdict is Verdict.REGRESSED
    assert regressed == {"end"}


def test_a_better_run_is_improved() -> None:
    assert verdict(run(77, change=scale(0.9))) is Verdict.IMPROVED


def test_the_first_step_out_of_the_band_is_told() -> None:
    result = compare_runs(BASELINE, [run(77, change=late)]).offending()[0]
    assert result.step is not None and 270 <= result.step <= 282
    assert "out of the band from step" in result.message


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_decides(bad: float) -> None:
    new = run(77)
    new["train/loss"][123] = bad
    found = compare_runs(BASELINE, [new])
    assert found.verdict is Verdict.NON_FINITE
    assert "at step 123 for the first time" in found.message


def test_not_finite_where_the_baseline_is_not_either_is_left_out() -> None:
    runs = [*(run(seed) for seed in range(3)), run(77)]
    for one in runs:
        one["train/loss"][5] = math.nan
    found = compare_runs(runs[:3], runs[3:])
    assert found.verdict is Verdict.PASS
    assert found.notes == ("train/loss: 1 steps left out: not finite in the baseline either",)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (lambda step: step <= 150, "last step 150 of 300"),
        (lambda step: not 100 < step < 103, "2 of the baseline's 300 steps are missing"),
        (lambda step: step != 300, "last step 299 of 300"),
    ],
)
def test_missing_steps_are_incomplete(keep, message: str) -> None:  # type: ignore[no-untyped-def]
    new = {"train/loss": {s: v for s, v in run(77)["train/loss"].items() if keep(s)}}
    found = compare_runs(BASELINE, [new])
    assert found.verdict is Verdict.INCOMPLETE
    assert message in found.message


def test_a_missing_metric_is_incomplete_and_named() -> None:
    found = compare_runs(BASELINE, [{"train/other": {1: 1.0}}])
    assert found.verdict is Verdict.INCOMPLETE
    assert found.message == "train/loss: the run did not log it, the baseline did"


def test_another_logging_period_is_compared_on_common_steps() -> None:
    new = {"train/loss": {s: v for s, v in run(77)["train/loss"].items() if s % 10 == 0}}
    found = compare_runs(BASELINE, [new])
    assert found.verdict is Verdict.PASS
    assert found.notes == (
        "train/loss: logged every 10 steps, by the baseline every 1: 30 common steps are compared",
    )


def test_no_common_step_is_incomparable() -> None:
    new = {"train/loss": {s * 1000 + 7: 1.0 for s in range(1, 9)}}
    assert verdict(new) is Verdict.INCOMPARABLE


def test_extra_steps_are_noted_and_not_compared() -> None:
    found = compare_runs(BASELINE, [run(77, num_steps=300) | {}])
    assert found.notes == ()
    longer = run(77)
    longer["train/loss"] |= {301: 9.0, 302: 9.0}
    found = compare_runs(BASELINE, [longer])
    assert found.verdict is Verdict.PASS
    assert found.notes[0].startswith("train/loss: 2 steps that the baseline does not have")


def test_a_single_odd_step_moves_nothing() -> None:
    new = run(77)
    new["train/loss"][200] *= 30
    new["train/loss"][300] *= 5
    assert verdict(new) is Verdict.PASS


def test_a_step_of_zero_leaves_the_other_steps_their_say() -> None:
    def with_zero(seed: int, change: float = 1.0) -> Metrics:
        losses = run(seed)["train/loss"]
        return {"train/loss": {s: 0.0 if s == 150 else v * change for s, v in losses.items()}}

    base = [with_zero(seed) for seed in range(5)]
    found = compare_runs(base, [with_zero(77)])
    assert found.verdict is Verdict.PASS
    assert all(0 < one.minimum_detectable_change < 1 for one in found.results)
    assert compare_runs(base, [with_zero(77, 1.2)]).verdict is Verdict.REGRESSED


def test_equal_baseline_runs_do_not_pretend_to_have_no_noise() -> None:
    base = [run(1) for _ in range(5)]
    assert verdict(run(1, change=scale(1.0001)), base) is Verdict.PASS
    assert verdict(run(1, change=scale(1.01)), base) is Verdict.REGRESSED


@pytest.mark.parametrize("values", [[41, 41, 41], [41, 42, 41], [12.3, 12.1, 12.6]])
def test_single_numbers_are_compared(values: list[float]) -> None:
    base = [{"time": {1: float(v)}} for v in values]
    level = sum(values) / len(values)
    assert verdict({"time": {1: level * 1.01}}, base) is Verdict.PASS
    assert verdict({"time": {1: level * 1.6}}, base) is Verdict.REGRESSED
    found = compare_runs(base, [{"time": {1: level}}])
    assert [one.summary for one in found.results] == ["value"]


def test_a_schedule_must_be_the_same() -> None:
    rates = {step: step / 300 for step in range(1, 301)}
    base = [{"train/lr": rates} for _ in range(3)]
    assert verdict({"train/lr": dict(rates)}, base) is Verdict.PASS
    found = compare_runs(base, [{"train/lr": rates | {17: 0.1}}])
    assert found.verdict is Verdict.REGRESSED
    assert "at step 17" in found.message


def test_speed_is_noted_and_does_not_mask_the_verdict() -> None:
    def with_speed(seed: int, time_s: float) -> Metrics:
        noise = np.random.default_rng(seed).standard_normal(300)
        times = dict(enumerate((time_s * (1 + 0.02 * noise)).tolist(), start=1))
        return {**run(seed), "timing/train/total_step_time": times}

    base = [with_speed(seed, 1.0) for seed in range(5)]
    found = compare_runs(base, [with_speed(77, 1.5)])
    assert found.verdict is Verdict.PASS
    assert {one.label for one in found.speed_notes()} == {"SLOWER"}
    only = [{"step_time": one["timing/train/total_step_time"]} for one in base]
    slow = {"step_time": with_speed(77, 1.5)["timing/train/total_step_time"]}
    assert compare_runs(only, [slow]).verdict is Verdict.REGRESSED


def step_times(seed: int, factor: float = 1.0, late: float = 1.0) -> Metrics:
    """200 steps: a compiling start, 2 % between runs, 5 % between steps, a save every 50 steps."""
    random = np.random.default_rng([7, seed])
    times = factor * np.exp(0.02 * random.standard_normal() + 0.05 * random.standard_normal(200))
    times[:5] *= 8 * np.exp(random.standard_normal())
    times[49::50] += 3.0
    times[150:] *= late
    return {"timing/train/total_step_time": dict(enumerate(times.tolist(), start=1))}


def test_speed_is_the_typical_step_after_the_warm_up() -> None:
    base = [step_times(seed) for seed in range(5)]

    def told(new: Metrics) -> tuple[set[str], set[str]]:
        notes = compare_runs(base, [new]).speed_notes()
        return {one.label for one in notes}, {one.summary for one in notes}

    healthy = [told(step_times(seed)) for seed in range(100, 160)]
    assert sum(labels != set() for labels, _ in healthy) <= 2
    assert told(step_times(77, factor=1.2)) == ({"SLOWER"}, {"median", "final"})
    assert told(step_times(77, factor=0.7)) == ({"FASTER"}, {"median", "final"})
    assert told(step_times(77, late=1.3)) == ({"SLOWER"}, {"final"})


def test_a_doubt_about_speed_is_only_shown_where_speed_decides() -> None:
    """No confirming run is trained for it."""
    base, new = [step_times(seed) for seed in range(5)], step_times(77, factor=1.1)
    alone = compare_runs(base, [new])
    assert alone.verdict is Verdict.INCONCLUSIVE
    assert alone.offending()
    both = [{**run(seed), **times} for seed, times in enumerate(base)]
    beside = compare_runs(both, [{**run(77), **new}])
    assert beside.verdict is Verdict.PASS
    assert any(one.verdict is Verdict.INCONCLUSIVE for one in beside.results)
    assert beside.offending() == []


def test_directions_can_be_overridden() -> None:
    base = [{"odd": loss_curve(seed)} for seed in range(5)]
    new = {"odd": loss_curve(77, change=scale(0.9))}
    assert compare_runs(base, [new]).verdict is Verdict.REGRESSED
    lower = Options(directions={"odd": Direction.LOWER})
    assert compare_runs(base, [new], lower).verdict is Verdict.IMPROVED


def test_doubt_asks_for_a_confirming_run_until_the_last_look() -> None:
    doubtful = [run(seed, change=scale(1.02)) for seed in range(77, 80)]
    first = compare_runs(BASELINE, doubtful[:1])
    assert first.verdict is Verdict.INCONCLUSIVE
    assert first.asks_for_confirmation
    last = compare_runs(BASELINE, doubtful)
    assert last.verdict in (Verdict.REGRESSED, Verdict.PASS)
    at_once = compare_runs(BASELINE, doubtful[:1], Options(budget=Budget(looks=1)))
    assert at_once.verdict in (Verdict.REGRESSED, Verdict.PASS)


@pytest.mark.parametrize("factor", [1.05, 1.3, 2.0])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_run_that_is_far_off_does_not_hide_in_the_spread_of_several(
    place: int, factor: float
) -> None:
    runs = [run(77, change=scale(1.018)), run(78), run(79)]
    assert compare_runs(BASELINE, runs).verdict is Verdict.PASS
    runs[place] = run(77 + place, change=scale(factor))
    found = compare_runs(BASELINE, runs)
    assert found.verdict is Verdict.REGRESSED
    assert f"run {place + 1} of 3 alone" in found.message


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_loss_that_never_changes_is_no_improvement(value: float) -> None:
    found = compare_runs(BASELINE, [{"train/loss": dict.fromkeys(range(1, 301), value)}])
    assert found.verdict is Verdict.REGRESSED
    assert f"{value:.6g} at all of 300 steps" in found.message


def test_a_metric_with_few_values_may_stay_at_one() -> None:
    base = [{"validation/accuracy": {step: 0.9 + step % 3 / 100 for step in range(60)}}] * 5
    new = {"validation/accuracy": dict.fromkeys(range(60), 0.92)}
    assert compare_runs(base, [new]).verdict is not Verdict.REGRESSED


def scores(name: str, seed: int, level: float) -> Metrics:
    """A metric that varies by a third of ``level`` around it, and stays in [0, 1]."""
    noise = np.random.default_rng(seed).uniform(-1, 1, 20)
    values = np.clip(level * (1 + (noise + noise[0]) / 6), 0, 1)
    return {name: dict(zip(range(10, 210, 10), values.tolist(), strict=True))}


@pytest.mark.parametrize("level", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("found", [0.01, 0.3, 1.0])
def test_the_bounds_of_a_share_end_at_0_and_1_and_change_no_verdict(
    level: float, found: float
) -> None:
    def compared(name: str) -> list[MetricResult]:
        base = [scores(name, seed, level) for seed in range(5)]
        options = Options(directions={name: Direction.HIGHER}, picture_all=True)
        return list(compare_runs(base, [scores(name, 77, found)], options).results)

    shares, others = compared("accuracy"), compared("score")
    assert [one.verdict for one in shares] == [one.verdict for one in others]
    for share, other in zip(shares, others, strict=True):
        assert share.value == other.value
        assert share.minimum_detectable_change == other.minimum_detectable_change
        if share.summary == "steps_to_target":
            continue
        assert share.low is not None and share.high is not None and share.value is not None
        assert other.low is not None and other.high is not None
        assert (share.low, share.high) == (max(other.low, 0), min(other.high, 1))
        inside = other.low <= share.value <= other.high
        assert (share.low <= share.value <= share.high) is inside
        assert share.picture is not None
        assert min(share.picture.low) >= 0 and max(share.picture.high) <= 1


def test_an_accuracy_in_per_cent_and_a_reward_keep_their_bounds() -> None:
    for name, level, new in (("accuracy", 98.0, 99.0), ("train/reward", 0.9, 0.95)):
        base = [{name: {100: level + seed / 100}} for seed in range(3)]
        (found,) = compare_runs(base, [{name: {100: new}}]).results
        assert found.high is not None and found.high > max(new, 1.0)


def test_the_contract_of_json() -> None:
    told = compare_runs(BASELINE, [run(77)]).to_json()
    assert list(told)[:3] == ["verdict", "family_error", "metrics"]
    assert (told["verdict"], told["family_error"]) == ("PASS", 0.01)
    for one in told["metrics"]:
        assert list(one)[:8] == [
            "metric", "summary", "value", "low", "high", "minimum_detectable_change", "verdict",
            "message",
        ]  # fmt: skip
        assert one["low"] <= one["value"] <= one["high"]
        assert one["minimum_detectable_change"] > 0


def same_data(seed: int, change: Change | None = None) -> Metrics:
    """A run that differs from its like by rounding alone."""
    noise = np.random.default_rng(seed).standard_normal(300)

    def rounded(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
        moved = values * (1 + 1e-5 * noise)
        return moved if change is None else change(steps, moved)

    return run(1, change=rounded)


def test_runs_that_follow_each_other_closely_need_no_spread_to_show_a_drift() -> None:
    def drifting(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
        return values * (1 + 0.03 * steps / steps[-1])

    assert verdict(same_data(2), [same_data(1)]) is Verdict.PASS
    assert verdict(same_data(2, drifting), [same_data(1)]) is Verdict.REGRESSED
    assert verdict(run(77, change=drifting), [run(1)]) is not Verdict.REGRESSED


def test_healthy_runs_of_many_recipes_raise_no_more_alarms_than_promised() -> None:
    alarms = 0
    options = Options(budget=Budget(looks=1), with_advice=False)
    for seed in range(60):
        random = np.random.default_rng(seed)
        settings = {
            "between": float(np.exp(random.normal(np.log(0.003), 1))),
            "within": float(np.exp(random.normal(np.log(0.02), 1))),
            "num_steps": int(random.choice([20, 100, 300])),
        }
        runs = [run(1000 * seed + number, **settings) for number in range(6)]
        alarms += compare_runs(runs[:5], runs[5:], options).verdict is not Verdict.PASS
    # 0.6 are promised at most; 5 would come once in 2,500 such sets
    assert alarms <= 4
