from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.recipes.schema import Recipe, Schedule, Scheduler, Sft
from evenkeel.training.schedules import horizon, learning_rate


def rates(scheduler: Scheduler, steps: int) -> list[float]:
    return [learning_rate(step, 1.0, scheduler, steps) for step in range(1, steps + 1)]


def test_warm_up_is_linear_and_reaches_the_peak() -> None:
    scheduler = Scheduler(name=Schedule.CONSTANT, warmup_steps=4)
    assert rates(scheduler, 6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_linear() -> None:
    scheduler = Scheduler(name=Schedule.LINEAR, warmup_steps=1, min_lr_ratio=0.5)
    assert rates(scheduler, 5) == pytest.approx([1.0, 0.875, 0.75, 0.625, 0.5])


def test_cosine() -> None:
    scheduler = Scheduler(name=Schedule.COSINE, min_lr_ratio=0.2)
    found = rates(scheduler, 4)
    assert found[1] == pytest.approx(0.6)
    assert found[3] == pytest.approx(0.2)


def test_wsd_is_stable_then_falls() -> None:
    scheduler = Scheduler(name=Schedule.WSD, wsd_decay_fraction=0.4)
    assert rates(scheduler, 10) == pytest.approx([1.0] * 6 + [0.75, 0.5, 0.25, 0.0])


@given(
    st.sampled_from(Schedule),
    st.integers(0, 30),
    st.integers(1, 40),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_never_outside_its_bounds(
    name: Schedule, warmup: int, steps: int, floor: float, decay: float
) -> None:
    scheduler = Scheduler(
        name=name, warmup_steps=warmup, min_lr_ratio=floor, wsd_decay_fraction=decay
    )
    after = [learning_rate(step, 1.0, scheduler, steps) for step in range(warmup + 1, steps + 9)]
    assert all(floor - 1e-9 <= rate <= 1.0 for rate in after)
    assert after == sorted(after, reverse=True)


def test_the_horizon_is_the_length_of_the_run_unless_given() -> None:
    recipe = Recipe(sft=Sft(max_num_steps=30))
    assert horizon(recipe) == 30
    recipe.policy.scheduler.decay_steps = 60
    assert horizon(recipe) == 60
