"""What a data set yields: text with its structure, before any tokenizer has seen it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from evenkeel.errors import InputError, did_you_mean
from evenkeel.training.data.images import ImageSource

ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class Chat:
    """A conversation; the assistant's turns are what is trained."""

    messages: tuple[Mapping[str, Any], ...]
    """``{"role": …, "content": …}`` and whatever else the chat template reads."""
    answer: str | None = None
    """The final answer, where one is known; what a verifier compares with."""
    place: str | None = None
    """Where it came from, ``file:line``, for messages."""
    images: tuple[ImageSource, ...] = ()
    """In the order of the parts ``{"type": "image"}`` of the messages' contents."""


@dataclass(frozen=True)
class Preference:
    """Two answers to the same conversation, of which the first was preferred.

    Supervised training takes the chosen one.
    """

    chosen: Chat
    rejected: Chat
    place: str | None = None


@dataclass(frozen=True)
class Text:
    """Running text; every token is trained."""

    text: str
    place: str | None = None


Record = Chat | Preference | Text


class Records(Protocol):
    """A finite, indexable set of records; reading the same index twice gives the same record."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


@dataclass(frozen=True)
class TextStream:
    """Documents that are read as one long text and cut into windows of tokens."""

    documents: tuple[str, ...]
    num_windows: int | None = None
    """Absent: as many as the text yields."""


@dataclass(frozen=True)
class BlendPart:
    """One set of a blend."""

    records: Records | TextStream
    weight: float
    """Share of the trained samples, relative to the other parts' weights."""


@dataclass(frozen=True)
class Blend:
    """Several sets that are trained together."""

    parts: tuple[BlendPart, ...]


@runtime_checkable
class Verifiable(Protocol):
    """Records whose answers a program can judge."""

    def verify(self, answer_text: str, record: Chat) -> bool:
        """Whether the assistant's ``answer_text`` ends in the right answer to ``record``."""
        ...


@dataclass(frozen=True)
class Columns:
    """Names of the fields that hold the text in a file's records."""

    messages: str = "messages"
    prompt: str = "prompt"
    response: str = "response"
    text: str = "text"
    chosen: str = "chosen"
    rejected: str = "rejected"


def record_from(fields: Any, columns: Columns, place: str) -> Record:
    """A record from the fields of a line or row.

    Args:
        fields: ``chosen`` and ``rejected`` (two answers to ``prompt``, or two whole chats),
            ``messages`` (a chat), ``prompt`` and ``response`` (one exchange), ``prompt`` and
            ``answer`` (a task for reinforcement learning), or ``text``.
        columns: what these are called here.
        place: for messages, such as ``train.jsonl:12``.

    Raises:
        InputError: none of these shapes, with what was found and expected.
    """
    if not isinstance(fields, Mapping):
        raise _wrong(place, f"expected an object, found {_kind(fields)}", columns)
    if columns.chosen in fields and columns.rejected in fields:
        chosen = _judged(fields, columns.chosen, columns, place)
        return Preference(chosen, _judged(fields, columns.rejected, columns, place), place)
    if columns.messages in fields:
        messages = _messages(fields, columns.messages, columns, place)
        return Chat(messages, _answer(fields, place), place)
    if columns.prompt in fields and columns.response in fields:
        turns = []
        for role, key in (("user", columns.prompt), ("assistant", columns.response)):
            turns.append({"role": role, "content": _string(fields, key, columns, place)})
        return Chat(tuple(turns), _answer(fields, place), place)
    if columns.prompt in fields and _answer(fields, place) is not None:
        question = {"role": "user", "content": _string(fields, columns.prompt, columns, place)}
        return Chat((question,), _answer(fields, place), place)
    if columns.text in fields:
        return Text(_string(fields, columns.text, columns, place), place)
    found = ", ".join(map(repr, fields)) or "none"
    known = tuple(vars(columns).values())
    near = [hint for key in fields if (hint := did_you_mean(str(key), known))]
    raise _wrong(place, f"no text in it; its fields are {found}{''.join(near[:1])}", columns)


def _judged(fields: Mapping[str, Any], key: str, columns: Columns, place: str) -> Chat:
    """The conversation that ends in the answer ``key``, which may bring its prompt along."""
    if isinstance(fields[key], str):
        answer: tuple[Mapping[str, Any], ...] = (
            {"role": "assistant", "content": _string(fields, key, columns, place)},
        )
    else:
        answer = _messages(fields, key, columns, place)
        if answer[0]["role"] != "assistant":
            return Chat(answer, place=place)
    if columns.prompt not in fields:
        raise _wrong(place, f"{key!r} has no prompt, and there is no {columns.prompt!r}", columns)
    if isinstance(fields[columns.prompt], str):
        question = {"role": "user", "content": _string(fields, columns.prompt, columns, place)}
        return Chat((question, *answer), place=place)
    return Chat((*_messages(fields, columns.prompt, columns, place), *answer), place=place)


def _messages(
    fields: Mapping[str, Any], key: str, columns: Columns, place: str
) -> tuple[Mapping[str, Any], ...]:
    value = fields[key]
    if not isinstance(value, (list, tuple)) or not value:
        message = f"{key!r} is not a list of messages but {_kind(value)}"
        raise _wrong(place, message, columns)
    for number, message in enumerate(value, 1):
        which = f"message {number} of {len(value)}"
        if not isinstance(message, Mapping):
            raise _wrong(place, f"{which} is not an object but {_kind(message)}", columns)
        role = message.get("role")
        if role not in ROLES:
            hint = did_you_mean(role, ROLES) if isinstance(role, str) else ""
            raise InputError(
                f"{which} has the role {role!r}{hint}; valid: {', '.join(ROLES)}", path=place
            )
        if isinstance(message.get("content"), str):
            _encodable(message["content"], place)
        elif isinstance(message.get("content"), (list, tuple)):
            pass  # parts, which ``with_images`` judges
        elif not message.get("tool_calls"):
            content = _kind(message.get("content"))
            raise _wrong(place, f"the content of {which} is not text but {content}", columns)
    return tuple(value)


def _string(fields: Mapping[str, Any], key: str, columns: Columns, place: str) -> str:
    value = fields[key]
    if not isinstance(value, str):
        raise _wrong(place, f"{key!r} is not text but {_kind(value)}", columns)
    _encodable(value, place)
    return value


def _encodable(text: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the text has half of a surrogate pair, {text[error.start]!r}, which no tokenizer "
            "can encode",
            path=place,
            fix="remove it, or write the character itself",
        ) from error


def _answer(fields: Mapping[str, Any], place: str) -> str | None:
    value = fields.get("answer")
    return value if isinstance(value, str) else None


def _kind(value: Any) -> str:
    names = {type(None): "nothing", dict: "an object", list: "a list", str: "text"}
    if isinstance(value, list) and not value:
        return "an empty list"
    return names.get(type(value), f"{type(value).__name__} {value!r}")


def _wrong(place: str, message: str, columns: Columns) -> InputError:
    return InputError(
        message,
        path=place,
        fix=f'expected {{"{columns.messages}": [{{"role": "user", "content": "…"}}, '
        f'{{"role": "assistant", "content": "…"}}]}}, '
        f'{{"{columns.prompt}": "…", "{columns.response}": "…"}}, '
        f'{{"{columns.prompt}": "…", "{columns.chosen}": "…", "{columns.rejected}": "…"}} or '
        f'{{"{columns.text}": "…"}}',
    )
