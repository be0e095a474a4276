"""Checks on metrics: ranges, outcomes, margins, and NaN that passes nothing."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.errors import InputError
from evenkeel.metrics.evaluation import CheckResult, Outcome, evaluate_text

METRICS = {
    "train/loss": {step: 1.0 / step for step in range(1, 51)},
    "validation/accuracy": {10: 0.1, 20: 0.5, 30: 0.9},
    "gap": {1: 1.0, 2: math.nan, 3: 3.0},
    "peak": {1: 1.0, 2: math.inf, 3: -math.inf},
    "from_zero": {0: 100.0, 1: 2.0, 2: 4.0},
    "nothing": {},
}


def judge(text: str) -> CheckResult:
    return evaluate_text(text, METRICS)


@pytest.mark.parametrize(
    ("text", "value", "samples"),
    [
        ('data["train/loss"]["2"] < 9', 0.5, 1),
        ('data["train/loss"][2] < 9', 0.5, 1),
        ('data["train/loss"]["-1"] < 9', 1 / 50, 1),
        ('mean(data["train/loss"]) < 9', statistics.fmean(1 / s for s in range(1, 51)), 50),
        (
            'mean(data["train/loss"], -10, -1) < 9',
            statistics.fmean(1 / s for s in range(41, 50)),
            9,
        ),
        (
            'mean(data["train/loss"], -10, 0) < 9',
            statistics.fmean(1 / s for s in range(41, 51)),
            10,
        ),
        ('mean(data["train/loss"], -10) < 9', statistics.fmean(1 / s for s in range(41, 51)), 10),
        ('mean(data["train/loss"], 1, 3) < 9', 0.75, 2),
        ('mean(data["train/loss"], 49, 60) < 9', (1 / 49 + 1 / 50) / 2, 2),
        ('max(data["train/loss"], 5, 0) < 9', 0.2, 46),
        ('min(data["train/loss"], 1, -45) < 9', 0.2, 5),
        ('median(data["train/loss"], 1, 5) < 9', (1 / 2 + 1 / 3) / 2, 4),
        ('ratio_above(data["train/loss"], 0.5) < 9', 0.04, 50),
        ('mean(data["validation/accuracy"], -11, 0) < 9', 0.7, 2),
        ('mean(data["train/loss"], 1, 5, ignore_top_p=0.25) < 9', (1 / 2 + 1 / 3 + 1 / 4) / 3, 4),
        ('mean(data["train/loss"], 1, 5, ignore_top_p=1) < 9', 0.25, 4),
        ('max(data["train/loss"], 1, 5, ignore_top_p=0.3) < 9', 1 / 3, 4),
        ('mean(data["from_zero"]) < 999', 106 / 3, 3),
        ('mean(data["from_zero"], 1) < 999', 3.0, 2),
        ('mean(data["from_zero"], 0, 1) < 999', 100.0, 1),
        ('abs(-data["train/loss"]["2"]) < 9', 0.5, 1),
        ('max(data["train/loss"]["2"], 0.7) < 9', 0.7, 1),
        ('2 * data["train/loss"]["2"] + 7 % 4 - 7 // 4 + 2 ** 3 / 4 < 9', 5.0, 1),
    ],
)
def test_what_is_read_and_computed(text: str, value: float, samples: int) -> None:
    result = judge(text)
    assert result.outcome is Outcome.PASSED, result.message
    assert result.value == pytest.approx(value, rel=1e-12)
    assert result.samples == samples


@pytest.mark.parametrize(
    ("text", "passed", "value", "bound", "margin"),
    [
        ('data["train/loss"]["2"] < 0.6', True, 0.5, 0.6, 0.1),
        ('data["train/loss"]["2"] > 0.6', False, 0.5, 0.6, -0.1),
        ('0.6 > data["train/loss"]["2"]', True, 0.5, 0.6, 0.1),
        ('data["train/loss"]["2"] < 0.5', False, 0.5, 0.5, 0.0),
        ('data["train/loss"]["2"] <= 0.5', True, 0.5, 0.5, 0.0),
        ('data["train/loss"]["2"] == 0.5', True, 0.5, 0.5, 0.0),
        ('data["train/loss"]["2"] != 0.6', True, 0.5, 0.6, 0.1),
        ('data["train/loss"]["2"] == 0.6', False, 0.5, 0.6, -0.1),
        ('0.1 < data["train/loss"]["2"] < 0.6', True, 0.5, 0.6, 0.1),
        ('0.45 < data["train/loss"]["2"] < 0.6', True, 0.5, 0.45, 0.05),
        ('not data["train/loss"]["2"] < 0.6', False, 0.5, 0.6, -0.1),
        ('not not data["train/loss"]["2"] < 0.6', True, 0.5, 0.6, 0.1),
        ('not (0.1 < data["train/loss"]["2"] < 0.3)', True, 0.5, 0.3, 0.2),
        ('data["train/loss"]["2"] < 9 and data["train/loss"]["4"] < 0.3', True, 0.25, 0.3, 0.05),
        ('data["train/loss"]["2"] < 0.4 or data["train/loss"]["4"] < 0.3', True, 0.25, 0.3, 0.05),
        ('data["train/loss"]["2"] < 0.4 or data["train/loss"]["4"] < 0.2', False, 0.25, 0.2, -0.05),
        ('data["train/loss"]["4"] < data["train/loss"]["2"]', True, 0.25, 0.5, 0.25),
    ],
)
def test_value_bound_and_margin(
    text: str, passed: bool, value: float, bound: float, margin: float
) -> None:
    result = judge(text)
    assert result.passed is passed
    assert result.value == pytest.approx(value)
    assert result.bound == pytest.approx(bound)
    assert result.margin == pytest.approx(margin)


@pytest.mark.parametrize(
    ("text", "step"),
    [
        (f"{form}", 2)
        for form in (
            'data["gap"]["2"] < 9',
            'data["gap"]["2"] != 9',
            'not data["gap"]["2"] > 9',
            'max(data["gap"]) < 9',
            'min(data["gap"]) > 0',
            'mean(data["gap"]) < 9',
            'median(data["gap"]) < 9',
            'mean(data["gap"], ignore_top_p=0.5) < 9',
            'ratio_above(data["gap"], 99) < 9',
            'max(data["gap"]) < 9 or data["train/loss"]["1"] < 9',
            'data["train/loss"]["1"] < 9 or not max(data["gap"]) < 9',
            'max(data["peak"]) > 0',
            'max(data["peak"], 2, 3) > 0',
            'min(data["gap"]["2"], 1) < 2',
        )
    ],
)
def test_a_value_that_is_not_finite_passes_no_comparison(text: str, step: int) -> None:
    result = judge(text)
    assert result.outcome is Outcome.NON_FINITE
    assert f"at step {step}" in result.message
    assert result.value is None


def test_a_value_that_is_not_finite_outside_the_range_does_no_harm() -> None:
    assert judge('max(data["gap"], 3) == 3').passed
    assert judge('data["gap"]["1"] == 1').passed


@pytest.mark.parametrize(
    ("text", "outcome", "message"),
    [
        ('data["train/los"]["1"] < 9', Outcome.MISSING_METRIC, "did you mean 'train/loss'?"),
        ('data["train/loss"]["60"] < 9', Outcome.MISSING_STEP, "it has 50 steps, 1 to 50"),
        ('data["train/loss"]["-60"] < 9', Outcome.MISSING_STEP, "no step -60"),
        ('data["nothing"]["1"] < 9', Outcome.MISSING_STEP, "no steps at all"),
        ('mean(data["nothing"]) < 9', Outcome.EMPTY_RANGE, "no steps at all"),
        ('mean(data["train/loss"], 60, 70) < 9', Outcome.EMPTY_RANGE, "steps [60, 70)"),
        ('mean(data["train/loss"], 5, 5) < 9', Outcome.EMPTY_RANGE, "steps [5, 5)"),
        ('mean(data["validation/accuracy"], -5, -1) < 9', Outcome.EMPTY_RANGE, "3 steps, 10 to 30"),
        ('not data["none"]["1"] < 9', Outcome.MISSING_METRIC, "no metric 'none'"),
        ('1 < 2 or data["none"]["1"] < 9', Outcome.MISSING_METRIC, "no metric 'none'"),
        ('data["none"]["1"] < max(data["gap"])', Outcome.NON_FINITE, "no metric 'none'"),
        ('1 / (data["train/loss"]["1"] - 1) < 9', Outcome.FAILED, "divides by zero"),
        ('0 ** (-data["train/loss"]["1"]) < 9', Outcome.FAILED, "divides by zero"),
        ('(-data["train/loss"]["1"]) ** 0.5 < 9', Outcome.FAILED, "finite real"),
        ('9 ** 9 ** 9 ** 9 > data["train/loss"]["1"]', Outcome.FAILED, "finite real"),
        ('1e308 * 10 > data["train/loss"]["1"]', Outcome.FAILED, "finite real"),
    ],
)
def test_what_cannot_be_judged_has_its_own_outcome(
    text: str, outcome: Outcome, message: str
) -> None:
    result = judge(text)
    assert result.outcome is outcome
    assert message in result.message
    assert not result.passed


def test_messages_and_the_keys_for_machines() -> None:
    result = judge('data["train/loss"]["2"] > 0.625')
    assert result.to_json() == {
        "check": 'data["train/loss"]["2"] > 0.625',
        "value": 0.5,
        "passed": False,
        "margin": -0.125,
        "message": "0.5 > 0.625 does not hold",
        "outcome": "FAILED",
        "bound": 0.625,
        "relative_margin": -0.2,
        "samples": 1,
    }
    close = evaluate_text('data["a"]["1"] < 0.5', {"a": {1: 0.50000000001}})
    assert close.message == "0.50000000001 < 0.5 does not hold"
    assert judge('data["train/loss"]["2"] > 0').relative_margin is None


def test_a_text_that_is_no_check_is_an_input_error() -> None:
    with pytest.raises(InputError):
        judge('data["train/loss"] < 1')


FINITE = st.floats(-1e6, 1e6)
BOUNDS = st.one_of(st.none(), st.integers(-40, 40))


@given(
    st.dictionaries(st.integers(0, 30), st.floats(), min_size=1),
    BOUNDS,
    BOUNDS,
    st.sampled_from(["mean", "max", "min", "median"]),
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    st.booleans(),
)
def test_ranges_and_comparisons_agree_with_their_definition(
    values: dict[int, float],
    start: int | None,
    end: int | None,
    function: str,
    op: str,
    negated: bool,
) -> None:
    last = max(values)
    low = -1 if start is None else start + (last + 1 if start < 0 else 0)
    high = last + 1 if end is None else end + (last + 1 if end <= 0 else 0)
    chosen = [value for step, value in values.items() if low <= step < high]
    arguments = "" if start is None else f", start={start}"
    arguments += "" if end is None else f", end={end}"
    comparison = f'{function}(data["m"]{arguments}) {op} 0.5'
    result = evaluate_text(f"not {comparison}" if negated else comparison, {"m": values})
    assert result.samples == len(chosen)
    if not chosen:
        assert result.outcome is Outcome.EMPTY_RANGE
    elif not all(map(math.isfinite, chosen)):
        assert result.outcome is Outcome.NON_FINITE
    elif result.value is None:
        assert result.outcome is Outcome.FAILED  # a mean beyond the largest double
    else:
        fold = {"mean": statistics.fmean, "max": max, "min": min, "median": statistics.median}
        value = fold[function](chosen)  # type: ignore[operator]
        assert result.value == value
        holds = {
            "<": value < 0.5,
            "<=": value <= 0.5,
            ">": value > 0.5,
            ">=": value >= 0.5,
            "==": value == 0.5,
            "!=": value != 0.5,
        }[op]
        assert result.passed is (holds is not negated)
        assert result.margin is not None
        assert result.margin >= 0 if result.passed else result.margin <= 0
