"""A recipe file, resolved: inheritance, overrides, interpolation, types and fingerprint.

``load`` holds a file against the schema. ``load_untyped`` reads files of any schema, such as
another team's tree, with the same rules of inheritance and interpolation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from evenkeel.errors import InputError
from evenkeel.recipes import schema
from evenkeel.recipes.fingerprint import (
    convergence_fields,
    fingerprint,
    is_convergence_relevant,
)
from evenkeel.recipes.inheritance import merge, read_with_defaults
from evenkeel.recipes.interpolation import Interpolator
from evenkeel.recipes.located_yaml import COMMAND_LINE, DEFAULT, Node, Origin, Tree
from evenkeel.recipes.overrides import Keys, apply
from evenkeel.recipes.typed import FieldType, build, fields_of, known_keys

__all__ = [
    "COMMAND_LINE",
    "DEFAULT",
    "Origin",
    "RecipeError",
    "ResolvedRecipe",
    "UntypedRecipe",
    "convergence_fields",
    "is_convergence_relevant",
    "load",
    "load_untyped",
    "resolve",
]


_ALGORITHMS = frozenset(schema.Algorithm)


@dataclass(frozen=True)
class UntypedRecipe:
    """A recipe of any schema, resolved."""

    path: Path
    name: str
    """The file's name without its suffix."""
    values: dict[str, Any]
    """Nested plain values; interpolations are resolved where that is possible."""
    origins: dict[str, Origin]
    """Dotted key → where its value was written; lists and empty mappings are values."""


@dataclass(frozen=True)
class ResolvedRecipe(UntypedRecipe):
    """A recipe of ours: what the file says, what it inherits, and the schema's defaults."""

    recipe: schema.Recipe
    fingerprint: str
    """SHA-256 (hex) over the fields that shape the curve."""


class RecipeError(InputError):
    """Everything that is wrong with one recipe file.

    Args:
        problems: at least one; each knows its own place.
        path: the recipe.
    """

    def __init__(self, problems: Sequence[InputError], path: Path) -> None:
        self.problems = tuple(problems)
        first = problems[0]
        if len(problems) == 1:
            super().__init__(
                first.message,
                path=first.path,
                line=first.line,
                column=first.column,
                fix=first.fix,
            )
            return
        listed = "".join(f"\n{problem}" for problem in problems)
        super().__init__(f"{len(problems)} mistakes:{listed}", path=path)


def load(path: Path, overrides: Sequence[str] = ()) -> ResolvedRecipe:
    """Resolves a recipe of ours and holds it against the schema.

    Args:
        path: the YAML file.
        overrides: ``a.b=value``, ``+a.b=value``, ``++a.b=value``, ``~a.b``; later ones win.

    Raises:
        InputError: a file or override is wrong (``RecipeError`` with all mistakes, where there
            can be several); each names its file and line, or the argument.
    """
    return resolve(read_with_defaults(path), path, overrides)


def resolve(tree: Tree, path: Path, overrides: Sequence[str] = ()) -> ResolvedRecipe:
    """``load`` of a tree that was already read, with everything that its file inherits.

    Args:
        tree: as ``read_with_defaults`` gives it.
        path: of the file; only named.
        overrides: as for ``load``.

    Raises:
        InputError: as ``load``.
    """
    if not tree:
        raise InputError("the file is empty", path=path, fix="give it at least 'defaults: ...'")
    tree = _with_defaults(tree)
    if overrides:
        # once more afterwards: a deleted key falls back to its default
        tree = _with_defaults(apply(tree, overrides, Keys(_is_known, _is_free)))
    flat = _Flat(tree)
    problems: list[InputError] = []

    def report(dotted: str, message: str, fix: str | None = None) -> None:
        problems.append(_problem(flat.place(dotted), message, fix))

    failed: set[str] = set()

    def report_interpolation(dotted: str, message: str) -> None:
        failed.add(dotted)
        report(dotted, f"{dotted}: {message}")

    Interpolator(flat.values, report_interpolation).resolve(flat.interpolated)
    recipe = build(
        schema.Recipe,
        flat.values,
        lambda dotted, message, fix: None if dotted in failed else report(dotted, message, fix),
    )
    if problems:
        problems.sort(key=lambda problem: (problem.path or "", problem.line or 0))
        raise RecipeError(problems, path)
    flat.trace_interpolated_sections()
    return ResolvedRecipe(
        path=path,
        name=path.stem,
        values=_as_plain(flat.values),
        origins=flat.origins,
        recipe=recipe,
        fingerprint=fingerprint(flat.values),
    )


def load_untyped(path: Path, overrides: Sequence[str] = ()) -> UntypedRecipe:
    """Resolves a file of any schema; an interpolation without a value stays as text.

    Raises:
        InputError: a file cannot be read or is not YAML, ``defaults`` leads nowhere or in a
            circle, or an override is wrong.
    """
    tree = read_with_defaults(path)
    if overrides:
        tree = apply(tree, overrides, Keys(is_known=lambda _: False, is_free=lambda _: True))
    flat = _Flat(tree)
    Interpolator(flat.values, lambda *_: None).resolve(flat.interpolated)
    flat.trace_interpolated_sections()
    return UntypedRecipe(path=path, name=path.stem, values=flat.values, origins=flat.origins)


