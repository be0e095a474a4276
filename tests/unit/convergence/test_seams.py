"""Runs that were continued, well and badly."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_runs import loss_curve

from evenkeel.convergence.seams import SeamKind, find_seams

WHOLE = loss_curve(3, num_steps=200)


def part(first: int, last: int) -> dict[str, dict[int, float]]:
    return {"train/loss": {step: WHOLE[step] for step in range(first, last + 1)}}


def kinds(*segments: dict[str, dict[int, float]]) -> list[tuple[SeamKind, int]]:
    return [(seam.kind, seam.step) for seam in find_seams(segments)]


def test_a_clean_continuation_has_no_seam() -> None:
    assert kinds(part(1, 100), part(101, 150), part(151, 200)) == []


def test_repeated_steps_with_the_same_values_are_no_seam() -> None:
    assert kinds(part(1, 104), part(101, 200)) == []


def test_repeated_steps_with_other_values_are_a_conflict() -> None:
    again = part(101, 200)
    again["train/loss"][102] *= 1.01
    found = find_seams([part(1, 104), again])
    assert [(one.kind, one.step) for one in found] == [(SeamKind.CONFLICT, 102)]
    assert "1 of 4 repeated steps came out differently" in found[0].message


def test_steps_that_nobody_trained_are_missing() -> None:
    assert (SeamKind.MISSING, 101) in kinds(part(1, 100), part(111, 200))


def test_a_metric_of_first_and_last_step_has_no_period() -> None:
    segments: list[dict[str, dict[int, float]]] = [
        {**part(1, 80), "validation/loss": {0: 5.0}},
        {**part(81, 200), "validation/loss": {200: 1.0}},
    ]
    assert find_seams(segments) == []


@pytest.mark.parametrize("factor", [1.3, 0.7])
def test_a_jump_beyond_the_noise_is_found(factor: float) -> None:
    later = part(101, 200)
    later["train/loss"] = {step: value * factor for step, value in later["train/loss"].items()}
    assert kinds(part(1, 100), later) == [(SeamKind.JUMP, 101)]


def test_speed_may_jump() -> None:
    before = {"step_time": dict.fromkeys(range(1, 101), 1.0)}
    after = {"step_time": dict.fromkeys(range(101, 201), 9.0)}
    assert kinds(before, after) == []


def test_healthy_boundaries_raise_few_alarms() -> None:
    found = 0
    for seed in range(60):
        curve = loss_curve(seed, num_steps=200)
        halves = [
            {"train/loss": {s: v for s, v in curve.items() if s <= 100}},
            {"train/loss": {s: v for s, v in curve.items() if s > 100}},
        ]
        found += len(find_seams(halves))
    assert found == 0


def test_a_steep_start_is_no_jump_and_a_lost_start_is() -> None:
    """A loss that falls by a factor of 300, fast at first, as of a distillation."""
    random = np.random.default_rng(0)
    steps = np.arange(1, 121)
    values = 3.0 * np.exp(-((steps / 20) ** 1.5)) + 0.01
    values *= np.exp(0.02 * random.standard_normal(120))
    curve = dict(zip(steps.tolist(), values.tolist(), strict=True))

    def continued(at: int, late: dict[int, float]) -> list[tuple[SeamKind, int]]:
        before = {step: value for step, value in curve.items() if step < at}
        after = {step: value for step, value in late.items() if step >= at}
        return kinds({"train/loss": before}, {"train/loss": after})

    assert [at for at in range(5, 115) if continued(at, curve)] == []
    forgot = {step: curve[max(1, step - 30)] for step in curve}
    assert continued(80, forgot) == [(SeamKind.JUMP, 80)]


def test_differences_of_repeated_steps_may_grow_as_rounding_does() -> None:
    again = part(91, 200)
    for number, step in enumerate(range(91, 105)):
        again["train/loss"][step] *= 1 + 5e-4 * 1.15**number
    assert kinds(part(1, 104), again) == []
    again["train/loss"][91] *= 1.002  # the first one has no rounding to inherit
    assert kinds(part(1, 104), again) == [(SeamKind.CONFLICT, 91)]


def test_a_schedule_has_corners_and_a_diagnostic_does_not_decide() -> None:
    rates = [{"train/lr": {s: min(s, 100) / 1e5 for s in steps}}
             for steps in (range(1, 101), range(101, 201))]  # fmt: skip
    assert find_seams(rates) == []
    again = {"train/grad_norm": dict.fromkeys(range(101, 201), 9.0)}
    found = find_seams([{"train/grad_norm": dict.fromkeys(range(1, 105), 1.0)}, again])
    assert found and not any(one.decides for one in found)
