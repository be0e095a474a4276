"""The value of an integer expression as bash's ``$(( … ))`` computes it; nothing is ever run.

Left out on purpose, because a block of constants has no use for them: whatever assigns
(``=``, ``+=``, ``++``, ``--``), the comma, array elements and quotes. A result that does not
fit in 64 bits is an error here, where bash would wrap around silently.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

MAX_DEPTH = 60
"""Nesting of parentheses, operators and references; deeper text is refused, not recursed into."""
MAX_REFERENCES = 10_000
"""References followed for one value: ``A='B+B' B='C+C' …`` doubles with each name."""

_LOW, _HIGH = -(2**63), 2**63 - 1
_TOKEN = re.compile(
    r"[ \t\n]*(?:(?P<number>[0-9][0-9A-Za-z_@#]*)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<op>\*\*|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%()<>!~&|^?:]))"
)
_BLANK = re.compile(r"[ \t\n]*")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ@_"

# binary operators, loosest first; ``**`` and ``?:`` are apart because they group to the right
_LEVELS: tuple[frozenset[str], ...] = (
    frozenset({"||"}),
    frozenset({"&&"}),
    frozenset({"|"}),
    frozenset({"^"}),
    frozenset({"&"}),
    frozenset({"==", "!="}),
    frozenset({"<", ">", "<=", ">="}),
    frozenset({"<<", ">>"}),
    frozenset({"+", "-"}),
    frozenset({"*", "/", "%"}),
)


class BadArithmeticError(Exception):
    """The expression is not one this evaluator reads; ``offset`` is where in its text."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


def evaluate(
    text: str, variables: Mapping[str, str], depth: int = 0, followed: list[str] | None = None
) -> int:
    """The integer that ``$((text))`` is in bash, with ``variables`` set and nothing else.

    A name stands for the value of its own text as an expression, as in bash. ``followed``
    collects those names over all levels, so that their number can be limited.

    Raises:
        BadArithmeticError: syntax, an unset name, division by zero, more than 64 bits.
    """
    return _Expression(text, variables, depth, [] if followed is None else followed).value()


