"""Keys and values of the tokens so far, in memory that grows ahead of them."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

MIN_ROOM = 16
"""Tokens for which new memory has room at least; ``recipe fit`` counts with it."""


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values, in memory with room for an eighth more of them.

    transformers' own layer copies all of them for each token; here a token is written to its place.
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append (batch, heads, new, features) each; all so far, (batch, heads, seq, features)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._key_memory = self._value_memory = None
        first = self.get_seq_length()
        end = first + key_states.shape[2]
        # one after the other, so that of one alone old and new memory are there at the same time
        self._key_memory = _appended(self._key_memory, key_states, first)
        self.keys = self._key_memory[:, :, :end]
        self._value_memory = _appended(self._value_memory, value_states, first)
        self.values = self._value_memory[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Go on with these rows; one may come several times."""
        if self.get_seq_length() > 0:
            super().batch_select_indices(indices)
            self._key_memory, self._value_memory = self.keys, self.values

    _key_memory: Tensor | None
    _value_memory: Tensor | None


def _appended(memory: Tensor | None, new: Tensor, first: int) -> Tensor:
    """``memory`` with ``new`` from position ``first`` on, moved where it does not have the room."""
    batch, heads, num_new, features = new.shape
    if memory is None:
        return new.contiguous()
    end = first + num_new
    if end > memory.shape[2]:
        grown = memory.new_empty(batch, heads, end + max(MIN_ROOM, end // 8), features)
        grown[:, :, :first] = memory[:, :, :first]
        memory = grown
    memory[:, :, first:end] = new
    return memory


def growing_cache() -> Cache:
    """An empty cache of as many layers as the model turns out to have."""
    return Cache(layer_class_to_replicate=GrowingLayer)


def cache_argument(model: nn.Module) -> str:
    """What the model's forward pass calls its cache: ``cache`` since transformers 5.24."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
