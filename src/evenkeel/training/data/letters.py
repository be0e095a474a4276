"""Generated strings of letters to copy, reverse or sort: a skill that a small model learns in
seconds.

    user       gbecd
    assistant  dcebg        (reverse)

Strings are numbered; a seeded permutation of the numbers gives the validation set its share first
and the training set the rest, so that no string is in both and none comes twice.
"""

from __future__ import annotations

from enum import StrEnum

from evenkeel.errors import InputError, did_you_mean
from evenkeel.recipes.schema import Data
from evenkeel.training.data.hash_order import shuffled_index
from evenkeel.training.data.records import Chat
from evenkeel.training.data.registry import num_samples

VALIDATION_SHARE = 0.1
DEFAULT_VAL_SAMPLES = 256
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


class Task(StrEnum):
    """What is done with a string."""

    COPY = "copy"
    REVERSE = "reverse"
    SORT = "sort"


class Letters:
    """Strings ``0 … len-1`` of one split."""

    def __init__(
        self, task: Task, length: int, num_letters: int, first: int, count: int, seed: int
    ) -> None:
        self._task, self._length, self._num_letters = task, length, num_letters
        self._first, self._count, self._seed = first, count, seed

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Chat:
        if not 0 <= index < self._count:
            raise IndexError(index)
        total = self._num_letters**self._length
        number = shuffled_index(self._first + index, total, self._seed)
        letters = []
        for _ in range(self._length):
            number, letter = divmod(number, self._num_letters)
            letters.append(ALPHABET[letter])
        answer = done(self._task, letters)
        turns = (
            {"role": "user", "content": "".join(letters)},
            {"role": "assistant", "content": answer},
        )
        return Chat(turns, answer)

    def verify(self, answer_text: str, record: Chat) -> bool:
        """Whether the text is the right string and nothing else."""
        return answer_text.strip() == record.answer


def done(task: Task, letters: list[str]) -> str:
    """The right answer."""
    if task is Task.REVERSE:
        letters = letters[::-1]
    return "".join(sorted(letters) if task is Task.SORT else letters)


def open_records(
    data: Data,
    split: str,
    *,
    task: str = "reverse",
    length: int = 5,
    num_letters: int = 10,
    seed: int = 0,
) -> Letters:
    """The strings of a split.

    Args:
        data: without a number of samples, all of the training split and up to 256 strings of the
            validation split.
        split: ``train`` or ``val``.
        task: ``copy``, ``reverse`` or ``sort``.
        length: letters of a string.
        num_letters: size of the alphabet.
        seed: of the order and of the split; apart from the recipe's seed, so that runs that
            differ in it are validated on the same strings.

    Raises:
        InputError: an option is out of range, or there are fewer strings than asked for.
    """
    tasks = [known.value for known in Task]
    if task not in tasks:
        raise InputError(
            f"data.options.task is {task!r}{did_you_mean(str(task), tasks)}; "
            f"valid: {', '.join(tasks)}"
        )
    for name, value, most in (("length", length, 64), ("num_letters", num_letters, len(ALPHABET))):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise InputError(f"data.options.{name} is {value!r}; it must be 1 to {most}")
    total = num_letters**length
    num_validation = max(1, round(total * VALIDATION_SHARE))
    first, available, default = 0, num_validation, min(DEFAULT_VAL_SAMPLES, num_validation)
    if split == "train":
        first, available = num_validation, total - num_validation
        default = available
    wanted = num_samples(data, split)
    count = default if wanted is None else wanted
    if not 1 <= count <= available:
        raise InputError(
            f"data.num_{split}_samples is {count}, but there are {available} different {split} "
            f"strings of {length} out of {num_letters} letters",
            fix=f"ask for 1 to {available}, or raise data.options.length",
        )
    return Letters(Task(task), length, num_letters, first, count, seed)
