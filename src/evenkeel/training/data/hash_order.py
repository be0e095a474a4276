"""Seeded orders that are pure functions of their arguments, the same in every library version.

Random generators of numpy and torch may change their streams between releases; a curve that is
compared with last month's needs an order that does not. Each index gets a 64-bit hash and the
indices are sorted by it. The hash is SplitMix64's output function (Steele, Lea & Flood 2014,
"Fast splittable pseudorandom number generators").
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

UINT64 = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(value: int) -> int:
    """SplitMix64's finaliser: a bijection on 64 bits in which every bit reaches every other."""
    value = (value + GOLDEN) & UINT64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & UINT64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & UINT64
    return value ^ (value >> 31)


def key(*parts: int) -> int:
    """One 64-bit key from several whole numbers, their order included."""
    state = 0
    for part in parts:
        state = mix(state ^ (part & UINT64))
    return state


def permutation(size: int, *parts: int) -> npt.NDArray[np.int64]:
    """The numbers 0 … size-1 in an order seeded by ``parts``. shape: (size,)."""
    with np.errstate(over="ignore"):
        value = np.arange(size, dtype=np.uint64) * np.uint64(GOLDEN) + np.uint64(key(*parts))
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        value ^= value >> np.uint64(31)
    return np.argsort(value, kind="stable").astype(np.int64)


def shuffled_index(index: int, size: int, *parts: int) -> int:
    """Element ``index`` of a seeded permutation of 0 … size-1, without building it.

    A balanced Feistel network of four rounds over the next even number of bits, walked until it
    lands below ``size`` (Black & Rogaway 2002, "Ciphers with arbitrary finite domains"); at most
    four walks on average.
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    round_keys = _round_keys(*parts)
    while True:
        left, right = index >> half, index & mask
        for round_key in round_keys:
            left, right = right, left ^ (mix(round_key ^ right) & mask)
        index = (left << half) | right
        if index < size:
            return index


@lru_cache(maxsize=64)
def _round_keys(*parts: int) -> tuple[int, ...]:
    return tuple(key(*parts, round_number) for round_number in range(4))
