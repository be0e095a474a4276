"""A population of imaginary recipes, as unlike each other as real ones, and planted faults.

Shaped after what is published of repeated trainings: spreads between runs that differ by orders
of magnitude from recipe to recipe (median coefficient of variation of a time to target 4 %, its
logarithm with a standard deviation of 1.2), tails heavier than a normal's, values rounded or
quantised, and noise along the curve that is correlated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CurveRecipe:
    """How the runs of one recipe vary; relative standard deviations."""

    num_steps: int
    level: float
    drop: float
    rate: float
    between: float
    """Of the whole curve from run to run."""
    wander: float
    """Of a slow random walk along the curve."""
    within: float
    """Of single steps."""
    memory: float
    """Autocorrelation of single steps."""
    tail_df: float
    decimals: int
    shared: bool
    """Runs see the same data: the noise of single steps is common to all but 5 % of it."""


def curve_recipe(random: np.random.Generator) -> CurveRecipe:
    """A recipe drawn from the population."""
    return CurveRecipe(
        num_steps=int(random.choice([50, 100, 300, 1000])),
        level=float(np.exp(random.uniform(np.log(0.5), np.log(8)))),
        drop=float(random.uniform(0.1, 2.5)),
        rate=float(random.uniform(0.05, 0.4)),
        between=float(np.exp(random.normal(np.log(0.003), 1.2))),
        wander=float(np.exp(random.normal(np.log(0.002), 1.2))),
        within=float(np.exp(random.normal(np.log(0.02), 0.8))),
        memory=float(random.choice([0.0, 0.5, 0.9])),
        tail_df=float(random.choice([4, 6, 30])),
        decimals=int(random.choice([2, 3, 5, 8], p=[0.1, 0.2, 0.4, 0.3])),
        shared=bool(random.random() < 0.4),
    )


def curves(recipe: CurveRecipe, num_runs: int, random: np.random.Generator) -> Array:
    """Healthy runs of a recipe, (runs, steps)."""
    steps = np.arange(1, recipe.num_steps + 1)
    base = recipe.level * (1 + recipe.drop * np.exp(-steps / (recipe.rate * recipe.num_steps)))
    between = recipe.between * _noise(random, recipe.tail_df, (num_runs, 1))
    wander = np.cumsum(random.standard_normal((num_runs, recipe.num_steps)), axis=1)
    wander *= recipe.wander / np.sqrt(recipe.num_steps)
    within = _correlated(random, recipe, num_runs)
    if recipe.shared:
        within = _correlated(random, recipe, 1) + 0.05 * within
    values = base * np.exp(between + wander + recipe.within * within)
    return np.asarray(np.round(values, recipe.decimals))


def _noise(random: np.random.Generator, df: float, shape: tuple[int, ...]) -> Array:
    return np.asarray(random.standard_t(df, shape) * np.sqrt((df - 2) / df))


def _correlated(random: np.random.Generator, recipe: CurveRecipe, num_runs: int) -> Array:
    noise = _noise(random, recipe.tail_df, (num_runs, recipe.num_steps))
    made = np.empty_like(noise)
    made[:, 0] = noise[:, 0]
    keep = np.sqrt(1 - recipe.memory**2)
    for step in range(1, recipe.num_steps):
        made[:, step] = recipe.memory * made[:, step - 1] + keep * noise[:, step]
    return made


def scalars(num_configurations: int, num_runs: int, random: np.random.Generator) -> Array:
    """Times to a target, (configurations, runs): heavy tails, six in ten quantised.

    A tick is as wide as one, two or three standard deviations: with that the plain t interval
    errs as often as it is known to do on real configurations (4 % at K = 3, 2 % at K = 5).
    """
    spread = np.clip(0.04 * np.exp(1.2 * random.standard_normal(num_configurations)), 1e-3, 0.6)
    df = random.choice([4.0, 6.0, 30.0], num_configurations)
    noise = random.standard_t(df[:, None], (num_configurations, num_runs))
    noise *= np.sqrt((df - 2) / df)[:, None]
    times = np.exp(np.clip(spread[:, None] * noise, -2, 2))
    quantum = np.where(
        random.random(num_configurations) < 0.6,
        spread * random.choice([1.0, 2.0, 3.0], num_configurations),
        1e-4,
    )
    ticks = np.maximum(np.round(times / quantum[:, None]), 1)
    return np.asarray(np.round(100 * ticks * quantum[:, None], 6))


Fault = Callable[[Array], Array]


def shift(share: float) -> Fault:
    """The whole curve is higher by ``share``."""
    return lambda curve: curve * (1 + share)


def drift(share: float) -> Fault:
    """The curve rises away to ``share`` at its end."""
    return lambda curve: curve * (1 + share * np.linspace(0, 1, len(curve)))


def late_divergence(curve: Array) -> Array:
    """The last 5 % of the steps rise to one and a half of what they were."""
    count = max(3, len(curve) // 20)
    return np.concatenate([curve[:-count], curve[-count:] * np.linspace(1.1, 1.5, count)])


def lost_resumption(curve: Array) -> Array:
    """In the middle the run starts again from the first step."""
    half = len(curve) // 2
    return np.concatenate([curve[:half], curve[: len(curve) - half]])


def nan_tail(curve: Array) -> Array:
    """The last tenth is NaN."""
    count = max(1, len(curve) // 10)
    return np.concatenate([curve[:-count], np.full(count, np.nan)])


def truncated(curve: Array) -> Array:
    """The second half is missing."""
    return curve[: len(curve) // 2]


FAULTS: dict[str, Fault] = {
    "higher by 1 %": shift(0.01),
    "higher by 2 %": shift(0.02),
    "higher by 5 %": shift(0.05),
    "drift to 3 %": drift(0.03),
    "drift to 10 %": drift(0.10),
    "late divergence": late_divergence,
    "lost resumption": lost_resumption,
    "NaN tail": nan_tail,
    "half a run": truncated,
}
