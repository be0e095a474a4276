"""``.vN``: what shapes the loss curve changes only together with the version in the name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evenkeel.errors import InputError
from evenkeel.recipes.config import convergence_fields, resolve
from evenkeel.recipes.fingerprint import fingerprint as fingerprint_of
from evenkeel.recipes.lint import git
from evenkeel.recipes.lint.facts import CURVE_SECTIONS, lookup
from evenkeel.recipes.lint.recipe_file import RecipeFile, RecipeFiles
from evenkeel.recipes.lint.registry import Finding, Subject, declare, looks_at
from evenkeel.recipes.lint.setup import is_ours
from evenkeel.recipes.lint.tree import CONFIGS, RECIPES, Tree
from evenkeel.recipes.located_yaml import Tree as YamlTree
from evenkeel.recipes.located_yaml import parse, plain
from evenkeel.recipes.typed import known_keys

UNVERSIONED = declare(
    "EK410",
    "convergence changed without a new version",
    reason="The baseline was recorded with other settings: comparing with it means nothing.",
    fix="Take a new version (evenkeel bump NAME), or put the old value back.",
)
OTHER_BASELINE = declare(
    "EK411",
    "baseline was recorded with another recipe",
    reason="A verdict against it would be INCOMPARABLE.",
    fix="Record a new baseline, or take a new version.",
)
BASELINES = "tests/baselines"
_SHOWN = 6


class _OldFiles(RecipeFiles):
    """The YAML files as they were at a commit."""

    def __init__(self, root: Path, commit: str, changed: frozenset[str]) -> None:
        super().__init__(root)
        self.changed = changed
        self.texts = git.texts_at(root, commit, sorted(changed)) if changed else {}

    def read(self, path: str) -> YamlTree:
        if path not in self.changed:
            return super().read(path)
        text = self.texts.get(path)
        if text is None:
            raise InputError("it was not there", path=path)
        node = parse(text, path)
        return node.value if node is not None and isinstance(node.value, dict) else {}


class _History:
    """What changed below ``examples/configs`` since the base."""

    def __init__(self, tree: Tree) -> None:
        commit = git.base_of(tree.root, tree.base)
        paths = [] if commit is None else git.changed_since(tree.root, commit, CONFIGS)
        self.changed = frozenset(paths)
        self.old = _OldFiles(tree.root, commit or "", self.changed)


def history_of(tree: Tree) -> _History:
    """The tree's history, asked for once.

    Raises:
        InputError: the base that was asked for does not exist.
    """
    known = _histories.get(tree)
    if known is None:
        _histories.clear()
        known = _histories[tree] = _History(tree)
    return known


_histories: dict[Tree, _History] = {}


@looks_at(Subject.RECIPE, UNVERSIONED)
def curve_changes_with_the_version(tree: Tree, path: str) -> Iterator[Finding]:
    """Nothing that shapes the curve differs from the base under the same name."""
    differences = _differences(tree, path)
    if not differences:
        return
    name = Path(path).stem
    yield Finding(
        UNVERSIONED.code,
        path,
        _line_of(tree.recipe(path), [key for key, _, _ in differences]),
        f"the curve changes under the same name: {_shown(differences)}",
        f"rename driver and recipe to {_next_version(name)} (evenkeel bump {name}), "
        "or put the old value back",
    )


@looks_at(Subject.CONFIG, UNVERSIONED)
def base_changes_no_curve(tree: Tree, path: str) -> Iterator[Finding]:
    """A file that recipes inherit from does not change the curve of one of them."""
    if path not in history_of(tree).changed:
        return
    for heir in tree.recipes:
        if path not in tree.files.chain_of(heir):
            continue
        differences = _differences(tree, heir)
        keys = [key for key, _, _ in differences]
        line = _line_of(tree.recipe(heir), keys, path)
        if differences and line > 1:
            yield Finding(
                UNVERSIONED.code,
                path,
                line,
                f"the curve of {Path(heir).stem}, and of what else inherits from here, changes "
                f"under the same name: {_shown(differences)}",
                "say it in the recipes that want it, each with a new version, "
                "or put the old value back",
            )
            return


_Differences = list[tuple[str, Any, Any]]


def _differences(tree: Tree, path: str) -> _Differences:
    """(key, old value, new value) of what shapes the curve and is not what it was."""
    history = history_of(tree)
    if not history.changed:
        return []
    recipe = tree.recipe(path)
    if not recipe.usable or history.changed.isdisjoint(tree.files.chain_of(path)):
        return []
    old = history.old.get(path)
    if not old.usable or not old.merged:
        return []  # new here, or broken before
    before, after = _curve(old), _curve(recipe)
    return [
        (key, before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _shown(differences: _Differences) -> str:
    shown = "; ".join(
        f"{key}: {_yaml(was)} → {_yaml(now)}" for key, was, now in differences[:_SHOWN]
    )
    more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
    return shown + more


def _curve(recipe: RecipeFile) -> Mapping[str, Any]:
    """Dotted key → value of what shapes the curve."""
    if is_ours(recipe):
        try:
            return convergence_fields(resolve(recipe.merged, Path(recipe.path)).values)
        except InputError:
            pass  # another rule says what is wrong
    return {key: value for key, value in _flat(recipe.merged, "") if _shapes_curve(key)}


def _shapes_curve(key: str) -> bool:
    declared = known_keys().get(key)
    if declared is not None and not declared.is_section:
        return declared.shapes_curve
    return key.startswith(CURVE_SECTIONS)


def _flat(tree: YamlTree, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, node in tree.items():
        if isinstance(node.value, dict):
            yield from _flat(node.value, f"{prefix}{key}.")
        elif node.value is not None:
            yield f"{prefix}{key}", plain(node)


def _line_of(recipe: RecipeFile, changed: list[str], path: str | None = None) -> int:
    """The line of the first changed key that stands in the file; 1 where none does."""
    for key in changed:
        node = lookup(recipe.merged, key)
        if node is not None and node.origin.path == (path or recipe.path) and node.origin.line:
            return node.origin.line
    return 1


def _yaml(value: Any) -> str:
    return "absent" if value is None else json.dumps(value, default=str)


def _next_version(name: str) -> str:
    match = re.search(r"\.v(\d+)$", name)
    return f"{name[: match.start()]}.v{int(match[1]) + 1}" if match else f"{name}.v2"


@looks_at(Subject.RECIPE, OTHER_BASELINE)
def baseline_is_of_this_recipe(tree: Tree, path: str) -> Iterator[Finding]:
    """Recorded baselines have the fingerprint of the recipe as it is."""
    folder = tree.root / BASELINES / path.removeprefix(f"{RECIPES}/").rsplit(".", 1)[0]
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    recipe = tree.recipe(path)
    if not files or not recipe.usable or not is_ours(recipe):
        return
    try:
        values = resolve(recipe.merged, Path(path)).values
    except InputError:
        return
    # a baseline holds runs of several seeds: its fingerprint leaves the seed out
    fingerprint = fingerprint_of({key: value for key, value in values.items() if key != "seed"})
    for file in files:
        try:
            baseline = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(baseline, dict) or baseline.get("retired"):
            continue
        recorded = baseline.get("fingerprint")
        if isinstance(recorded, str) and recorded and recorded != fingerprint:
            yield Finding(
                OTHER_BASELINE.code,
                path,
                1,
                f"{file.relative_to(tree.root).as_posix()} was recorded with fingerprint "
                f"{recorded[:12]}…, the recipe now has {fingerprint[:12]}…",
                OTHER_BASELINE.fix,
            )
