"""YAML read into a tree in which every value knows the file, line and column it came from.

The reading follows YAML 1.1 as PyYAML has it, without its traps: ``1e-3`` is a number, dates and
``1:30`` stay text, a key may stand only once in a mapping.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import yaml

from evenkeel.errors import InputError

COMMAND_LINE = "command line"
DEFAULT = "default"

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_NODES = 100_000  # aliases can make a small file explode
_MAX_DEPTH = 100  # the C parser's composer recurses, and would take the process down with it
_OPENERS = "[{-?"
_TAG = "tag:yaml.org,2002:"


class Origin(NamedTuple):
    """Where a value was written: a file, ``command line``, or ``default`` (the schema)."""

    path: str
    line: int | None = None
    column: int | None = None
    override: str | None = None

    def __str__(self) -> str:
        if self.override is not None:
            return f"{self.path}: {self.override}"
        return self.path if self.line is None else f"{self.path}:{self.line}"


class Node(NamedTuple):
    """A value and its origin; the value of a section is a dict of nodes by key.

    Lists are values as a whole: what is in them is plain.
    """

    value: Any
    origin: Origin


Tree = dict[str, Node]


class _LocatedLoader(_Loader):  # type: ignore[misc]
    """Resolves plain scalars as JSON would read them, beside YAML's words for true and null."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}


for _kind, _pattern, _first in (
    ("bool", r"(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)",
     "yYnNtTfFoO"),
    ("float", r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
     r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
     "-+.0123456789"),
    ("int", r"[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)", "-+0123456789"),
    ("merge", r"<<", "<"),
    ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
):  # fmt: skip
    _LocatedLoader.add_implicit_resolver(_TAG + _kind, re.compile(f"(?:{_pattern})$"), _first)


def read_tree(path: Path, shown: str) -> Tree:
    """The mapping that a file holds; an empty file is an empty mapping.

    Args:
        path: the file.
        shown: how origins and messages call it.

    Raises:
        InputError: it cannot be read, is not YAML, or its top level is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}",
            path=shown,
            fix="save the file as UTF-8",
        ) from error
    except OSError as error:
        raise InputError(f"cannot read it: {error.strerror or error}", path=shown) from error
    node = parse(text, shown)
    if node is None or node.value is None:
        return {}
    if not isinstance(node.value, dict):
        raise InputError(
            f"the top level is {kind_of(node.value)}, not a mapping of sections",
            path=shown,
            line=node.origin.line,
            column=node.origin.column,
            fix="write 'key: value' lines, as in 'policy:' with its fields below it",
        )
    return node.value


def parse(text: str, shown: str, override: str | None = None) -> Node | None:
    """The one document in ``text``; ``None`` where there is none.

    Raises:
        InputError: with the line and column of what is wrong.
    """
    try:
        _check_depth(text, shown)
        root = yaml.compose(text, Loader=_LocatedLoader)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, shown) from error
    except yaml.YAMLError as error:
        raise InputError(f"not YAML: {error}", path=shown) from error
    return None if root is None else _Builder(shown, override).build(root)


def plain(node: Node) -> Any:
    """The node's value without origins."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    return node.value


