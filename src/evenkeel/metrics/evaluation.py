"""What a check says about a run's metrics: its outcome, value, bound and margin.

Every read of a check is looked at before anything is compared: a missing metric or step, an
empty range, or a NaN or infinity decides the outcome wherever in the check it stands, under
``not``, in an ``or`` or beside ``!=`` too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from evenkeel.errors import did_you_mean
from evenkeel.metrics.expression import (
    Aggregate,
    Arithmetic,
    Check,
    Compare,
    Function,
    Logic,
    Negate,
    Node,
    Not,
    Number,
    Numeric,
    Read,
    ScalarFunction,
    Scalars,
    Step,
    Truth,
    walk,
)
from evenkeel.metrics.parser import parse


class Outcome(StrEnum):
    """How a check ended; only PASSED is good."""

    PASSED = "PASSED"
    FAILED = "FAILED"
    NON_FINITE = "NON_FINITE"
    MISSING_METRIC = "MISSING_METRIC"
    MISSING_STEP = "MISSING_STEP"
    EMPTY_RANGE = "EMPTY_RANGE"


# which outcome is told when the reads of one check have several faults
_GRAVITY = (
    Outcome.NON_FINITE,
    Outcome.MISSING_METRIC,
    Outcome.MISSING_STEP,
    Outcome.EMPTY_RANGE,
)


@dataclass(frozen=True)
class CheckResult:
    """One check, judged."""

    check: str
    outcome: Outcome
    message: str
    value: float | None = None
    """The compared number; of several comparisons, that of the one that decided."""
    bound: float | None = None
    """What it was compared with."""
    margin: float | None = None
    """Signed distance to the bound: positive on the good side, negative on the bad."""
    samples: int = 0
    """How many logged values the check read."""

    @property
    def passed(self) -> bool:
        """Whether it is good."""
        return self.outcome is Outcome.PASSED

    @property
    def relative_margin(self) -> float | None:
        """``margin`` as a share of the bound's size; None without a bound or where it is 0."""
        if self.margin is None or not self.bound:
            return None
        return self.margin / abs(self.bound)

    def to_json(self) -> dict[str, Any]:
        """The keys of the contract (check, value, passed, margin, message), then more."""
        return {
            "check": self.check,
            "value": self.value,
            "passed": self.passed,
            "margin": self.margin,
            "message": self.message,
            "outcome": self.outcome.value,
            "bound": self.bound,
            "relative_margin": self.relative_margin,
            "samples": self.samples,
        }


MetricsView = Mapping[str, Mapping[int, float]]


def evaluate_text(text: str, metrics: MetricsView) -> CheckResult:
    """``evaluate`` of the check that ``text`` writes down.

    Raises:
        InputError: it is no check.
    """
    return evaluate(parse(text), metrics)


def evaluate(check: Check, metrics: MetricsView) -> CheckResult:
    """Judge ``check`` on ``metrics``; never raises for what the metrics hold."""
    faults: list[tuple[Outcome, str]] = []
    samples = 0
    for read in check.reads:
        values = _values(read, metrics)
        samples += len(values)
        fault = _fault(read, values, metrics)
        if fault and fault not in faults:
            faults.append(fault)
    if faults:
        worst = min((outcome for outcome, _ in faults), key=_GRAVITY.index)
        message = "; ".join(text for _, text in faults)
        return CheckResult(check.text, worst, message, samples=samples)
    try:
        told = _truth(check.tree, metrics)
    except ZeroDivisionError:
        return CheckResult(check.text, Outcome.FAILED, "divides by zero", samples=samples)
    except (ArithmeticError, ValueError):
        message = "its arithmetic leaves the range of finite real numbers"
        return CheckResult(check.text, Outcome.FAILED, message, samples=samples)
    return CheckResult(
        check.text,
        Outcome.PASSED if told.holds else Outcome.FAILED,
        told.text if told.holds else f"{told.text} does not hold",
        value=told.value,
        bound=told.bound,
        margin=told.margin,
        samples=samples,
    )


# --- what a check reads ---------------------------------------------------------------


def _values(read: Read, metrics: MetricsView) -> dict[int, float]:
    """The values that ``read`` looks at, by step; empty where there are none."""
    series = metrics.get(read.metric, {})
    if isinstance(read, Aggregate):
        return read.range.select(series)
    step = _resolve(read, series)
    return {step: series[step]} if step in series else {}


def _resolve(read: Step, series: Mapping[int, float]) -> int:
    if read.step >= 0 or not series:
        return read.step
    return max(series) + 1 + read.step


def _fault(
    read: Read, values: Mapping[int, float], metrics: MetricsView
) -> tuple[Outcome, str] | None:
    if read.metric not in metrics:
        known = ", ".join(sorted(metrics)[:8]) or "none"
        more = f", … {len(metrics) - 8} more" if len(metrics) > 8 else ""
        text = f"no metric {read.metric!r}{did_you_mean(read.metric, metrics)}; "
        return Outcome.MISSING_METRIC, f"{text}there are: {known}{more}"
    series = metrics[read.metric]
    if not values:
        held = _held(series)
        if isinstance(read, Step):
            return Outcome.MISSING_STEP, f"{read.metric!r} has no step {read.step}: {held}"
        return Outcome.EMPTY_RANGE, f"{read.metric!r} has no value in {read.range}: {held}"
    bad = [step for step, value in values.items() if not math.isfinite(value)]
    if bad:
        more = f" and at {len(bad) - 1} more of {len(values)} steps" if len(bad) > 1 else ""
        first = min(bad)
        text = f"{read.metric!r} is {_show(values[first])} at step {first}{more}"
        return Outcome.NON_FINITE, text
    return None


