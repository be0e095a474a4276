"""What the training loop asks of an algorithm."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class StepResult:
    """One optimizer step."""

    metrics: dict[str, float]
    """Named as they are logged; those in ``watched`` must be finite."""
    num_tokens: int
    """Tokens that went through the model on all ranks, without padding."""
    watched: tuple[str, ...] = field(default=("train/loss", "train/grad_norm"))
    """A NaN or infinity in one of these ends the run."""


class TrainingAlgorithm(Protocol):
    """Data, loss and validation of one kind of training; every rank calls the same methods."""

    def train_step(self, step: int) -> StepResult:
        """Do the optimizer step ``step``, counted from 1.

        What it depends on is the step and the backend's state, nothing else: a resumed run asks
        for the next step and gets what an unbroken run would have got.
        """

    def validate(self) -> dict[str, float]:
        """Metrics of the validation set under the present weights."""
