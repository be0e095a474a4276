"""Which tokens of a row see each other."""

from __future__ import annotations

import torch
from torch import Tensor


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
