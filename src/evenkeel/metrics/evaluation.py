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
from evenkeel.metrics.check_numbers import MetricsView, number_of, values_of
from evenkeel.metrics.expression import (
    Aggregate,
    Check,
    Compare,
    Logic,
    Node,
    Not,
    Numeric,
    Read,
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
        values = values_of(read, metrics)
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
    value, bound = number_of(left, metrics), number_of(right, metrics)
    if _reads_metrics(right) and not _reads_metrics(left):
        value, bound, op = bound, value, _MIRRORED[op]
    return _Told(value, _OPPOSITE[op] if negated else op, bound)


def _reads_metrics(node: Node) -> bool:
    return any(isinstance(part, Step | Aggregate) for part in walk(node))


def _show(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return f"{'' if value > 0 else '-'}Infinity" if math.isinf(value) else f"{value:.6g}"
