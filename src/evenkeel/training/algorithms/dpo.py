"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290).

A pair has a chosen answer w and a rejected answer l to one prompt x. With the policy p, the frozen
policy q that training starts from, and

    h = [log p(w|x) - log q(w|x)] - [log p(l|x) - log q(l|x)]

the loss is the mean over all pairs of the global batch of -log sigmoid(beta h), their equation 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from torch import Tensor

from evenkeel.recipes.schema import Dpo as Settings
from evenkeel.recipes.schema import PreferenceLoss
from evenkeel.training.algorithms.interface import Ingredients, StepResult, TrainingAlgorithm
from evenkeel.training.algorithms.optimizer_step import (
    OptimizerStep,
    count_tokens,
    train_batches,
    val_batches,
)
from evenkeel.training.algorithms.warm_start import FrozenModel, warm_up
from evenkeel.training.backends.interface import IGNORED_LABEL, Backend, ModelOutput, Sums
from evenkeel.training.data.batches import MicroBatch
from evenkeel.training.data.preferences import ANSWERS_PER_PAIR, open_pairs

REFERENCE = "reference_log_probs"
"""Of a micro-batch's extras: (batch, seq)."""


def reference_reader(output: ModelOutput, batch: MicroBatch) -> dict[str, Tensor]:
    """What the loss needs of the frozen policy."""
    return {REFERENCE: output.token_log_probs(batch.labels)}


def preference_losses(margins: Tensor, settings: Settings) -> Tensor:
    """The loss of each pair.

    Args:
        margins: (pairs,), h above.
        settings: which loss, beta, and the label smoothing e: with the probability e a pair is
            taken to be labelled the wrong way round (Mitchell 2023, "A note on DPO with noisy
            preferences").
    """
    beta, smoothing = settings.reference_policy_kl_penalty, settings.label_smoothing
    if settings.preference_loss is PreferenceLoss.IPO:
        return (margins - 1 / (2 * beta)).square()  # Azar et al. 2023, eq. 17
    right, wrong = F.logsigmoid(beta * margins), F.logsigmoid(-beta * margins)
    return -(1 - smoothing) * right - smoothing * wrong


def dpo_loss(
    output: ModelOutput, batch: MicroBatch, settings: Settings, num_pairs: float
) -> tuple[Tensor, Sums]:
    """This micro-batch's share of the mean over the ``num_pairs`` of the global batch.

    Rows are chosen, rejected, chosen, rejected, …
    """
    policy = output.token_log_probs(batch.labels)  # shape: (batch, seq)
    num_tokens = (batch.labels != IGNORED_LABEL).sum(dim=1).clamp(min=1)  # shape: (batch,)
    log_ratios = (policy - batch.extras[REFERENCE]).sum(dim=1)  # shape: (batch,)
    if settings.preference_average_log_probs:
        log_ratios = log_ratios / num_tokens
    chosen, rejected = log_ratios[0::2], log_ratios[1::2]  # shape: (batch / 2,)
    is_pair = (batch.labels != IGNORED_LABEL).any(dim=1)[0::2]  # else it fills a batch up
    preference = preference_losses(chosen - rejected, settings)[is_pair].sum() / num_pairs

    chosen_losses = -policy[0::2].sum(dim=1)
    if settings.sft_average_log_probs:
        chosen_losses = chosen_losses / num_tokens[0::2]
    supervised = chosen_losses.sum() / num_pairs
    loss = settings.preference_loss_weight * preference + settings.sft_loss_weight * supervised

    beta = settings.reference_policy_kl_penalty
    return loss, {
        "loss": loss.detach(),
        "preference_loss": preference.detach(),
        "sft_loss": supervised.detach(),
        "accuracy": ((chosen > rejected) & is_pair).sum() / num_pairs,
        "rewards_chosen_mean": beta * chosen.detach().sum() / num_pairs,
        "rewards_rejected_mean": beta * rejected.detach().sum() / num_pairs,
    }


def dpo_measure(output: ModelOutput, batch: MicroBatch, settings: Settings) -> Sums:
    """Sums over the pairs of a validation batch, and their number."""
    sums = {
        name: value.double() for name, value in dpo_loss(output, batch, settings, 1.0)[1].items()
    }
    return {**sums, "pairs": (batch.labels != IGNORED_LABEL).any(dim=1)[0::2].sum()}


class Dpo(TrainingAlgorithm):
    """Pairs, loss and validation of direct preference optimisation."""

    def __init__(self, ingredients: Ingredients) -> None:
        recipe, place = ingredients.recipe, ingredients.backend.place
        assert recipe.dpo is not None
        self._ingredients, self._settings = ingredients, recipe.dpo
        self._backend: Backend = ingredients.backend
        self._optimize = OptimizerStep(recipe, self._backend)
        self._num_pairs = recipe.policy.train_global_batch_size
        train, val = (open_pairs(recipe, ingredients.tokenizer, name) for name in ("train", "val"))
        pad_id = ingredients.pad_id
        self._batches = train_batches(recipe, place, train, pad_id, ANSWERS_PER_PAIR)
        self._val = val_batches(recipe, place, val, pad_id, ANSWERS_PER_PAIR)
        self._reference = FrozenModel(ingredients, recipe.policy)

    def begin(self) -> None:
        """See ``TrainingAlgorithm``: the reference is the policy after its warm start."""
        warm_start = self._ingredients.recipe.policy.warm_start
        if warm_start is not None:
            warm_up(self._ingredients, self._backend, warm_start)
            self._reference.copy(self._backend)

    def save(self, folder: Path) -> None:
        """See ``TrainingAlgorithm``."""
        self._reference.save(folder)

    def load(self, folder: Path) -> None:
        """See ``TrainingAlgorithm``."""
        self._reference.load(folder)

    def train_step(self, step: int) -> StepResult:
        """See ``TrainingAlgorithm``."""
        batches = self._with_reference(self._batches.global_batch(step))
        counts = count_tokens(self._backend, batches)
        loss = partial(dpo_loss, settings=self._settings, num_pairs=float(self._num_pairs))
        sums, metrics = self._optimize(step, batches, loss)
        return StepResult(
            metrics={
                **{f"train/{name}": value for name, value in sums.items()},
                **metrics,
                "train/global_valid_toks": counts["trained"],
            },
            num_tokens=int(counts["tokens"]),
        )

    def validate(self) -> dict[str, float]:
        """The training metrics as means over the pairs of the validation set."""
        measure = partial(dpo_measure, settings=self._settings)
        total: dict[str, float] = {}
        for batches in self._val.one_pass():
            judged = self._backend.forward(self._with_reference(batches), measure)
            for name, value in self._backend.reduce_sums(judged).items():
                total[name] = total.get(name, 0.0) + value
        num_pairs = max(total.pop("pairs", 0.0), 1.0)
        return {f"validation/{name}": value / num_pairs for name, value in total.items()}

    def _with_reference(self, batches: Sequence[MicroBatch]) -> list[MicroBatch]:
        read = self._reference.read(batches, reference_reader)
        return [replace(batch, extras=extras) for batch, extras in zip(batches, read, strict=True)]


def build(ingredients: Ingredients) -> Dpo:
    """The algorithm of a recipe."""
    return Dpo(ingredients)