class _Expression:
    """One pass over the text, precedence climbing; ``live`` is false in a branch not taken."""

    def __init__(
        self, text: str, variables: Mapping[str, str], depth: int, followed: list[str]
    ) -> None:
        self.text = text
        self.variables = variables
        self.depth = depth
        self.followed = followed
        self.position = 0
        self.kind = ""
        self.token = ""
        self.start = 0
        self.live = True
        self._advance()

    def value(self) -> int:
        if not self.kind:
            return 0  # bash: an empty expression is 0
        result = self._ternary()
        if self.kind:
            raise self._unexpected("an operator")
        return result

    def _advance(self) -> None:
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            blank = _BLANK.match(self.text, self.position)
            self.start = blank.end() if blank else self.position
            if self.start < len(self.text):
                raise BadArithmeticError(
                    f"{self.text[self.start]!r} is not read in arithmetic", self.start
                )
            self.kind = self.token = ""
            return
        previous = self.kind
        self.kind = match.lastgroup or ""
        self.token = match[self.kind]
        self.start = match.start(self.kind)
        self.position = match.end()
        if self.token in "+-" and self.text[self.position : self.position + 1] == self.token:
            self._refuse_increment(previous)

    def _refuse_increment(self, previous: str) -> None:
        """``5--1`` is two signs in bash; ``X--`` and ``--X`` would change X."""
        after = _BLANK.match(self.text, self.position + 1)
        following = self.text[after.end() : after.end() + 1] if after else ""
        if previous == "name" or following.isalpha() or following == "_":
            raise BadArithmeticError(f"{self.token * 2!r} changes a variable", self.start)

    def _unexpected(self, wanted: str) -> BadArithmeticError:
        found = f"found {self.token!r}" if self.kind else "the expression ends"
        return BadArithmeticError(f"expected {wanted}, {found}", self.start)

    def _fault(self, message: str, offset: int) -> int:
        if self.live:
            raise BadArithmeticError(message, offset)
        return 0

    def _fit(self, value: int, offset: int) -> int:
        if _LOW <= value <= _HIGH:
            return value
        return self._fault("the value does not fit in 64 bits", offset)

    def _ternary(self) -> int:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise BadArithmeticError(f"nested more than {MAX_DEPTH} deep", self.start)
        condition = self._binary(0)
        if self.token == "?":
            self._advance()
            first = self._in_branch(condition != 0, self._ternary)
            if self.token != ":":
                raise self._unexpected("':'")
            self._advance()
            second = self._in_branch(condition == 0, self._ternary)
            condition = first if condition != 0 else second
        self.depth -= 1
        return condition

    def _in_branch(self, taken: bool, read: Callable[[], int]) -> int:
        live = self.live
        self.live = live and taken
        value = read()
        self.live = live
        return value

    def _binary(self, level: int) -> int:
        if level == len(_LEVELS):
            return self._power()
        left = self._binary(level + 1)
        while self.kind == "op" and self.token in _LEVELS[level]:
            operator, offset = self.token, self.start
            self._advance()
            if operator in ("&&", "||"):
                matters = (left != 0) == (operator == "&&")
                right = self._in_branch(matters, lambda: self._binary(level + 1))
                left = int(right != 0) if matters else int(left != 0)
            else:
                left = self._apply(operator, left, self._binary(level + 1), offset)
        return left

    def _apply(self, operator: str, left: int, right: int, offset: int) -> int:
        if operator in ("/", "%"):
            if right == 0:
                return self._fault("division by zero", offset)
            quotient = abs(left) // abs(right)
            quotient = quotient if (left < 0) == (right < 0) else -quotient
            return self._fit(quotient if operator == "/" else left - quotient * right, offset)
        if operator in ("<<", ">>") and not 0 <= right < 64:
            return self._fault(f"a shift by {right} is undefined", offset)
        return self._fit(int(_OPERATIONS[operator](left, right)), offset)

    def _power(self) -> int:
        base = self._unary()
        if self.token != "**":
            return base
        offset = self.start
        self._nest()
        self._advance()
        exponent = self._power()
        self.depth -= 1
        if exponent < 0:
            # bash refuses this even in a branch that is not taken
            raise BadArithmeticError("exponent less than 0", offset)
        if abs(base) > 1 and exponent > 63:
            return self._fault("the value does not fit in 64 bits", offset)
        # -1, 0 and 1 only depend on whether the exponent is 0, odd or even
        return self._fit(base ** (exponent if exponent < 64 else 2 + exponent % 2), offset)

    def _nest(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise BadArithmeticError(f"nested more than {MAX_DEPTH} deep", self.start)

    def _unary(self) -> int:
        if self.kind == "op" and self.token in ("-", "+", "!", "~"):
            operator, offset = self.token, self.start
            self._nest()
            self._advance()
            value = self._unary()
            self.depth -= 1
            if operator == "-":
                return self._fit(-value, offset)
            return int(value == 0) if operator == "!" else ~value if operator == "~" else value
        return self._primary()

    def _primary(self) -> int:
        token, offset = self.token, self.start
        if self.kind == "number":
            value = self._constant(token, offset)
        elif self.kind == "name":
            value = self._reference(token, offset) if self.live else 0
        elif token == "(":
            self._advance()
            value = self._ternary()
            if self.token != ")":
                raise self._unexpected("')'")
        else:
            raise self._unexpected("a number, a name or '('")
        self._advance()
        return value

    def _reference(self, name: str, offset: int) -> int:
        text = self.variables.get(name)
        if text is None:
            raise BadArithmeticError(f"{name} is not assigned before this point", offset)
        if text.isdecimal() and text[0] != "0" and len(text) < 19:
            return int(text)
        self.followed.append(name)
        if len(self.followed) > MAX_REFERENCES or self.depth > MAX_DEPTH:
            raise BadArithmeticError(f"{name} refers on and on", offset)
        try:
            return evaluate(text, self.variables, self.depth + 1, self.followed)
        except BadArithmeticError as fault:
            reason = fault.message.rpartition(": ")[2]  # of names in between, nobody needs to hear
            raise BadArithmeticError(f"{name} is {text[:60]!r}: {reason}", offset) from None

    def _constant(self, token: str, offset: int) -> int:
        base, digits = 10, token
        if "#" in token:
            prefix, _, digits = token.partition("#")
            base = int(prefix) if prefix.isdecimal() and len(prefix) < 3 else 0
            if not 2 <= base <= 64 or prefix[0] == "0":
                raise BadArithmeticError(f"{token!r}: a base is 2 to 64", offset)
            if base <= 36:
                digits = digits.lower()
        elif token[:2] in ("0x", "0X"):
            base, digits = 16, token[2:].lower()
        elif token[0] == "0" and len(token) > 1:
            base, digits = 8, token[1:]
        if not digits:
            raise BadArithmeticError(f"{token!r} has no digits", offset)
        value = 0
        for digit in digits:
            weight = _DIGITS.find(digit)
            if not 0 <= weight < base:
                hint = ": a leading 0 means octal" if base == 8 and token[0] == "0" else ""
                raise BadArithmeticError(f"{token!r} is not a base {base} number{hint}", offset)
            value = value * base + weight
            if value > _HIGH:
                raise BadArithmeticError("the number does not fit in 64 bits", offset)
        return value


_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    "&": lambda a, b: a & b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
    "<<": lambda a, b: a << b,
    ">>": lambda a, b: a >> b,
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}
