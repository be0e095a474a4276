"""The micro-batches of one rank at one step, as a pure function of the step.

Samples stream by in the order of seeded epochs; step s trains samples (s-1)·G … s·G-1 of that
stream, G the global batch size. Neither the number of ranks nor the micro-batch size enters, so a
run resumes at any step, on any layout, with the samples it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from evenkeel.errors import InputError
from evenkeel.training.data.chat_mask import Sample
from evenkeel.training.data.order import order_of
from evenkeel.training.data.packing import by_token_budget, first_fit_decreasing
from evenkeel.training.data.samples import Samples, blank_of, open_dataset
from evenkeel.training.shared_prompts import SharedPrompts

__all__ = ["BatchSource", "MicroBatch", "Sample", "Samples", "open_dataset"]

NOT_TRAINED = -100
"""Label of a position that does not count; the ``ignore_index`` of torch's cross-entropy."""

LENGTH_MULTIPLE = 8
"""Rows are padded to a multiple of this: tensor cores and sequence parallelism want it."""


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one forward pass. Every tensor is int64 of shape (batch, seq)."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    """The token that each position has to predict (shifted already); ``NOT_TRAINED`` elsewhere."""
    position_ids: torch.Tensor
    """0, 1, … within each sample."""
    attention_mask: torch.Tensor
    """1 on tokens, 0 on padding, which is always on the right. A row without any sample keeps a
    1 at its first position, so that no attention is over nothing."""
    segment_ids: torch.Tensor | None
    """Packed rows: 1, 2, … per sample of a row and 0 on padding; positions attend to earlier ones
    of the same segment. None where rows hold one sample each."""
    num_trained_tokens: int
    """Labels that are not ``NOT_TRAINED``."""
    sample_indices: tuple[tuple[int, ...], ...]
    """Per row, the samples in it by their index in the set, left to right."""
    extras: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """What an algorithm attaches for its loss, first dimension the rows: (batch, seq), (batch,)."""
    images: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Arguments of a vision-language model, such as ``pixel_values``: the images of all rows, row
    by row and left to right, one after the other in the first dimension. Where no sample of the
    rows has one, a further row holds a blank image and trains nothing."""
    shared: SharedPrompts | None = None
    """How rows share their prompts, for backends that make use of it."""


