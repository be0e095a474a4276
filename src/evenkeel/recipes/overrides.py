"""Overrides from the command line, applied to a tree.

``a.b=value`` sets a key that is there, ``+a.b=value`` adds one that is not, ``++a.b=value`` sets
or adds, ``~a.b`` deletes. A value is YAML, so lists and mappings work; a mapping merges with the
section it is given for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

from evenkeel.errors import InputError, did_you_mean
from evenkeel.recipes.inheritance import merge
from evenkeel.recipes.located_yaml import COMMAND_LINE, Node, Origin, Tree, parse

_FORM = re.compile(r"(?P<mode>\+\+|\+|~|)(?P<key>[^\s=+~][^\s=]*)(?:=(?P<value>.*))?\Z", re.DOTALL)


class Mode(StrEnum):
    """What an override does; the value is its prefix."""

    SET = ""
    ADD = "+"
    FORCE = "++"
    DELETE = "~"


class Override(NamedTuple):
    """One argument of the command line, read."""

    text: str
    mode: Mode
    keys: tuple[str, ...]
    node: Node

    @property
    def dotted(self) -> str:
        """The key as it was written."""
        return ".".join(self.keys)


def parse_override(text: str) -> Override:
    """Reads one argument.

    Raises:
        InputError: it is not of one of the four forms, or its value is not YAML.
    """
    match = _FORM.match(text)
    mode = Mode(match["mode"]) if match else Mode.SET
    if match is None or (match["value"] is None) != (mode is Mode.DELETE):
        raise InputError(
            f"{text!r} is not an override",
            path=COMMAND_LINE,
            fix="write key=value, ++new.key=value or ~key, as in sft.max_num_steps=20",
        )
    keys = tuple(match["key"].split("."))
    if not all(keys):
        raise InputError(
            f"{text!r}: {match['key']!r} has an empty part between its dots", path=COMMAND_LINE
        )
    try:
        node = parse(match["value"] or "", COMMAND_LINE, override=text)
    except InputError as error:
        raise InputError(
            f"{text!r}: the value is not YAML: {error.message.removeprefix('not YAML: ')}",
            path=COMMAND_LINE,
            fix="quote it for YAML inside the shell's quotes: 'key=\"a: b\"'",
        ) from error
    return Override(text, mode, keys, node or Node(None, Origin(COMMAND_LINE, override=text)))


class Keys(NamedTuple):
    """What a schema says of dotted keys that a tree does not have."""

    is_known: Callable[[str], bool]
    """Whether it may be set all the same."""
    is_free: Callable[[str], bool]
    """Whether ``++`` may add it."""


def apply(tree: Tree, overrides: Sequence[str], schema: Keys) -> Tree:
    """The tree with every override applied, in order.

    Args:
        tree: stays as it is.
        overrides: the arguments.
        schema: of keys that the tree does not have.

    Raises:
        InputError: an override is malformed, or its key is (not) there.
    """
    for text in overrides:
        override = parse_override(text)
        tree = _apply(tree, override, 0, schema)
    return tree


def _apply(tree: Tree, override: Override, depth: int, schema: Keys) -> Tree:
    key, last = override.keys[depth], depth == len(override.keys) - 1
    node = tree.get(key)
    if not last:
        return _descend(tree, override, depth, schema)
    known = node is not None or schema.is_known(override.dotted)
    if override.mode is Mode.ADD and node is not None:
        raise _refuse(override, f"{override.dotted} is there already", "drop the '+'")
    if override.mode in (Mode.SET, Mode.DELETE) and not known:
        raise _unknown(tree, override, depth, schema)
    if override.mode is Mode.DELETE:
        return {name: child for name, child in tree.items() if name != key}
    return merge(tree, {key: override.node})


def _descend(tree: Tree, override: Override, depth: int, schema: Keys) -> Tree:
    key = override.keys[depth]
    node = tree.get(key)
    if node is not None and node.value is not None and not isinstance(node.value, dict):
        dotted = ".".join(override.keys[: depth + 1])
        raise _refuse(
            override,
            f"{dotted} is a value ({node.value!r}, {node.origin}), not a section",
            f"override it as a whole: {dotted}=...",
        )
    if (node is None or node.value is None) and (
        override.mode is Mode.DELETE
        or (override.mode is Mode.SET and not schema.is_known(override.dotted))
    ):
        raise _unknown(tree, override, depth, schema)
    children: Tree = node.value if node is not None and node.value is not None else {}
    origin = node.origin if node is not None else override.node.origin
    return {**tree, key: Node(_apply(children, override, depth + 1, schema), origin)}


def _unknown(tree: Tree, override: Override, depth: int, schema: Keys) -> InputError:
    above = ".".join(override.keys[:depth])
    where = f"{above} has" if above else "there is"
    hint = did_you_mean(override.keys[depth], tree)
    fix = f"{above or 'a recipe'} has: {', '.join(tree)}" if tree else "correct the key"
    if override.mode is Mode.SET and schema.is_free(override.dotted):
        fix += f", or add the key with '++{override.dotted}=...'"
    return _refuse(override, f"{where} no key {override.keys[depth]!r}{hint}", fix)


def _refuse(override: Override, message: str, fix: str) -> InputError:
    return InputError(f"{override.text!r}: {message}", path=COMMAND_LINE, fix=fix)
