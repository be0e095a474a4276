"""Supervised fine-tuning: cross-entropy on the tokens of the assistant's turns.

Loss of a step: the mean over these tokens of the global batch, see ``cross_entropy``.
"""

from __future__ import annotations

from evenkeel.recipes.schema import Recipe
from evenkeel.training.algorithms.cross_entropy import CrossEntropyTraining
from evenkeel.training.algorithms.interface import Ingredients
from evenkeel.training.algorithms.optimizer_step import val_batches
from evenkeel.training.backends.interface import IGNORED_LABEL, Backend, ModelOutput, Sums
from evenkeel.training.data.batches import MicroBatch, Samples, open_dataset


def sft_measure(output: ModelOutput, batch: MicroBatch) -> Sums:
    """Sums for ``validation/loss`` and ``validation/accuracy``, see ``Sft.validate``."""
    trained = batch.labels != IGNORED_LABEL  # shape: (batch, seq)
    right = (output.most_likely_tokens() == batch.labels) | ~trained
    responses = trained.any(dim=1)  # rows that only fill a batch up have none
    return {
        "loss": output.sum_of_token_losses(batch.labels).double(),
        "tokens": trained.sum(),
        "exact": (right.all(dim=1) & responses).sum(),
        "responses": responses.sum(),
    }


class Sft(CrossEntropyTraining):
    """Data, loss and validation of supervised fine-tuning."""

    def __init__(
        self, recipe: Recipe, backend: Backend, train: Samples, val: Samples | None, pad_id: int
    ) -> None:
        super().__init__(recipe, backend, train, pad_id)
        self._val = None if val is None else val_batches(recipe, backend.place, val, pad_id)

    def validate(self) -> dict[str, float]:
        """Mean loss per trained token, and the share of answers that are right as a whole.

        An answer counts as right when, given the prompt and the answer's own earlier tokens, every
        one of its tokens is the most likely one. By induction over the tokens that is exactly when
        greedy decoding from the prompt alone would write this answer, so one forward pass tells
        what generating would tell.
        """
        if self._val is None:
            return {}
        total = {"loss": 0.0, "tokens": 0.0, "exact": 0.0, "responses": 0.0}
        for batches in self._val.one_pass():
            sums = self._backend.reduce_sums(self._backend.forward(batches, sft_measure))
            total = {name: total[name] + sums[name] for name in total}
        return {
            "validation/loss": total["loss"] / max(total["tokens"], 1.0),
            "validation/accuracy": total["exact"] / max(total["responses"], 1.0),
        }


def build(ingredients: Ingredients) -> Sft:
    """The algorithm of a recipe."""
    recipe, tokenizer = ingredients.recipe, ingredients.tokenizer
    return Sft(
        recipe,
        ingredients.backend,
        open_dataset(recipe, tokenizer, "train"),
        open_dataset(recipe, tokenizer, "val"),
        ingredients.pad_id,
    )
