"""The order in which a run without a baseline is judged."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from evenkeel.convergence.verdict import (
    RunState,
    Verdict,
    first_non_finite_loss,
    judge,
)
from evenkeel.metrics.evaluation import evaluate_text
from evenkeel.run_record import TrainerExit

FALLING = {"train/loss": {1: 3.0, 2: 2.0, 3: 1.0}}
GOOD = 'data["train/loss"]["3"] < 1.5'
BAD = 'data["train/loss"]["3"] < 0.5'


def verdict(
    checks: list[str],
    *,
    metrics: Mapping[str, Mapping[int, float]] = FALLING,
    last_step: int = 3,
    exit_status: int | None = 0,
    last_words: str = "",
) -> tuple[Verdict, str]:
    state = RunState(last_step, 3, exit_status, last_words)
    judged = judge(state, metrics, [evaluate_text(check, metrics) for check in checks])
    assert judged.state is state
    return judged.verdict, judged.message


def test_only_pass_and_improved_exit_0() -> None:
    good = [verdict.value for verdict in Verdict if verdict.exit_code == 0]
    assert good == ["PASS", "IMPROVED"]


def test_a_whole_run_whose_checks_hold_passes() -> None:
    assert verdict([GOOD]) == (Verdict.PASS, "1 check passed")
    assert verdict([GOOD, GOOD]) == (Verdict.PASS, "2 checks passed")


def test_one_failed_check_is_a_regression() -> None:
    assert verdict([GOOD, BAD]) == (Verdict.REGRESSED, "1 of 2 checks failed")


def test_nothing_to_judge_by_is_no_pass() -> None:
    assert verdict([])[0] is Verdict.NO_BASELINE


def test_a_run_cut_short_does_not_pass_on_the_checks_it_meets() -> None:
    assert verdict(['max(data["train/loss"]) < 9'], last_step=2) == (
        Verdict.INCOMPLETE,
        "step 2 of 3",
    )


def test_a_stopped_run_is_incomplete_not_crashed() -> None:
    assert verdict([GOOD], last_step=2, exit_status=TrainerExit.STOPPED)[0] is Verdict.INCOMPLETE


def test_lost_metrics_are_no_pass() -> None:
    state = RunState(3, 3, 0, damage="12 records of events.1 are corrupt")
    judged = judge(state, FALLING, [evaluate_text(GOOD, FALLING)])
    assert judged.verdict is Verdict.INCOMPLETE
    assert "12 records" in judged.message


@pytest.mark.parametrize(
    ("status", "how"), [(1, "exited with status 1"), (-9, "was killed by signal 9")]
)
def test_a_trainer_that_died_crashed_even_when_its_checks_hold(status: int, how: str) -> None:
    judged, message = verdict([GOOD], exit_status=status, last_words="ValueError: no")
    assert judged is Verdict.CRASHED
    assert message == f"the trainer {how} after step 3:\nValueError: no"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("exit_status", [0, 1, TrainerExit.NON_FINITE, None])
def test_a_non_finite_loss_comes_before_everything_else(
    value: float, exit_status: int | None
) -> None:
    metrics = {"train/loss": {1: 3.0, 2: value, 3: value}}
    judged, message = verdict([GOOD], metrics=metrics, exit_status=exit_status, last_step=3)
    assert judged is Verdict.NON_FINITE
    assert message == f"train/loss is {value} at step 2, for the first time"


def test_a_non_finite_metric_that_a_check_reads_is_named() -> None:
    metrics = {**FALLING, "train/grad_norm": {1: 1.0, 2: math.nan}}
    judged, message = verdict(['max(data["train/grad_norm"]) < 9'], metrics=metrics)
    assert judged is Verdict.NON_FINITE
    assert "step 2" in message


def test_a_trainer_that_stopped_on_a_non_finite_value_is_not_merely_crashed() -> None:
    judged, message = verdict(
        [GOOD], exit_status=TrainerExit.NON_FINITE, last_words="grad norm nan"
    )
    assert (judged, "grad norm nan" in message) == (Verdict.NON_FINITE, True)


def test_the_value_that_it_stopped_on_is_named_where_it_was_logged() -> None:
    metrics = {**FALLING, "train/grad_norm": {2: 1.0, 3: math.inf}}
    judged, message = verdict([GOOD], metrics=metrics, exit_status=TrainerExit.NON_FINITE)
    assert judged is Verdict.NON_FINITE
    assert message == "train/grad_norm is inf at step 3, for the first time"


@pytest.mark.parametrize("check", ['mean(data["train/lsos"]) < 1', 'data["train/loss"]["9"] < 1'])
def test_a_missing_metric_or_step_is_not_judged_as_a_regression(check: str) -> None:
    judged, message = verdict([GOOD, check])
    assert judged is Verdict.INCOMPLETE
    assert "train/ls" in message or "9" in message


def test_the_first_non_finite_loss_is_the_earliest_of_all_losses() -> None:
    metrics = {
        "train/loss": {1: 1.0, 5: math.nan},
        "validation/loss": {4: math.inf},
        "train/preference_loss": {6: math.nan},
        "train/lr": {1: math.nan},
    }
    assert first_non_finite_loss(metrics) == ("validation/loss", 4, math.inf)
    assert first_non_finite_loss(FALLING) is None
