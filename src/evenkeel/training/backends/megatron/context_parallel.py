"""Which tokens of a sequence each context-parallel rank has.

The sequence is cut into twice as many runs as there are ranks, and rank r has the runs r and
2n - 1 - r, so that under causal attention all have the same work; megatron-core's rotary embeddings
take this order for granted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from torch import Tensor


@dataclass(frozen=True)
class ContextShare:
    """This rank's tokens among those of its group; with one rank, all of them."""

    size: int
    rank: int
    group: dist.ProcessGroup | None

    def positions(self, seq: int, rank: int | None = None) -> Tensor:
        """Where the tokens of a rank stand in a sequence of ``seq`` tokens, in its order."""
        runs = torch.arange(seq).chunk(2 * self.size)
        rank = self.rank if rank is None else rank
        return torch.cat([runs[rank], runs[-1 - rank]])

    def order(self, seq: int) -> Tensor:
        """Positions of all ranks' tokens, rank by rank: the order that gathering gives."""
        return torch.cat([self.positions(seq, rank) for rank in range(self.size)])

    def take(self, x: Tensor) -> Tensor:
        """(batch, seq) → (batch, this rank's tokens)."""
        if self.size == 1:
            return x
        return x[:, self.positions(x.shape[1]).to(x.device)]

    def mask(self, mask: Tensor) -> Tensor:
        """(batch, 1, seq, seq) → this rank's rows, with columns in the order of gathering."""
        seq = mask.shape[-1]
        rows, columns = self.positions(seq).to(mask.device), self.order(seq).to(mask.device)
        return mask[:, :, rows][..., columns]

    def gather(self, x: Tensor) -> Tensor:
        """(batch, this rank's tokens, …) → (batch, seq, …), the same on every rank.

        In the backward pass each rank gets the gradient of its own tokens: all ranks compute the
        same loss from what is gathered here, and their gradients are added up later.
        """
        if self.size == 1:
            return x
        gathered: Tensor = _GatherTokens.apply(x, self)
        return gathered


class _GatherTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, share: ContextShare) -> Tensor:
        ctx.share = share
        parts = [torch.empty_like(x) for _ in range(share.size)]
        dist.all_gather(parts, x.contiguous(), group=share.group)
        whole = torch.cat(parts, dim=1)
        return whole[:, share.order(whole.shape[1]).argsort().to(x.device)]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.share.take(gradients[0]), None


def padded_to(x: Tensor, length: int, value: int) -> Tensor:
    """(batch, seq) filled up on the right to (batch, length)."""
    return F.pad(x, (0, length - x.shape[1]), value=value)
