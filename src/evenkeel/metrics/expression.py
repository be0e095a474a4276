"""The language of checks as a tree: ``mean(data["train/loss"], -10, -1) < 0.58``.

A check's text becomes typed nodes and nothing else: it is parsed with ``ast`` against a
whitelist and never run. ``check.evaluate`` computes a tree; the linter reads its
``Check.reads`` and ``Check.comparisons``.

    Number   Step   Aggregate   Negate   Arithmetic   Scalars          give a number
    Compare  Logic  Not                                                give a truth value
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Function(StrEnum):
    """What summarises a metric over a range of steps."""

    MEAN = "mean"
    MAX = "max"
    MIN = "min"
    MEDIAN = "median"
    RATIO_ABOVE = "ratio_above"


class ScalarFunction(StrEnum):
    """What works on plain numbers."""

    MAX = "max"
    MIN = "min"
    ABS = "abs"


@dataclass(frozen=True)
class StepRange:
    """Steps ``[start, end)`` of a metric, as written; None where nothing was written.

    With N the last step of the metric, a negative bound b means step N + 1 + b,
    and an end of 0 means N + 1.
    """

    start: int | None = None
    end: int | None = None

    def resolve(self, last_step: int) -> tuple[int, int | None]:
        """(first step, step behind the last); the end is None where all to the end is meant.

        A start that was not written stands before every step; so the whole
        metric is read, a value logged before step 1 included.
        """
        start = -(2**63) if self.start is None else self.start
        if self.start is not None and self.start < 0:
            start = last_step + 1 + self.start
        if self.end is None:
            return start, None
        return start, last_step + 1 + self.end if self.end <= 0 else self.end

    def select(self, series: Mapping[int, float]) -> dict[int, float]:
        """The values of ``series`` whose step is in the range."""
        if not series:
            return {}
        start, end = self.resolve(max(series))
        return {
            step: value
            for step, value in series.items()
            if start <= step and (end is None or step < end)
        }

    def __str__(self) -> str:
        if self.start is None and self.end is None:
            return "all steps"
        start = "" if self.start is None else self.start
        return f"steps [{start}, {'' if self.end is None else self.end})"


@dataclass(frozen=True)
class Number:
    """A literal, finite."""

    value: float


@dataclass(frozen=True)
class Step:
    """``data[metric][step]``; a negative step b means step N + 1 + b, as in a range."""

    metric: str
    step: int


@dataclass(frozen=True)
class Aggregate:
    """``mean(data[metric], start, end, ignore_top_p=…)`` and its kin."""

    function: Function
    metric: str
    range: StepRange = StepRange()
    ignore_top_p: float = 0.0
    bound: float | None = None
    """Of ``ratio_above``: the share of values at or above it is taken."""


@dataclass(frozen=True)
class Negate:
    """``-operand``."""

    operand: Numeric


@dataclass(frozen=True)
class Arithmetic:
    """``left op right``, op one of ``+ - * / // % **``."""

    op: str
    left: Numeric
    right: Numeric


@dataclass(frozen=True)
class Scalars:
    """``abs(x)``, ``max(x, y, …)``, ``min(x, y, …)`` over numbers."""

    function: ScalarFunction
    operands: tuple[Numeric, ...]


@dataclass(frozen=True)
class Compare:
    """``operands[0] ops[0] operands[1] ops[1] …``: one comparison, or a chain."""

    operands: tuple[Numeric, ...]
    ops: tuple[str, ...]


@dataclass(frozen=True)
class Logic:
    """``a and b …`` or ``a or b …``; every operand is evaluated, nothing is skipped."""

    op: str
    operands: tuple[Truth, ...]


@dataclass(frozen=True)
class Not:
    """``not operand``."""

    operand: Truth


Numeric = Number | Step | Aggregate | Negate | Arithmetic | Scalars
Truth = Compare | Logic | Not
Node = Numeric | Truth
Read = Step | Aggregate


@dataclass(frozen=True)
class Check:
    """One check: the text as it was written and what it means."""

    text: str
    tree: Truth

    @property
    def reads(self) -> tuple[Read, ...]:
        """What it reads of the metrics, in the order of the text."""
        return tuple(node for node in walk(self.tree) if isinstance(node, Step | Aggregate))

    @property
    def comparisons(self) -> tuple[Compare, ...]:
        """Its comparisons, in the order of the text."""
        return tuple(node for node in walk(self.tree) if isinstance(node, Compare))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics it reads, each once."""
        return tuple(dict.fromkeys(read.metric for read in self.reads))


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly below ``node``, from left to right."""
    match node:
        case Number() | Step() | Aggregate():
            return ()
        case Negate(operand):
            return (operand,)
        case Not(inner):
            return (inner,)
        case Arithmetic(_, left, right):
            return (left, right)
        case Scalars(_, scalars):
            return scalars
        case Compare(numbers, _):
            return numbers
        case Logic(_, truths):
            return truths


def walk(node: Node) -> Iterator[Node]:
    """``node`` and everything below it, in the order of the text."""
    yield node
    for child in children(node):
        yield from walk(child)
