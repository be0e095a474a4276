"""Images in the records of a file: from the ways in which fields name them to one.

Every image becomes a part ``{"type": "image"}`` of a message's content, at its place in the text,
and stands in ``Chat.images`` in the same order; that is what chat templates of vision-language
models read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evenkeel.errors import InputError
from evenkeel.training.data.images import ImageSource, image_source
from evenkeel.training.data.records import Chat, Preference, Record

MARK = "<image>"
"""Stands for an image in a text, where the record lists its images in a field."""
FIELDS = ("images", "image")

Part = Mapping[str, Any]


def with_images(record: Record, fields: Any, folder: Path | None, place: str) -> Record:
    """The record with its images.

    Args:
        record: of ``record_from``.
        fields: of the line or row: ``images`` (a list) or ``image`` hold what ``<image>`` in the
            texts, or a part without a path of its own, stands for.
        folder: what paths are relative to.
        place: for messages.

    Raises:
        InputError: no such file, or not as many images as places for them.
    """
    listed = _listed(fields, place)
    has_parts = any(
        isinstance(message.get("content"), (list, tuple))
        for chat in _chats(record)
        for message in chat.messages
    )
    if not listed and not has_parts:
        return record
    if not isinstance(record, Chat):
        raise InputError(
            "images, and messages in parts, belong to a chat, and this record is a "
            f"{type(record).__name__.lower()}",
            path=place,
        )
    messages = [
        {**message, "content": list(_parts(message, bool(listed), place))}
        for message in record.messages
    ]
    places = [part for message in messages for part in message["content"] if _is_image(part)]
    if listed and not places:
        _put_before_question(messages, len(listed), place)
        values = listed
    else:
        rest = iter(listed)
        values = [_own(part) or next(rest, None) for part in places]
        num_unnamed = sum(_own(part) is None for part in places)
        if num_unnamed != len(listed):
            raise InputError(
                f"the texts have places for {num_unnamed} listed image(s), and the field lists "
                f"{len(listed)}",
                path=place,
                fix=f"write {MARK} once per image where it belongs, or nowhere",
            )
    images: list[ImageSource] = [image_source(value, folder, place) for value in values]
    return replace(
        record, messages=tuple(_plain(message) for message in messages), images=tuple(images)
    )


def _chats(record: Record) -> tuple[Chat, ...]:
    if isinstance(record, Preference):
        return record.chosen, record.rejected
    return (record,) if isinstance(record, Chat) else ()


def _listed(fields: Any, place: str) -> list[Any]:
    for name in FIELDS:
        value = fields.get(name) if isinstance(fields, Mapping) else None
        if value is None:
            continue
        if name == "image":
            return [value]
        if not isinstance(value, (list, tuple)):
            raise InputError(
                f"'images' is {type(value).__name__} {value!r}, not a list", path=place
            )
        return list(value)
    return []


def _parts(message: Mapping[str, Any], marks_count: bool, place: str) -> Iterator[Part]:
    content = message.get("content")
    if content is None:
        return
    if isinstance(content, str):
        texts = content.split(MARK) if marks_count else [content]
        for number, text in enumerate(texts):
            if number:
                yield {"type": "image"}
            if text:
                yield {"type": "text", "text": text}
        return
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            yield {"type": "text", "text": part["text"]}
        elif kind == "image":
            yield part
        else:
            raise InputError(
                f"a part of a message is {part!r}",
                path=place,
                fix='expected {"type": "text", "text": "…"} or {"type": "image", "path": "…"}',
            )


def _is_image(part: Part) -> bool:
    return bool(part["type"] == "image")


def _own(part: Part) -> Any:
    """The image that a part names itself."""
    return next((part[key] for key in ("path", "image") if part.get(key) is not None), None)


def _put_before_question(messages: list[dict[str, Any]], count: int, place: str) -> None:
    for message in messages:
        if message["role"] == "user":
            message["content"] = [{"type": "image"}] * count + message["content"]
            return
    raise InputError("the chat has images and no turn of the user to show them in", path=place)


def _plain(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Text alone stays a text: not every template reads parts in every role."""
    parts = message["content"]
    if not parts:
        return {**message, "content": ""}
    if len(parts) == 1 and not _is_image(parts[0]):
        return {**message, "content": parts[0]["text"]}
    content = [{"type": "image"} if _is_image(part) else part for part in parts]
    return {**message, "content": content}
