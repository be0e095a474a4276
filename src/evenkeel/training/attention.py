"""Which tokens of a row see each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evenkeel.recipes.schema import Policy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PER_SAMPLE = "sdpa_per_sample"
"""What transformers calls ``attend_per_sample``."""

MIN_POSITIONS = 256
"""Of a row that is attended to sample by sample; in a shorter one the mask costs little."""


def block_diagonal_causal_mask(segment_ids: Tensor) -> Tensor:
    """(batch, 1, seq, seq) boolean: token i sees token j where j <= i in the same sample.

    Args:
        segment_ids: (batch, seq), the number of the sample within the row. Padding may have any
            number: a padding token sees at least itself, so no row of the mask is empty.
    """
    seq = segment_ids.shape[1]
    same_sample = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    causal = torch.ones(seq, seq, dtype=torch.bool, device=segment_ids.device).tril()
    return same_sample & causal


def sample_lengths(segment_ids: Tensor) -> list[list[int]]:
    """Positions of each sample of each row, left to right; padding counts as one more sample.

    Args:
        segment_ids: (batch, seq), as above.
    """
    return [torch.unique_consecutive(row, return_counts=True)[1].tolist() for row in segment_ids]


def attend_per_sample(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    sample_lengths: Sequence[Sequence[int]] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention of packed rows that never meets what the mask hides.

    The block-diagonal mask costs a row of n positions n² products; sample by sample it is the sum
    of their squares, half of it skipped as causal.

    Args:
        module: the layer.
        query: (batch, heads, seq, head_dim), as ``key`` and ``value``.
        key: maybe of fewer heads.
        value: as ``key``.
        attention_mask: used where there are no ``sample_lengths``.
        sample_lengths: of each row, from the function of that name.
        kwargs: for transformers' own function.

    Returns:
        (batch, seq, heads, head_dim), and None for the weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward as attend

    if sample_lengths is None:
        return attend(module, query, key, value, attention_mask, **kwargs)
    kwargs["is_causal"] = True
    rows = []
    for row, lengths in enumerate(sample_lengths):
        whole = (part[row : row + 1] for part in (query, key, value))
        parts = (torch.split(part, list(lengths), dim=2) for part in whole)
        samples = [
            attend(module, q, k, v, None, **kwargs)[0] for q, k, v in zip(*parts, strict=True)
        ]
        rows.append(torch.cat(samples, dim=1))
    return torch.cat(rows), None


def attends_per_sample(policy: Policy, device: torch.device) -> bool:
    """Whether packed rows are attended to sample by sample.

    On a GPU so many small kernels are no gain, and a compiled layer would be compiled for each
    new list of lengths.
    """
    packs, sees_images = policy.sequence_packing.enabled, policy.vision is not None
    if policy.max_total_sequence_length < MIN_POSITIONS or sees_images:
        return False
    return packs and device.type == "cpu" and not policy.torch_compile


def install_per_sample(model: PreTrainedModel) -> None:
    """Let the model take ``sample_lengths``; a layer that does not pass them on uses the mask."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(PER_SAMPLE, attend_per_sample)
    AttentionMaskInterface.register(PER_SAMPLE, sdpa_mask)
    model.set_attn_implementation(PER_SAMPLE)
