"""One weight of megatron-core, and how it is made of those of transformers, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Merge = Callable[[Sequence[Tensor]], Tensor]
Split = Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Piece:
    """One weight here, and the weights there that it consists of.

    It has its number of layer and expert in the whole model, and so one name on every rank.
    """

    name: str
    sources: tuple[str, ...]
    """Names in transformers, in the order in which ``merge`` takes them."""
    expert: int | None = None
    """The index into the first dimension of the sources, which hold all experts of a layer."""
    heads: tuple[int, int, int] | None = None
    """(query heads, key/value heads, head dimension): interleave query, key and value by group."""
    is_gated: bool = False
    """Gate and up projection, one above the other: each is split over ranks on its own."""
    is_copy: bool = False
    """The same weight as another piece: read, not written back."""
    is_class_token: bool = False
    """(1, 1, features) here, (features,) there."""

    def merge(self, sources: Sequence[Tensor]) -> Tensor:
        """The whole weight here from the whole weights there."""
        if self.expert is not None:
            return torch.cat([source[self.expert] for source in sources])
        if self.heads is not None:
            return merge_query_key_value(sources, self.heads)
        if self.is_class_token:
            return sources[0][None, None]
        return sources[0] if len(sources) == 1 else torch.cat(list(sources))

    def split(self, whole: Tensor) -> list[Tensor]:
        """The inverse of ``merge``, without the other experts."""
        if self.heads is not None:
            return split_query_key_value(whole, self.heads)
        if self.is_class_token:
            return [whole[0, 0]]
        return list(whole.chunk(len(self.sources)))


def merge_query_key_value(sources: Sequence[Tensor], heads: tuple[int, int, int]) -> Tensor:
    """(query | key | value) rows → per group: its query heads, its key head, its value head."""
    num_heads, num_groups, features = heads
    rest = sources[0].shape[1:]
    counts = (num_heads // num_groups, 1, 1)
    grouped = [
        source.reshape(num_groups, count * features, *rest)
        for source, count in zip(sources, counts, strict=True)
    ]
    return torch.cat(grouped, dim=1).reshape(-1, *rest)


def split_query_key_value(whole: Tensor, heads: tuple[int, int, int]) -> list[Tensor]:
    """The inverse of ``merge_query_key_value``."""
    num_heads, num_groups, features = heads
    rest = whole.shape[1:]
    counts = [num_heads // num_groups * features, features, features]
    grouped = torch.split(whole.reshape(num_groups, sum(counts), *rest), counts, dim=1)
    return [part.reshape(-1, *rest) for part in grouped]
