"""How runs are customarily judged: by hand-typed thresholds, and by one golden curve. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from evenkeel.convergence.curves import MetricsView
from evenkeel.metrics.evaluation import evaluate_text

GOLDEN_TOLERANCE = 0.05
GOLDEN_WINDOW = 10
GOLDEN_METRICS = ("train/loss", "validation/loss")


def fails(checks: Iterable[str], metrics: MetricsView) -> bool:
    """Whether a run fails one of its hand-typed thresholds."""
    return not all(evaluate_text(check, metrics).passed for check in checks)


def deviation(golden: MetricsView, metrics: MetricsView) -> float:
    """Largest relative distance of a golden metric, over windows of ten logged steps.

    Losses are what golden curves usually hold; where the reward is the aim, it stands in.
    """
    names = [name for name in GOLDEN_METRICS if name in golden]
    if "train/reward" in golden:
        names = ["train/reward"]
    worst = 0.0
    for name in names:
        expected, found = golden[name], metrics.get(name, {})
        steps = sorted(expected)
        for start in range(0, len(steps), GOLDEN_WINDOW):
            window = steps[start : start + GOLDEN_WINDOW]
            if any(step not in found for step in window):
                return float("inf")
            before = float(np.mean([expected[step] for step in window]))
            after = float(np.mean([found[step] for step in window]))
            distance = abs(after - before) / max(abs(before), 1e-12)
            worst = max(worst, distance if np.isfinite(distance) else float("inf"))
    return worst
