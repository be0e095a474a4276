"""The exceptions that a user is meant to see, each with the exit status it leads to.

EvenkeelError            root; caught once, in ``cli.main``
├── InputError    (2)    bad input or usage, with the mend
└── MachineError  (3)    the machine or the cluster failed, not the user's files
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

EXIT_OK = 0
EXIT_FINDING = 1
EXIT_INPUT = 2
EXIT_MACHINE = 3
EXIT_INTERRUPTED = 130


class EvenkeelError(Exception):
    """Something went wrong that a person can act on.

    Args:
        message: what is wrong, with the value that is wrong and the valid ones.
        path: the file it was found in.
        line: the line in that file, counted from 1.
        column: the column in that line, counted from 1.
        fix: what to do about it, as an instruction.
    """

    exit_code = EXIT_FINDING

    def __init__(
        self,
        message: str,
        *,
        path: Path | str | None = None,
        line: int | None = None,
        column: int | None = None,
        fix: str | None = None,
    ) -> None:
        self.message = message
        self.path = None if path is None else str(path)
        self.line = line
        self.column = column
        self.fix = fix
        super().__init__(str(self))

    @property
    def place(self) -> str:
        """``file:line:column`` as far as it is known, else the empty string."""
        parts = (self.path, self.line, self.column)
        return ":".join(str(part) for part in parts if part is not None)

    def __str__(self) -> str:
        text = f"{self.place}: {self.message}" if self.place else self.message
        return f"{text}\n  fix: {self.fix}" if self.fix else text


class InputError(EvenkeelError):
    """The user's input is wrong: a key, a name, an expression, a file."""

    exit_code = EXIT_INPUT


class MachineError(EvenkeelError):
    """The machine or the cluster is at fault: disk full, controller down, tool missing."""

    exit_code = EXIT_MACHINE


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the nearest known word, or the empty string.

    Two letters in each other's place are a likelier slip than other letters, which is all that
    difflib sees: ``gpro`` is grpo, not gspo. Capitals are no other letters, either.
    """
    words = list(known)
    swapped = {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)}
    folded = word.casefold()
    nearest = [one for one in words if one in swapped or one.casefold() == folded]
    nearest = nearest or difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""
