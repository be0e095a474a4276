"""What transformers' token embeddings do and megatron-core's do not, as hooks on the latter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def scale(embedding: nn.Module, factor: float) -> None:
    """Multiply what the embedding gives (Gemma)."""
    embedding.register_forward_hook(
        lambda _module, _inputs, out: out * torch.tensor(factor, dtype=out.dtype)
    )


def leave_padding_untrained(embedding: nn.Module, padding_id: int) -> None:
    """Let no gradient through where the token of padding is given.

    That is ``padding_idx`` of torch's embeddings. It tells where such a token stands within a
    row: in an answer that was sampled, behind which others are trained.
    """

    def hide(module: Any, inputs: tuple[Tensor], out: Tensor) -> None:
        if not out.requires_grad:
            return
        is_padding = inputs[0] == padding_id  # shape: (batch, seq)
        if module.reduce_scatter_embeddings:  # out is (this rank's share of seq, batch, features)
            group = module.tp_group
            is_padding = is_padding.T.chunk(group.size())[group.rank()]
        out.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: gradient.masked_fill(is_padding[..., None], 0.0)
        )

    embedding.register_forward_hook(hide)
