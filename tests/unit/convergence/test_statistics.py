"""The pure core: tails, quantiles, priors, and the rate of false alarms that is promised."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evenkeel.convergence import statistics, summaries
from evenkeel.convergence.error_budget import COST_SHARES, SPENDING, SUMMARY_SHARES, Budget
from evenkeel.convergence.power import minimum_detectable, runs_needed
from evenkeel.convergence.statistics import NOISE_DF, UNIT, Prior, Spread
from evenkeel.errors import InputError


def spread(sd: float = 0.01, df: float = 4.0, floor: float = 1e-6, count: int = 1) -> Spread:
    def full(value: float) -> np.ndarray:
        return np.full(count, value)

    return Spread(full(sd**2), full(df), full(floor), full(np.log(0.01)), full(1.0))


@given(st.floats(-50, 1e6))
def test_the_tail_is_that_of_a_scaled_t(z: float) -> None:
    wanted = stats.t.sf(z / UNIT, NOISE_DF)
    assert float(statistics.tail(z)) == pytest.approx(wanted, rel=2e-3)


@given(st.floats(1e-6, 0.4), st.floats(1e-5, 0.3), st.floats(0.0, 20.0))
def test_the_critical_difference_is_the_quantile(alpha: float, sd: float, df: float) -> None:
    known = spread(sd, df)
    factor = np.array([1.1])
    limit = statistics.critical_difference(np.array([alpha]), factor, known)
    assert statistics.exceedance(limit, factor, known)[0] == pytest.approx(alpha, rel=1e-3)


def test_the_density_is_the_slope_of_the_tail() -> None:
    z = np.array([-3.0, 0.0, 0.5, 4.0, 40.0])
    assert statistics.density(z) == pytest.approx(stats.t.pdf(z / UNIT, NOISE_DF) / UNIT)


@given(st.floats(1e-4, 0.1), st.floats(0.001, 0.1))
def test_exceedance_falls_with_the_difference_and_is_symmetric(sd: float, d: float) -> None:
    known, factor = spread(sd), np.array([1.1])
    p = [statistics.exceedance(np.array([x]), factor, known)[0] for x in (-d, 0.0, d, 2 * d)]
    assert p[0] + p[2] == pytest.approx(1.0)
    assert p[1] == pytest.approx(0.5)
    assert p[1] > p[2] > p[3] > 0


def test_the_prior_of_a_pool_is_recovered() -> None:
    random = np.random.default_rng(3)
    sigma = np.exp(np.log(0.02) + 0.8 * random.standard_normal(2000))
    variances = (sigma[:, None] * random.standard_normal((2000, 5))).var(axis=1, ddof=1)
    fitted = statistics.fit_prior(variances, np.full(2000, 4.0), Prior(np.log(0.5), 2.0))
    assert np.exp(fitted.log_center) == pytest.approx(0.02, rel=0.1)
    assert fitted.log_spread == pytest.approx(0.8, rel=0.15)
    few = statistics.fit_prior(variances[:2], np.full(2, 4.0), Prior(0.0, 1.0))
    assert few == Prior(0.0, 1.0)


@pytest.mark.parametrize("num_runs", [1, 3, 5])
def test_the_rate_is_kept_over_a_population_of_spreads(num_runs: int) -> None:
    random = np.random.default_rng(num_runs)
    count = 20_000
    sigma = np.exp(np.log(0.01) + 1.0 * random.standard_normal(count))
    runs = sigma[:, None] * random.standard_t(NOISE_DF, (count, num_runs + 1)) * UNIT
    old = runs[:, :num_runs]
    variance = old.var(axis=1, ddof=1) if num_runs > 1 else np.zeros(count)
    known = Spread(
        variance,
        np.full(count, 0.85 * (num_runs - 1)),
        np.full(count, 1e-9),
        np.full(count, np.log(0.01)),
        np.full(count, 1.0),
    )
    factor = np.full(count, np.sqrt(1 + 1 / num_runs))
    p = statistics.exceedance(runs[:, num_runs] - old.mean(axis=1), factor, known)
    for alpha in (0.05, 0.01, 0.001):
        # three standard errors of the count; below the rate is allowed, above is not
        assert (p < alpha).mean() < alpha * 1.05 + 3 * np.sqrt(alpha / count)
    assert (p < 0.05).mean() > 0.02


def test_the_looks_together_keep_the_budget() -> None:
    random = np.random.default_rng(1)
    count, alpha, band, num_runs = 400_000, 0.01, Budget().band, 5
    base = random.standard_normal(count) / np.sqrt(num_runs)
    new = random.standard_normal((count, 3))
    going, alarms = np.ones(count, dtype=bool), np.zeros(count, dtype=bool)
    for look in (1, 2, 3):
        z = (new[:, :look].mean(axis=1) - base) / np.sqrt(1 / look + 1 / num_runs)
        alarm = going & (z > stats.norm.isf(alpha * SPENDING[3][look - 1]))
        alarms |= alarm
        going &= ~alarm & (z > stats.norm.isf(band))
    assert alarms.mean() < alpha


def test_shares_sum_to_one_and_bad_budgets_are_refused() -> None:
    assert sum(SUMMARY_SHARES.values()) == pytest.approx(1.0)
    assert sum(COST_SHARES.values()) == pytest.approx(1.0)
    assert Budget(num_recipes=50, looks=1).alarm(0.5, 1) == pytest.approx(0.01 / 50 / 2)
    for wrong in ({"family_error": 0.0}, {"looks": 4}, {"num_recipes": 0}):
        with pytest.raises(InputError):
            Budget(**wrong)


def test_the_detectable_change_is_found_four_times_in_five() -> None:
    random = np.random.default_rng(5)
    known, factor = spread(0.01, df=30.0), np.array([1.0])
    limit = statistics.critical_difference(np.array([0.001]), factor, known)
    change = minimum_detectable(limit, factor, known)[0]
    noise = 0.01 * random.standard_t(NOISE_DF, 100_000) * UNIT
    assert (change + noise > limit[0]).mean() == pytest.approx(0.8, abs=0.03)


def test_more_runs_make_a_check_finer_until_noise_itself_is_the_limit() -> None:
    assert runs_needed(0.08, 0.001, 3, spread(0.01, df=1.7), 0) in (5, 8, 12)
    assert runs_needed(0.01, 0.001, 3, spread(0.01, df=1.7), 0) is None


# --- summaries ------------------------------------------------------------------------


def test_blocks_are_interquartile_means() -> None:
    values = np.arange(400.0).reshape(1, 1, 400)
    values[0, 0, 7] = 1e9
    found = summaries.blocks(values, 50)
    assert found.shape == (1, 1, 50)
    assert found[0, 0, 1] == 11.5
    assert found[0, 0, 0] < 8
    assert summaries.block_edges(400, 50)[1] == (8, 16)


def test_independent_blocks_count_and_kept_deviations_do_not() -> None:
    random = np.random.default_rng(2)
    fresh = random.standard_normal((200, 5, 10))
    kept = np.repeat(random.standard_normal((200, 5, 1)), 10, axis=2)
    shares = []
    for values in (fresh, kept):
        residuals, df = summaries.pooled_residuals(values, 5)
        assert df == 4
        shares.append(float(np.median(summaries.independent_share(residuals, df))) * 10)
    assert shares[0] > 3
    assert shares[1] == pytest.approx(1.0)


def test_steps_to_target_are_interpolated() -> None:
    falling = np.array([[[10.0, 8.0, 6.0, 4.0, 2.0]]])
    assert summaries.steps_to_target(falling, np.array([5.0]))[0, 0] == 3.0
    assert summaries.steps_to_target(falling, np.array([1.0]))[0, 0] == 5.0
    assert summaries.steps_to_target(falling, np.array([11.0]))[0, 0] == 0.5


def test_step_noise_does_not_see_what_changes_slowly() -> None:
    random = np.random.default_rng(4)
    noise = 0.01 * random.standard_normal((1, 2, 500))
    drift = np.linspace(0, 5, 500)
    assert summaries.step_noise(noise)[0] == pytest.approx(0.01, rel=0.15)
    noise[0, 1] += drift
    assert summaries.step_noise(noise)[0] == pytest.approx(0.01, rel=0.15)
