"""Language modelling: cross-entropy of the next token, on every token.

Loss of a step: the mean over all tokens of the global batch of -log p(token | tokens before it)
(Bengio et al. 2003, "A Neural Probabilistic Language Model").
"""

from __future__ import annotations

from math import log

from evenkeel.recipes.schema import Recipe
from evenkeel.training.algorithms.cross_entropy import CrossEntropyTraining
from evenkeel.training.algorithms.interface import Ingredients
from evenkeel.training.algorithms.optimizer_step import count_tokens, val_batches
from evenkeel.training.backends.interface import Backend, ModelOutput, Sums
from evenkeel.training.data.batches import MicroBatch, Samples, open_dataset
from evenkeel.training.data.samples import TokenWindows


def measure(output: ModelOutput, batch: MicroBatch) -> Sums:
    """Sum of the validation losses of a micro-batch's tokens."""
    return {"loss": output.sum_of_token_losses(batch.labels).double()}


class Pretrain(CrossEntropyTraining):
    """Data, loss and validation of language modelling."""

    def __init__(
        self, recipe: Recipe, backend: Backend, train: Samples, val: Samples, pad_id: int
    ) -> None:
        super().__init__(recipe, backend, train, pad_id)
        self._val = val_batches(recipe, backend.place, val, pad_id)
        self._bytes_per_token = val.bytes_per_token if isinstance(val, TokenWindows) else None

    def validate(self) -> dict[str, float]:
        """Mean loss per token, and bits per byte of text where the set is running text.

        Bits per byte compare models of different vocabularies: the loss of a token counts against
        the text that it stands for. The bytes are those of the whole validation text, its share
        per token taken as even.
        """
        loss, tokens = 0.0, 0.0
        for batches in self._val.one_pass():
            sums = self._backend.reduce_sums(self._backend.forward(batches, measure))
            loss += sums["loss"]
            tokens += count_tokens(self._backend, batches)["trained"]
        mean = loss / max(tokens, 1.0)
        metrics = {"validation/loss": mean}
        if self._bytes_per_token is not None:
            metrics["validation/bits_per_byte"] = mean / log(2) / self._bytes_per_token
        return metrics


def build(ingredients: Ingredients) -> Pretrain:
    """The algorithm of a recipe."""
    recipe, tokenizer = ingredients.recipe, ingredients.tokenizer
    return Pretrain(
        recipe,
        ingredients.backend,
        open_dataset(recipe, tokenizer, "train"),
        open_dataset(recipe, tokenizer, "val"),
        ingredients.pad_id,
    )
