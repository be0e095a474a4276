"""Keys of a recipe that repeat what it inherits, and the lines that can go with certainty."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import yaml

from evenkeel.recipes.inheritance import REPLACES
from evenkeel.recipes.located_yaml import Tree, plain

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Lines(NamedTuple):
    """Lines ``first`` to ``last`` of a file (from 1, inclusive) and their text."""

    first: int
    last: int
    text: str


def repeated(
    own: Tree, inherited: Tree, path: str, kept: Collection[int] = ()
) -> Iterator[tuple[str, int, Any]]:
    """(dotted key, line, value) of what repeats; a whole section counts once.

    Args:
        own: what the file says.
        inherited: what it inherits, merged.
        path: of the file; keys that an alias or merge brought from elsewhere are left alone.
        kept: lines of keys that stay: a section with one of them is more than a repetition.
    """
    yield from _repeated(own, inherited, path, "", kept)


def _repeated(
    own: Tree, inherited: Tree, path: str, prefix: str, kept: Collection[int]
) -> Iterator[tuple[str, int, Any]]:
    if REPLACES in own:
        return  # the section takes the place of the inherited one: it needs all its keys
    for key, node in own.items():
        below = inherited.get(key)
        if below is None or node.origin.line is None or node.origin.path != path:
            continue
        dotted = f"{prefix}{key}"
        if isinstance(node.value, dict) and isinstance(below.value, dict) and node.value:
            if _adds_nothing(node.value, below.value, kept):
                yield dotted, node.origin.line, plain(node)
            else:
                yield from _repeated(node.value, below.value, path, f"{dotted}.", kept)
        elif _same(plain(node), plain(below)):
            yield dotted, node.origin.line, plain(node)


def _adds_nothing(own: Tree, inherited: Tree, kept: Collection[int]) -> bool:
    if REPLACES in own:
        return False
    for key, node in own.items():
        below = inherited.get(key)
        if below is None or node.origin.line in kept:
            return False
        if isinstance(node.value, dict) and isinstance(below.value, dict) and node.value:
            if not _adds_nothing(node.value, below.value, kept):
                return False
        elif not _same(plain(node), plain(below)):
            return False
    return True


def _same(left: Any, right: Any) -> bool:
    """Equal in value and type: 1, 1.0 and true are three things."""
    return type(left) is type(right) and repr(left) == repr(right)


def removable_lines(text: str, keys: Sequence[str]) -> dict[str, Lines]:
    """The lines of each key that can be deleted whole, without changing anything else.

    Left out: keys in braces, keys that share a line with something else, anchors and aliases.
    """
    if "\t" in text or "\r" in text or "&" in text or "<<" in text:
        # anchors and merges tie keys to others; rare enough to leave to a person
        return {}
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError:
        return {}
    rows = text.split("\n")
    found: dict[str, Lines] = {}
    for key in keys:
        lines = _lines_of(root, key.split("."), rows)
        if lines is not None:
            found[key] = lines
    return found


def _lines_of(node: Any, parts: list[str], rows: list[str]) -> Lines | None:
    key_node = None
    for part in parts:
        if not isinstance(node, yaml.MappingNode) or node.flow_style:
            return None
        pair = next((pair for pair in node.value if pair[0].value == part), None)
        if pair is None:
            return None
        key_node, node = pair
    assert key_node is not None
    first = key_node.start_mark.line
    if rows[first][: key_node.start_mark.column].strip():
        return None
    last = _last_line(node, rows)
    if last is None:
        return None
    text = "\n".join(rows[first : last + 1])
    return Lines(first + 1, last + 1, text)


def _last_line(node: Any, rows: list[str]) -> int | None:
    """The last line of a value (from 0), or None where something else stands on it."""
    if isinstance(node, (yaml.MappingNode, yaml.SequenceNode)) and not node.flow_style:
        last = node.value[-1]
        return _last_line(last[1] if isinstance(last, tuple) else last, rows)
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        return None
    end = node.end_mark
    rest = rows[end.line][end.column :].strip()
    return None if rest and not rest.startswith("#") else int(end.line)
