"""What a backend offers to an algorithm, and what an algorithm hands to a backend.

A backend owns the model, its layout over ranks, the optimizer and their part of a checkpoint. An
algorithm never sees a parameter: it gives a function from the model's output on one micro-batch
to a scalar, and the backend runs forward and backward in the order that suits its layout (a
pipeline schedule, for example, interleaves micro-batches).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from torch import Tensor

from evenkeel.training.backends.decoding import Decoder, RecomputingDecoder, last_logits_by
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

    def token_log_probs(self, labels: Tensor, temperature: float = 1.0) -> Tensor:
        """(batch, seq), fp32: log probability of each label, 0 where it is not trained.

        Args:
            labels: (batch, seq).
            temperature: logits are divided by it.
        """
        losses = F.cross_entropy(
            at_temperature(self.logits.float(), temperature).flatten(0, 1),
            labels.flatten(),
            ignore_index=IGNORED_LABEL,
            reduction="none",
        )
        return -losses.view(labels.shape)

    def log_probs(self, temperature: float = 1.0) -> Tensor:
        """(batch, seq, vocabulary), fp32: log probability of every token at every position."""
        return F.log_softmax(at_temperature(self.logits.float(), temperature), dim=-1)


def at_temperature(logits: Tensor, temperature: float) -> Tensor:
    """``logits / temperature``; at 1 without a copy of what may be the largest tensor of a step."""
    return logits if temperature == 1 else logits / temperature


Sums = dict[str, Tensor]
"""Scalars by name, to be added up over micro-batches and data-parallel ranks; on the device."""

MicroBatchLoss = Callable[[ModelOutput, MicroBatch], tuple[Tensor, Sums]]
"""The micro-batch's share of the loss of the whole global batch, and what to report of it."""

MicroBatchMeasure = Callable[[ModelOutput, MicroBatch], Sums]
"""What to measure of a micro-batch without training on it."""

MicroBatchReader = Callable[[ModelOutput, MicroBatch], dict[str, Tensor]]
"""Tensors to keep of a micro-batch's output, such as (batch, seq) log probabilities."""

T = TypeVar("T")


@dataclass(frozen=True)
class DataParallelPlace:
    """Which share of a global batch this rank works on."""

    rank: int
    size: int


class Backend(ABC):
    """A model in training, spread over the ranks of the process group."""

    device: torch.device
    place: DataParallelPlace
    initial_weights: float | None = None
    """``models.mean_weight_size`` before training, on the main rank; None on others."""

    @abstractmethod
    def forward_backward(self, micro_batches: Sequence[MicroBatch], loss: MicroBatchLoss) -> Sums:
        """Accumulate the gradient of the sum of ``loss`` over all micro-batches of all ranks.

        Every data-parallel rank passes the same number of micro-batches. The result is this
        rank's sums: ``reduce_sums`` adds them up over ranks.
        """

    @abstractmethod
    def read(
        self, micro_batches: Sequence[MicroBatch], reader: MicroBatchReader
    ) -> list[dict[str, Tensor]]:
        """What ``reader`` keeps of each micro-batch, in evaluation mode and without gradients.

        Every data-parallel rank passes the same number of micro-batches. All ranks that share
        one copy of the model (tensor, pipeline) get the same tensors.
        """

    def forward(self, micro_batches: Sequence[MicroBatch], measure: MicroBatchMeasure) -> Sums:
        """Add up ``measure`` over the micro-batches, in evaluation mode and without gradients."""
        sums: Sums = {}
        for measured in self.read(micro_batches, measure):
            add_sums(sums, measured)
        return sums

    @contextmanager
    def decoder(self) -> Iterator[Decoder]:
        """The model for one generation, in evaluation mode; every rank enters and leaves.

        Inside, data-parallel ranks may decode different numbers of tokens.
        """
        yield RecomputingDecoder(partial(last_logits_by, self.read))

    @abstractmethod
    def clip_gradients(self, max_norm: float) -> Tensor:
        """The 2-norm of the whole model's gradient, which is then scaled down to ``max_norm``.

        0 turns the scaling off. The same scalar on every rank.
        """

    @abstractmethod
    def step(self, learning_rate: float) -> None:
        """Let the optimizer take one step, then forget the gradients."""

    @abstractmethod
    def reset_optimizer(self) -> None:
        """Forget the optimizer's moments and count of steps."""

    def freeze(self) -> None:  # noqa: B027 - most hold nothing for it before the first step
        """Let go of what only training needs: from now on the model is read, loaded and copied."""

    @abstractmethod
    def reduce_sums(self, sums: Mapping[str, float | Tensor]) -> dict[str, float]:
        """Add each scalar up over data-parallel ranks; the same result on every rank."""

    @abstractmethod
    def gather(self, items: Sequence[T]) -> list[T]:
        """Every data-parallel rank's (picklable) items, rank by rank; the same on every rank."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write weights and optimizer state below ``folder``; called by every rank."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote, also by another number of ranks."""

    @abstractmethod
    def save_weights(self, folder: Path) -> None:
        """Write the weights alone below ``folder``: of a model that is never trained."""

    @abstractmethod
    def load_weights(self, folder: Path) -> None:
        """Read what ``save_weights`` wrote, also by another number of ranks."""

    @abstractmethod
    def copy_weights(self, other: Self) -> None:
        """Take over the weights of a backend of the same model and layout."""

    @abstractmethod
    def whole_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Each weight whole, under transformers' name for it; called by every rank."""


def add_sums(sums: Sums, more: Mapping[str, Tensor]) -> None:
    """Add ``more`` to ``sums``, in place."""
    for name, value in more.items():
        sums[name] = sums[name] + value if name in sums else value
