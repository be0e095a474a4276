"""The numbers that a check compares: what it reads of a run, its summaries and its arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from evenkeel.metrics.expression import (
    Aggregate,
    Arithmetic,
    Function,
    Negate,
    Number,
    Numeric,
    Read,
    ScalarFunction,
    Scalars,
    Step,
)

MetricsView = Mapping[str, Mapping[int, float]]


def values_of(read: Read, metrics: MetricsView) -> dict[int, float]:
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


def number_of(node: Numeric, metrics: MetricsView) -> float:
    """The value of ``node``.

    Raises:
        ArithmeticError: it is not finite, or a division by zero.
        ValueError: it is not real.
    """
    match node:
        case Number(value):
            return value
        case Step():
            (value,) = values_of(node, metrics).values()
            return value
        case Aggregate():
            return _finite(_aggregate(node, list(values_of(node, metrics).values())))
        case Negate(operand):
            return -number_of(operand, metrics)
        case Arithmetic(op, left, right):
            return _arithmetic(op, number_of(left, metrics), number_of(right, metrics))
        case Scalars(function, operands):
            numbers = [number_of(operand, metrics) for operand in operands]
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
