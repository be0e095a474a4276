"""Preference pairs: an exercise of ``arithmetic`` done right, and the same with one slip.

    chosen    7+8=15 2+5+1=8 #85
    rejected  7+8=15 2+5+1=3 #35

Both answers are fluent and of one length; only whoever can add tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from evenkeel.recipes.schema import Data
from evenkeel.training.data import arithmetic
from evenkeel.training.data.arithmetic import Arithmetic, Exercise
from evenkeel.training.data.hash_order import key
from evenkeel.training.data.records import Chat, Preference

_SLIP_KEY = 0x511B


class ArithmeticPairs:
    """Pairs ``0 … len-1`` of one split."""

    def __init__(self, right: Arithmetic, seed: int) -> None:
        self._right, self._seed = right, seed

    def __len__(self) -> int:
        return len(self._right)

    def __getitem__(self, index: int) -> Preference:
        chosen = self._right[index]
        draw = key(_SLIP_KEY, self._seed, index)
        slip = {"role": "assistant", "content": with_a_slip(self._right.exercise(index), draw)}
        return Preference(chosen, Chat((*chosen.messages[:-1], slip)))


def with_a_slip(exercise: Exercise, draw: int) -> str:
    """The answer to ``exercise`` with one wrong digit, in one step and in the result.

    Args:
        exercise: what is asked.
        draw: a large number that chooses the step and the digit.
    """
    steps = exercise.reasoning.split(" ")
    draw, place = divmod(draw, len(steps))
    task, _, total = steps[place].partition("=")
    digit = int(total) % 10
    wrong_digit = (digit + 1 + draw % 9) % 10
    steps[place] = f"{task}={int(total) - digit + wrong_digit}"
    # each step writes one digit of the result, from the right
    result = exercise.result + (wrong_digit - digit) * 10**place
    return f"{' '.join(steps)} #{result}"


def open_records(
    data: Data,
    split: str,
    *,
    max_operand: int = 99,
    operations: str | Sequence[str] = "+",
    seed: int = 0,
) -> ArithmeticPairs:
    """The pairs of a split; the options are those of ``arithmetic``."""
    right = arithmetic.open_records(
        data, split, max_operand=max_operand, operations=operations, seed=seed
    )
    return ArithmeticPairs(right, seed)
