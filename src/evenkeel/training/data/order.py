"""In which order samples stream by: pure functions of the position, so any step can be resumed.

One set runs in epochs. A blend takes from each of its sets in proportion to its weight, evenly
spread, so that every stretch of the stream holds each set's share to within a sample or two; each
set runs in epochs of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from evenkeel.training.data.hash_order import permutation
from evenkeel.training.data.samples import BlendedSamples, Samples

BLEND_BLOCK = 4096
"""Positions after which a blend's pattern repeats; weights are rounded to this fraction."""


class Order(Protocol):
    """An endless stream of sample indices."""

    def indices(self, start: int, count: int) -> list[int]:
        """Those at positions ``start`` … ``start + count - 1``, counted from 0."""
        ...


def order_of(samples: Samples, seed: int, shuffle: bool, group_size: int = 1) -> Order:
    """The order that belongs to a set of samples, or of groups of so many neighbours in it."""
    if isinstance(samples, BlendedSamples):
        sizes = [size // group_size for size in samples.sizes]
        return BlendOrder(sizes, samples.weights, seed, shuffle)
    return EpochOrder(len(samples) // group_size, shuffle, seed)


class EpochOrder:
    """Every sample once an epoch, in a new order each time or in that of the set."""

    def __init__(self, size: int, shuffle: bool, *key: int) -> None:
        self._size, self._shuffle, self._key = size, shuffle, key
        self._epochs: dict[int, npt.NDArray[np.int64]] = {}

    def indices(self, start: int, count: int) -> list[int]:
        """See ``Order``."""
        found: list[int] = []
        while len(found) < count:
            epoch, offset = divmod(start + len(found), self._size)
            end = min(offset + count - len(found), self._size)
            found += (
                self._epoch(epoch)[offset:end].tolist() if self._shuffle else range(offset, end)
            )
        return found

    def _epoch(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch not in self._epochs:
            if len(self._epochs) > 1:  # a batch can lie on the border of two
                self._epochs.pop(next(iter(self._epochs)))
            self._epochs[epoch] = permutation(self._size, *self._key, epoch)
        return self._epochs[epoch]


class BlendOrder:
    """Several sets in proportion to weights; an index counts through the sets one after another."""

    def __init__(
        self, sizes: Sequence[int], weights: Sequence[float], seed: int, shuffle: bool
    ) -> None:
        self._counts = shares(weights, BLEND_BLOCK)
        # Draw i of a set that gets n of a block stands at (i + 1/2) / n of the block.
        places = [(np.arange(count) + 0.5) / count for count in self._counts]
        sets = np.repeat(np.arange(len(sizes)), self._counts)
        ranks = np.concatenate([np.arange(count) for count in self._counts])
        pattern = np.argsort(np.concatenate(places), kind="stable")
        self._set_at: list[int] = sets[pattern].tolist()
        self._rank_at: list[int] = ranks[pattern].tolist()
        self._orders = [EpochOrder(n, shuffle, seed, number) for number, n in enumerate(sizes)]
        self._offsets = [sum(sizes[:number]) for number in range(len(sizes))]

    def indices(self, start: int, count: int) -> list[int]:
        """See ``Order``."""
        found = []
        for position in range(start, start + count):
            block, place = divmod(position, BLEND_BLOCK)
            number = self._set_at[place]
            draw = block * self._counts[number] + self._rank_at[place]
            found.append(self._offsets[number] + self._orders[number].indices(draw, 1)[0])
        return found


def shares(weights: Sequence[float], total: int) -> list[int]:
    """``total`` in whole parts proportional to ``weights``, each at least 1.

    Largest remainders (Hamilton's method); what the smallest parts are raised by is taken from
    the largest.
    """
    exact = [weight * total / sum(weights) for weight in weights]
    parts = [max(1, int(share)) for share in exact]
    by_remainder = sorted(range(len(parts)), key=lambda number: parts[number] - exact[number])
    for number in by_remainder[: max(0, total - sum(parts))]:
        parts[number] += 1
    while sum(parts) > total:
        parts[parts.index(max(parts))] -= 1
    return parts
