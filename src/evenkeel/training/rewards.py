"""Verifiable rewards: functions from an answer to a number, by name.

To add one: write a function of ``Judged`` and give it a line in ``REWARDS``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from evenkeel.errors import InputError, did_you_mean
from evenkeel.training.data.records import Chat, Verifiable

_MARKED = re.compile(r"#+\s*([^\n#]+?)\s*\Z|####\s*([^\n]+)")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?")
_OVERLONG_SHARE = 0.25


@dataclass(frozen=True)
class Judged:
    """An answer and what it is judged by."""

    text: str
    num_tokens: int
    max_new_tokens: int
    is_finished: bool
    """Whether the model ended the answer itself."""
    task: Chat
    verifier: Verifiable | None = None
    """The data set, where it can judge answers itself."""


def exact_match(judged: Judged) -> float:
    """1 for the right final answer: by the data set's own verifier, else equal to the known one.

    Numbers are compared by value (``0.5`` and ``1/2`` are equal), other text without case and
    spaces.

    Raises:
        InputError: the data set neither verifies nor knows the answer.
    """
    if judged.verifier is not None:
        return float(judged.verifier.verify(judged.text, judged.task))
    found = final_answer(judged.text)
    return float(found is not None and normal(found) == normal(_expected(judged.task)))


def token_overlap(judged: Judged) -> float:
    """Share of the expected answer's characters that stand in their place: dense, for tasks that a
    model from random weights has to begin with."""
    expected = _written(judged.task)
    right = sum(a == b for a, b in zip(judged.text, expected, strict=False))
    return right / max(len(expected), len(judged.text), 1)


def answer_format(judged: Judged) -> float:
    """1 for an answer that ends itself and marks its final answer (``\\boxed{}``, ``#``)."""
    return float(judged.is_finished and marked_answer(judged.text) is not None)


def length(judged: Judged) -> float:
    """0 for a short answer, falling to -1 over the last quarter of the tokens allowed: the soft
    overlong punishment of Yu et al. 2025, arXiv:2503.14476, eq. 13."""
    free = (1 - _OVERLONG_SHARE) * judged.max_new_tokens
    over = (judged.num_tokens - free) / (_OVERLONG_SHARE * judged.max_new_tokens)
    return -min(max(over, 0.0), 1.0)


Reward = Callable[[Judged], float]

REWARDS: Mapping[str, Reward] = {
    "exact_match": exact_match,
    "token_overlap": token_overlap,
    "format": answer_format,
    "length": length,
}


def weighted(weights: Mapping[str, float]) -> Reward:
    """The weighted sum of rewards.

    Raises:
        InputError: an unknown name, or a weight that is no number.
    """
    for name, weight in weights.items():
        if name not in REWARDS:
            raise InputError(
                f"grpo.rewards has {name!r}{did_you_mean(name, REWARDS)}; "
                f"valid: {', '.join(REWARDS)}"
            )
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise InputError(f"grpo.rewards.{name} is {weight!r}; it must be a number")
    if not any(weights.values()):
        raise InputError(
            "grpo.rewards gives no reward a weight", fix=f"name one of {', '.join(REWARDS)}"
        )
    parts = [(REWARDS[name], float(weight)) for name, weight in weights.items() if weight]
    return lambda judged: sum(weight * reward(judged) for reward, weight in parts)


def final_answer(text: str) -> str | None:
    """What a text gives as its result: the last ``\\boxed{}``, what follows ``#``, else its last
    number, else, of a single line, the line."""
    marked = marked_answer(text)
    if marked is not None or "\\boxed{" in text:
        return marked  # of a box that was cut, nobody knows how it would have ended
    numbers = _NUMBER.findall(text)
    if numbers:
        return str(numbers[-1])
    line = text.strip()
    return line if line and "\n" not in line else None


def marked_answer(text: str) -> str | None:
    """The last ``\\boxed{…}`` or what follows the last ``#``; None where nothing is marked."""
    start = text.rfind("\\boxed{")
    if start >= 0:
        depth = 0
        for place in range(start + len("\\boxed"), len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                return text[start + len("\\boxed{") : place]
        return None
    marks = list(_MARKED.finditer(text))
    return (marks[-1][1] or marks[-1][2]) if marks else None


def normal(answer: str) -> str | Fraction:
    """The same for answers that mean the same."""
    plain = re.sub(r"[\s$]|\\[,!; ]", "", answer).rstrip(".").casefold()
    number = plain.replace(",", "").removesuffix("%").removesuffix("\\")
    try:
        return Fraction(number)
    except (ValueError, ZeroDivisionError):
        return plain


def _written(task: Chat) -> str:
    last = task.messages[-1]
    return str(last["content"]) if last["role"] == "assistant" else _expected(task)


def _expected(task: Chat) -> str:
    known = task.answer
    if known is None and task.messages[-1]["role"] == "assistant":
        known = str(task.messages[-1]["content"])
    if known is None:
        raise InputError(
            "the task has no known answer, so no reward can be computed",
            path=task.place,
            fix="give it the field answer, or an assistant's turn",
        )
    return final_answer(known) or known