class _Flat:
    """A tree taken apart into plain values and their places."""

    def __init__(self, tree: Tree) -> None:
        self.origins: dict[str, Origin] = {}
        self.sections: dict[str, Origin] = {}
        self.interpolated: list[str] = []
        self.values = self._section(tree, "")

    def _section(self, tree: Tree, prefix: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, (value, origin) in tree.items():
            dotted = prefix + key
            if type(value) is dict:
                self.sections[dotted] = origin
                if not value:
                    self.origins[dotted] = origin
                values[key] = self._section(value, f"{dotted}.")
                continue
            self.origins[dotted] = origin
            if type(value) is str:
                if "${" in value:
                    self.interpolated.append(dotted)
            elif type(value) is list:
                value = _copied(value)
                if "${" in repr(value):
                    self.interpolated.append(dotted)
            values[key] = value
        return values

    def place(self, dotted: str) -> Origin:
        """The origin of the key or, where it has none of its own, of what holds it."""
        while dotted:
            origin = self.origins.get(dotted) or self.sections.get(dotted)
            if origin is not None:
                return origin
            dotted = dotted.rpartition(".")[0]
        return Origin(DEFAULT)

    def trace_interpolated_sections(self) -> None:
        """Gives the values of a section that came as one interpolation their origin."""
        for dotted in self.interpolated:
            value: Any = self.values
            for key in dotted.split("."):
                value = value.get(key) if isinstance(value, dict) else None
            if isinstance(value, dict) and value:
                self._trace(value, dotted, self.origins.pop(dotted))

    def _trace(self, values: dict[str, Any], above: str, origin: Origin) -> None:
        for key, value in values.items():
            if isinstance(value, dict) and value:
                self._trace(value, f"{above}.{key}", origin)
            else:
                self.origins[f"{above}.{key}"] = origin


def _problem(origin: Origin, message: str, fix: str | None) -> InputError:
    if origin.override is not None:
        message = f"{origin.override!r}: {message}"
    return InputError(message, path=origin.path, line=origin.line, column=origin.column, fix=fix)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(child) for key, child in value.items()}
    return [_copied(child) for child in value] if isinstance(value, list) else value


def _as_plain(values: Any) -> Any:
    """Enum members as their text, in new containers."""
    if isinstance(values, dict):
        return {key: _as_plain(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_as_plain(value) for value in values]
    return values.value if isinstance(values, StrEnum) else values


def _is_known(dotted: str) -> bool:
    return dotted in known_keys()


def _is_free(dotted: str) -> bool:
    """Whether it lies below a free-form mapping, where the schema names no keys."""
    known = known_keys()
    parts = dotted.split(".")
    above = (".".join(parts[:depth]) for depth in range(1, len(parts)))
    return any(key in known and not known[key].is_section for key in above)


def _with_defaults(tree: Tree) -> Tree:
    node = tree.get("algorithm")
    named = node.value if node is not None else None
    algorithm = named if isinstance(named, str) and named in _ALGORITHMS else schema.Algorithm.SFT
    absent = [key for key in tree if key in _ALGORITHMS and tree[key].value is None]
    if absent:
        tree = {key: node for key, node in tree.items() if key not in absent}
    tree = merge(_defaults(str(algorithm)), tree)
    for keys, defaults in _optional_defaults():
        tree = _under(tree, keys, defaults)
    return tree


def _under(tree: Tree, keys: tuple[str, ...], defaults: Tree) -> Tree:
    """``defaults`` below the section at ``keys``, where the tree has one."""
    node = tree.get(keys[0])
    if node is None or type(node.value) is not dict:
        return tree
    if len(keys) > 1:
        below = _under(node.value, keys[1:], defaults)
        return tree if below is node.value else {**tree, keys[0]: Node(below, node.origin)}
    return {**tree, keys[0]: Node(merge(defaults, node.value), node.origin)}


@cache
def _optional_defaults() -> list[tuple[tuple[str, ...], Tree]]:
    """(key, defaults) of each section that a recipe may leave out."""
    return [
        (tuple(key.split(".")), _section_defaults(field_type.kind))
        for key, field_type in known_keys().items()
        if field_type.is_section and field_type.is_optional
    ]


@cache
def _defaults(algorithm: str) -> Tree:
    """The schema's defaults, with the section of the one algorithm."""
    return _section_defaults(schema.Recipe, algorithm)


def _section_defaults(section: type, algorithm: str = "") -> Tree:
    origin = Origin(DEFAULT)
    instance = section()
    tree: Tree = {}
    for name, field_type in fields_of(section).items():
        value = getattr(instance, name)
        if field_type.is_section and not field_type.is_list:
            if value is None and name != algorithm:
                continue  # an optional section that nobody asked for
            tree[name] = Node(_section_defaults(field_type.kind), origin)
        elif name == "algorithm":
            tree[name] = Node(algorithm or value.value, origin)
        else:
            tree[name] = _as_node(value, field_type)
    return tree


def _as_node(value: Any, field_type: FieldType) -> Node:
    origin = Origin(DEFAULT)
    if isinstance(value, dict):
        return Node({key: _as_node(child, field_type) for key, child in value.items()}, origin)
    return Node(value.value if isinstance(value, StrEnum) else value, origin)
