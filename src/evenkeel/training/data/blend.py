"""Several sets trained together, each with a weight.

    data:
      dataset: blend
      options:
        parts:
          - {dataset: jsonl, train_path: chats.jsonl, weight: 0.7}
          - {dataset: arithmetic, options: {max_operand: 999}, weight: 0.3}

A part takes the keys of the ``data`` section but ``shuffle``, and its ``weight``: its share of the
samples that are trained, whatever its size. Validation runs through all parts once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from evenkeel.errors import InputError, did_you_mean
from evenkeel.recipes.schema import Data
from evenkeel.training.data.records import Blend, BlendPart
from evenkeel.training.data.registry import open_records as open_part

_KEYS = tuple(field.name for field in dataclasses.fields(Data) if field.name != "shuffle")
_TYPES: dict[str, tuple[type, str]] = {
    "options": (dict, "a mapping"),
    "num_train_samples": (int, "a whole number"),
    "num_val_samples": (int, "a whole number"),
}


def open_records(
    data: Data, split: str, *, parts: Sequence[Mapping[str, Any]] | None = None
) -> Blend:
    """The parts of a split, opened.

    Raises:
        InputError: a part has an unknown key, a wrong weight, or cannot be opened.
    """
    if not isinstance(parts, (list, tuple)) or not parts:
        raise InputError(
            f"data.options.parts is {parts!r}; it must list the sets to blend",
            fix="give one mapping per set, such as {dataset: arithmetic, weight: 0.3}",
        )
    for name in ("train_path", "val_path", "num_train_samples", "num_val_samples"):
        if getattr(data, name) is not None:
            raise InputError(
                f"data.{name} does not apply to a blend", fix=f"set {name} in its parts"
            )
    opened = []
    for number, part in enumerate(parts):
        place = f"data.options.parts[{number}]"
        weight, section = _section(part, place)
        try:
            records = open_part(section, split)
        except InputError as error:
            raise InputError(f"{place}: {error}") from error
        if isinstance(records, Blend):
            raise InputError(f"{place} is a blend itself", fix="list its parts here")
        opened.append(BlendPart(records, weight))
    return Blend(tuple(opened))


def _section(part: object, place: str) -> tuple[float, Data]:
    if not isinstance(part, Mapping):
        raise InputError(f"{place} is {part!r}; it must be a mapping with a dataset and a weight")
    for key, value in part.items():
        if key not in (*_KEYS, "weight"):
            hint = did_you_mean(str(key), (*_KEYS, "weight"))
            raise InputError(f"{place}.{key}: no such key{hint}; valid: {', '.join(_KEYS)}, weight")
        kind, words = _TYPES.get(key, (str, "text"))
        if key != "weight" and value is not None and type(value) is not kind:
            raise InputError(f"{place}.{key} is {value!r}; it must be {words}")
    weight = part.get("weight")
    if not isinstance(weight, (int, float)) or weight is True or not 0 < weight < math.inf:
        raise InputError(f"{place}.weight is {weight!r}; it must be a number above 0")
    if "dataset" not in part:
        raise InputError(f"{place} names no dataset")
    values = {key: value for key, value in part.items() if key != "weight" and value is not None}
    return float(weight), Data(**values)
