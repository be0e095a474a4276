"""Two parts of a transformer layer that megatron-core has only for GPUs or not at all.

They take the places of its norm and its core attention in the local layer specification: attention
through torch's fused kernel, for packed rows and under context parallelism too, and a root mean
square norm that knows of sequence parallelism and of Gemma's ``1 + weight``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from torch import Tensor, nn


class RmsNorm(nn.Module):
    """Root mean square norm (Zhang & Sennrich 2019, arXiv:1910.07467), computed in fp32."""

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: object
    ) -> None:
        """Called by megatron-core's layer builder, which passes more than is needed here."""
        super().__init__()
        self._eps = eps
        self._zero_centred = config.layernorm_zero_centered_gamma
        self.weight = nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        # tells the backend that gradients are sums over this rank's share of the tokens
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        """The same shape and type as ``x``, normalised over the last dimension."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self._eps)
        if self._zero_centred:
            return (wide * (1.0 + self.weight.float())).to(x.dtype)
        return self.weight * wide.to(x.dtype)


class FusedAttention(nn.Module):
    """Attention through ``scaled_dot_product_attention``, causal but in a vision tower.

    Under context parallelism keys and values of all ranks are gathered, which costs memory for one
    layer's keys and values of the whole sequence.
    """

    def __init__(
        self,
        config: TransformerConfig,
        attn_mask_type: AttnMaskType = AttnMaskType.causal,
        softmax_scale: float | None = None,
        pg_collection: Any = None,
        **_: object,
    ) -> None:
        """Called by megatron-core's layer builder, which passes more than is needed here."""
        super().__init__()
        self._is_causal = attn_mask_type is not AttnMaskType.no_mask
        self._scale = softmax_scale
        self._group = pg_collection.cp if config.context_parallel_size > 1 else None

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: object
    ) -> Tensor:
        """Attend.

        Args:
            query: (seq, batch, heads, features); keys and values may have fewer heads.
            key: as ``query``.
            value: as ``query``, but may have another number of features.
            attention_mask: (batch or 1, 1, seq, seq of all ranks), True where a token may look;
                None: each looks at itself and those before it, or in a tower at all.

        Returns:
            (seq, batch, heads * features of the value).
        """
        if self._group is not None:
            key, value = _gather(key, self._group), _gather(value, self._group)
        q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=attention_mask,
            is_causal=attention_mask is None and self._is_causal,
            scale=self._scale,
            enable_gqa=k.shape[1] != q.shape[1],
        )
        return out.permute(2, 0, 1, 3).flatten(2)


class _Gather(torch.autograd.Function):
    """All ranks' shares along the first dimension; the backward pass sums and scatters."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        shares = [torch.empty_like(x) for _ in range(group.size())]
        dist.all_gather(shares, x.contiguous(), group=group)
        return torch.cat(shares)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous()
        dist.all_reduce(total, group=ctx.group)
        return total.chunk(ctx.group.size())[ctx.group.rank()].contiguous(), None


def _gather(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    gathered: Tensor = _Gather.apply(x, group)
    return gathered
