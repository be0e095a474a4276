"""The preference losses against their formulas in numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from evenkeel.recipes.schema import Dpo, PreferenceLoss
from evenkeel.training.algorithms.dpo import REFERENCE, dpo_loss, preference_losses
from evenkeel.training.backends.interface import IGNORED_LABEL, ModelOutput
from evenkeel.training.data.batches import MicroBatch

MARGINS = np.array([-3.0, -0.2, 0.0, 0.7, 5.0])


def losses(settings: Dpo) -> np.ndarray:
    return preference_losses(torch.tensor(MARGINS), settings).numpy()


def test_dpo_is_minus_log_sigmoid_of_beta_times_the_margin() -> None:
    expected = np.log1p(np.exp(-0.3 * MARGINS))
    assert losses(Dpo(reference_policy_kl_penalty=0.3)) == pytest.approx(expected)


def test_label_smoothing_mixes_both_directions() -> None:
    settings = Dpo(reference_policy_kl_penalty=0.3, label_smoothing=0.1)
    right, wrong = np.log1p(np.exp(-0.3 * MARGINS)), np.log1p(np.exp(0.3 * MARGINS))
    assert losses(settings) == pytest.approx(0.9 * right + 0.1 * wrong)


def test_ipo_is_the_squared_distance_from_half_of_one_over_beta() -> None:
    settings = Dpo(preference_loss=PreferenceLoss.IPO, reference_policy_kl_penalty=0.25)
    assert losses(settings) == pytest.approx((MARGINS - 2.0) ** 2)


def batch(num_rows: int = 4) -> tuple[ModelOutput, MicroBatch]:
    """Two pairs, the second of which only fills the batch up."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 7, (num_rows, 5), generator=generator)
    labels[:, 0] = labels[1, 4] = IGNORED_LABEL
    labels[2:] = IGNORED_LABEL
    reference = torch.where(labels == IGNORED_LABEL, 0.0, -1.5)
    output = ModelOutput(torch.randn(num_rows, 5, 7, generator=generator))
    zeros = torch.zeros_like(labels)
    count = int((labels != IGNORED_LABEL).sum())
    rows = MicroBatch(zeros, labels, zeros, zeros + 1, None, count, (), {REFERENCE: reference})
    return output, rows


def test_sums_and_means_of_log_probs() -> None:
    output, rows = batch()
    log_probs = output.logits.log_softmax(-1).double().numpy()
    chosen = sum(log_probs[0, t, rows.labels[0, t]] for t in range(1, 5))
    rejected = sum(log_probs[1, t, rows.labels[1, t]] for t in range(1, 4))
    settings = Dpo(reference_policy_kl_penalty=0.5, sft_loss_weight=0.25)

    loss, reported = dpo_loss(output, rows, settings, num_pairs=1.0)
    margin = (chosen + 1.5 * 4) - (rejected + 1.5 * 3)
    assert float(reported["preference_loss"]) == pytest.approx(np.log1p(np.exp(-0.5 * margin)))
    assert float(reported["sft_loss"]) == pytest.approx(-chosen, rel=1e-5)
    expected = float(reported["preference_loss"]) - 0.25 * chosen
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(reported["rewards_chosen_mean"]) == pytest.approx(0.5 * (chosen + 6), rel=1e-5)

    means = replace(settings, preference_average_log_probs=True, sft_average_log_probs=True)
    _, reported = dpo_loss(output, rows, means, num_pairs=1.0)
    margin = (chosen / 4 + 1.5) - (rejected / 3 + 1.5)
    assert float(reported["preference_loss"]) == pytest.approx(np.log1p(np.exp(-0.5 * margin)))
    assert float(reported["sft_loss"]) == pytest.approx(-chosen / 4, rel=1e-5)


def test_rows_that_fill_a_batch_up_do_not_count() -> None:
    output, rows = batch()
    _, reported = dpo_loss(output, rows, Dpo(), num_pairs=1.0)
    alone = replace(rows, labels=rows.labels[:2], extras={REFERENCE: rows.extras[REFERENCE][:2]})
    _, expected = dpo_loss(ModelOutput(output.logits[:2]), alone, Dpo(), num_pairs=1.0)
    assert reported == expected
