"""How metrics are made relative, and how finely they are written. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evenkeel.convergence import summaries
from evenkeel.convergence.metric_kinds import Direction, Kind
from evenkeel.convergence.statistics import Array

NDArrayBool = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


@dataclass(frozen=True, eq=False)
class Units:
    """How metrics are made relative; arrays of shape (metrics,).

    Args:
        log: judged as logarithm.
        scale: else divided by this.
        bad: +1 where upwards is bad, -1 where downwards is, 0 where both are.
        kinds: of each metric.
    """

    log: NDArrayBool
    scale: Array
    bad: Array
    kinds: tuple[Kind, ...]

    def relative(self, values: Array) -> Array:
        """Values of shape (metrics, …) in relative units."""
        shape = (-1,) + (1,) * (values.ndim - 1)
        log = self.log.reshape(shape)
        logs = np.log(np.where(log, values, 1.0))
        return np.asarray(np.where(log, logs, values / self.scale.reshape(shape)))

    def of_steps(self, values: Array) -> Units:
        """Units for single steps, (metrics, runs, steps), of which one may be zero where no block
        is: relative to the metric's size there, which agrees with the logarithm for small changes.
        """
        return replace(self, log=self.log & (values > 0).all(axis=(1, 2)))

    def absolute(self, relative: Array) -> Array:
        """The inverse of ``relative``."""
        return np.asarray(
            np.where(self.log, np.exp(np.minimum(relative, 700.0)), relative * self.scale)
        )


def units_of_blocks(fine: Array, num_baseline: int, kinds: Sequence[Kind]) -> Units:
    """The units of metrics whose fine blocks are (metrics, runs, blocks), baseline runs first."""
    positive = np.array([kind.positive for kind in kinds]) & (fine > 0).all(axis=(1, 2))
    mean = fine[:, :num_baseline].mean(axis=1)
    scale = np.maximum(np.abs(level(fine[:, :num_baseline])), np.ptp(mean, axis=1))
    largest = np.abs(fine).max(axis=(1, 2))
    scale = np.where(scale > 0, scale, np.where(largest > 0, largest, 1.0))
    sides = {Direction.LOWER: 1.0, Direction.HIGHER: -1.0}
    bad = np.array([sides.get(kind.direction, 0.0) for kind in kinds])
    return Units(positive, scale, bad, tuple(kinds))


def level(fine: Array) -> Array:
    """A typical value near the end, (metrics,)."""
    num = max(1, fine.shape[-1] // 10)
    return np.asarray(fine[..., -num:].mean(axis=(1, 2)))


def quantum(values: Array) -> Array:
    """The step of a metric with few distinct values, else 0, (metrics,).

    A metric counts as quantised where at most half of its values are distinct, or where it is a
    single number and all differences are multiples of the smallest.
    """
    num_metrics, num_runs, num_steps = values.shape
    if num_steps > 1:
        values, num_runs = values[:, :1], 1  # one run has enough values, and sorting is slow
    flat = np.sort(values.reshape(num_metrics, -1), axis=1)
    gaps = np.diff(flat, axis=1)
    size = np.abs(flat).max(axis=1, keepdims=True)
    real = gaps > 1e-9 * size
    distinct = real.sum(axis=1) + 1
    least = np.where(real, gaps, np.inf).min(axis=1, initial=np.inf)
    if num_steps > 1:
        quantised = distinct <= 0.5 * num_runs * num_steps
        block = max(1, num_steps // summaries.COARSE)
        found = np.where(quantised & np.isfinite(least), least, 0.0)
        return np.asarray(found / np.sqrt(block))
    ratio = np.where(real, gaps / np.where(np.isfinite(least), least, 1.0)[:, None], 0.0)
    multiples = (np.abs(ratio - ratio.round()) < 1e-3).all(axis=1)
    found = multiples & np.isfinite(least) & (distinct < num_runs)
    return np.asarray(np.where(found, least, 0.0))


def rounding(values: Array) -> Array:
    """The unit to which a metric was rounded where it was written, (metrics,).

    0 where it has more than 6 decimals. Runs on the same data round alike, so that a mean over
    steps is not finer than its parts.
    """
    sample = values[:, :, :: max(1, values.shape[2] // 50)].reshape(len(values), -1)
    found = np.zeros(len(values))
    for decimals in range(6, -1, -1):
        scaled = sample * 10.0**decimals
        whole = np.abs(scaled - scaled.round()) <= 1e-9 * np.maximum(np.abs(scaled), 1.0)
        found = np.where(whole.all(axis=1), 10.0**-decimals, found)
    return found
