"""A curve in few numbers: blocks, final window, mean, steps to target. Pure, on arrays.

Blocks are the common ground. The steps of a curve are cut into at most ``FINE`` blocks of equal
length, each summarised by its interquartile mean, so that a single odd step moves nothing; fine
blocks are joined into at most ``COARSE`` ones by a mean that leaves out the extremes. Everything
that follows is a function of the blocks. Arrays have shape (metrics, runs, steps or blocks).
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np

from evenkeel.convergence.statistics import Array

FINE = 50
COARSE = 10


def blocks(values: Array, count: int) -> Array:
    """Interquartile means of ``count`` (or as many as there are steps) stretches of equal length.

    Args:
        values: (metrics, runs, steps), finite.

    Returns:
        (metrics, runs, blocks).
    """
    num_steps = values.shape[-1]
    count = min(count, num_steps)
    if count == num_steps:
        return values
    edges = np.linspace(0, num_steps, count + 1).round().astype(int)
    sizes = np.diff(edges)
    if (sizes == sizes[0]).all():
        return _middle_mean(values.reshape(*values.shape[:-1], count, sizes[0]))
    parts = [_middle_mean(values[..., a:b]) for a, b in itertools.pairwise(edges)]
    return np.stack(parts, axis=-1)


def _middle_mean(values: Array) -> Array:
    """Mean without the lowest and highest quarter along the last axis; of 1 or 2 the mean."""
    size = values.shape[-1]
    cut = size // 4 if size >= 4 else (size - 1) // 2
    if cut == 0:
        return np.asarray(values.mean(axis=-1))
    return np.asarray(np.sort(values, axis=-1)[..., cut : size - cut].mean(axis=-1))


@lru_cache(maxsize=64)
def block_edges(num_steps: int, count: int) -> tuple[tuple[int, int], ...]:
    """(first, past the last) position of each block that ``blocks`` makes."""
    count = min(count, num_steps)
    edges = np.linspace(0, num_steps, count + 1).round().astype(int)
    return tuple((int(a), int(b)) for a, b in itertools.pairwise(edges))


def steadied(fine: Array, block_size: int) -> Array:
    """Fine blocks in which one odd step is harmless: of fewer than 4 steps, medians of 3."""
    if block_size >= 4 or fine.shape[-1] < 3:
        return fine
    inner = np.median(np.stack([fine[..., :-2], fine[..., 1:-1], fine[..., 2:]]), axis=0)
    return np.concatenate([inner[..., :1], inner, inner[..., -1:]], axis=-1)


def steps_to_target(coarse: Array, target: Array) -> Array:
    """Where a falling curve first reaches ``target``, in blocks, interpolated.

    Args:
        coarse: (metrics, runs, blocks), falling (negate a rising one).
        target: (metrics,).

    Returns:
        (metrics, runs); the number of blocks where it is never reached.
    """
    count = coarse.shape[-1]
    reached = coarse <= target[:, None, None]
    first = np.where(reached.any(axis=-1), reached.argmax(axis=-1), count)
    now = np.take_along_axis(coarse, np.minimum(first, count - 1)[..., None], axis=-1)[..., 0]
    before = np.take_along_axis(coarse, np.maximum(first - 1, 0)[..., None], axis=-1)[..., 0]
    drop = np.where(before > now, before - now, 1.0)
    share = np.clip((before - target[:, None]) / drop, 0.0, 1.0)
    place = np.where(first == 0, 0.5, first - 0.5 + share)
    return np.asarray(np.where(first == count, float(count), place))


def pooled_residuals(values: Array, num_baseline: int) -> tuple[Array, int]:
    """Deviations from the own group's mean, baseline and new runs apart, and their df.

    Args:
        values: (metrics, runs, …), baseline runs first.
    """
    old, new = values[:, :num_baseline], values[:, num_baseline:]
    parts = [old - old.mean(axis=1, keepdims=True)]
    df = old.shape[1] - 1
    if new.shape[1] > 1:
        parts.append(new - new.mean(axis=1, keepdims=True))
        df += new.shape[1] - 1
    return np.concatenate(parts, axis=1), df


def independent_share(residuals: Array, df: int) -> Array:
    """How many of the blocks vary on their own, as a share of their number, (metrics,).

    The variance pooled over W correlated blocks has df * tr(S)^2 / tr(S^2) degrees of freedom
    (Box 1954, doi:10.1214/aoms/1177728786); both traces are estimated without bias from the
    sample covariance (Srivastava 2005, doi:10.14490/jjss.35.251). 1/W means that a run keeps its
    deviation from start to end, 1 that every block is drawn afresh. The excess over 1/W is halved,
    since with few runs the estimate is rough.
    """
    num_blocks = residuals.shape[-1]
    least = 1.0 / num_blocks
    if df < 2 or num_blocks < 2:
        return np.full(residuals.shape[0], least)
    gram = residuals @ residuals.transpose(0, 2, 1) / df
    trace = np.trace(gram, axis1=1, axis2=2)
    trace_square = (gram**2).sum(axis=(1, 2))
    square = df**2 / ((df - 1) * (df + 2)) * (trace_square - trace**2 / df)
    squared_trace = trace**2 - 2 * square / df
    safe = square > 1e-9 * trace**2
    ratio = np.where(safe, squared_trace / np.where(safe, square, 1.0), num_blocks)
    ratio = np.where(trace > 0, np.clip(ratio, 1.0, num_blocks), 1.0)
    return np.asarray((1 + 0.5 * (ratio - 1)) / num_blocks)


def noise_pair(num_runs: int, num_baseline: int) -> list[int]:
    """The two runs that tell the noise of single steps: of the baseline, else one new."""
    if num_runs < 2:
        return [0]
    return [0, 1 if num_baseline > 1 else num_baseline]


def step_noise(values: Array) -> Array:
    """Standard deviation of single steps between runs, without what changes slowly, (metrics,).

    From the differences of neighbouring steps of the difference of two runs. Robust (median
    absolute deviation).

    Args:
        values: of ``noise_pair``, (metrics, 2, steps); infinite noise where there is one run.
    """
    if values.shape[1] < 2:
        return np.full(len(values), np.inf)
    steps = np.diff(values[:, 1] - values[:, 0], axis=1)
    steps = steps - np.median(steps, axis=1, keepdims=True)
    # a difference of two runs and of two steps has four times the variance of one
    return np.asarray(1.4826 * np.median(np.abs(steps), axis=1) / 2.0)


def neighbourhood(variance: Array, reach: int) -> Array:
    """Mean over each block and its ``reach`` neighbours on both sides, (metrics, blocks)."""
    if reach < 1:
        return variance
    count = variance.shape[-1]
    total = np.concatenate([np.zeros((*variance.shape[:-1], 1)), variance.cumsum(axis=-1)], axis=-1)
    low = np.maximum(np.arange(count) - reach, 0)
    high = np.minimum(np.arange(count) + reach + 1, count)
    return np.asarray((total[..., high] - total[..., low]) / (high - low))
