from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.metrics.expression import Arithmetic, Number, Step
from evenkeel.metrics.parser import parse
from evenkeel.recipes.lint.intervals import decided, interval

LOSS = 'data["loss"]["5"]'
RATIO = 'mean(data["ratio"], -10, 0)'


def ranges(metric: str) -> tuple[float, float]:
    return {"loss": (0.0, math.inf), "ratio": (0.0, 1.0)}.get(metric, (-math.inf, math.inf))


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        (f"{LOSS} > -1", True),
        (f"{LOSS} >= 0", True),
        (f"{LOSS} > 0", None),
        (f"{LOSS} < 0", False),
        (f"{LOSS} < 1", None),
        (f"-1 < {LOSS}", True),
        (f"-1 < {LOSS} < 1", None),
        (f"0 <= {RATIO} <= 1", True),
        (f"{RATIO} < 1", None),
        (f"{RATIO} <= 1", True),
        (f"{RATIO} > 1", False),
        (f"{RATIO} == 2", False),
        (f"{RATIO} != 2", True),
        (f"2 * {RATIO} - 1 <= 1", True),
        (f"{RATIO} / 2 <= 0.5", True),
        (f"{RATIO} / {LOSS} <= 0.5", None),
        (f"abs({RATIO} - 1) <= 1", True),
        (f"max({RATIO}, 2) >= 2", True),
        (f"min({RATIO}, -2) >= 0", False),
        (f"not {LOSS} < 0", True),
        (f"{LOSS} < 1 or {RATIO} <= 1", True),
        (f"{LOSS} < 1 and {RATIO} > 1", False),
        ("1 < 2", True),
        ('ratio_above(data["x"], 1.1) <= 1', True),
        ('data["x"]["1"] < 5', None),
    ],
)
def test_a_check_is_decided_by_the_range_of_what_it_reads(
    check: str, expected: bool | None
) -> None:
    assert decided(parse(check).tree, ranges) is expected


finite = st.floats(-1e6, 1e6)


@given(st.sampled_from("+-*/"), finite, finite, finite, finite, st.floats(0, 1), st.floats(0, 1))
def test_an_interval_holds_every_result(
    op: str, a: float, b: float, c: float, d: float, s: float, t: float
) -> None:
    left, right = (min(a, b), max(a, b)), (min(c, d), max(c, d))
    x = min(max(left[0] + s * (left[1] - left[0]), left[0]), left[1])
    y = min(max(right[0] + t * (right[1] - right[0]), right[0]), right[1])
    low, high = interval(
        Arithmetic(op, Step("l", 1), Step("r", 1)), lambda m: left if m == "l" else right
    )
    if op == "/" and y == 0:
        return
    value = {"+": x + y, "-": x - y, "*": x * y, "/": x / y if y else 0.0}[op]
    assert low <= value <= high
    assert interval(Number(x), ranges) == (x, x)
