"""How likely a healthy run is to differ from its baseline by so much: prediction with a prior.

The model of one summary of one metric: the K baseline runs are draws around an unknown mean with
an unknown spread sigma, and so is a healthy new run. About sigma three things are known: the
sample variance of the baseline, what spreads are usual (the *prior*, log-normal, fitted to similar
recipes where there are any), and that it is not below the noise of the platform (the *floor*).
The tail probability of a difference is the average over the posterior of sigma, by quadrature:

    p(d) = sum_j w_j * T(d / (sigma_j * sqrt(1/K + 1/n)))
    w_j ~ prior(sigma_j) * sigma_j^-df * exp(-df * s^2 / (2 * sigma_j^2))

T is the upper tail of a Student t of ``NOISE_DF`` degrees, scaled to variance 1: runs have heavier
tails than a normal. The idea of moderating variances on the log scale, and the moment fit of the
prior, are those of Smyth (2004, doi:10.2202/1544-6115.1027); his prior is conjugate, this one
log-normal, which has no long tail towards zero that a wide population of spreads would need.
Everything here is pure and vectorised over items (summaries of metrics), shape (items,).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]

NOISE_DF = 6
"""Degrees of freedom of the noise of runs about their mean; even, so that the tail is algebraic."""
MAX_DF = 30.0
"""The quadrature's nodes are too coarse for a sharper likelihood."""
NUM_NODES = 48

# scales a t of NOISE_DF degrees to variance 1
UNIT = math.sqrt((NOISE_DF - 2) / NOISE_DF)


@dataclass(frozen=True)
class Prior:
    """What spreads are usual: ln(sigma) is normal.

    Args:
        log_center: mean of ln(sigma), sigma relative to the metric's scale.
        log_spread: standard deviation of ln(sigma) over configurations.
        num_groups: how many configurations it was fitted to; 0 for a declared one.
    """

    log_center: float
    log_spread: float
    num_groups: int = 0


def fit_prior(variances: Array, dfs: Array, declared: Prior) -> Prior:
    """The log-normal prior whose moments match sample variances (Smyth 2004, section 6.2).

    Args:
        variances: sample variances of similar configurations, relative, shape (groups,).
        dfs: their degrees of freedom, shape (groups,).
        declared: counts like ``_DECLARED_GROUPS`` groups, so that a few do not outvote it.

    Groups without any variance say nothing on the log scale and are left out; their share widens
    the prior through the declared one.
    """
    use = (variances > 0) & (dfs > 0)
    count = int(use.sum())
    if count < 3:
        return declared
    half = dfs[use] / 2
    logs = 0.5 * (np.log(variances[use]) - special.digamma(half) + np.log(half))
    noise = special.polygamma(1, half) / 4
    # robust to a few odd groups: median, and a trimmed second moment
    center = float(np.median(logs))
    squares = (logs - center) ** 2 - noise
    spread2 = max(float(np.mean(squares)), 0.04)
    share = count / (count + _DECLARED_GROUPS)
    mixed_center = share * center + (1 - share) * declared.log_center
    mixed = (
        share * spread2
        + (1 - share) * declared.log_spread**2
        + share * (1 - share) * (center - declared.log_center) ** 2
    )
    return Prior(mixed_center, math.sqrt(mixed), count)


_DECLARED_GROUPS = 4


@dataclass(frozen=True)
class Spread:
    """What is known of sigma for each item; all arrays have shape (items,).

    Args:
        variance: pooled sample variance.
        df: its degrees of freedom; 0 where there is a single run.
        floor: smallest sigma that is possible (numeric noise, rounding).
        log_center: of the prior, per item.
        log_spread: of the prior, per item.
    """

    variance: Array
    df: Array
    floor: Array
    log_center: Array
    log_spread: Array

    def item(self, i: int) -> Spread:
        """Entry ``i`` alone."""
        part = slice(i, i + 1)
        return Spread(self.variance[part], self.df[part], self.floor[part],
                      self.log_center[part], self.log_spread[part])  # fmt: skip

    @cached_property
    def nodes(self) -> tuple[Array, Array]:
        """(sigma, weight) of the posterior, each of shape (items, NUM_NODES)."""
        floor = np.maximum(self.floor, 1e-12)
        sample = np.log(np.maximum(np.sqrt(self.variance), floor))
        df = np.minimum(self.df, MAX_DF)
        has_sample = df > 0
        # beyond 3 spreads of the prior, or 4 widths of the likelihood, there is no mass
        low = self.log_center - 3.0 * self.log_spread
        high = self.log_center + 3.0 * self.log_spread
        width = 4.0 / np.sqrt(2.0 * np.maximum(df, 0.5)) + 1.0
        low = np.where(has_sample, np.minimum(np.maximum(low, sample - width), sample), low)
        high = np.where(
            has_sample, np.maximum(np.minimum(high, sample + 2.5 * width), sample + width), high
        )
        low = np.maximum(low, np.log(floor) - 1.0)
        high = np.maximum(high, low + 1.0)
        unit = np.linspace(0.0, 1.0, NUM_NODES)
        log_sigma = low[:, None] + (high - low)[:, None] * unit
        total2 = np.exp(2 * log_sigma) + floor[:, None] ** 2
        sample2 = np.maximum(self.variance, floor**2)[:, None]
        offset = (log_sigma - self.log_center[:, None]) / self.log_spread[:, None]
        logs = -0.5 * offset**2 - 0.5 * df[:, None] * (np.log(total2) + sample2 / total2)
        logs -= logs.max(axis=1, keepdims=True)
        weights = np.exp(logs)
        weights /= weights.sum(axis=1, keepdims=True)
        return np.sqrt(total2), weights


