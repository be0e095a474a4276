"""Which samples share a row: pure, from lengths to rows."""

from __future__ import annotations

from collections.abc import Sequence


def first_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of sample indices whose lengths add up to at most ``capacity`` each.

    Longest first, each into the first row with room; equal lengths in their order, so the same
    lengths always give the same rows. Never more than 11/9 of the fewest possible rows plus 6/9
    (Dósa 2007, "The tight bound of first fit decreasing bin-packing algorithm").

    Args:
        lengths: tokens of each sample, none above ``capacity``.
        capacity: tokens of a row.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        if length > capacity:
            raise ValueError(f"sample {index} has {length} tokens, a row {capacity}")
        for row, free in enumerate(room):
            if length <= free:
                rows[row].append(index)
                room[row] = free - length
                break
        else:
            rows.append([index])
            room.append(capacity - length)
    return rows
