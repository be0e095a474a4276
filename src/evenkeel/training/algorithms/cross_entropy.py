"""Training on the cross-entropy of the next token, whatever the tokens belong to.

The loss of a step is the sum of the cross-entropies of all trained tokens of the global batch,
divided by their number over all data-parallel ranks. Averages of averages would weigh a token by
the company it keeps; this way neither micro-batch size nor data-parallel size changes the curve.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from evenkeel.recipes.schema import Recipe
from evenkeel.training.algorithms.interface import StepResult, TrainingAlgorithm
from evenkeel.training.algorithms.optimizer_step import OptimizerStep, count_tokens, train_batches
from evenkeel.training.backends.interface import Backend, ModelOutput, Sums
from evenkeel.training.data.batches import MicroBatch, Samples


def cross_entropy(output: ModelOutput, batch: MicroBatch, num_tokens: float) -> tuple[Tensor, Sums]:
    """This micro-batch's share of the mean over the ``num_tokens`` of the global batch."""
    share = output.sum_of_token_losses(batch.labels) / num_tokens
    return share, {"loss": share.detach()}


class CrossEntropyTraining(TrainingAlgorithm):
    """The training half of an algorithm; how it is validated is up to the algorithm."""

    def __init__(self, recipe: Recipe, backend: Backend, train: Samples, pad_id: int) -> None:
        self._backend = backend
        self._optimize = OptimizerStep(recipe, backend)
        self._batches = train_batches(recipe, backend.place, train, pad_id)

    def train_step(self, step: int) -> StepResult:
        """See ``TrainingAlgorithm``."""
        batches = self._batches.global_batch(step)
        counts = count_tokens(self._backend, batches)
        # a global batch without a trained token has no mean; its gradient is zero
        loss = partial(cross_entropy, num_tokens=max(counts["trained"], 1.0))
        sums, metrics = self._optimize(step, batches, loss)
        return StepResult(
            metrics={
                "train/loss": sums["loss"],
                **metrics,
                "train/global_valid_toks": counts["trained"],
            },
            num_tokens=int(counts["tokens"]),
        )
