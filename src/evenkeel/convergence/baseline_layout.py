"""The text of a baseline file: JSON with one line per run and metric, for pull requests. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evenkeel.convergence.curves import Steps
from evenkeel.convergence.statistics import Array

DIGITS = 7
"""Significant digits kept, unless exact values are asked for: those of a 32-bit float."""


def written(
    head: Mapping[str, Any],
    metrics: Mapping[str, tuple[Steps, Sequence[tuple[str, Array]]]],
    exact: bool,
) -> str:
    """Provenance first, then the metrics.

    Args:
        head: what is not a curve.
        metrics: name → steps, and per run its name and its values of shape (steps,).
        exact: write all digits.
    """
    lines = json.dumps(head, indent=1).rstrip("}\n") + ',\n "metrics": {\n'
    blocks = []
    for name, (steps, rows) in sorted(metrics.items()):
        texts = [f'   "steps": {_steps(steps)}']
        texts += [f'   "{run}": [{", ".join(_values(row, exact))}]' for run, row in rows]
        blocks.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(texts) + "\n  }")
    return lines + ",\n".join(blocks) + "\n }\n}\n"


def _steps(steps: Steps) -> str:
    """``"first:last:period"`` where steps are regular, else the list."""
    gaps = np.diff(steps)
    if len(steps) > 2 and (gaps == gaps[0]).all():
        return json.dumps(f"{steps[0]}:{steps[-1]}:{gaps[0]}")
    return json.dumps(steps.tolist())


def _values(row: Array, exact: bool) -> list[str]:
    values = row.tolist()
    if exact:
        return [json.dumps(value) for value in values]
    return [json.dumps(float(f"{v:.{DIGITS}g}") if math.isfinite(v) else v) for v in values]


def read_steps(text: str | list[int]) -> Steps:
    """The steps of a metric as they are written.

    Raises:
        ValueError: they are not.
    """
    if isinstance(text, str):
        first, last, period = map(int, text.split(":"))
        return np.arange(first, last + 1, period, dtype=np.int64)
    return np.array(text, dtype=np.int64)
