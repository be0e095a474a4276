"""Preference pairs: an exercise of ``letters`` done right, and the same with one wrong letter."""

from __future__ import annotations

from evenkeel.recipes.schema import Data
from evenkeel.training.data import letters
from evenkeel.training.data.hash_order import key
from evenkeel.training.data.letters import ALPHABET, Letters
from evenkeel.training.data.records import Chat, Preference

_SLIP_KEY = 0x1E77


class LetterPairs:
    """Pairs ``0 … len-1`` of one split."""

    def __init__(self, right: Letters, num_letters: int, seed: int) -> None:
        self._right, self._num_letters, self._seed = right, num_letters, seed

    def __len__(self) -> int:
        return len(self._right)

    def __getitem__(self, index: int) -> Preference:
        chosen = self._right[index]
        draw = key(_SLIP_KEY, self._seed, index)
        answer = with_a_slip(str(chosen.answer), self._num_letters, draw)
        slip = {"role": "assistant", "content": answer}
        return Preference(chosen, Chat((*chosen.messages[:-1], slip)))


def with_a_slip(answer: str, num_letters: int, draw: int) -> str:
    """``answer`` with another letter in one place; ``draw`` chooses place and letter."""
    draw, place = divmod(draw, len(answer))
    letter = ALPHABET.index(answer[place])
    wrong = (letter + 1 + draw % max(num_letters - 1, 1)) % max(num_letters, 2)
    return answer[:place] + ALPHABET[wrong] + answer[place + 1 :]


def open_records(
    data: Data,
    split: str,
    *,
    task: str = "reverse",
    length: int = 5,
    num_letters: int = 10,
    seed: int = 0,
) -> LetterPairs:
    """The pairs of a split; the options are those of ``letters``."""
    right = letters.open_records(
        data, split, task=task, length=length, num_letters=num_letters, seed=seed
    )
    return LetterPairs(right, num_letters, seed)