def _held(series: Mapping[int, float]) -> str:
    if not series:
        return "it has no steps at all"
    if len(series) == 1:
        return f"its only step is {min(series)}"
    return f"it has {len(series)} steps, {min(series)} to {max(series)}"


# --- numbers --------------------------------------------------------------------------


def _number(node: Numeric, metrics: MetricsView) -> float:
    """The value of ``node``.

    Raises:
        ArithmeticError: it is not finite, or a division by zero.
        ValueError: it is not real.
    """
    match node:
        case Number(value):
            return value
        case Step():
            (value,) = _values(node, metrics).values()
            return value
        case Aggregate():
            return _finite(_aggregate(node, list(_values(node, metrics).values())))
        case Negate(operand):
            return -_number(operand, metrics)
        case Arithmetic(op, left, right):
            return _arithmetic(op, _number(left, metrics), _number(right, metrics))
        case Scalars(function, operands):
            numbers = [_number(operand, metrics) for operand in operands]
            if function is ScalarFunction.ABS:
                return abs(numbers[0])
            return max(numbers) if function is ScalarFunction.MAX else min(numbers)


def _aggregate(node: Aggregate, values: list[float]) -> float:
    if node.function is Function.RATIO_ABOVE:
        bound = node.bound if node.bound is not None else 0.0
        return sum(value >= bound for value in values) / len(values)
    if node.ignore_top_p > 0:
        # rounds down what is kept, as the suites do, and keeps at least one
        kept = max(int(len(values) * (1.0 - node.ignore_top_p)), 1)
        values = sorted(values)[:kept]
    return _SUMMARIES[node.function](values)


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


_SUMMARIES: dict[Function, Callable[[list[float]], float]] = {
    Function.MEAN: _mean,
    Function.MAX: max,
    Function.MIN: min,
    Function.MEDIAN: _median,
}


def _arithmetic(op: str, left: float, right: float) -> float:
    match op:
        case "+":
            return _finite(left + right)
        case "-":
            return _finite(left - right)
        case "*":
            return _finite(left * right)
        case "/":
            return _finite(left / right)
        case "//":
            return _finite(left // right)
        case "%":
            return _finite(left % right)
    power = left**right
    if isinstance(power, complex):
        raise ValueError("not a real number")
    return _finite(power)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ArithmeticError("not finite")
    return value


# --- truth ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Told:
    """A comparison ``value op bound``, whether it holds, and by how much."""

    value: float
    op: str
    bound: float

    @property
    def holds(self) -> bool:
        return _HOLDS[self.op](self.value, self.bound)

    @property
    def margin(self) -> float:
        if self.op in ("<", "<="):
            return self.bound - self.value
        if self.op in (">", ">="):
            return self.value - self.bound
        distance = abs(self.value - self.bound)
        return 0.0 - distance if self.op == "==" else distance

    @property
    def text(self) -> str:
        value, bound = f"{self.value:.6g}", f"{self.bound:.6g}"
        if value == bound:
            value, bound = repr(self.value), repr(self.bound)
        return f"{value} {self.op} {bound}"


_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
# finite numbers are ordered totally, so each comparison has an exact opposite
_OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}


def _truth(node: Truth, metrics: MetricsView, negated: bool = False) -> _Told:
    """The comparison that decides ``node``.

    ``and`` is decided by the comparison that is nearest to failing, ``or``
    by the one farthest from it; ``not`` turns every comparison round.
    """
    match node:
        case Not(operand):
            return _truth(operand, metrics, not negated)
        case Logic(op, operands):
            told = [_truth(operand, metrics, negated) for operand in operands]
            return _decisive(told, every=(op == "and") != negated)
        case Compare(operands, ops):
            links = [
                _link(left, op, right, metrics, negated)
                for left, op, right in zip(operands, ops, operands[1:], strict=False)
            ]
            return _decisive(links, every=not negated)


def _decisive(told: list[_Told], every: bool) -> _Told:
    # a margin of 0 is on the good side of <= and on the bad side of <: so truth comes first
    def standing(one: _Told) -> tuple[bool, float]:
        return one.holds, one.margin

    return min(told, key=standing) if every else max(told, key=standing)


def _link(left: Numeric, op: str, right: Numeric, metrics: MetricsView, negated: bool) -> _Told:
    value, bound = _number(left, metrics), _number(right, metrics)
    if _reads_metrics(right) and not _reads_metrics(left):
        value, bound, op = bound, value, _MIRRORED[op]
    return _Told(value, _OPPOSITE[op] if negated else op, bound)


def _reads_metrics(node: Node) -> bool:
    return any(isinstance(part, Step | Aggregate) for part in walk(node))


def _show(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return f"{'' if value > 0 else '-'}Infinity" if math.isinf(value) else f"{value:.6g}"
