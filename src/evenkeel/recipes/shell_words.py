"""Reads the words of a piece of bash without running anything: quotes, references, arithmetic.

A word is made of plain characters, quotes, backslashes, ``$NAME``, ``${NAME}``,
``${NAME:-default}`` and ``$(( … ))``. References reach earlier assignments only: the environment
is not read. Everything else is refused with its place.
"""

from __future__ import annotations

import re

from evenkeel.recipes.shell_arithmetic import MAX_DEPTH, BadArithmeticError, evaluate

_PLAIN = re.compile(r"[^ \t\n;&|<>()$`'\"\\~{]+")
_QUOTED_PLAIN = re.compile(r"[^$`\"\\}]+")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ARITHMETIC_PLAIN = re.compile(r"[^$`()\\'\"]+")
_DEFAULT_PLAIN = re.compile(r"[^$`\"\\}'<>(){]+")
ENDS_WORD = " \t\n;"
"""Characters that end a word outside of quotes."""

# bash computes these itself or forbids to set them, so their text here is not their value there
OF_THE_SHELL = frozenset(
    re.findall(
        r"\w+",
        "RANDOM SRANDOM SECONDS LINENO BASHPID EPOCHSECONDS EPOCHREALTIME BASH_SUBSHELL "
        "BASH_COMMAND BASH_ARGV0 BASHOPTS SHELLOPTS BASH_VERSINFO BASH_ALIASES BASH_CMDS EUID UID "
        "PPID GROUPS DIRSTACK FUNCNAME HISTCMD POSIXLY_CORRECT COMP_WORDBREAKS _ IFS",
    )
)
_FIX = "write plain assignments: integers, $(( … )), quotes and references to earlier variables"


class NotAssignmentsError(Exception):
    """Text outside the language; ``offset`` is where, ``fix`` what to write instead."""

    def __init__(self, message: str, offset: int, fix: str = _FIX) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset
        self.fix = fix


class WordReader:
    """Reads one word after the other from a text.

    Args:
        text: the piece of bash.
        position: of the next character.
    """

    def __init__(self, text: str, position: int) -> None:
        self.text = text
        self.position = position
        self.variables: dict[str, str] = {}
        self._depth = 0

    def peek(self, ahead: int = 0) -> str:
        """The character at the position, or ``ahead`` of it; empty at the end."""
        return self.text[self.position + ahead : self.position + ahead + 1]

    def value(self, *, braces_expand: bool) -> str:
        """The word after ``=``; assignments split no words and expand no globs."""
        pieces: list[str] = []
        start = self.position
        while (char := self.peek()) and char not in ENDS_WORD:
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
        while char := self.peek():
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
        if char == "\\" and self.peek(1) in tuple('$`"\\\n'):
            return self._escape()
        self.position += 1
        return char

    def _escape(self) -> str:
        escaped = self.peek(1)
        if not escaped:
            raise NotAssignmentsError("a backslash ends the text", self.position)
        self.position += 2
        return "" if escaped == "\n" else escaped

    def _command(self, what: str) -> NotAssignmentsError:
        return NotAssignmentsError(f"{what!r} would run a command", self.position)

    def _dollar(self, *, quoted: bool) -> str:
        start = self.position
        following = self.peek(1)
        if following == "(":
            if self.peek(2) != "(":
                raise self._command("$(")
            return str(self._arithmetic())
        if following == "{":
            return self._braces(quoted=quoted)
        if match := NAME.match(self.text, start + 1):
            self.position = match.end()
            return self._lookup(match[0], start)
        if following in ("'", '"') and not quoted:
            raise NotAssignmentsError(f"{'$' + following!r} quotes are not read", start)
        if following == "[" or (following and following in "0123456789@*#?$!-"):
            raise NotAssignmentsError(f"{'$' + following!r} is not read", start)
        self.position += 1
        return "$"

    def _lookup(self, name: str, offset: int) -> str:
        value = None if name in OF_THE_SHELL else self.variables.get(name)
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
        match = NAME.match(self.text, start + 2)
        if match is None:
            raise NotAssignmentsError("expected a name after '${'", start)
        self.position = match.end()
        if self.peek() == "}":
            self.position += 1
            return self._lookup(match[0], start)
        colon = self.peek() == ":"
        if self.peek(int(colon)) != "-":
            raise NotAssignmentsError("only ${NAME} and ${NAME:-default} are read", start)
        self.position += 2 if colon else 1
        default = self._default(start, quoted=quoted)
        value = self.variables.get(match[0])
        return default if value is None or (colon and not value) else value

    def _default(self, start: int, *, quoted: bool) -> str:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise NotAssignmentsError(f"nested more than {MAX_DEPTH} deep", start)
        pieces: list[str] = []
        if self.peek() == "~" and not quoted:
            raise NotAssignmentsError("'~' depends on who runs it", self.position)
        while char := self.peek():
            if char == "}":
                self.position += 1
                self._depth -= 1
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
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise NotAssignmentsError(f"nested more than {MAX_DEPTH} deep", start)
        self.position += 3
        pieces: list[str] = []
        origins: list[tuple[int, int, bool]] = []
        length = open_parentheses = 0
        while char := self.peek():
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
            elif char == "\\" and self.peek(1) == "\n":
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
        self._depth -= 1
        try:
            return evaluate("".join(pieces), self.variables, self._depth)
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
