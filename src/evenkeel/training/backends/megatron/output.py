"""The model's output on one micro-batch when no rank has all of the logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import (
    gather_from_tensor_model_parallel_region,
    vocab_parallel_cross_entropy,
)
from torch import Tensor

from evenkeel.training.backends.interface import IGNORED_LABEL, ModelOutput
from evenkeel.training.backends.megatron.context_parallel import ContextShare, padded_to


@dataclass(frozen=True)
class SharedOutput(ModelOutput):
    """Logits of this rank's tokens and part of the vocabulary.

    Every method gives all tokens of the rows, the same on every rank of both groups.
    """

    seq: int
    """Tokens of the rows before they were padded for sharing."""
    group: dist.ProcessGroup
    """Ranks that share the vocabulary."""
    share: ContextShare
    """Ranks that share the tokens."""

    def sum_of_token_losses(self, labels: Tensor) -> Tensor:
        """See ``ModelOutput``."""
        return -self.token_log_probs(labels).sum()

    def token_log_probs(self, labels: Tensor, temperature: float = 1.0) -> Tensor:
        """See ``ModelOutput``."""
        labels = self.share.take(padded_to(labels, self._whole_length, IGNORED_LABEL))
        trained = labels != IGNORED_LABEL
        # the library computes in place: the quotient is a tensor of its own
        losses: Tensor = vocab_parallel_cross_entropy(
            self.logits.float() / temperature, labels.masked_fill(~trained, 0)
        )
        return self._all_tokens(-losses.masked_fill(~trained, 0.0))

    def most_likely_tokens(self) -> Tensor:
        """See ``ModelOutput``; the lowest id where several are equally likely."""
        best, token = self.logits.max(dim=-1)
        if self.group.size() > 1:
            token = token + self.group.rank() * self.logits.shape[-1]
            bests, tokens = _all(best.float(), self.group), _all(token, self.group)
            token = tokens.gather(0, bests.argmax(dim=0, keepdim=True))[0]
        return self._all_tokens(token)

    def log_probs(self, temperature: float = 1.0) -> Tensor:
        """See ``ModelOutput``."""
        logits = gather_from_tensor_model_parallel_region(self.logits.float() / temperature)
        return self._all_tokens(logits.log_softmax(dim=-1))

    @property
    def _whole_length(self) -> int:
        return self.logits.shape[1] * self.share.size

    def _all_tokens(self, x: Tensor) -> Tensor:
        return self.share.gather(x)[:, : self.seq]


def _all(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """(ranks, …): what each rank of the group has."""
    parts = [torch.empty_like(x) for _ in range(group.size())]
    dist.all_gather(parts, x.contiguous(), group=group)
    return torch.stack(parts)
