"""What the training loop asks of an algorithm, and what an algorithm is made from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from evenkeel.recipes.schema import Policy, Recipe
from evenkeel.training.backends.interface import Backend

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class StepResult:
    """One step."""

    metrics: dict[str, float]
    """Named as they are logged; those in ``watched`` must be finite."""
    num_tokens: int
    """Tokens that went through the model on all ranks, without padding."""
    watched: tuple[str, ...] = field(default=("train/loss", "train/grad_norm"))
    """A NaN or infinity in one of these ends the run."""


@dataclass(frozen=True)
class Ingredients:
    """What an algorithm is made from."""

    recipe: Recipe
    backend: Backend
    """Holds the model in training, still with the weights it starts from."""
    tokenizer: PreTrainedTokenizerBase
    second_model: Callable[[Policy], Backend]
    """Another model on the same ranks (a reference, a teacher), with the weights that this policy
    section starts from; never trained unless the algorithm does so."""
    is_main: bool
    """Whether this rank writes what is written once."""
    say: Callable[[str], None]
    """Tell a person, once for all ranks."""

    @property
    def pad_id(self) -> int:
        """Token id of padding."""
        pad_id = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad_id is None else pad_id)


class TrainingAlgorithm(ABC):
    """Data, loss and validation of one kind of training; every rank calls the same methods."""

    def begin(self) -> None:  # noqa: B027 - most have nothing to do here
        """What comes before step 1, once; a run that continues calls ``load`` instead."""

    @abstractmethod
    def train_step(self, step: int) -> StepResult:
        """Do the step ``step``, counted from 1.

        What it depends on is the step and what ``save`` and the backend's ``save`` keep, nothing
        else: a resumed run asks for the next step and gets what an unbroken run would have got.
        """

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Metrics of the validation set under the present weights."""

    def save(self, folder: Path) -> None:  # noqa: B027 - most have nothing to do here
        """Write what the backend does not keep into ``folder``; every rank calls it."""

    def load(self, folder: Path) -> None:  # noqa: B027 - most have nothing to do here
        """Read what ``save`` wrote."""
