"""Records encoded with a tokenizer: the indexable samples that batches are made of."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Recipe
from evenkeel.training.data.chat_mask import Encoder, Sample
from evenkeel.training.data.records import Blend, Chat, Records, Text, TextStream, Verifiable
from evenkeel.training.data.registry import open_records
from evenkeel.training.data.vision_chat import VisionEncoder, build_encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CACHE_TOKENS = 1 << 22
"""Samples are kept encoded up to this many tokens and pixel values (some 100 MB at most)."""


class Samples(Protocol):
    """A finite, indexable set of samples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class EncodedRecords:
    """One sample per record, encoded when it is first asked for."""

    def __init__(self, records: Records, encoder: Encoder) -> None:
        self.records = records
        self._encoder = encoder
        self._cache: dict[int, Sample] = {}
        self._room = CACHE_TOKENS
        self.blank = encoder.blank() if isinstance(encoder, VisionEncoder) else None
        """An image of which nothing is trained, for micro-batches without any."""

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        sample = self._cache.get(index)
        if sample is None:
            sample = self._encoder(self.records[index])
            if sample.num_numbers <= self._room:
                self._room -= sample.num_numbers
                self._cache[index] = sample
        return sample

    @property
    def verifiable(self) -> bool:
        """Whether ``verify`` can judge an answer to these records."""
        return isinstance(self.records, Verifiable)

    def prompt(self, index: int) -> list[int]:
        """Ids of chat ``index`` up to where its last assistant turn would be generated."""
        return self._encoder.prompt_ids(self._chat(index))

    def verify(self, answer_text: str, index: int) -> bool:
        """Whether ``answer_text`` answers chat ``index`` rightly."""
        if not isinstance(self.records, Verifiable):
            raise InputError(f"the data set {type(self.records).__name__} has no verifier")
        return self.records.verify(answer_text, self._chat(index))

    def _chat(self, index: int) -> Chat:
        record = self.records[index]
        if not isinstance(record, Chat):
            raise InputError(
                f"record {index} is a {type(record).__name__.lower()}, not a chat",
                path=record.place,
            )
        return record


class TokenWindows:
    """A stream of tokens cut into windows, each of which predicts ``length`` tokens.

    Windows overlap by one token: the last label of one is the first input of the next.
    """

    def __init__(
        self,
        stream: npt.NDArray[np.int32],
        length: int,
        count: int | None,
        bytes_per_token: float | None = None,
    ) -> None:
        available = max(0, (len(stream) - 1) // length)
        if available < (count or 1):
            raise InputError(
                f"{count or 1} windows of {length} tokens were asked for; the text has "
                f"{len(stream)} tokens, enough for {available}",
                fix="lower data.num_*_samples or policy.max_total_sequence_length",
            )
        self._stream, self._length = stream, length
        self._count = count or available
        self.bytes_per_token = bytes_per_token

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._count:
            raise IndexError(index)
        start = index * self._length
        ids = self._stream[start : start + self._length + 1].tolist()
        return Sample(ids, [1] * len(ids))


class BlendedSamples:
    """The samples of several sets, one set after the other."""

    def __init__(self, parts: Sequence[tuple[Samples, float]]) -> None:
        self._parts = [samples for samples, _ in parts]
        self.weights = [weight for _, weight in parts]
        self.sizes = [len(samples) for samples in self._parts]
        self.blank = next((found for part in self._parts if (found := blank_of(part))), None)
        self._ends = list(accumulate(self.sizes))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        part = bisect_right(self._ends, index)
        return self._parts[part][index - self._ends[part] + self.sizes[part]]


def blank_of(samples: Samples) -> Sample | None:
    """The set's stand-in image; None where the model sees no images."""
    blank: Sample | None = getattr(samples, "blank", None)
    return blank


def open_dataset(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, split: str) -> Samples:
    """The samples of one split of the recipe's ``data`` section.

    Args:
        recipe: its ``data``, ``policy.max_total_sequence_length`` are read.
        tokenizer: from ``load_tokenizer``.
        split: ``train`` or ``val``.

    Raises:
        InputError: unknown set, wrong option, unreadable file, or fewer samples than asked for.
    """
    records = open_records(recipe.data, split)
    encoder = build_encoder(recipe, tokenizer)
    length = recipe.policy.max_total_sequence_length
    if isinstance(records, Blend):
        parts = [(_encoded(part.records, encoder, length), part.weight) for part in records.parts]
        return BlendedSamples(parts)
    return _encoded(records, encoder, length)


def _encoded(records: Records | TextStream, encoder: Encoder, length: int) -> Samples:
    if not isinstance(records, TextStream):
        return EncodedRecords(records, encoder)
    documents = [encoder(Text(text)).input_ids for text in records.documents]
    stream = np.concatenate([np.asarray(ids, dtype=np.int32) for ids in documents])
    num_bytes = sum(len(text.encode()) for text in records.documents)
    return TokenWindows(stream, length, records.num_windows, num_bytes / len(stream))
