"""The band spares every run that could be a good one."""

from __future__ import annotations

import numpy as np
import pytest

from evenkeel.convergence.curves import Curve
from evenkeel.convergence.loss_band import upper_edge


def curves(seed: int, runs: int, steps: int = 300, noise: float = 0.1) -> Curve:
    chance = np.random.default_rng(seed)
    at = np.arange(1, steps + 1)
    trend = 2 + 4 * np.exp(-at / 60)
    return Curve(at, trend + noise * chance.standard_normal((runs, steps)))


@pytest.mark.parametrize("seed", range(20))
def test_good_runs_never_leave_it_and_lost_ones_do(seed: int) -> None:
    edge = upper_edge(curves(seed, 3))
    (good,) = curves(1000 + seed, 1).values
    assert all(value <= edge[step] for step, value in enumerate(good, 1))
    late = np.concatenate([good[:1].repeat(8), good[:-8]])
    assert all(value <= edge[step] for step, value in enumerate(late, 1))
    lost = good.copy()
    lost[150:] = 7.0
    above = [step for step, value in enumerate(lost, 1) if value > edge[step]]
    assert above == list(range(151, 301))


@pytest.mark.parametrize("values", [np.empty((0, 0)), np.ones((2, 2)), np.full((1, 9), np.nan)])
def test_no_band_without_a_usable_baseline(values: np.ndarray) -> None:
    assert upper_edge(Curve(np.arange(values.shape[1]), values)) == {}