class BatchSource:
    """Cuts a set of samples into global batches and those into one rank's micro-batches."""

    def __init__(
        self,
        samples: Samples,
        *,
        global_batch_size: int,
        micro_batch_size: int,
        dp_rank: int,
        dp_size: int,
        seed: int,
        shuffle: bool,
        max_length: int,
        pad_id: int,
        pack: bool,
        max_micro_batch_tokens: int | None = None,
        group_size: int = 1,
        blank: Sample | None = None,
    ) -> None:
        """Bind a set to one rank's place.

        Args:
            samples: what to draw from.
            global_batch_size: samples of a step over all ranks.
            micro_batch_size: rows of one forward pass on one rank.
            dp_rank: this rank's index among the ``dp_size`` data-parallel ones.
            dp_size: how many ranks share a global batch.
            seed: of the order of each epoch.
            shuffle: off: every epoch runs in the order of the set.
            max_length: positions of a row at most; of a longer sample the front is trained.
            pad_id: token id of padding.
            pack: several samples in a row, as many as ``max_length`` admits.
            max_micro_batch_tokens: dynamic batching: rows of like length go together, as many as
                fit into so many positions, and ``micro_batch_size`` does not count.
            group_size: so many neighbours in the set, such as the two answers of a pair, stay
                together in neighbouring rows of one micro-batch; order and batch sizes count
                groups. Not with packing or dynamic batching.
            blank: stand-in for micro-batches without an image; None: that of the set.

        Raises:
            InputError: the set is empty, or a size is below 1.
        """
        sizes = {
            "global_batch_size": global_batch_size,
            "micro_batch_size": micro_batch_size,
            "max_length": max_length,
            "dp_size": dp_size,
        }
        for name, size in sizes.items():
            if size < 1:
                raise InputError(f"{name} is {size}; it must be 1 or more")
        if not 0 <= dp_rank < dp_size:
            raise ValueError(f"dp_rank {dp_rank} is not below dp_size {dp_size}")
        if len(samples) == 0:
            raise InputError("the data set has no samples")
        if max_micro_batch_tokens is not None and max_micro_batch_tokens < 1:
            raise InputError(f"max_micro_batch_tokens is {max_micro_batch_tokens}; it must be 1 up")
        if group_size > 1 and (pack or max_micro_batch_tokens is not None):
            raise InputError(
                "neither packing nor dynamic batching keeps the answers of a group together",
                fix="set policy.sequence_packing.enabled=false and "
                "policy.dynamic_batching.enabled=false",
            )
        self._samples, self._order = samples, order_of(samples, seed, shuffle, group_size)
        self._group_size = group_size
        self._max_micro_batch_tokens = max_micro_batch_tokens
        self._global_batch_size, self._micro_batch_size = global_batch_size, micro_batch_size
        self._dp_rank, self._dp_size = dp_rank, dp_size
        self._max_length, self._pad_id, self._pack = max_length, pad_id, pack
        self._blank = blank or blank_of(samples)

    @property
    def num_batches(self) -> int:
        """Global batches of ``one_pass``."""
        return -(-len(self._samples) // (self._global_batch_size * self._group_size))

    def sample_indices(self, step: int) -> list[int]:
        """Indices of the samples of step ``step`` (the first is 1), over all ranks, in order."""
        if step < 1:
            raise ValueError(f"step is {step}; the first is 1")
        size, group = self._global_batch_size, self._group_size
        groups = self._order.indices((step - 1) * size, size)
        return [first * group + member for first in groups for member in range(group)]

    def global_batch(self, step: int) -> list[MicroBatch]:
        """This rank's micro-batches of step ``step``; every rank gets equally many.

        A global batch that does not divide evenly is filled up with rows that train nothing.
        """
        return self._micro_batches(self.sample_indices(step))

    def one_pass(self) -> Iterator[list[MicroBatch]]:
        """Every sample exactly once, in the order of the set: what validation needs.

        Yields this rank's micro-batches per global batch, equally many on every rank.
        """
        size = self._global_batch_size * self._group_size
        for start in range(0, len(self._samples), size):
            end = min(start + size, len(self._samples))
            yield self._micro_batches(range(start, end))

    def _micro_batches(self, indices: Sequence[int]) -> list[MicroBatch]:
        rows = self._rows(indices)
        if self._max_micro_batch_tokens is not None:
            widths = [self._width(row) for row in rows]
            plan = by_token_budget(widths, self._max_micro_batch_tokens, self._dp_size)
            mine = [
                [rows[place] for place in batch] for batch in plan[self._dp_rank :: self._dp_size]
            ]
            return [self._micro_batch(batch or [()]) for batch in mine]
        rows_of_batch = self._micro_batch_size * self._group_size
        rows_per_round = rows_of_batch * self._dp_size
        batches = []
        for first in range(0, len(rows), rows_per_round):
            start = first + self._dp_rank * rows_of_batch
            batch = rows[start : start + rows_of_batch]
            batch += [()] * (rows_of_batch - len(batch))
            batches.append(self._micro_batch(batch))
        return batches

    def _rows(self, indices: Sequence[int]) -> list[tuple[int, ...]]:
        """Samples of each row of the global batch, before it is dealt to the ranks."""
        if not self._pack:
            return [(index,) for index in indices]
        lengths = [self._num_positions(self._samples[index]) for index in indices]
        plan = first_fit_decreasing(lengths, self._max_length)
        return [tuple(indices[place] for place in row) for row in plan]

    def _num_positions(self, sample: Sample) -> int:
        """A sample of n tokens predicts n-1 of them; its last token is only ever a label."""
        return min(max(len(sample.input_ids) - 1, 1), self._max_length)

    def _width(self, row: tuple[int, ...]) -> int:
        """Positions of a row, with its share of padding."""
        return self._width_of([self._samples[index] for index in row])

    def _width_of(self, members: Sequence[Sample]) -> int:
        filled = sum(map(self._num_positions, members))
        return max(1, min(-(-filled // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, self._max_length))

    def _micro_batch(self, rows: Sequence[tuple[int, ...]]) -> MicroBatch:
        samples = [[self._samples[index] for index in row] for row in rows]
        images = [image for members in samples for sample in members for image in sample.images]
        blank = self._blank if not images else None
        width = max(map(self._width_of, [*samples, [blank] if blank else []]))
        shape = (len(rows) + bool(blank), width)
        input_ids = np.full(shape, self._pad_id, dtype=np.int64)
        labels = np.full(shape, NOT_TRAINED, dtype=np.int64)
        segment_ids = np.zeros(shape, dtype=np.int64)
        position_ids = np.zeros(shape, dtype=np.int64)
        position_ids[:] = np.arange(width)
        for row, members in enumerate(samples):
            start = 0
            for number, sample in enumerate(members, 1):
                end = start + self._num_positions(sample)
                ids = np.array(sample.input_ids[: end - start + 1], dtype=np.int64)
                trained = np.array(sample.loss_mask[1 : end - start + 1], dtype=bool)
                input_ids[row, start:end] = ids[: end - start]
                labels[row, start : start + len(trained)][trained] = ids[1:][trained]
                segment_ids[row, start:end] = number
                position_ids[row, start:end] -= start
                start = end
            if not members:
                segment_ids[row, 0] = 1
            position_ids[row, start:] -= start
        if blank:
            images = list(blank.images)
            num_positions = self._num_positions(blank)
            input_ids[-1, :num_positions] = blank.input_ids[:num_positions]
            segment_ids[-1, 0] = 1
        return MicroBatch(
            input_ids=torch.from_numpy(input_ids),
            labels=torch.from_numpy(labels),
            position_ids=torch.from_numpy(position_ids),
            attention_mask=torch.from_numpy((segment_ids > 0).astype(np.int64)),
            segment_ids=torch.from_numpy(segment_ids) if self._pack else None,
            num_trained_tokens=int((labels != NOT_TRAINED).sum()),
            sample_indices=tuple([*rows, ()] if blank else rows),
            images=joined(images),
        )


def joined(images: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The arguments of several images as those of all of them."""
    names = images[0] if images else ()
    return {name: torch.cat([image[name] for image in images]) for name in names}
