"""Token ids of a record, and which of them are trained.

Of a chat, the assistant's turns are trained, from the first token after the generation prompt to
the end-of-turn token. Where a turn begins and ends is found by rendering the conversation up to
it: the chat template must not change what it wrote earlier when a turn is added. Templates that
do (some drop the reasoning of earlier turns) are refused rather than masked wrongly; one that
marks the assistant's text with ``{% generation %}`` needs no such search.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from evenkeel.errors import InputError
from evenkeel.training.data.records import Chat, Preference, Record, Text
from evenkeel.training.data.tokenizers import byte_chat, is_byte_chat

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

_MEND = (
    "mark the assistant's text with {% generation %} … {% endgeneration %} in "
    "policy.tokenizer.chat_template, or split the conversation into single exchanges"
)


@dataclass(frozen=True)
class Sample:
    """Token ids and, aligned with them, 1 on each token that is trained."""

    input_ids: list[int]
    loss_mask: list[int]
    images: tuple[Mapping[str, Tensor], ...] = ()
    """Per image, what the model takes in beside the tokens (``ImageInputs``)."""

    @property
    def num_numbers(self) -> int:
        """That it holds in memory."""
        pixels = (tensor.numel() for image in self.images for tensor in image.values())
        return len(self.input_ids) + sum(pixels)


class Encoder:
    """Turns records into samples with one tokenizer."""

    sees_images = False

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._marked = "{% generation" in str(tokenizer.chat_template or "")
        self._specials = tuple(map(str, tokenizer.all_special_tokens))
        self._bytes = is_byte_chat(tokenizer)
        self._render: Callable[..., str] | None = None

    def __call__(self, record: Record) -> Sample:
        """The sample of a record.

        Raises:
            InputError: a chat without an assistant's turn, or a template that cannot be masked.
        """
        if isinstance(record, Text):
            ids = self._text_ids(record.text)
            return Sample(ids, [1] * len(ids))
        if isinstance(record, Preference):
            return self(record.chosen)
        if record.images and not self.sees_images:
            raise InputError(
                "the chat has images, and the model is trained on text alone",
                path=record.place,
                fix="set policy.vision={} and name a vision-language model",
            )
        if not any(message["role"] == "assistant" for message in record.messages):
            raise InputError(
                "the chat has no assistant turn, so there is nothing to train on",
                path=record.place,
            )
        if self._marked:
            return self._marked_chat(record)
        if self._bytes and (encoded := byte_chat(record.messages)):
            return Sample(*encoded)
        return self._chat(record)

    def prompt_ids(self, record: Chat) -> list[int]:
        """The conversation up to its last assistant turn, ready for generation."""
        messages = record.messages
        if messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        return self._ids(self.render(messages, record, prompt=True))[0]

    def render(self, messages: Sequence[Mapping[str, Any]], chat: Chat, *, prompt: bool) -> str:
        """The chat template's text; ``prompt`` opens the assistant's next turn."""
        if self._render is None:
            self._render = _template(self._tokenizer)
        from jinja2 import TemplateError

        try:
            return self._render(messages=list(messages), add_generation_prompt=prompt)
        except (TemplateError, TypeError) as error:
            raise InputError(
                f"the chat template refuses the conversation: {error}",
                path=chat.place,
                fix="change the conversation's roles, or policy.tokenizer.chat_template",
            ) from error

    def _chat(self, chat: Chat) -> Sample:
        full = self.render(chat.messages, chat, prompt=False)
        ids, starts = self._ids(full)
        mask = [0] * len(ids)
        for index, message in enumerate(chat.messages):
            if message["role"] != "assistant":
                continue
            begin, end = self._span(chat, index, full)
            first, last = bisect_left(starts, begin), bisect_left(starts, end)
            if first < len(starts) and starts[first] != begin:
                raise InputError(
                    f"a token of the tokenizer runs over the start of message {index + 1}, so its "
                    f"prompt would be encoded differently when generating",
                    path=chat.place,
                    fix="end the template's generation prompt with a special token or a line break",
                )
            mask[first:last] = [1] * (last - first)
        return Sample(ids, mask)

    def _span(self, chat: Chat, index: int, full: str) -> tuple[int, int]:
        """Characters of ``full`` that message ``index``, an assistant's, covers."""
        before = self.render(chat.messages[:index], chat, prompt=True)
        last = index == len(chat.messages) - 1
        through = full if last else self.render(chat.messages[: index + 1], chat, prompt=False)
        if not (through.startswith(before) and full.startswith(through)):
            raise InputError(
                f"the chat template writes the conversation up to message {index + 1} differently "
                "when more follows, so the assistant's tokens cannot be told from the prompt",
                path=chat.place,
                fix=_MEND,
            )
        trimmed = through.rstrip()
        # The line break that many templates write after the end of a turn is never generated.
        end = len(trimmed) if trimmed.endswith(self._specials) else len(through)
        return len(before), max(end, len(before))

    def _ids(self, text: str) -> tuple[list[int], list[int]]:
        """Token ids of rendered text and the character at which each starts."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise InputError(
                f"{type(self._tokenizer).__name__} does not say where its tokens lie in the text",
                fix="use a tokenizer that the tokenizers library can load (tokenizer.json)",
            )
        encoding = backend.encode(text, add_special_tokens=False)
        return encoding.ids, [start for start, _ in encoding.offsets]

    def _text_ids(self, text: str) -> list[int]:
        """Begin-of-text token where there is one, the text, end-of-text token."""
        tokenizer: Any = self._tokenizer
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        return [*begin, *ids, *end]

    def _marked_chat(self, chat: Chat) -> Sample:
        tokenizer: Any = self._tokenizer
        encoded = tokenizer.apply_chat_template(
            list(chat.messages), return_dict=True, return_assistant_tokens_mask=True
        )
        return Sample(list(encoded["input_ids"]), list(encoded["assistant_masks"]))


def _template(tokenizer: PreTrainedTokenizerBase) -> Callable[..., str]:
    """The chat template as a function of ``messages`` and ``add_generation_prompt``.

    ``apply_chat_template`` prepares more than the template needs on every call; rendering alone
    is twice as fast, which shows on models that take milliseconds a step.
    """
    if not isinstance(tokenizer.chat_template, str):
        raise InputError(
            "the tokenizer has no chat template, so chats cannot be trained",
            fix="set policy.tokenizer.chat_template, or use a set of plain text",
        )
    try:
        from transformers.utils.chat_template_utils import _compile_jinja_template
    except ImportError:  # not a public function; the slow way is equal
        apply: Any = tokenizer.apply_chat_template
        return lambda messages, **values: str(apply(messages, tokenize=False, **values))
    template: Any = _compile_jinja_template(tokenizer.chat_template)
    return partial(template.render, **tokenizer.special_tokens_map, tools=None, documents=None)
