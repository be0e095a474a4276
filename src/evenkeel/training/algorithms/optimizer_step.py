"""What all algorithms share: from a recipe to batches, and from a loss to new weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from evenkeel.recipes.schema import Recipe
from evenkeel.training import schedules
from evenkeel.training.backends.interface import Backend, DataParallelPlace, MicroBatchLoss
from evenkeel.training.data.batches import BatchSource, MicroBatch, Samples


class OptimizerStep:
    """Gradient of a loss over a global batch, clipping, and the learning rate of the step."""

    def __init__(self, recipe: Recipe, backend: Backend) -> None:
        policy = recipe.policy
        self._backend = backend
        self._max_grad_norm = policy.max_grad_norm
        self._learning_rate = partial(
            schedules.learning_rate,
            peak=policy.optimizer.lr,
            scheduler=policy.scheduler,
            horizon=schedules.horizon(recipe),
        )

    def __call__(
        self, step: int, batches: Sequence[MicroBatch], loss: MicroBatchLoss
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Change the weights.

        Args:
            step: of the schedule, counted from 1.
            batches: this rank's.
            loss: each micro-batch's share of the loss of the global batch.

        Returns:
            what the loss reports, summed over all ranks; and the step's own metrics.
        """
        backend = self._backend
        sums = backend.forward_backward(batches, loss)
        norm = backend.clip_gradients(self._max_grad_norm)
        learning_rate = self._learning_rate(step)
        backend.step(learning_rate)
        return backend.reduce_sums(sums), {
            "train/grad_norm": float(norm),
            "train/lr": learning_rate,
        }


def train_batches(
    recipe: Recipe, place: DataParallelPlace, samples: Samples, pad_id: int, group_size: int = 1
) -> BatchSource:
    """The training set in the batches of the recipe's ``policy`` section."""
    policy, dynamic = recipe.policy, recipe.policy.dynamic_batching
    return BatchSource(
        samples,
        global_batch_size=policy.train_global_batch_size,
        micro_batch_size=policy.train_micro_batch_size,
        dp_rank=place.rank,
        dp_size=place.size,
        seed=recipe.seed,
        shuffle=recipe.data.shuffle,
        max_length=policy.max_total_sequence_length,
        pad_id=pad_id,
        pack=policy.sequence_packing.enabled,
        max_micro_batch_tokens=dynamic.train_micro_batch_tokens if dynamic.enabled else None,
        group_size=group_size,
    )


def val_batches(
    recipe: Recipe, place: DataParallelPlace, samples: Samples, pad_id: int, group_size: int = 1
) -> BatchSource:
    """The validation set, one sample a row, so that a row is right or wrong as one answer."""
    return BatchSource(
        samples,
        global_batch_size=recipe.loop.val_global_batch_size,
        micro_batch_size=recipe.val_samples_per_pass(place.size),
        dp_rank=place.rank,
        dp_size=place.size,
        seed=recipe.seed,
        shuffle=False,
        max_length=recipe.policy.max_total_sequence_length,
        pad_id=pad_id,
        pack=False,
        group_size=group_size,
    )


def count_tokens(backend: Backend, batches: Sequence[MicroBatch]) -> dict[str, float]:
    """Over all ranks: ``trained`` labels and all ``tokens`` of a global batch."""
    return backend.reduce_sums(
        {
            "trained": sum(batch.num_trained_tokens for batch in batches),
            "tokens": sum(int(batch.attention_mask.sum()) for batch in batches),
        }
    )
