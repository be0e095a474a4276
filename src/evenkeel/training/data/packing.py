"""Which samples share a row and which rows a micro-batch: pure, from lengths to plans."""

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


def by_token_budget(widths: Sequence[int], max_tokens: int, multiple: int) -> list[list[int]]:
    """Micro-batches of rows of like width, each of at most ``max_tokens`` positions.

    Widest first, so that little is padded and neighbours in the list cost alike; rank r of n
    takes micro-batches r, r+n, …

    Args:
        widths: positions of each row.
        max_tokens: rows times the widest of them; a single row may exceed it.
        multiple: the number of micro-batches is a multiple of this. The largest are halved to get
            there; empty ones are added only when every row is alone.

    Returns:
        row indices of each micro-batch.
    """
    batches: list[list[int]] = []
    for row in sorted(range(len(widths)), key=lambda row: -widths[row]):
        if batches and (len(batches[-1]) + 1) * widths[batches[-1][0]] <= max_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    while len(batches) % multiple:
        largest = max(range(len(batches)), key=lambda place: len(batches[place]))
        rows = batches[largest]
        half = (len(rows) + 1) // 2
        if len(rows) == 1:
            batches.append([])
        else:
            batches[largest : largest + 1] = [rows[:half], rows[half:]]
    return batches
