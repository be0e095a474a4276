"""Preference pairs as samples: number 2i is the chosen answer of pair i, 2i+1 the rejected one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Recipe
from evenkeel.training.data.chat_mask import Encoder, Sample
from evenkeel.training.data.records import Blend, Preference, Records, TextStream
from evenkeel.training.data.registry import open_records
from evenkeel.training.data.samples import BlendedSamples, Samples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWERS_PER_PAIR = 2


class PreferencePairs:
    """Both answers of each pair, one after the other."""

    def __init__(self, records: Records | TextStream, encoder: Encoder) -> None:
        if isinstance(records, TextStream):
            raise InputError(
                "the data set is running text, and preferences need pairs of answers",
                fix="choose another data.dataset, such as arithmetic_pairs or jsonl",
            )
        self._records, self._encoder = records, encoder
        self[0]  # a set without pairs is refused before the first step

    def __len__(self) -> int:
        return ANSWERS_PER_PAIR * len(self._records)

    def __getitem__(self, index: int) -> Sample:
        pair, answer = divmod(index, ANSWERS_PER_PAIR)
        record = self._records[pair]
        if not isinstance(record, Preference):
            raise InputError(
                f"record {pair} is no pair of answers but a {type(record).__name__.lower()}",
                path=record.place,
                fix="give it the fields chosen and rejected, or name them in data.options",
            )
        return self._encoder(record.rejected if answer else record.chosen)


def open_pairs(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, split: str) -> Samples:
    """The pairs of one split of the recipe's ``data`` section.

    Raises:
        InputError: unknown set, wrong option, unreadable file, or a set without pairs.
    """
    records = open_records(recipe.data, split)
    encoder = Encoder(tokenizer)
    if isinstance(records, Blend):
        parts = [(PreferencePairs(part.records, encoder), part.weight) for part in records.parts]
        return BlendedSamples(parts)
    return PreferencePairs(records, encoder)