def kind_of(value: Any) -> str:
    """What a YAML value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "text"}
    return names.get(type(value), type(value).__name__)


def _check_depth(text: str, shown: str) -> None:
    # each level of nesting costs one of these characters or a column of indentation
    most = sum(map(text.count, _OPENERS))
    if most <= _MAX_DEPTH and " " * _MAX_DEPTH not in text:
        return
    depth = 0
    for event in yaml.parse(text, Loader=_LocatedLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            mark: Any = event.start_mark
            raise InputError(
                f"nested more than {_MAX_DEPTH} levels deep",
                path=shown,
                line=mark.line + 1,
                column=mark.column + 1,
            )


class _Builder:
    """Turns PyYAML's nodes, which carry marks, into ours."""

    def __init__(self, shown: str, override: str | None) -> None:
        self.shown = shown
        self.override = override
        self.num_nodes = 0
        self.open: set[int] = set()

    def build(self, node: Any) -> Node:
        mark = node.start_mark
        if self.override is None:
            origin = Origin(self.shown, mark.line + 1, mark.column + 1)
        else:
            origin = Origin(self.shown, override=self.override)
        if isinstance(node, yaml.ScalarNode):
            return Node(self.scalar(node), origin)
        self.num_nodes += 1
        if id(node) in self.open or self.num_nodes > _MAX_NODES:
            raise self.error("an alias that contains itself, or far too many aliases", node)
        if len(self.open) >= _MAX_DEPTH:
            raise self.error(f"nested more than {_MAX_DEPTH} levels deep", node)
        self.open.add(id(node))
        value: Any
        if isinstance(node, yaml.MappingNode):
            value = self.mapping(node)
        else:
            value = [plain(self.build(item)) for item in node.value]
        self.open.discard(id(node))
        return Node(value, origin)

    def mapping(self, node: Any) -> Tree:
        tree: Tree = {}
        merged: Tree = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                self.merge_into(merged, value_node)
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.error("a key must be a single word, not a list or mapping", key_node)
            key = key_node.value
            if key in tree:
                raise InputError(
                    f"key {key!r} stands twice in one mapping, first on line {lines[key]}",
                    path=self.shown,
                    line=key_node.start_mark.line + 1,
                    column=key_node.start_mark.column + 1,
                    fix="keep one of the two",
                )
            lines[key] = key_node.start_mark.line + 1
            child = self.build(value_node)
            if self.override is None:
                # a key's own line is where a person looks for it, also when its value is a block
                mark = key_node.start_mark
                child = Node(child.value, Origin(self.shown, mark.line + 1, mark.column + 1))
            tree[key] = child
        return {**merged, **tree} if merged else tree

    def merge_into(self, merged: Tree, node: Any) -> None:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for source in sources:
            if not isinstance(source, yaml.MappingNode):
                raise self.error("'<<' wants a mapping or a list of mappings", node)
            for key, child in self.build(source).value.items():
                merged.setdefault(key, child)

    def scalar(self, node: Any) -> Any:
        self.num_nodes += 1
        tag, text = node.tag, node.value
        if tag == _TAG + "str":
            return text
        try:
            return _SCALARS[tag](text)
        except (KeyError, ValueError) as error:
            kind = tag.removeprefix(_TAG)
            raise self.error(f"cannot read {text!r} as {kind!r}", node) from error

    def error(self, message: str, node: Any) -> InputError:
        mark = node.start_mark
        return InputError(message, path=self.shown, line=mark.line + 1, column=mark.column + 1)


def _int(text: str) -> int:
    digits = text.replace("_", "").lower()
    return int(digits, 0 if digits.lstrip("+-")[1:2] >= "0" and _PREFIXED.match(digits) else 10)


def _float(text: str) -> float:
    digits = text.replace("_", "").lower()
    if digits.lstrip("+-") in (".inf", ".nan"):
        return -math.inf if digits == "-.inf" else float(digits.replace(".", ""))
    return float(digits)


def _bool(text: str) -> bool:
    word = text.lower()
    if word not in ("yes", "true", "on", "no", "false", "off"):
        raise ValueError(text)
    return word in ("yes", "true", "on")


_PREFIXED = re.compile(r"[-+]?0[box]")
_SCALARS: dict[str, Callable[[str], Any]] = {
    f"{_TAG}int": _int,
    f"{_TAG}float": _float,
    f"{_TAG}bool": _bool,
    f"{_TAG}null": lambda _: None,
}


def _syntax_error(error: yaml.MarkedYAMLError, text: str, shown: str) -> InputError:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return InputError(f"not YAML: {error.problem or error.context}", path=shown)
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    indent = line[: len(line) - len(line.lstrip())]
    fix = None
    if "\t" in indent or "\\t" in (error.problem or ""):
        fix = "indent with spaces: YAML does not allow tabs there"
    said = ", ".join(part for part in (error.context, error.problem) if part)
    return InputError(
        f"not YAML: {said}", path=shown, line=mark.line + 1, column=mark.column + 1, fix=fix
    )
