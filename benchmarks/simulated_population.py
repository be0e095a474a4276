"""A population of imaginary recipes, as unlike each other as real ones, and planted faults.

Curves: spreads between runs that differ by orders of magnitude from recipe to recipe, tails heavier
than a normal's, values that are rounded, and noise along the curve that is correlated.

Times to a target are fitted to what was measured on 535 public configurations with 12,896 repeated
runs (median coefficient of variation 4 %): how often customary judges flag a healthy run and find
one that is slower by 10 or 20 %. Several populations fit about equally well, and differ in what the
table leaves open: ticks as wide as a configuration's own spread or of any width, exact or with some
jitter, few configurations with a large spread or a wide law for all. ``TIMES`` has four that were
found by a random search, and one that is wider than the table says; ``scalars`` draws a fifth of
the configurations from each.
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


@dataclass(frozen=True)
class TimesToTarget:
    """How the runs of configurations vary in the time to their target; relative numbers."""

    center: float
    """Median standard deviation of a configuration's runs."""
    log_spread: float
    """Standard deviation of its logarithm from configuration to configuration."""
    noisy_share: float
    """Of configurations whose spread is larger still, ``noisy_factor`` times."""
    noisy_factor: float
    tail_df: float
    """Degrees of freedom of a third of the configurations; others have twice as many, or 30."""
    ticked: float
    """Share of configurations whose times come in ticks (whole evaluation periods)."""
    ticks: tuple[float, float]
    """Least and greatest width of a tick, log-uniform."""
    ticks_follow_spread: bool
    """The widths are for a spread of 3 %, and in proportion to a configuration's own."""
    jitter: float
    """Of a time that is a whole number of ticks."""

    def draw(self, num_configurations: int, num_runs: int, random: np.random.Generator) -> Array:
        """Times, (configurations, runs)."""
        spread = self.center * np.exp(self.log_spread * random.standard_normal(num_configurations))
        noisy = random.random(num_configurations) < self.noisy_share
        spread = np.clip(spread * np.where(noisy, self.noisy_factor, 1.0), 1e-3, 0.6)
        df = random.choice([self.tail_df, 2 * self.tail_df, 30.0], num_configurations)
        noise = random.standard_t(df[:, None], (num_configurations, num_runs))
        noise *= np.sqrt((df - 2) / df)[:, None]
        times = np.exp(np.clip(spread[:, None] * noise, -2, 2))
        tick = np.exp(random.uniform(*np.log(self.ticks), num_configurations))
        tick *= spread / 0.03 if self.ticks_follow_spread else 1.0
        tick = np.where(random.random(num_configurations) < self.ticked, tick, 1e-4)[:, None]
        times = np.maximum(np.round(times / tick), 1) * tick
        times *= np.exp(self.jitter * random.standard_normal(times.shape))
        return np.asarray(np.round(100 * times, 6))


TIMES = (
    TimesToTarget(0.042, 0.741, 0.04, 3.26, 2.27, 0.96, (0.006, 0.091), True, 0.01),
    TimesToTarget(0.032, 0.418, 0.20, 3.66, 2.84, 0.86, (0.015, 0.149), False, 0.003),
    TimesToTarget(0.030, 0.614, 0.32, 2.74, 2.70, 0.77, (0.026, 0.085), False, 0.003),
    TimesToTarget(0.029, 0.784, 0.21, 4.82, 6.00, 0.91, (0.008, 0.107), True, 0.0),
    TimesToTarget(0.040, 1.200, 0.00, 1.00, 4.00, 0.60, (0.03, 0.09), True, 0.0),
)


def scalars(num_configurations: int, num_runs: int, random: np.random.Generator) -> Array:
    """Times to a target, (configurations, runs), a fifth from each of ``TIMES``."""
    counts = np.full(len(TIMES), num_configurations // len(TIMES))
    counts[: num_configurations % len(TIMES)] += 1
    parts = [each.draw(count, num_runs, random) for each, count in zip(TIMES, counts, strict=True)]
    return np.concatenate(parts)


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
