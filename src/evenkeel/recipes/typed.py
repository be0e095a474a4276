"""Plain values against the dataclasses of the schema: instances, or every mistake with its key."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from functools import cache
from typing import Any, NamedTuple

from evenkeel.errors import did_you_mean
from evenkeel.recipes import schema
from evenkeel.recipes.declaration import BOUNDS, SHAPES_CURVE, Bounds
from evenkeel.recipes.located_yaml import kind_of

Report = Callable[[str, str, str | None], None]


class FieldType(NamedTuple):
    """What a field wants, worked out once from its annotation."""

    kind: Any  # int, float, bool, str, dict, a StrEnum, or a dataclass
    is_optional: bool
    is_list: bool
    shapes_curve: bool
    bounds: Bounds | None
    is_section: bool  # has fields of its own

    @property
    def wanted(self) -> str:
        """The type in words."""
        if self.is_section:
            text = "a section"
        elif issubclass(self.kind, StrEnum):
            text = f"one of {', '.join(self.kind)}"
        else:
            text = {dict: "a mapping"}.get(self.kind, self.kind.__name__)
        if self.is_list:
            text = f"a list of {text}"
        return f"{text} or null" if self.is_optional else text


@cache
def fields_of(section: type) -> dict[str, FieldType]:
    """The fields of a section of the schema, by name."""
    hints = typing.get_type_hints(section)
    return {
        field.name: _field_type(hints[field.name], field.metadata)
        for field in dataclasses.fields(section)
    }


def _field_type(hint: Any, metadata: Mapping[str, Any]) -> FieldType:
    is_optional = is_list = False
    if isinstance(hint, types.UnionType):
        is_optional = True
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    if typing.get_origin(hint) is list:
        is_list = True
        hint = typing.get_args(hint)[0]
    kind = typing.get_origin(hint) or hint
    return FieldType(
        kind,
        is_optional,
        is_list,
        metadata[SHAPES_CURVE],
        metadata.get(BOUNDS),
        dataclasses.is_dataclass(kind),
    )


@cache
def known_keys() -> dict[str, FieldType]:
    """Every dotted key of a recipe, sections included."""
    return dict(_walk(schema.Recipe, ""))


def _walk(section: type, prefix: str) -> Iterator[tuple[str, FieldType]]:
    for name, field_type in fields_of(section).items():
        yield prefix + name, field_type
        if field_type.is_section and not field_type.is_list:
            yield from _walk(field_type.kind, f"{prefix}{name}.")


def build(section: type, values: dict[str, Any], report: Report, prefix: str = "") -> Any:
    """An instance of ``section``; whole numbers become floats in ``values`` where one is wanted.

    Args:
        section: a dataclass of the schema.
        values: what a file says for it; keys that it does not say take the default.
        report: called with (dotted key, what is wrong, fix or None) for each mistake.
        prefix: the section's own dotted key and a dot.

    Returns:
        the instance, with defaults in place of what is wrong.
    """
    fields = fields_of(section)
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        field_type = fields.get(key)
        dotted = prefix + key
        if field_type is None:
            report(dotted, *_unknown_key(section, key, dotted, prefix))
        elif value is None:
            if field_type.is_optional:
                arguments[key] = None
            else:
                fix = "give it a value, or remove the line to keep what is inherited"
                report(dotted, _mistyped(dotted, field_type, None), fix)
        elif field_type.is_section and not field_type.is_list and isinstance(value, dict):
            arguments[key] = build(field_type.kind, value, report, f"{dotted}.")
        else:
            converted = _convert(field_type, value, dotted, report)
            if converted is not _WRONG:
                arguments[key] = converted
                values[key] = converted
    return section(**arguments)


_WRONG: Any = object()


def _convert(field_type: FieldType, value: Any, dotted: str, report: Report) -> Any:
    if field_type.is_list != isinstance(value, list):
        report(dotted, _mistyped(dotted, field_type, value), None)
        return _WRONG
    if field_type.is_section:
        keys = ", ".join(fields_of(field_type.kind))
        report(dotted, _mistyped(dotted, field_type, value), f"write its keys below it: {keys}")
        return _WRONG
    items = value if field_type.is_list else [value]
    converted = []
    for item in items:
        good, fix = _scalar(field_type.kind, item)
        if good is _WRONG:
            report(dotted, _mistyped(dotted, field_type, item), fix)
            return _WRONG
        complaint = field_type.bounds and field_type.bounds.complaint(good)
        if complaint:
            report(dotted, f"{dotted}: {complaint}, got {item!r}", None)
            return _WRONG
        converted.append(good)
    length = field_type.bounds.length if field_type.bounds else None
    if field_type.is_list and length is not None and len(converted) != length:
        report(dotted, f"{dotted}: wants {length} elements, got {len(converted)}", None)
        return _WRONG
    return converted if field_type.is_list else converted[0]


def _scalar(kind: Any, value: Any) -> tuple[Any, str | None]:
    """The value as ``kind``, or ``_WRONG`` and what to do about it."""
    if kind is float:
        return _float(value)
    if kind is int:
        if isinstance(value, float) and value.is_integer():
            return _WRONG, f"write {int(value)}"
        if type(value) is int:
            return value, None
        return _WRONG, _unquote(value)
    if kind is str:
        if value == "???":
            return _WRONG, "'???' stands for a value that is still to be given"
        if isinstance(value, str):
            return value, None
        return _WRONG, None if isinstance(value, (dict, list)) else "quote it"
    if kind is bool:
        return (value, None) if isinstance(value, bool) else (_WRONG, "write true or false")
    if kind is dict:
        return (value, None) if isinstance(value, dict) else (_WRONG, None)
    if isinstance(value, str) and issubclass(kind, StrEnum) and value in set(kind):
        return kind(value), None
    return _WRONG, None


def _float(value: Any) -> tuple[Any, str | None]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _WRONG, _unquote(value)
    if not math.isfinite(value):
        return _WRONG, "give a finite number"
    return float(value), None


def _unquote(value: Any) -> str | None:
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return None
        return "remove the quotes"
    return None


def _mistyped(dotted: str, field_type: FieldType, value: Any) -> str:
    shown = kind_of(value)
    if value is not None and not isinstance(value, dict):
        shown += f" {value!r}"
    hint = ""
    if (
        isinstance(value, str)
        and not field_type.is_section
        and issubclass(field_type.kind, StrEnum)
    ):
        hint = did_you_mean(value.lower(), [member.value for member in field_type.kind])
    return f"{dotted}: wants {field_type.wanted}, got {shown}{hint}"


def _unknown_key(section: type, key: str, dotted: str, prefix: str) -> tuple[str, str]:
    fields = fields_of(section)
    if "." in key and dotted in known_keys():
        return f"unknown key {dotted!r}", "a dot does not nest: write each part on its own line"
    hint = did_you_mean(key, fields)
    if not hint:
        elsewhere = [known for known in known_keys() if known.rsplit(".", 1)[-1] == key]
        hint = f" (did you mean {elsewhere[0]!r}?)" if elsewhere else ""
    where = prefix.rstrip(".") or "a recipe"
    return f"unknown key {dotted!r}{hint}", f"{where} has: {', '.join(fields)}"
