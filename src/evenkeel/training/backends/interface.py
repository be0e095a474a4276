"""What a backend offers to an algorithm, and what an algorithm hands to a backend.

A backend owns the model, its layout over ranks, the optimizer and their part of a checkpoint. An
algorithm never sees a parameter: it gives a function from the model's output on one micro-batch
to a scalar, and the backend runs forward and backward in the order that suits its layout (a
pipeline schedule, for example, interleaves micro-batches).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from torch import Tensor

from evenkeel.training.data.batches import MicroBatch

IGNORED_LABEL = -100
"""Label of a position that is not trained; ``torch.nn.functional.cross_entropy`` skips it."""


@dataclass(frozen=True)
class ModelOutput:
    """What the model says about one micro-batch.

    Algorithms use the methods, not the logits, so that a backend may compute them without ever
    holding all logits at once.
    """

    logits: Tensor
    """(batch, seq, vocabulary), in the precision of the forward pass."""

    def sum_of_token_losses(self, labels: Tensor) -> Tensor:
        """Cross-entropy summed over the trained tokens, in fp32; ``labels`` is (batch, seq)."""
        return F.cross_entropy(
            self.logits.float().flatten(0, 1),
            labels.flatten(),
            ignore_index=IGNORED_LABEL,
            reduction="sum",
        )

    def most_likely_tokens(self) -> Tensor:
        """(batch, seq): the token that greedy decoding would take at each position."""
        return self.logits.argmax(dim=-1)


Sums = dict[str, Tensor]
"""Scalars by name, to be added up over micro-batches and data-parallel ranks; on the device."""

MicroBatchLoss = Callable[[ModelOutput, MicroBatch], tuple[Tensor, Sums]]
"""The micro-batch's share of the loss of the whole global batch, and what to report of it."""

MicroBatchMeasure = Callable[[ModelOutput, MicroBatch], Sums]
"""What to measure of a micro-batch without training on it."""


@dataclass(frozen=True)
class DataParallelPlace:
    """Which share of a global batch this rank works on."""

    rank: int
    size: int


class Backend(ABC):
    """A model in training, spread over the ranks of the process group."""

    device: torch.device
    place: DataParallelPlace

    @abstractmethod
    def forward_backward(self, micro_batches: Sequence[MicroBatch], loss: MicroBatchLoss) -> Sums:
        """Accumulate the gradient of the sum of ``loss`` over all micro-batches of all ranks.

        Every data-parallel rank passes the same number of micro-batches. The result is this
        rank's sums: ``reduce_sums`` adds them up over ranks.
        """

    @abstractmethod
    def forward(self, micro_batches: Sequence[MicroBatch], measure: MicroBatchMeasure) -> Sums:
        """Add up ``measure`` over the micro-batches, in evaluation mode and without gradients."""

    @abstractmethod
    def clip_gradients(self, max_norm: float) -> Tensor:
        """The 2-norm of the whole model's gradient, which is then scaled down to ``max_norm``.

        0 turns the scaling off. The same scalar on every rank.
        """

    @abstractmethod
    def step(self, learning_rate: float) -> None:
        """Let the optimizer take one step, then forget the gradients."""

    @abstractmethod
    def reduce_sums(self, sums: Mapping[str, float | Tensor]) -> dict[str, float]:
        """Add each scalar up over data-parallel ranks; the same result on every rank."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write weights and optimizer state below ``folder``; called by every rank."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote, also by another number of ranks."""
