"""Tasks with what their answers are verified by: what reinforcement learning samples answers to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Recipe
from evenkeel.training.data.chat_mask import Encoder
from evenkeel.training.data.image_processors import ImageInputs
from evenkeel.training.data.order import EpochOrder
from evenkeel.training.data.records import Blend, Chat, Records, TextStream, Verifiable
from evenkeel.training.data.registry import open_records
from evenkeel.training.data.vision_chat import VisionEncoder, build_encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = Chat(({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}))


@dataclass(frozen=True)
class Prompt:
    """A conversation up to where the assistant's last turn would be generated."""

    index: int
    """In its set."""
    token_ids: list[int]
    task: Chat
    verifier: Verifiable | None
    images: tuple[ImageInputs, ...] = ()
    """Of the conversation so far, in the order of their tokens."""


class Prompts:
    """One prompt per chat."""

    def __init__(self, records: Records, encoder: Encoder) -> None:
        self._records, self._encoder = records, encoder
        self.blank = encoder.blank() if isinstance(encoder, VisionEncoder) else None
        """See ``EncodedRecords``."""

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Prompt:
        record = self._records[index]
        if not isinstance(record, Chat):
            raise InputError(
                f"record {index} is no chat but a {type(record).__name__.lower()}",
                path=record.place,
            )
        verifier = self._records if isinstance(self._records, Verifiable) else None
        ids = self._encoder.prompt_ids(record)
        images: tuple[ImageInputs, ...] = ()
        if isinstance(self._encoder, VisionEncoder):
            images = self._encoder.prompt_images(record)
        return Prompt(index, ids, record, verifier, images)


class PromptStream:
    """Prompts without end, in the order of seeded epochs."""

    def __init__(self, prompts: Prompts, seed: int, shuffle: bool) -> None:
        self._prompts = prompts
        self.blank = prompts.blank
        self._order = EpochOrder(len(prompts), shuffle, seed)

    def take(self, start: int, count: int) -> list[Prompt]:
        """Those at positions ``start`` … ``start + count - 1``, counted from 0."""
        return [self._prompts[index] for index in self._order.indices(start, count)]


def open_prompts(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, split: str) -> Prompts:
    """The prompts of one split of the recipe's ``data`` section.

    Raises:
        InputError: unknown set, wrong option, unreadable file, or a set of another kind.
    """
    records = open_records(recipe.data, split)
    if isinstance(records, (Blend, TextStream)):
        kind = "a blend" if isinstance(records, Blend) else "running text"
        raise InputError(
            f"data.dataset {recipe.data.dataset} is {kind}, and answers are sampled to the "
            "questions of one set",
            fix="choose a set of chats, such as arithmetic or jsonl",
        )
    return Prompts(records, build_encoder(recipe, tokenizer))


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end an answer: end of text, and what the chat template closes a turn with."""
    sample = Encoder(tokenizer)(_PROBE)
    last = max(place for place, trained in enumerate(sample.loss_mask) if trained)
    found = {tokenizer.eos_token_id, sample.input_ids[last]}
    specials = set(tokenizer.all_special_ids) | {tokenizer.eos_token_id}
    return {int(token) for token in found if token in specials}
