from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.errors import InputError
from evenkeel.launch.budget import Candidate, Reason, fewest_nights, rotate, split

COSTS = st.lists(st.integers(0, 5000), min_size=1, max_size=30)


def suite(costs: list[int]) -> list[Candidate]:
    return [Candidate(f"r{i:02d}", cost) for i, cost in enumerate(costs)]


@given(COSTS, st.integers(1, 9), st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_every_recipe_runs_in_any_cycle_within_the_budget(
    costs: list[int], num_nights: int, start: int, chance: random.Random
) -> None:
    recipes = suite(costs)
    shares = split(recipes, num_nights)
    budget = max(sum(one.gpu_minutes for one in share) for share in shares) + 100
    nights = []
    for night in range(start, start + 3 * num_nights):
        recipes = [
            replace(one, changed=chance.random() < 0.2, failed=chance.random() < 0.2)
            for one in recipes
        ]
        rotation = rotate(recipes, budget, num_nights, night)
        assert rotation.spent <= budget
        ran = {choice.candidate.name for choice in rotation.choices if choice.runs}
        nights.append(ran)
        recipes = [
            replace(one, nights_since=1 if one.name in ran else (one.nights_since or 99) + 1)
            for one in recipes
        ]
    everyone = {one.name for one in recipes}
    for first in range(len(nights) - num_nights + 1):
        assert set().union(*nights[first : first + num_nights]) == everyone


@given(COSTS, st.integers(0, 1000), st.randoms(use_true_random=False))
def test_order_of_the_suite_changes_nothing(
    costs: list[int], night: int, chance: random.Random
) -> None:
    recipes = suite(costs)
    budget, num_nights = sum(costs) + 1, 3
    expected = rotate(recipes, budget, num_nights, night)
    chance.shuffle(recipes)
    assert rotate(recipes, budget, num_nights, night) == expected


def test_what_is_left_goes_to_changed_and_failed_first() -> None:
    recipes = [Candidate(name, 60, nights_since=1) for name in "abcdef"]
    recipes[4] = replace(recipes[4], failed=True)
    recipes[5] = replace(recipes[5], changed=True)
    shares = split(recipes, 3)
    night = next(i for i, share in enumerate(shares) if not {"e", "f"} & {c.name for c in share})
    rotation = rotate(recipes, 240, 3, night)
    extra = [(c.candidate.name, c.reason) for c in rotation.choices if c.turn and c.runs]
    assert extra == [("f", Reason.CHANGED), ("e", Reason.FAILED)]
    assert rotation.spent == 240


def test_each_line_says_why() -> None:
    recipes = [
        Candidate("new", 600),
        Candidate("old", 600, nights_since=1, changed=True, failed=True),
        Candidate("quiet", 600, nights_since=1),
    ]
    lines = [choice.explain() for choice in rotate(recipes, 600, 3, 1).choices]
    assert lines == [
        "old: runs tonight, 10 GPU-hours: its turn; also changed since it last ran;"
        " also failed when it last ran",
        "new: waits, 10 GPU-hours: does not fit into what is left; its turn is in 2 nights",
        "quiet: waits, 10 GPU-hours: does not fit into what is left; its turn is tomorrow",
    ]


def test_a_suite_that_cannot_fit_says_what_would_do() -> None:
    with pytest.raises(InputError, match="3 nights would do"):
        rotate(suite([60, 60, 60]), 60, 2, 0)
    with pytest.raises(InputError, match="r01 alone costs 2"):
        rotate(suite([60, 120]), 60, 2, 0)
    with pytest.raises(InputError, match="at least 1"):
        rotate(suite([60]), 60, 0, 0)


@given(COSTS, st.integers(1, 20_000))
def test_the_fewest_nights_do(costs: list[int], budget: int) -> None:
    recipes = suite(costs)
    num_nights = fewest_nights(recipes, budget)
    if num_nights is None:
        assert max(costs) > budget
    else:
        assert rotate(recipes, budget, num_nights, 0).budget == budget
