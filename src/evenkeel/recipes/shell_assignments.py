"""Reads the assignments of a piece of bash without running anything.

The language: ``NAME=value`` (several on a line, after ``export`` or ``readonly``, apart by
``;``), where a value is made of plain characters, quotes, backslashes, ``$NAME``, ``${NAME}``,
``${NAME:-default}`` and ``$(( … ))``; comments; line continuations. References reach earlier
assignments only: the environment is not read. Everything else is refused with its place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from evenkeel.recipes.shell_arithmetic import MAX_DEPTH, BadArithmeticError, evaluate

_GAP = re.compile(r"(?:[ \t\r]|\\\n)*")
_COMMENT = re.compile(r"#[^\n]*")
_WORD = re.compile(r"[^ \t\n;&|<>()]*")
_ASSIGN = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")
_PLAIN_NUMBER = re.compile(r"[0-9]+(?=[ \t\n;]|\Z)")
_PLAIN = re.compile(r"[^ \t\n;&|<>()$`'\"\\~{]+")
_QUOTED_PLAIN = re.compile(r"[^$`\"\\}]+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ARITHMETIC_PLAIN = re.compile(r"[^$`()\\'\"]+")
_DEFAULT_PLAIN = re.compile(r"[^$`\"\\}'<>(){]+")
_ENDS_WORD = " \t\n;"

# bash computes these itself or forbids to set them, so their text here is not their value there
_OF_THE_SHELL = frozenset(
    re.findall(
        r"\w+",
        "RANDOM SRANDOM SECONDS LINENO BASHPID EPOCHSECONDS EPOCHREALTIME BASH_SUBSHELL "
        "BASH_COMMAND BASH_ARGV0 BASHOPTS SHELLOPTS BASH_VERSINFO BASH_ALIASES BASH_CMDS EUID UID "
        "PPID GROUPS DIRSTACK FUNCNAME HISTCMD POSIXLY_CORRECT COMP_WORDBREAKS _ IFS",
    )
)
MAX_LENGTH = 100_000
"""Characters of one value: ``A=xx B=$A$A C=$B$B …`` doubles with each name."""
_FIX = "write plain assignments: integers, $(( … )), quotes and references to earlier variables"


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


class NotAssignmentsError(Exception):
    """Text outside the language; ``offset`` is where, ``fix`` what to write instead."""

    def __init__(self, message: str, offset: int, fix: str = _FIX) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset
        self.fix = fix


def read_assignments(text: str, start: int = 0, end: int | None = None) -> list[Assignment]:
    """The assignments of ``text[start:end]`` in order.

    Raises:
        NotAssignmentsError: anything but assignments and comments.
    """
    return _Reader(text[: len(text) if end is None else end], start).read()


class _Reader:
    def __init__(self, text: str, position: int) -> None:
        self.text = text
        self.position = position
        self.variables: dict[str, str] = {}
        self.constants: set[str] = set()
        self.found: list[Assignment] = []
        self.depth = 0

    def read(self) -> list[Assignment]:
        while True:
            self._skip_gap()
            next_char = self._peek()
            if not next_char:
                return self.found
            if next_char == "\n":
                self.position += 1
            elif next_char == "#":
                self._skip_comment()
            else:
                self._statement()

    def _peek(self, ahead: int = 0) -> str:
        return self.text[self.position + ahead : self.position + ahead + 1]

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
            next_char = self._peek()
            if next_char == "#":
                self._skip_comment()
                return
            if next_char in ("", "\n"):
                return
            if next_char == ";":
                if self._peek(1) == ";":
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
        match = _NAME.match(self.text, self.position)
        if match is None or self.text[match.end() : match.end() + 1] not in (*_ENDS_WORD, ""):
            return False
        if declares == "readonly":
            self.constants.add(match[0])
        self.position = match.end()
        return True

    def _not_an_assignment(self) -> NotAssignmentsError:
        word_match = _WORD.match(self.text, self.position)
        word = word_match[0] if word_match else ""
        after = self.text[self.position + len(word) :].lstrip(" \t")
        if _NAME.fullmatch(word) and after.startswith("="):
            return NotAssignmentsError(
                f"spaces around '=': bash would run a command called {word}",
                self.position,
                fix=f"write {word}= and the value without spaces",
            )
        shown = word[:60] or self._peek()
        return NotAssignmentsError(f"{shown!r} is not an assignment", self.position)

    def _assignment(self, match: re.Match[str], declares: str) -> None:
        name, start = match[1], match.end()
        if name in _OF_THE_SHELL:
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
            value = self._value(braces_expand=bool(declares))
        if len(value) > MAX_LENGTH:
            raise NotAssignmentsError(f"{name} is longer than {MAX_LENGTH} characters", start)
        self.variables[name] = value
        if declares == "readonly":
            self.constants.add(name)
        self.found.append(Assignment(name, value, self.text[start : self.position], start))

    def _value(self, *, braces_expand: bool) -> str:
        """The word after ``=``; assignments split no words and expand no globs."""
        pieces: list[str] = []
        start = self.position
        while (char := self._peek()) and char not in _ENDS_WORD:
            if plain := _PLAIN.match(self.text, self.position):
                pieces.append(plain[0])
                self.position = plain.end()
            elif char == "~" and (self.position == start or self.text[self.position - 1] == ":"):
                raise NotAssignmentsError("'~' depends on who runs it", self.position)
            elif char == "{" and braces_expand:
                raise NotAssignmentsError(
                    "'{' may expand to several words", self.position, "quote it"
                )
            elif char in "~{":
                pieces.append(char)
                self.position += 1
            else:
                pieces.append(self._special(char))
        return "".join(pieces)

    def _special(self, char: str) -> str:
        if char == "'":
            return self._single_quotes()
        if char == '"':
            return self._double_quotes()
        if char == "\\":
            return self._escape()
        if char == "$":
            return self._dollar(quoted=False)
        if char == "`":
            raise self._command("`")
        raise NotAssignmentsError(f"{char!r} is not read here", self.position)

    def _single_quotes(self) -> str:
        end = self.text.find("'", self.position + 1)
        if end < 0:
            raise NotAssignmentsError("the quote ' is not closed", self.position)
        piece = self.text[self.position + 1 : end]
        self.position = end + 1
        return piece

    def _double_quotes(self) -> str:
        opened = self.position
        self.position += 1
        pieces: list[str] = []
        while char := self._peek():
            if char == '"':
                self.position += 1
                return "".join(pieces)
            pieces.append(self._inside_quotes(char))
        raise NotAssignmentsError('the quote " is not closed', opened)

    def _inside_quotes(self, char: str) -> str:
        if plain := _QUOTED_PLAIN.match(self.text, self.position):
            self.position = plain.end()
            return plain[0]
        if char == "$":
            return self._dollar(quoted=True)
        if char == "`":
            raise self._command("`")
        if char == "\\" and self._peek(1) in tuple('$`"\\\n'):
            return self._escape()
        self.position += 1
        return char

    def _escape(self) -> str:
        escaped = self._peek(1)
        if not escaped:
            raise NotAssignmentsError("a backslash ends the text", self.position)
        self.position += 2
        return "" if escaped == "\n" else escaped

    def _command(self, what: str) -> NotAssignmentsError:
        return NotAssignmentsError(f"{what!r} would run a command", self.position)

    def _dollar(self, *, quoted: bool) -> str:
        start = self.position
        following = self._peek(1)
        if following == "(":
            if self._peek(2) != "(":
                raise self._command("$(")
            return str(self._arithmetic())
        if following == "{":
            return self._braces(quoted=quoted)
        if match := _NAME.match(self.text, start + 1):
            self.position = match.end()
            return self._lookup(match[0], start)
        if following in ("'", '"') and not quoted:
            raise NotAssignmentsError(f"{'$' + following!r} quotes are not read", start)
        if following == "[" or (following and following in "0123456789@*#?$!-"):
            raise NotAssignmentsError(f"{'$' + following!r} is not read", start)
        self.position += 1
        return "$"

    def _lookup(self, name: str, offset: int) -> str:
        value = None if name in _OF_THE_SHELL else self.variables.get(name)
        if value is None:
            raise NotAssignmentsError(
                f"{name} is not assigned before this point",
                offset,
                f"assign {name} above, or write ${{{name}:-default}}; the environment is not read",
            )
        return value

    def _braces(self, *, quoted: bool) -> str:
        """``${NAME}``, ``${NAME:-default}`` or ``${NAME-default}``."""
        start = self.position
        match = _NAME.match(self.text, start + 2)
        if match is None:
            raise NotAssignmentsError("expected a name after '${'", start)
        self.position = match.end()
        if self._peek() == "}":
            self.position += 1
            return self._lookup(match[0], start)
        colon = self._peek() == ":"
        if self._peek(int(colon)) != "-":
            raise NotAssignmentsError("only ${NAME} and ${NAME:-default} are read", start)
        self.position += 2 if colon else 1
        default = self._default(start, quoted=quoted)
        value = self.variables.get(match[0])
        return default if value is None or (colon and not value) else value

    def _default(self, start: int, *, quoted: bool) -> str:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotAssignmentsError(f"nested more than {MAX_DEPTH} deep", start)
        pieces: list[str] = []
        if self._peek() == "~" and not quoted:
            raise NotAssignmentsError("'~' depends on who runs it", self.position)
        while char := self._peek():
            if char == "}":
                self.position += 1
                self.depth -= 1
                return "".join(pieces)
            if char == '"':
                pieces.append(self._double_quotes())
            elif char in "'\\" and not quoted:
                pieces.append(self._special(char))
            elif char in "'<>(){":
                # how bash reads these inside ${…} depends on its version and on the quotes
                raise NotAssignmentsError(f"{char!r} is not read inside '${{'", self.position)
            elif plain := _DEFAULT_PLAIN.match(self.text, self.position):
                pieces.append(plain[0])
                self.position = plain.end()
            else:
                pieces.append(self._inside_quotes(char))
        raise NotAssignmentsError("'${' is not closed", start)

    def _arithmetic(self) -> int:
        """``$(( … ))``: references are put in as text first, as bash does, then it is evaluated."""
        start = self.position
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotAssignmentsError(f"nested more than {MAX_DEPTH} deep", start)
        self.position += 3
        pieces: list[str] = []
        origins: list[tuple[int, int, bool]] = []
        length = open_parentheses = 0
        while char := self._peek():
            at = self.position
            literal = True
            if char == ")" and open_parentheses == 0:
                break
            if plain := _ARITHMETIC_PLAIN.match(self.text, at):
                piece = plain[0]
                self.position = plain.end()
            elif char in "()":
                open_parentheses += 1 if char == "(" else -1
                piece = char
                self.position += 1
            elif char == "$":
                piece, literal = self._dollar(quoted=True), False
            elif char == "\\" and self._peek(1) == "\n":
                piece = ""
                self.position += 2
            else:
                raise (
                    self._command("`")
                    if char == "`"
                    else NotAssignmentsError(f"{char!r} is not read in arithmetic", at)
                )
            origins.append((length, at, literal))
            pieces.append(piece)
            length += len(piece)
        if not self.text.startswith("))", self.position):
            raise NotAssignmentsError("'$((' is not closed by '))'", start)
        self.position += 2
        self.depth -= 1
        try:
            return evaluate("".join(pieces), self.variables, self.depth)
        except BadArithmeticError as fault:
            raise NotAssignmentsError(
                fault.message, _origin(origins, fault.offset, start)
            ) from None


def _origin(origins: list[tuple[int, int, bool]], offset: int, start: int) -> int:
    """Where in the text the character at ``offset`` of the expanded expression came from."""
    place = start
    for begins, at, literal in origins:
        if begins > offset:
            break
        place = at + (offset - begins if literal else 0)
    return place
