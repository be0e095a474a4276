"""Whether a check can fail at all, or pass at all, given the ranges of the metrics it reads."""

from __future__ import annotations

import math
from collections.abc import Callable

from evenkeel.metrics.expression import (
    Aggregate,
    Arithmetic,
    Compare,
    Function,
    Logic,
    Negate,
    Not,
    Number,
    Numeric,
    ScalarFunction,
    Scalars,
    Step,
    Truth,
)

Interval = tuple[float, float]
Ranges = Callable[[str], Interval]
_ANY: Interval = (-math.inf, math.inf)


def decided(node: Truth, ranges: Ranges) -> bool | None:
    """True: holds whatever the metrics are; False: never holds; None: it depends.

    Args:
        node: a check's tree.
        ranges: metric → (least, largest) possible value.
    """
    match node:
        case Compare(operands, ops):
            bounds = [interval(operand, ranges) for operand in operands]
            links = [_link(bounds[i], op, bounds[i + 1]) for i, op in enumerate(ops)]
            return _all(links)
        case Logic(op, truths):
            values = [decided(truth, ranges) for truth in truths]
            return _all(values) if op == "and" else _any(values)
        case Not(operand):
            value = decided(operand, ranges)
            return None if value is None else not value


def _all(values: list[bool | None]) -> bool | None:
    if any(value is False for value in values):
        return False
    return True if all(value is True for value in values) else None


def _any(values: list[bool | None]) -> bool | None:
    if any(value is True for value in values):
        return True
    return False if all(value is False for value in values) else None


def _link(left: Interval, op: str, right: Interval) -> bool | None:
    if op in (">", ">="):
        return _link(right, "<" if op == ">" else "<=", left)
    if op == "<":
        if left[1] < right[0]:
            return True
        return False if left[0] >= right[1] else None
    if op == "<=":
        if left[1] <= right[0]:
            return True
        return False if left[0] > right[1] else None
    apart = left[1] < right[0] or left[0] > right[1]
    if op == "==":
        return False if apart else None
    return True if apart else None


def interval(node: Numeric, ranges: Ranges) -> Interval:
    """The values that a number of a check can take."""
    match node:
        case Number(value):
            return (value, value)
        case Step(metric, _):
            return ranges(metric)
        case Aggregate(function, metric):
            return (0.0, 1.0) if function is Function.RATIO_ABOVE else ranges(metric)
        case Negate(operand):
            low, high = interval(operand, ranges)
            return (-high, -low)
        case Scalars(function, operands):
            return _scalars(function, [interval(operand, ranges) for operand in operands])
        case Arithmetic(op, left, right):
            return _arithmetic(op, interval(left, ranges), interval(right, ranges))


def _scalars(function: ScalarFunction, bounds: list[Interval]) -> Interval:
    if function is ScalarFunction.ABS:
        low, high = bounds[0]
        least = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
        return (least, max(abs(low), abs(high)))
    choose = max if function is ScalarFunction.MAX else min
    return (choose(low for low, _ in bounds), choose(high for _, high in bounds))


def _arithmetic(op: str, left: Interval, right: Interval) -> Interval:
    if op == "+":
        low, high = left[0] + right[0], left[1] + right[1]
    elif op == "-":
        low, high = left[0] - right[1], left[1] - right[0]
    elif op == "*" or (op == "/" and (right[0] > 0 or right[1] < 0)):
        products = [_apply(op, a, b) for a in left for b in right]
        low, high = min(products), max(products)
    else:
        return _ANY
    return _ANY if math.isnan(low) or math.isnan(high) else (low, high)


def _apply(op: str, a: float, b: float) -> float:
    if op == "*":
        return 0.0 if a == 0 or b == 0 else a * b
    return 0.0 if math.isinf(b) and not math.isinf(a) else a / b
