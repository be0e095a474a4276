"""Losses without the logits of all positions at once.

With a vocabulary of 128,000 tokens the fp32 logits of 8,192 positions take 4 GB, their gradient as
much again. Here the output layer runs over some positions at a time, only where there is a label,
and again in the backward pass (Chen et al. 2016, arXiv:1604.06174, on that one layer).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Policy
from evenkeel.recipes.support import check_chunks
from evenkeel.training.backends.interface import IGNORED_LABEL, ModelOutput, at_temperature


class ChunkedHead:
    """The output layer of a model, which itself then gives hidden states in place of logits."""

    def __init__(self, head: nn.Module, num_positions: int) -> None:
        """Put it in place of ``head.forward``; hooks, weights and names stay.

        Args:
            head: (…, hidden) → (…, vocabulary).
            num_positions: whose logits exist at once.
        """
        self._head, self._num_positions = head, num_positions
        self._logits: Callable[[Tensor], Tensor] = head.forward
        self._passes_on = True
        head.forward = self._forward

    def _forward(self, hidden: Tensor) -> Tensor:
        return hidden if self._passes_on else self._logits(hidden)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model gives logits."""
        before, self._passes_on = self._passes_on, False
        try:
            yield
        finally:
            self._passes_on = before

    def chunks(self, rows: Tensor) -> Iterator[slice]:
        """Of (positions, …)."""
        for start in range(0, len(rows), self._num_positions):
            yield slice(start, start + self._num_positions)

    def logits(self, hidden: Tensor) -> Tensor:
        """(positions, vocabulary), fp32, of (positions, hidden)."""
        with self.in_place():
            logits: Tensor = self._head(hidden)
        return logits.float()


class ChunkedOutput(ModelOutput):
    """See ``ModelOutput``; from hidden states of (batch, seq, hidden)."""

    def __init__(self, hidden: Tensor, head: ChunkedHead) -> None:
        object.__setattr__(self, "_hidden", hidden)
        object.__setattr__(self, "_head", head)

    _hidden: Tensor
    _head: ChunkedHead

    @property
    def logits(self) -> Tensor:
        """All at once: only for algorithms that need every token's probability."""
        logits = self._head.logits(self._hidden.flatten(0, 1))
        return logits.view(*self._hidden.shape[:2], -1)

    def sum_of_token_losses(self, labels: Tensor) -> Tensor:
        """See ``ModelOutput``."""
        return -self.token_log_probs(labels).sum()

    def most_likely_tokens(self) -> Tensor:
        """See ``ModelOutput``."""
        hidden = self._hidden.detach().flatten(0, 1)
        with torch.no_grad():
            parts = [
                self._head.logits(hidden[part]).argmax(-1) for part in self._head.chunks(hidden)
            ]
        return torch.cat(parts).view(self._hidden.shape[:2])

    def token_log_probs(self, labels: Tensor, temperature: float = 1.0) -> Tensor:
        """See ``ModelOutput``."""
        trained = labels != IGNORED_LABEL
        # one position at least: all ranks that share the layer must run it
        places = trained.flatten().nonzero()[:, 0]
        if len(places) == 0:
            places = labels.new_zeros(1)
        hidden = self._hidden.flatten(0, 1)[places]
        wanted = labels.flatten()[places]

        def log_probs(hidden: Tensor, wanted: Tensor) -> Tensor:
            logits = at_temperature(self._head.logits(hidden), temperature)
            return -F.cross_entropy(logits, wanted, ignore_index=IGNORED_LABEL, reduction="none")

        parts = [
            checkpoint(log_probs, hidden[part], wanted[part], use_reentrant=False)
            for part in self._head.chunks(hidden)
        ]
        found = torch.zeros(labels.numel(), device=hidden.device)
        return found.index_put((places,), torch.cat(parts)).view(labels.shape)


def install(model: nn.Module, policy: Policy) -> ChunkedHead | None:
    """Let ``model``'s output layer run in chunks, where the recipe asks for it.

    Raises:
        InputError: the model changes logits after that layer, or tokens are shared out over ranks.
    """
    if policy.logits_chunk_size is None:
        return None
    check_chunks(policy)
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    for key in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, key, None) not in (None, 1, 1.0):
            raise InputError(
                f"policy.logits_chunk_size does not know this model's {key}",
                fix="set policy.logits_chunk_size=null",
            )
    head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    return ChunkedHead(head, policy.logits_chunk_size)
