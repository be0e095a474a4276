"""What megatron-core's models take of a micro-batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evenkeel.recipes.schema import Parallel
from evenkeel.training.attention import block_diagonal_causal_mask
from evenkeel.training.backends.batch_transfer import moved
from evenkeel.training.backends.megatron.context_parallel import ContextShare, padded_to
from evenkeel.training.data.batches import MicroBatch


@dataclass(frozen=True)
class Inputs:
    """What one forward pass on this rank takes."""

    shape: tuple[int, int]
    """(batch, seq) with padding, of the whole sequence."""
    input_ids: Tensor
    """(batch, this rank's tokens); position_ids as well."""
    position_ids: Tensor
    attention_mask: Tensor | None
    """(batch or 1, 1, this rank's tokens, seq), True where a token may look; None where each sees
    itself and all before it. Rows without packing are padded on the right, where causal attention
    never looks."""
    images: Tensor | None = None
    """(images of all rows, 3, height, width); None: there are none."""


@dataclass(frozen=True, kw_only=True)
class Rows(Inputs):
    """A micro-batch."""

    batch: MicroBatch
    """As the algorithm made it, on the device."""
    is_filler: bool = False
    """Nothing is trained on it or reported of it: a schedule wants more passes than there are."""


def sequence_multiple(parallel: Parallel) -> int:
    """Rows have to be a multiple of this long: each rank gets an equal share."""
    tensor = parallel.tensor_parallel_size if parallel.sequence_parallel else 1
    context = parallel.context_parallel_size
    return tensor * (2 * context if context > 1 else 1)


def prepared(batch: MicroBatch, length: int, share: ContextShare, device: torch.device) -> Rows:
    """Move a micro-batch to the device and take this rank's part of its rows, ``length`` long."""
    batch = moved(batch, device)
    num_rows = batch.input_ids.shape[0]
    mask = None
    if batch.segment_ids is not None:
        mask = block_diagonal_causal_mask(padded_to(batch.segment_ids, length, -1))
    elif share.size > 1:
        mask = block_diagonal_causal_mask(torch.zeros(1, length, dtype=torch.int64, device=device))
    return Rows(
        batch=batch,
        shape=(num_rows, length),
        input_ids=share.take(padded_to(batch.input_ids, length, 0)),
        position_ids=share.take(padded_to(batch.position_ids, length, 0)),
        attention_mask=share.mask(mask) if mask is not None and share.size > 1 else mask,
        images=batch.images.get("pixel_values"),
    )
