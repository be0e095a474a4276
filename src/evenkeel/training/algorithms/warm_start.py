"""What comes before reinforcement or preferences: a model that can do the task a little.

Large recipes name such a model. One that starts from random weights trains them first, supervised,
on the same data: the field's order (Ouyang et al. 2022, arXiv:2203.02155).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from evenkeel.recipes.schema import Policy, Recipe, Schedule, Scheduler, Sft, WarmStart
from evenkeel.training.algorithms import sft
from evenkeel.training.algorithms.interface import Ingredients
from evenkeel.training.backends.interface import Backend, MicroBatchReader
from evenkeel.training.data.batches import MicroBatch, open_dataset

FOLDER = "frozen"
"""Of a checkpoint: weights of a model that is no longer trained, and cannot be had again."""


def warm_up(ingredients: Ingredients, backend: Backend, settings: WarmStart) -> None:
    """Train ``backend`` on the chats of the recipe's data; then forget the optimizer's state."""
    recipe = _recipe(ingredients.recipe, settings)
    samples = open_dataset(recipe, ingredients.tokenizer, "train")
    training = sft.Sft(recipe, backend, samples, None, ingredients.pad_id)
    loss = 0.0
    for step in range(1, settings.num_steps + 1):
        loss = training.train_step(step).metrics["train/loss"]
    backend.reset_optimizer()
    ingredients.say(f"warm start: {settings.num_steps} supervised steps, loss {loss:.4f}")


def _recipe(recipe: Recipe, settings: WarmStart) -> Recipe:
    policy = recipe.policy
    scheduler = Scheduler(
        name=Schedule.COSINE,
        warmup_steps=settings.num_steps // 10,
        decay_steps=settings.num_steps,
        min_lr_ratio=0.1,
    )
    return replace(
        recipe,
        policy=replace(
            policy,
            train_global_batch_size=settings.global_batch_size,
            optimizer=replace(policy.optimizer, lr=settings.lr),
            scheduler=scheduler,
        ),
        sft=Sft(),
    )


class FrozenModel:
    """A second model that stays as it is when training begins: a reference policy, a teacher.

    A named or seeded model can be had again at any start. One that a warm start made is kept in
    every checkpoint.
    """

    def __init__(self, ingredients: Ingredients, policy: Policy) -> None:
        """Make it; of one with a warm start, ``warm_up``, ``copy`` or ``load`` is to be called."""
        self._ingredients = ingredients
        self._model = ingredients.second_model(policy)
        self._is_made = policy.warm_start is not None
        if not self._is_made:
            self._model.freeze()

    def warm_up(self, settings: WarmStart) -> None:
        """Train it on the chats of the recipe's data, and never again."""
        warm_up(self._ingredients, self._model, settings)
        self._model.freeze()

    def copy(self, backend: Backend) -> None:
        """Become what ``backend`` is now."""
        self._model.copy_weights(backend)
        self._model.freeze()

    def save(self, folder: Path) -> None:
        """Into the folder of a checkpoint."""
        if self._is_made:
            self._model.save_weights(folder / FOLDER)

    def load(self, folder: Path) -> None:
        """From the folder of a checkpoint."""
        if self._is_made:
            self._model.load_weights(folder / FOLDER)
            self._model.freeze()

    def read(
        self, batches: Sequence[MicroBatch], reader: MicroBatchReader
    ) -> list[dict[str, Tensor]]:
        """See ``Backend.read``."""
        return self._model.read(batches, reader)
