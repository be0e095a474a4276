"""What answers are worth."""

from __future__ import annotations

import pytest

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Data
from evenkeel.training.data.arithmetic import open_records
from evenkeel.training.data.records import Chat
from evenkeel.training.rewards import REWARDS, Judged, final_answer, normal, weighted

TASK = Chat(({"role": "user", "content": "1+1=?"},), "2")


def judged(text: str, task: Chat = TASK, num_tokens: int = 4, finished: bool = True) -> Judged:
    return Judged(text, num_tokens, 8, finished, task)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so 1+1=2 #2", "2"),
        ("the sum is 12.\n#### 1,200", "1,200"),
        (r"thus \boxed{1} or rather \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"broken \boxed{1", None),
        ("there are 3 of 7 apples", "7"),
        ("Paris", "Paris"),
        ("no\nresult", None),
        ("", None),
    ],
)
def test_final_answers_are_found(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("one", "other"), [("1/2", "0.5"), ("1,200", "1200"), ("$3.0", "3"), (" Paris. ", "paris")]
)
def test_answers_that_mean_the_same_are_equal(one: str, other: str) -> None:
    assert normal(one) == normal(other)


@pytest.mark.parametrize(("text", "value"), [("#2", 1.0), ("2.0", 1.0), ("#3", 0.0), ("", 0.0)])
def test_exact_match_compares_with_the_known_answer(text: str, value: float) -> None:
    assert REWARDS["exact_match"](judged(text)) == value


def test_exact_match_asks_the_data_set_where_it_verifies() -> None:
    records = open_records(Data(), "val")
    task = records[0]
    right = str(task.messages[-1]["content"])
    for text, value in ((right, 1.0), (f"{right}7", 0.0), (str(task.answer), 0.0)):
        assert REWARDS["exact_match"](Judged(text, 5, 9, True, task, records)) == value


def test_exact_match_without_an_answer_is_refused() -> None:
    task = Chat(({"role": "user", "content": "?"},), place="tasks.jsonl:3")
    with pytest.raises(InputError, match="no known answer"):
        REWARDS["exact_match"](judged("1", task))


@pytest.mark.parametrize(("text", "value"), [("ab", 1.0), ("aXb", 1 / 3), ("", 0.0), ("b", 0.0)])
def test_overlap_is_the_share_of_characters_in_their_place(text: str, value: float) -> None:
    task = Chat(({"role": "user", "content": "?"}, {"role": "assistant", "content": "ab"}))
    assert REWARDS["token_overlap"](judged(text, task)) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "finished", "value"), [("#2", True, 1.0), ("#2", False, 0.0), ("2", True, 0.0)]
)
def test_format_wants_a_marked_answer_and_an_end(text: str, finished: bool, value: float) -> None:
    assert REWARDS["format"](judged(text, finished=finished)) == value


@pytest.mark.parametrize(("num_tokens", "value"), [(1, 0.0), (6, 0.0), (7, -0.5), (8, -1.0)])
def test_length_falls_over_the_last_quarter(num_tokens: int, value: float) -> None:
    assert REWARDS["length"](judged("", num_tokens=num_tokens)) == value


def test_rewards_are_weighted() -> None:
    assert weighted({"exact_match": 2.0, "format": 0.5, "length": 0})(judged("#2")) == 2.5


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"exact_mach": 1.0}, "did you mean"),
        ({"format": "much"}, "must be a number"),
        ({"format": 0.0}, "no reward a weight"),
        ({}, "no reward a weight"),
    ],
)
def test_bad_weights_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        weighted(weights)
