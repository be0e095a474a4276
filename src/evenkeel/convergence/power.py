"""How small a change a check would find, and how many baseline runs would make it finer. Pure."""

from __future__ import annotations

import numpy as np
from scipy import special

from evenkeel.convergence import statistics
from evenkeel.convergence.statistics import NOISE_DF, UNIT, Array, Spread

POWER = 0.8
# the quantile of the noise that must still fall beyond the limit
_QUANTILE = float(special.stdtrit(NOISE_DF, POWER)) * UNIT
_CANDIDATES = (3, 5, 8, 12, 20, 30)


def minimum_detectable(limit: Array, factor: Array, spread: Spread) -> Array:
    """The relative shift that is found with probability ``POWER``, shape (items,).

    A shift by the limit is found in half of the runs; the rest is the noise of a new run, at the
    posterior mean of sigma.
    """
    sigma, weights = spread.nodes
    return np.asarray(limit + _QUANTILE * (weights * sigma).sum(axis=1) * factor)


def runs_needed(
    coarse: float, alpha: float, num_runs: int, spread: Spread, item: int
) -> int | None:
    """The least number of baseline runs with which item ``item`` finds a change of ``coarse``.

    Args:
        coarse: the relative change to find with probability ``POWER``.
        alpha: tail probability at which the check raises its alarm.
        num_runs: the baseline has now.
        spread: as measured; further runs are expected to vary alike.
        item: which entry of ``spread``.

    Returns:
        None where not even the largest number tried is enough.
    """
    now = spread.df[item] / max(num_runs - 1, 1)
    for candidate in _CANDIDATES:
        if candidate <= num_runs:
            continue
        wider = Spread(
            spread.variance[item : item + 1],
            np.array([now * (candidate - 1) if num_runs > 1 else candidate - 1.0]),
            spread.floor[item : item + 1],
            spread.log_center[item : item + 1],
            spread.log_spread[item : item + 1],
        )
        if num_runs == 1:
            usual = np.exp(2 * spread.log_center[item : item + 1])
            wider = Spread(usual, wider.df, wider.floor, wider.log_center, wider.log_spread)
        factor = np.array([np.sqrt(1 + 1 / candidate)])
        limit = statistics.critical_difference(np.array([alpha]), factor, wider)
        if minimum_detectable(limit, factor, wider)[0] <= coarse:
            return candidate
    return None
