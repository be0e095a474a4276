"""The formulas of group-relative policy optimisation against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.recipes.schema import Grpo, KlEstimator
from evenkeel.training.algorithms.grpo_objective import (
    TINY,
    advantages,
    clipped_losses,
    kl_estimate,
    token_weights,
)

REWARDS = np.array([[0.0, 1.0, 1.0, 0.5], [0.25, 0.25, 0.25, 0.25], [2.0, -1.0, 0.0, 0.0]])


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_advantages(normalize: bool, leave_one_out: bool) -> None:
    settings = Grpo(normalize_rewards=normalize, use_leave_one_out_baseline=leave_one_out)
    expected = np.zeros_like(REWARDS)
    for group, rewards in enumerate(REWARDS):
        for answer, reward in enumerate(rewards):
            others = np.delete(rewards, answer) if leave_one_out else rewards
            expected[group, answer] = reward - others.mean()
            if normalize:
                expected[group, answer] /= rewards.std(ddof=1) + TINY
    expected[1] = 0
    found = advantages(torch.tensor(REWARDS), settings).numpy()
    assert found == pytest.approx(expected)
    assert (found[1] == 0).all()


def test_a_group_of_equal_thirds_gets_exactly_zero() -> None:
    rewards = torch.full((1, 3), 1 / 3, dtype=torch.float64)
    assert advantages(rewards, Grpo()).tolist() == [[0.0, 0.0, 0.0]]


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=8))
def test_k2_and_k3_are_never_negative(log_ratios: list[float]) -> None:
    tensor = torch.tensor(log_ratios, dtype=torch.float64)
    for estimator in (KlEstimator.K2, KlEstimator.K3):
        assert (kl_estimate(tensor, estimator) >= -1e-12).all()


def test_k1_and_k3_are_unbiased() -> None:
    policy = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    reference = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    exact = float((policy * (policy / reference).log()).sum())
    for estimator in (KlEstimator.K1, KlEstimator.K3):
        expected = (policy * kl_estimate((reference / policy).log(), estimator)).sum()
        assert float(expected) == pytest.approx(exact)


def test_the_ratio_is_clipped_only_where_it_would_gain() -> None:
    settings = Grpo(ratio_clip_min=0.2, ratio_clip_max=0.3)
    ratio = torch.tensor([1.0, 1.5, 0.5, 1.5, 0.5])
    advantage = torch.tensor([2.0, 1.0, 1.0, -1.0, -1.0])
    found = clipped_losses(ratio, advantage, settings)
    assert found.tolist() == pytest.approx([-2.0, -1.3, -0.5, 1.5, 0.8])


def test_dual_clip_bounds_the_loss_of_a_bad_token_that_became_likely() -> None:
    settings = Grpo(ratio_clip_c=3.0)
    found = clipped_losses(torch.tensor([10.0, 10.0]), torch.tensor([-1.0, 1.0]), settings)
    assert found.tolist() == pytest.approx([3.0, -1.2])


def test_token_weights_add_up_to_1_per_batch() -> None:
    lengths = [3, 1, 0, 4]
    alike = token_weights(lengths, 2, token_level=True)
    assert alike == [[0.25] * 3, [0.25], [], [0.25] * 4]
    by_answer = token_weights(lengths, 4, token_level=False)
    assert [sum(weights) for weights in by_answer] == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])
