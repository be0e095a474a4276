"""Reads the assignments of a piece of bash without running anything.

The language: ``NAME=value`` (several on a line, after ``export`` or ``readonly``, apart by
``;``), where a value is a word of ``shell_words``; comments; line continuations. Everything else
is refused with its place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from evenkeel.recipes.shell_words import (
    ENDS_WORD,
    NAME,
    OF_THE_SHELL,
    NotAssignmentsError,
    WordReader,
)

__all__ = ["Assignment", "NotAssignmentsError", "read_assignments"]

_GAP = re.compile(r"(?:[ \t\r]|\\\n)*")
_COMMENT = re.compile(r"#[^\n]*")
_WORD = re.compile(r"[^ \t\n;&|<>()]*")
_ASSIGN = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")
_PLAIN_NUMBER = re.compile(r"[0-9]+(?=[ \t\n;]|\Z)")
MAX_LENGTH = 100_000
"""Characters of one value: ``A=xx B=$A$A C=$B$B …`` doubles with each name."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """One ``NAME=value`` as written and as read."""

    name: str
    text: str
    """The value, as bash would store it."""
    raw: str
    """The value as written, quotes and ``$(( … ))`` included."""
    offset: int
    """Where ``raw`` starts in the text that was read."""


def read_assignments(text: str, start: int = 0, end: int | None = None) -> list[Assignment]:
    """The assignments of ``text[start:end]`` in order.

    Raises:
        NotAssignmentsError: anything but assignments and comments.
    """
    return _Reader(text[: len(text) if end is None else end], start).read()


class _Reader(WordReader):
    def __init__(self, text: str, position: int) -> None:
        super().__init__(text, position)
        self.constants: set[str] = set()
        self.found: list[Assignment] = []

    def read(self) -> list[Assignment]:
        while True:
            self._skip_gap()
            next_char = self.peek()
            if not next_char:
                return self.found
            if next_char == "\n":
                self.position += 1
            elif next_char == "#":
                self._skip_comment()
            else:
                self._statement()

    def _skip_gap(self) -> None:
        match = _GAP.match(self.text, self.position)
        if match:
            self.position = match.end()

    def _skip_comment(self) -> None:
        match = _COMMENT.match(self.text, self.position)
        if match:
            self.position = match.end()

    def _statement(self) -> None:
        """``[export|readonly] NAME=value …`` up to ``;``, a comment or the end of the line."""
        declares = ""
        first = True
        while True:
            if match := _ASSIGN.match(self.text, self.position):
                self._assignment(match, declares)
            elif first and (word := self._declaration()):
                declares = word
            elif not (declares and self._bare_name(declares)):
                raise self._not_an_assignment()
            first = False
            self._skip_gap()
            next_char = self.peek()
            if next_char == "#":
                self._skip_comment()
                return
            if next_char in ("", "\n"):
                return
            if next_char == ";":
                if self.peek(1) == ";":
                    raise NotAssignmentsError("';;' belongs to a case", self.position)
                self.position += 1
                return

    def _declaration(self) -> str:
        for word in ("export", "readonly"):
            after = self.position + len(word)
            if self.text.startswith(word, self.position) and self.text[after : after + 1] in " \t":
                self.position = after
                return word
        return ""

    def _bare_name(self, declares: str) -> bool:
        """``export NAME`` changes no value."""
        match = NAME.match(self.text, self.position)
        if match is None or self.text[match.end() : match.end() + 1] not in (*ENDS_WORD, ""):
            return False
        if declares == "readonly":
            self.constants.add(match[0])
        self.position = match.end()
        return True

    def _not_an_assignment(self) -> NotAssignmentsError:
        word_match = _WORD.match(self.text, self.position)
        word = word_match[0] if word_match else ""
        after = self.text[self.position + len(word) :].lstrip(" \t")
        if NAME.fullmatch(word) and after.startswith("="):
            return NotAssignmentsError(
                f"spaces around '=': bash would run a command called {word}",
                self.position,
                fix=f"write {word}= and the value without spaces",
            )
        shown = word[:60] or self.peek()
        return NotAssignmentsError(f"{shown!r} is not an assignment", self.position)

    def _assignment(self, match: re.Match[str], declares: str) -> None:
        name, start = match[1], match.end()
        if name in OF_THE_SHELL:
            raise NotAssignmentsError(
                f"{name} belongs to the shell", match.start(), "use another name"
            )
        if name in self.constants:
            raise NotAssignmentsError(f"{name} is readonly since an earlier line", match.start())
        if plain := _PLAIN_NUMBER.match(self.text, start):
            value = plain[0]
            self.position = plain.end()
        else:
            self.position = start
            value = self.value(braces_expand=bool(declares))
        if len(value) > MAX_LENGTH:
            raise NotAssignmentsError(f"{name} is longer than {MAX_LENGTH} characters", start)
        self.variables[name] = value
        if declares == "readonly":
            self.constants.add(name)
        self.found.append(Assignment(name, value, self.text[start : self.position], start))
