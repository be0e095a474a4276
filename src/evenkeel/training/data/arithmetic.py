"""Generated arithmetic with its reasoning written out: a real skill, learned in a minute.

    user       27+58=?
    assistant  7+8=15 2+5+1=8 #85

The assistant works digit by digit from the right, as on paper, and ends in ``#`` and the result.
Exercises are numbered; a seeded permutation of the numbers gives the validation set its share
first and the training set the rest, so that no exercise is in both and none comes twice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isqrt

from evenkeel.errors import InputError, did_you_mean
from evenkeel.recipes.schema import Data
from evenkeel.training.data.hash_order import shuffled_index
from evenkeel.training.data.records import Chat
from evenkeel.training.data.registry import num_samples

VALIDATION_SHARE = 0.1
DEFAULT_VAL_SAMPLES = 256
_ANSWER = re.compile(r"#\s*(-?\d+)\s*\Z")


class Operation(StrEnum):
    """What is asked."""

    ADD = "+"
    SUBTRACT = "-"
    """The larger minus the smaller."""
    MULTIPLY = "*"
    """By one digit."""


@dataclass(frozen=True)
class Exercise:
    """``left operation right``."""

    left: int
    operation: Operation
    right: int

    @property
    def question(self) -> str:
        """As the user asks it."""
        return f"{self.left}{self.operation}{self.right}=?"

    @property
    def result(self) -> int:
        """The right answer."""
        if self.operation is Operation.ADD:
            return self.left + self.right
        if self.operation is Operation.SUBTRACT:
            return self.left - self.right
        return self.left * self.right

    @property
    def reasoning(self) -> str:
        """One step per digit from the right; a carry or borrow is a third term of its step."""
        lefts, rights = _digits(self.left), _digits(self.right)
        if self.operation is Operation.MULTIPLY:
            return _products(lefts, self.right)
        carry, steps = 0, []
        for place in range(max(len(lefts), len(rights))):
            left = lefts[place] if place < len(lefts) else 0
            right = rights[place] if place < len(rights) else 0
            step, carry = _column(left, self.operation, right, carry)
            steps.append(step)
        return " ".join(steps)


class Arithmetic:
    """Exercises ``0 … len-1`` of one split."""

    def __init__(self, exercises: ExerciseSpace, first: int, count: int, seed: int) -> None:
        self._exercises, self._first, self._count = exercises, first, count
        self._seed = seed

    def __len__(self) -> int:
        return self._count

    def exercise(self, index: int) -> Exercise:
        """Exercise ``index`` of this split."""
        if not 0 <= index < self._count:
            raise IndexError(index)
        number = shuffled_index(self._first + index, len(self._exercises), self._seed)
        return self._exercises[number]

    def __getitem__(self, index: int) -> Chat:
        exercise = self.exercise(index)
        response = f"{exercise.reasoning} #{exercise.result}"
        turns = (
            {"role": "user", "content": exercise.question},
            {"role": "assistant", "content": response},
        )
        return Chat(turns, str(exercise.result))

    def verify(self, answer_text: str, record: Chat) -> bool:
        """Whether the text ends in ``#`` and the right number; the way there is not judged."""
        found = _ANSWER.search(answer_text)
        return found is not None and record.answer is not None and found[1] == record.answer


class ExerciseSpace:
    """Every exercise with operands up to ``max_operand``, by number."""

    def __init__(self, max_operand: int, operations: Sequence[Operation]) -> None:
        self._operands = max_operand + 1
        self._operations = tuple(operations)
        pairs = self._operands
        sizes = {
            Operation.ADD: pairs * pairs,
            Operation.SUBTRACT: pairs * (pairs + 1) // 2,
            Operation.MULTIPLY: pairs * 10,
        }
        self._sizes = [sizes[operation] for operation in self._operations]

    def __len__(self) -> int:
        return sum(self._sizes)

    def __getitem__(self, number: int) -> Exercise:
        for operation, size in zip(self._operations, self._sizes, strict=True):
            if number < size:
                return self._exercise(operation, number)
            number -= size
        raise IndexError(number)

    def _exercise(self, operation: Operation, number: int) -> Exercise:
        if operation is Operation.MULTIPLY:
            return Exercise(number // 10, operation, number % 10)
        if operation is Operation.SUBTRACT:
            # Pairs with right <= left, row by row of the triangle.
            left = (isqrt(8 * number + 1) - 1) // 2
            return Exercise(left, operation, number - left * (left + 1) // 2)
        return Exercise(number // self._operands, operation, number % self._operands)


def open_records(
    data: Data,
    split: str,
    *,
    max_operand: int = 99,
    operations: str | Sequence[str] = "+",
    seed: int = 0,
) -> Arithmetic:
    """The exercises of a split.

    Args:
        data: without a number of samples, all of the training split and up to 256 exercises of
            the validation split.
        split: ``train`` or ``val``.
        max_operand: operands are 0 … ``max_operand``.
        operations: some of ``+``, ``-`` and ``*``.
        seed: of the order and of the split; apart from the recipe's seed, so that runs that
            differ in it are validated on the same exercises.

    Raises:
        InputError: an option is out of range, or there are fewer exercises than asked for.
    """
    if not isinstance(max_operand, int) or max_operand < 1:
        raise InputError(f"data.options.max_operand is {max_operand!r}; it must be 1 or more")
    exercises = ExerciseSpace(max_operand, _operations(operations))
    num_validation = max(1, round(len(exercises) * VALIDATION_SHARE))
    first, available = (0, num_validation)
    default = min(DEFAULT_VAL_SAMPLES, num_validation)
    if split == "train":
        first, available = num_validation, len(exercises) - num_validation
        default = available
    wanted = num_samples(data, split)
    count = default if wanted is None else wanted
    if not 1 <= count <= available:
        raise InputError(
            f"data.num_{split}_samples is {count}, but there are {available} different "
            f"{split} exercises with operands up to {max_operand}",
            fix=f"ask for 1 to {available}, or raise data.options.max_operand",
        )
    return Arithmetic(exercises, first, count, seed)


def _operations(symbols: str | Sequence[str]) -> list[Operation]:
    known = [operation.value for operation in Operation]
    for symbol in symbols:
        if symbol not in known:
            raise InputError(
                f"data.options.operations has {symbol!r}{did_you_mean(str(symbol), known)}; "
                f"valid: {' '.join(known)}"
            )
    if not symbols or len(set(symbols)) != len(symbols):
        raise InputError(
            f"data.options.operations is {symbols!r}; name one or more of {' '.join(known)}, "
            "each once"
        )
    return [Operation(symbol) for symbol in symbols]


def _digits(number: int) -> list[int]:
    """From the right."""
    return [int(digit) for digit in reversed(str(number))]


def _products(lefts: list[int], factor: int) -> str:
    """The written steps of a product with one digit."""
    carry, steps = 0, []
    for left in lefts:
        product = left * factor + carry
        steps.append(f"{left}*{factor}" + (f"+{carry}" if carry else "") + f"={product}")
        carry = product // 10
    return " ".join(steps)


def _column(left: int, operation: Operation, right: int, carry: int) -> tuple[str, int]:
    """The written step of one column, and what it carries (or borrows) to the next."""
    carried = f"{operation}{carry}" if carry else ""
    if operation is Operation.ADD:
        total = left + right + carry
        return f"{left}+{right}{carried}={total}", total // 10
    borrow = int(left < right + carry)
    left += 10 * borrow
    return f"{left}-{right}{carried}={left - right - carry}", borrow
