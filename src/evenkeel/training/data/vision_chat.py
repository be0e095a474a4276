"""Chats with images as samples: every image as many tokens as the model makes features of it.

The chat template writes one placeholder per image; the processor's text takes its place before the
tokens are made. Image tokens are input only, wherever they stand: they are never a label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Recipe
from evenkeel.training import models
from evenkeel.training.data.chat_mask import Encoder, Sample
from evenkeel.training.data.image_processors import (
    ImageInputs,
    ImageProcessor,
    Pretrained,
    ProcessedImage,
    load_processor,
)
from evenkeel.training.data.records import Chat, Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BLANK_SIZE = 56
"""Pixels of each side of the image that stands in where a micro-batch has none."""


class VisionEncoder(Encoder):
    """Turns records with images into samples."""

    sees_images = True

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        processor: ImageProcessor,
        image_token_id: int,
        max_length: int,
    ) -> None:
        """Bind tokenizer and processor.

        Args:
            tokenizer: its template writes the processor's placeholder for an image.
            processor: of the model's images.
            image_token_id: the id whose embedding the model replaces by an image feature.
            max_length: positions of a row; image tokens have to fit.
        """
        super().__init__(tokenizer)
        self._processor, self._image_token_id = processor, image_token_id
        self._max_length = max_length
        self._latest: tuple[Chat | None, tuple[ProcessedImage, ...]] = (None, ())

    def __call__(self, record: Record) -> Sample:
        """See ``Encoder``.

        Raises:
            InputError: also where image tokens would be cut off.
        """
        if not (isinstance(record, Chat) and record.images):
            sample = super().__call__(record)
            if self._image_token_id in sample.input_ids:
                raise InputError(
                    f"the text has {self._processor.placeholder}, and there is no image for it",
                    path=record.place,
                )
            return sample
        if self._marked:
            raise InputError(
                "a chat template with {% generation %} cannot be used with images",
                path=record.place,
                fix="set policy.tokenizer.chat_template to one without these marks",
            )
        sample = super().__call__(record)
        self._check_room(sample, record)
        pairs = zip(sample.input_ids, sample.loss_mask, strict=True)
        mask = [int(trained and token != self._image_token_id) for token, trained in pairs]
        images = tuple(image.inputs for image in self._processed(record))
        return replace(sample, loss_mask=mask, images=images)

    def render(self, messages: Sequence[Mapping[str, Any]], chat: Chat, *, prompt: bool) -> str:
        """See ``Encoder``; placeholders are replaced, left to right."""
        text = super().render(messages, chat, prompt=prompt)
        pieces = text.split(self._processor.placeholder)
        shown = _num_shown(messages)
        if len(pieces) - 1 != shown:
            raise InputError(
                f"the chat has {shown} image(s), and the chat template made {len(pieces) - 1} "
                f"{self._processor.placeholder} of it",
                path=chat.place,
                fix=f"do not write {self._processor.placeholder} in a text; use the chat template "
                "of a vision-language model (policy.tokenizer.chat_template)",
            )
        images = self._processed(chat)
        whole = [pieces[0]]
        for image, piece in zip(images, pieces[1:], strict=False):
            whole += (image.text, piece)
        return "".join(whole)

    def prompt_ids(self, record: Chat) -> list[int]:
        """See ``Encoder``; refuses an image of a turn that is still to be generated."""
        ids = super().prompt_ids(record)
        before = record.messages[:-1] if self._ends_in_answer(record) else record.messages
        if _num_shown(before) != len(record.images):
            raise InputError(
                "an image stands in the assistant's answer, which would have to be generated",
                path=record.place,
            )
        return ids

    def prompt_images(self, record: Chat) -> tuple[ImageInputs, ...]:
        """What the model takes in for the images of ``prompt_ids``."""
        return tuple(image.inputs for image in self._processed(record))

    @staticmethod
    def _ends_in_answer(record: Chat) -> bool:
        return bool(record.messages[-1]["role"] == "assistant")

    def blank(self) -> Sample:
        """A black image alone, of which nothing is trained.

        A rank without an image would skip the vision tower and leave the other ranks waiting for
        its part of the tower's weights.
        """
        from PIL import Image

        image = self._processor(Image.new("RGB", (BLANK_SIZE, BLANK_SIZE)))
        ids, _ = self._ids(image.text)
        ids = [*ids, ids[-1]]  # the last token of a sample is only ever a label
        return Sample(ids, [0] * len(ids), (image.inputs,))

    def _processed(self, chat: Chat) -> tuple[ProcessedImage, ...]:
        # rendering needs the images several times for one chat, and chats come one by one
        if self._latest[0] is not chat:
            self._latest = (chat, tuple(self._processor(image.load()) for image in chat.images))
        return self._latest[1]

    def _check_room(self, sample: Sample, chat: Chat) -> None:
        positions = min(len(sample.input_ids) - 1, self._max_length)
        if self._image_token_id in sample.input_ids[positions:]:
            raise InputError(
                f"the chat has {len(sample.input_ids)} tokens, and image tokens lie beyond "
                f"policy.max_total_sequence_length = {self._max_length}",
                path=chat.place,
                fix="raise it, or lower policy.vision.max_pixels where the processor can",
            )


def _num_shown(messages: Sequence[Mapping[str, Any]]) -> int:
    """Images in the contents of messages."""
    contents = [message.get("content") for message in messages]
    parts = [part for content in contents if not isinstance(content, str) for part in content or ()]
    return sum(part["type"] == "image" for part in parts)


def build_encoder(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """The encoder of a recipe: one that sees images where ``policy.vision`` is given.

    Raises:
        InputError: the model's processor cannot be had, or its image token is not the tokenizer's.
    """
    policy = recipe.policy
    if policy.vision is None:
        return Encoder(tokenizer)
    config = models.load_config(policy)
    processor = load_processor(policy, config)
    own = isinstance(processor, Pretrained) and policy.tokenizer.chat_template is None
    if own and getattr(processor, "chat_template", None):
        tokenizer.chat_template = processor.chat_template  # type: ignore[attr-defined]
    image_token_id = models.image_token_id(config)
    if not isinstance(processor, Pretrained):
        known: Any = tokenizer
        found = known.convert_tokens_to_ids(processor.placeholder)
        key = models.image_token_key(config)
        if found != image_token_id:
            raise InputError(
                f"policy.model_config.{key} is {image_token_id}, and the tokenizer's "
                f"{processor.placeholder} is {found}",
                fix=f"set policy.model_config.{key}={found}"
                if found is not None
                else "set policy.tokenizer.name=bytes",
            )
    return VisionEncoder(tokenizer, processor, image_token_id, policy.max_total_sequence_length)
