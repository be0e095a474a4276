"""The commands of a driver, split into words as a shell would, without running anything.

What cannot be known without running it (a command's output, a variable of the environment)
becomes the character :data:`UNKNOWN` in the word, so that whoever reads it can tell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

UNKNOWN = "\0"

_PLAIN = re.compile(r"[^\s\\'\"`$;&|()<>#]+")
_INSIDE_QUOTES = re.compile(r"[^\"\\$`]+")
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\}|[@*#?$!0-9-])")
_HEREDOC = re.compile(r"<<(-?)\s*(['\"]?)([A-Za-z_]\w*)\2")
_ASSIGNMENT = re.compile(r"(?:export\s+|local\s+|readonly\s+)?([A-Za-z_]\w*)=")
_OPERATORS = ";&|()"


class Word(NamedTuple):
    """One word of a command.

    Args:
        text: with quotes removed and known variables filled in.
        line: where it begins, from 1.
        source: as it stands in the file.
    """

    text: str
    line: int
    source: str

    @property
    def known(self) -> bool:
        """Whether every part of the text is."""
        return UNKNOWN not in self.text


class Command(NamedTuple):
    """A simple command: its words, without the assignments before them."""

    words: tuple[Word, ...]
    line: int


def commands_of(text: str, variables: Mapping[str, str]) -> list[Command]:
    """Every simple command of ``text``, in order; assignments fill in later words.

    Args:
        text: the driver.
        variables: what is known before its first line; these names keep their values.
    """
    return _Lexer(text, variables).commands()


class _Lexer:
    def __init__(self, text: str, variables: Mapping[str, str]) -> None:
        self.text = text
        self.fixed = frozenset(variables)
        self.variables = dict(variables)
        self.at = 0
        self.line = 1
        self.found: list[Command] = []
        self.words: list[Word] = []
        self.heredocs: list[tuple[str, bool]] = []

    def commands(self) -> list[Command]:
        text, end = self.text, len(self.text)
        while self.at < end:
            char = text[self.at]
            if char == "\n":
                self.finish()
                self.newline()
            elif char in " \t\r":
                self.at += 1
            elif text.startswith("\\\n", self.at):
                self.at += 2
                self.line += 1
            elif char == "#":
                stop = text.find("\n", self.at)
                self.at = end if stop < 0 else stop
            elif char in _OPERATORS:
                self.at += 1
                self.finish()
            elif char in "<>":
                self.redirection()
            else:
                self.word()
        self.finish()
        return self.found

    def finish(self) -> None:
        """End of a simple command: note its assignments, keep the rest."""
        words = self.words
        self.words = []
        if not words:
            return
        start = 1 if words[0].source in ("export", "local", "readonly", "declare") else 0
        first = start
        while first < len(words) and _ASSIGNMENT.match(words[first].source):
            first += 1
        if first == len(words):
            for word in words[start:]:
                name, _, value = word.text.partition("=")
                if name not in self.fixed:
                    self.variables[name] = value
        elif first < len(words):
            kept = tuple(words[first:])
            self.found.append(Command(kept, kept[0].line))

    def newline(self) -> None:
        self.at += 1
        self.line += 1
        for delimiter, strip in self.heredocs:
            while self.at < len(self.text):
                stop = self.text.find("\n", self.at)
                stop = len(self.text) if stop < 0 else stop
                row = self.text[self.at : stop]
                self.at = min(stop + 1, len(self.text))
                self.line += 1
                if (row.lstrip("\t") if strip else row) == delimiter:
                    break
        self.heredocs.clear()

    def redirection(self) -> None:
        here = _HEREDOC.match(self.text, self.at)
        if here and not self.text.startswith("<<<", self.at):
            self.heredocs.append((here[3], here[1] == "-"))
            self.at = here.end()
            return
        while self.at < len(self.text) and self.text[self.at] in "<>&":
            self.at += 1
        while self.at < len(self.text) and self.text[self.at] in " \t":
            self.at += 1
        # the target is no argument of the command
        if self.at < len(self.text) and self.text[self.at] not in "\n" + _OPERATORS + "<>":
            self.word(keep=False)

    def word(self, keep: bool = True) -> None:
        text, end, start, line = self.text, len(self.text), self.at, self.line
        parts: list[str] = []
        while self.at < end:
            char = text[self.at]
            if char in " \t\r\n<>" or char in _OPERATORS:
                break
            plain = _PLAIN.match(text, self.at)
            if plain:
                parts.append(plain[0])
                self.at = plain.end()
            elif char == "'":
                stop = text.find("'", self.at + 1)
                stop = end if stop < 0 else stop
                parts.append(text[self.at + 1 : stop])
                self.at = min(stop + 1, end)
            elif char == '"':
                parts.append(self.double_quoted())
            elif char == "\\":
                if not text.startswith("\\\n", self.at):
                    parts.append(text[self.at + 1 : self.at + 2])
                self.at = min(self.at + 2, end)
            elif char in "$`":
                parts.append(self.expansion())
            else:  # '#' inside a word
                parts.append(char)
                self.at += 1
        source = text[start : self.at]
        self.line += source.count("\n")
        if source in (">", "1", "2") and text[self.at : self.at + 1] in ("<", ">"):
            return  # the number of a redirection
        if keep:
            self.words.append(Word("".join(parts), line, source))

    def double_quoted(self) -> str:
        text, end = self.text, len(self.text)
        parts: list[str] = []
        self.at += 1
        while self.at < end and text[self.at] != '"':
            plain = _INSIDE_QUOTES.match(text, self.at)
            if plain:
                parts.append(plain[0])
                self.at = plain.end()
            elif text[self.at] == "\\":
                follower = text[self.at + 1 : self.at + 2]
                parts.append(follower if follower in '"\\$`' else "\\" + follower)
                self.at += 2
            else:
                parts.append(self.expansion())
        self.at = min(self.at + 1, end)
        return "".join(parts)

    def expansion(self) -> str:
        """A ``$…`` or backquoted part; only plain variables are known."""
        text, end = self.text, len(self.text)
        variable = _VARIABLE.match(text, self.at)
        if variable:
            self.at = variable.end()
            name = variable[1] or variable[2]
            return self.variables.get(name, UNKNOWN) if name else UNKNOWN
        if text[self.at] == "`":
            stop = text.find("`", self.at + 1)
            self.at = end if stop < 0 else stop + 1
            return UNKNOWN
        opening = text[self.at + 1 : self.at + 2]
        if opening not in ("(", "{"):
            self.at += 1
            return "$"
        self.at = _end_of_group(text, self.at + 1)
        return UNKNOWN


def _end_of_group(text: str, at: int) -> int:
    """The position after the bracket that closes the one at ``at``; quotes hide brackets."""
    closing = {"(": ")", "{": "}"}
    stack: list[str] = []
    end = len(text)
    while at < end:
        char = text[at]
        if char == "\\":
            at += 1
        elif char == "'" and (not stack or stack[-1] != '"'):
            stop = text.find("'", at + 1)
            at = end if stop < 0 else stop
        elif char == '"':
            if stack and stack[-1] == '"':
                stack.pop()
            else:
                stack.append('"')
        elif char in closing and (stack[-1:] != ['"'] or text[at - 1] == "$"):
            stack.append(closing[char])
        elif stack and char == stack[-1]:
            stack.pop()
            if not stack:
                return at + 1
        at += 1
    return end
