"""Equivalence groups: recipes that say they train the same curve do train the same thing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from evenkeel.errors import InputError
from evenkeel.recipes.config import convergence_fields, resolve
from evenkeel.recipes.lint.facts import lookup
from evenkeel.recipes.lint.recipe_file import RecipeFile
from evenkeel.recipes.lint.registry import Finding, Subject, declare, looks_at
from evenkeel.recipes.lint.setup import is_ours
from evenkeel.recipes.lint.tree import Tree

OTHER_TRAINING = declare(
    "EK412",
    "equivalence group of one, or of different trainings",
    reason="Curves can only be held against each other where everything that shapes them agrees.",
    fix="Give the group recipes that differ in layout alone, or say 'equivalence: null'.",
)
KEY = "equivalence.group"
_SHOWN = 4

_members: WeakKeyDictionary[Tree, dict[str, list[str]]] = WeakKeyDictionary()


@looks_at(Subject.RECIPE, OTHER_TRAINING)
def a_group_trains_one_thing(tree: Tree, path: str) -> Iterator[Finding]:
    """A member has company, and shares every field that shapes the curve with the first one."""
    group = _group_of(tree.recipe(path))
    if group is None:
        return
    members = members_of(tree)[group]
    line = _line_of(tree.recipe(path))
    if len(members) == 1:
        text = f"group {group!r} has no other member, so nothing is compared"
        yield Finding(OTHER_TRAINING.code, path, line, text, OTHER_TRAINING.fix)
    elif members[0] != path:
        first, own = (_curve(tree.recipe(one)) for one in (members[0], path))
        keys = [key for key in sorted(first.keys() | own.keys()) if first.get(key) != own.get(key)]
        if keys:
            shown = "; ".join(
                f"{key}: {json.dumps(own.get(key))} here, {json.dumps(first.get(key))} there"
                for key in keys[:_SHOWN]
            )
            more = f"; and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
            name = Path(members[0]).stem
            text = f"it trains something else than {name} of group {group!r}: {shown}{more}"
            yield Finding(OTHER_TRAINING.code, path, line, text, OTHER_TRAINING.fix)


def members_of(tree: Tree) -> dict[str, list[str]]:
    """Group → paths of its members, sorted; found once per tree."""
    known = _members.get(tree)
    if known is None:
        known = _members[tree] = {}
        for path in tree.recipes:
            group = _group_of(tree.recipe(path))
            if group is not None:
                known.setdefault(group, []).append(path)
    return known


def _group_of(recipe: RecipeFile) -> str | None:
    node = lookup(recipe.merged, KEY) if recipe.usable and is_ours(recipe) else None
    return node.value if node is not None and isinstance(node.value, str) else None


def _curve(recipe: RecipeFile) -> Mapping[str, Any]:
    """Dotted key → value of what shapes the curve; empty where the recipe does not resolve."""
    try:
        values = resolve(recipe.merged, Path(recipe.path)).values
    except InputError:
        return {}  # another rule says what is wrong
    return convergence_fields(values)


def _line_of(recipe: RecipeFile) -> int:
    node = lookup(recipe.merged, KEY)
    if node is None or node.origin.path != recipe.path:
        return 1
    return node.origin.line or 1
