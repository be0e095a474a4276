"""Runs of an imaginary recipe: a falling loss with noise per step and a spread between seeds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evenkeel.metrics.series import Metrics, Series

Change = Callable[[np.ndarray, np.ndarray], np.ndarray]


def loss_curve(
    seed: int,
    *,
    num_steps: int = 300,
    between: float = 0.003,
    within: float = 0.02,
    change: Change | None = None,
) -> Series:
    """Loss by step; ``between`` and ``within`` are relative standard deviations.

    Args:
        seed: of this run.
        num_steps: from step 1.
        between: of the whole curve from run to run.
        within: of a single step.
        change: (steps, values) → values, a planted fault.
    """
    random = np.random.default_rng(seed)
    steps = np.arange(1, num_steps + 1)
    values = (2 + 5 * np.exp(-steps / (0.2 * num_steps))) * np.exp(
        between * random.standard_normal() + within * random.standard_normal(num_steps)
    )
    if change is not None:
        values = change(steps, values)
    return dict(zip(steps.tolist(), values.tolist(), strict=True))


def run(seed: int, **settings: object) -> Metrics:
    """Metrics with a ``train/loss`` alone."""
    return {"train/loss": loss_curve(seed, **settings)}  # type: ignore[arg-type]


def scale(factor: float) -> Change:
    """The whole curve times ``factor``."""
    return lambda steps, values: values * factor
