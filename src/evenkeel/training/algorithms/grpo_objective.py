"""What group-relative policy optimisation optimises (Shao et al. 2024, arXiv:2402.03300).

Each prompt has a group of sampled answers. An answer's advantage A is its reward against the
others of its group, the same for all its tokens. With r the ratio of a token's probability under
the policy to that under the policy that the step began with, a token's loss is

    -min(r A, clip(r, 1 - low, 1 + high) A) + beta KL(policy || reference)

(Schulman et al. 2017, arXiv:1707.06347, eq. 7; separate bounds: Yu et al. 2025, arXiv:2503.14476).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evenkeel.recipes.schema import Grpo as Settings
from evenkeel.recipes.schema import KlEstimator
from evenkeel.training.backends.interface import ModelOutput, Sums
from evenkeel.training.data.batches import MicroBatch

TINY = 1e-6
"""Added to a group's standard deviation, as in the paper's code."""

# of a micro-batch's extras, each (batch, seq) and 0 where nothing is trained
ADVANTAGES = "advantages"
WEIGHTS = "weights"
"""A token's share of the mean: they add up to 1 over the global batch."""
GENERATED = "generation_log_probs"
PREVIOUS = "previous_log_probs"
REFERENCE = "reference_log_probs"


def advantages(rewards: Tensor, settings: Settings) -> Tensor:
    """Each answer's reward against its group; shapes: (groups, answers).

    The baseline is the group's mean (Shao et al., section 4.1.2) or that of the other answers
    (Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free"); the scale is the
    group's sample standard deviation. A group whose answers all score alike gets zeros.
    """
    num_answers = rewards.shape[1]
    means = rewards.mean(dim=1, keepdim=True)
    relative = rewards - means
    if settings.use_leave_one_out_baseline:
        relative = relative * num_answers / (num_answers - 1)
    if settings.normalize_rewards:
        relative = relative / (rewards.std(dim=1, keepdim=True) + TINY)
    alike = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    return relative.where(~alike, 0.0)  # rounding must not teach anything


def kl_estimate(log_ratio: Tensor, estimator: KlEstimator) -> Tensor:
    """Per token, from samples of the policy (Schulman 2020, "Approximating KL divergence").

    Args:
        log_ratio: log of the reference's probability over the policy's.
        estimator: k1 and k3 are unbiased, k2 and k3 never negative.
    """
    if estimator is KlEstimator.K1:
        return -log_ratio
    if estimator is KlEstimator.K2:
        return log_ratio.square() / 2
    return log_ratio.exp() - 1 - log_ratio


def clipped_losses(ratio: Tensor, advantage: Tensor, settings: Settings) -> Tensor:
    """Loss of each token by its probability ratio.

    With ``ratio_clip_c`` the loss of a negative advantage has an upper bound, too (Ye et al. 2019,
    arXiv:1912.09729, eq. 5).
    """
    clipped = ratio.clamp(1 - settings.ratio_clip_min, 1 + settings.ratio_clip_max)
    losses = torch.maximum(-ratio * advantage, -clipped * advantage)
    if settings.ratio_clip_c is not None:
        bounded = torch.minimum(losses, -settings.ratio_clip_c * advantage)
        losses = torch.where(advantage < 0, bounded, losses)
    return losses


def grpo_loss(
    output: ModelOutput, batch: MicroBatch, settings: Settings, temperature: float
) -> tuple[Tensor, Sums]:
    """This micro-batch's share of the weighted mean over the tokens of the global batch."""
    weights, advantage = batch.extras[WEIGHTS], batch.extras[ADVANTAGES]
    generated = batch.extras[GENERATED]
    current = output.token_log_probs(batch.labels, temperature)  # shape: (batch, seq)
    # before the first update the policy is its own predecessor
    previous = batch.extras.get(PREVIOUS, current.detach())
    ratio = (current - previous).exp()
    losses = clipped_losses(ratio, advantage, settings)
    mismatch = previous - generated  # of trainer and generator: other kernels, other rounding
    if settings.use_importance_sampling_correction:
        # truncated importance sampling (Ionides 2008, "Truncated importance sampling")
        losses = losses * mismatch.exp().clamp(max=settings.importance_sampling_truncation)
    divergence = torch.zeros_like(losses)
    if REFERENCE in batch.extras:
        divergence = kl_estimate(batch.extras[REFERENCE] - current, settings.kl_estimator)
    penalty = settings.reference_policy_kl_penalty * divergence
    loss = (weights * (losses + penalty)).sum()

    bounds = 1 - settings.ratio_clip_min, 1 + settings.ratio_clip_max
    means = {
        "loss": losses + penalty,
        "kl_penalty": penalty,
        "probs_ratio": ratio,
        "probs_ratio_clamped": ratio.clamp(*bounds),
        # the answers are the generator's, so the policy's entropy is an importance-weighted mean
        "approx_entropy": -(current - generated).exp() * current,
        "token_mult_prob_error": mismatch.abs().exp(),
        "gen_kl_error": mismatch.exp() - 1 - mismatch,
        "sampling_importance_ratio": mismatch.exp(),
    }
    return loss, {name: (weights * value.detach()).sum() for name, value in means.items()}


def token_weights(lengths: Sequence[int], batch_size: int, token_level: bool) -> list[list[float]]:
    """Each token's weight in the loss, by rollout; they add up to 1 over a global batch.

    Token level: all tokens alike (Yu et al. 2025, section 3.3); else all answers alike, and within
    one its tokens (Shao et al. 2024, eq. 3). Answers without a token do not count.
    """
    weights = []
    for start in range(0, len(lengths), batch_size):
        part = lengths[start : start + batch_size]
        num_tokens, num_answers = max(sum(part), 1), max(sum(n > 0 for n in part), 1)
        for n in part:
            weights.append([1 / num_tokens if token_level else 1 / (max(n, 1) * num_answers)] * n)
    return weights
