"""Decoding with megatron-core's own cache of keys and values, on every stage of a pipeline.

The library's cache needs its size beforehand, and an answer's length is not known: it grows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from megatron.core.inference.contexts import StaticInferenceContext
from torch import Tensor, nn

from evenkeel.training.backends.decoding import NO_IMAGES
from evenkeel.training.backends.megatron.rows import Inputs

NextLogits = Callable[[Inputs, StaticInferenceContext], Tensor]
"""(batch, vocabulary), fp32, the same on every rank that shares the model."""


class ContextDecoder:
    """A ``Decoder`` whose cache is an inference context of megatron-core.

    All rows stand at the same column, so positions count columns: rotary embeddings see differences
    of positions only, and the padding on the left shifts a whole row.
    """

    def __init__(self, next_logits: NextLogits, device: torch.device) -> None:
        self._next_logits, self._device = next_logits, device
        self._context: StaticInferenceContext | None = None

    def __call__(
        self, input_ids: Tensor, attention_mask: Tensor, images: Mapping[str, Tensor] = NO_IMAGES
    ) -> Tensor:
        """See ``Decoder``."""
        num_rows, num_columns = attention_mask.shape
        num_new = input_ids.shape[1]
        if self._context is None:
            self._context = StaticInferenceContext(num_rows, num_columns)
        make_room(self._context, num_columns)
        offset: int = self._context.sequence_len_offset
        logits = self._next_logits(
            Inputs(
                shape=(num_rows, num_new),
                input_ids=input_ids.to(self._device),
                position_ids=torch.arange(offset, num_columns, device=self._device).expand(
                    num_rows, num_new
                ),
                attention_mask=cached_mask(attention_mask.to(self._device), num_new),
                images=images["pixel_values"].to(self._device) if images else None,
            ),
            self._context,
        )
        self._context.increment_sequence_len_offset(num_new)
        return logits

    def select(self, rows: Tensor) -> None:
        """See ``Decoder``."""
        if self._context is not None:
            keep_rows(self._context, rows.to(self._device))


def make_room(context: StaticInferenceContext, num_columns: int) -> None:
    """Let every layer's keys and values grow to ``num_columns`` or twice what they are."""
    if num_columns <= context.max_sequence_length:
        return
    room = max(num_columns, 2 * context.max_sequence_length)
    memory: dict[int, tuple[Tensor, Tensor]] = context.key_value_memory_dict
    for layer, (keys, values) in memory.items():
        memory[layer] = _grown(keys, room), _grown(values, room)
    context.max_sequence_length = room


def keep_rows(context: StaticInferenceContext, rows: Tensor) -> None:
    """Let every layer's keys and values be those of these rows, in this order."""
    memory: dict[int, tuple[Tensor, Tensor]] = context.key_value_memory_dict
    for layer, (keys, values) in memory.items():
        memory[layer] = keys[:, rows], values[:, rows]
    context.max_batch_size = len(rows)


def _grown(memory: Tensor, room: int) -> Tensor:
    """(seq, batch, groups, features) → (room, batch, groups, features)."""
    return torch.cat([memory, memory.new_empty(room - len(memory), *memory.shape[1:])])


def cached_mask(mask: Tensor, num_new: int) -> Tensor:
    """(batch, 1, new, seq), True where a new token may look: at tokens up to itself.

    Padding looks at padding, because a row of the softmax must have something to look at; no token
    looks there.

    Args:
        mask: (batch, seq), 1 on tokens, 0 on padding.
        num_new: how many of the last columns are new.
    """
    columns = torch.arange(mask.shape[1], device=mask.device)
    alike = mask[:, -num_new:, None] == mask[:, None, :]
    return (alike & (columns <= columns[-num_new:, None]))[:, None]


_SEQUENCE_PARALLEL = (
    "sequence_parallel",
    "sequence_parallel_lm",
    "scatter_to_sequence_parallel",
    "reduce_scatter_embeddings",
)
"""Attributes by which modules of megatron-core, and their configurations, share out a sequence."""


@contextmanager
def whole_sequences(chunks: Sequence[nn.Module]) -> Iterator[None]:
    """Let every rank work on all tokens: one token cannot be shared out along the sequence.

    The library's ``set_model_to_sequence_parallel`` would do, but it remembers models by ``id()``,
    which a later model may get again.
    """
    modules = [module for chunk in chunks for module in chunk.modules()]
    configs = {id(m.config): m.config for m in modules if hasattr(m, "config")}
    changed = [
        (owner, name)
        for owner in (*modules, *configs.values())
        for name in _SEQUENCE_PARALLEL
        if getattr(owner, name, False)
    ]
    for owner, name in changed:
        setattr(owner, name, False)
    try:
        yield
    finally:
        for owner, name in changed:
            setattr(owner, name, True)
