"""How high a loss may be before a run that is under way counts as lost. Pure.

This is no test of convergence: it has to be certain while the run goes on, and to spare every run
that could still end well. So it is generous: the highest of the baseline's runs in the
neighbourhood of a step, and six standard deviations of the steps' noise on top.
"""

from __future__ import annotations

import numpy as np

from evenkeel.convergence.curves import Curve

NEIGHBOURHOOD = 10
"""Steps on either side; a run that is late by so many steps is not lost."""
SIGMAS = 6.0


def upper_edge(curve: Curve, sigmas: float = SIGMAS) -> dict[int, float]:
    """Step → the highest loss that is still plausible; empty where the baseline is too short.

    Args:
        curve: ``train/loss`` of the baseline, shape (runs, steps).
        sigmas: standard deviations of the noise between neighbouring steps to allow.
    """
    values = curve.values
    if values.size == 0 or values.shape[1] < 3 or not np.isfinite(values).all():
        return {}
    # half the variance of the differences of neighbours is that of the noise, whatever the trend
    differences = np.diff(values, axis=1)
    noise = float(np.sqrt(np.mean((differences - np.median(differences)) ** 2) / 2))
    highest = values.max(axis=0)
    padded = np.pad(highest, NEIGHBOURHOOD, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * NEIGHBOURHOOD + 1)
    edge = windows.max(axis=1) + sigmas * noise
    return {int(step): float(value) for step, value in zip(curve.steps, edge, strict=True)}