def tail(z: Any) -> Array:
    """P(noise > z) for the unit-variance t of ``NOISE_DF`` degrees (Abramowitz & Stegun 26.7.4)."""
    t = np.asarray(z, dtype=np.float64) / UNIT
    square = t * t
    cos2 = NOISE_DF / (NOISE_DF + square)
    total = np.full_like(cos2, _SERIES[-1])
    for coefficient in _SERIES[-2::-1]:
        total *= cos2
        total += coefficient
    upper = 0.5 - 0.5 * t / np.sqrt(NOISE_DF + square) * total
    # the difference cancels far out; only the leading term of the tail is left there
    if t.size and square.max() > _FAR_FROM**2:
        far = _FAR * np.maximum(np.abs(t), 1.0) ** -NOISE_DF
        upper = np.where(t > _FAR_FROM, far, upper)
    return np.asarray(upper)


def density(z: Any) -> Array:
    """Of the noise whose tail ``tail`` gives."""
    t = np.asarray(z, dtype=np.float64) / UNIT
    return np.asarray(_PEAK / UNIT * (1.0 + t * t / NOISE_DF) ** (-(NOISE_DF + 1) / 2))


_PEAK = 1.0 / (math.sqrt(NOISE_DF) * float(special.beta(0.5, NOISE_DF / 2)))
_FAR_FROM = 300.0
# 1, 1/2, (1 * 3)/(2 * 4), …: one per even power of the cosine below NOISE_DF
_SERIES = [math.prod((2 * j - 1) / (2 * j) for j in range(1, k + 1)) for k in range(NOISE_DF // 2)]
# density ~ C * NOISE_DF^((NOISE_DF+1)/2) * t^-(NOISE_DF+1), integrated
_FAR = NOISE_DF ** (NOISE_DF / 2 - 1) / float(special.beta(NOISE_DF / 2, 0.5))


def exceedance(difference: Array, factor: Array, spread: Spread) -> Array:
    """P(a healthy difference > ``difference``), shape (items,).

    Args:
        difference: new mean minus baseline mean, in the units of sigma; signed.
        factor: sqrt(1/K + 1/n): K baseline runs, n new ones.
        spread: what is known of sigma.
    """
    sigma, weights = spread.nodes
    return np.asarray((weights * tail((difference / factor)[:, None] / sigma)).sum(axis=1))


def critical_difference(alpha: Array, factor: Array, spread: Spread) -> Array:
    """The difference that a healthy run exceeds with probability ``alpha``, shape (items,).

    By Newton's method on ln p over ln d, to ``_PRECISION``. It starts where the leading term of
    the tail, which is never below the tail, has probability ``alpha``: to the right of the answer,
    from where it comes back step by step. The answer stays bracketed, so that a step that leads
    out of the bracket, where the mixture bends the other way, halves it instead.
    """
    sigma, weights = spread.nodes
    unit = sigma * factor[:, None]
    power = (weights * (unit / UNIT) ** NOISE_DF).sum(axis=1)
    high = np.log(_FAR * power / alpha) / NOISE_DF + 1e-9
    low = high - 20.0
    middle = high
    goal = np.log(alpha)
    for _ in range(_MAX_STEPS):
        z = np.exp(middle)[:, None] / unit
        p = (weights * tail(z)).sum(axis=1)
        slope = -(weights * density(z) * z).sum(axis=1) / p
        low = np.where(p > alpha, middle, low)
        high = np.where(p > alpha, high, middle)
        step = (goal - np.log(p)) / slope
        newton = middle + step
        inside = (newton >= low) & (newton <= high)
        middle = np.where(inside, newton, 0.5 * (low + high))
        if (np.abs(step) < _PRECISION).all():
            break
    return np.asarray(np.exp(middle))


_PRECISION = 1e-7
"""Of a limit, relative."""
_MAX_STEPS = 60
