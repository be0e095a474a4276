"""Giving a recipe another name, with everything that bears it."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from evenkeel.errors import InputError, did_you_mean
from evenkeel.recipes import config_block, name_exception, suite, vocabulary
from evenkeel.recipes import name as names
from evenkeel.recipes.located_yaml import read_tree
from evenkeel.recipes.tree_change import Change, Move, Write
from evenkeel.run_paths import Repository

_CONFIGS = Path("examples/configs")


def rename(repository: Repository, old: str, new: str) -> Change:
    """What carries recipe, driver, listings, baselines and heirs from ``old`` to ``new``.

    Heirs are the files below ``examples/configs`` whose ``defaults`` name the recipe. Results of
    runs stay where they are: they were measured under the old name.

    Raises:
        InputError: nothing is called ``old``, ``new`` is no legal name, or its files exist.
    """
    old, new = _bare(old), _bare(new)
    if old == new:
        raise InputError(f"{old!r} is its name already")
    drivers = _below(repository.suites_dir, f"{old}.sh")
    recipes = _below(repository.recipes_dir, f"{old}.yaml")
    if not drivers and not recipes:
        known = [path.stem for path in repository.recipes_dir.rglob("*.yaml")]
        raise InputError(
            f"no recipe and no driver is called {old!r}{did_you_mean(old, known)}",
            path=repository.root,
        )
    if len(drivers) > 1 or len(recipes) > 1:
        several = drivers if len(drivers) > 1 else recipes
        raise InputError(f"several files are called {old!r}: {', '.join(map(str, several))}")
    kind = _checked_kind(repository, new, drivers)
    moves = [
        Move(path, _target(path, base, kind, new))
        for path, base in (
            *((path, repository.recipes_dir) for path in recipes),
            *((path, repository.suites_dir) for path in drivers),
            *((path, repository.baselines_dir) for path in _baselines(repository, old)),
        )
    ]
    writes = [*_listings(repository, old, new)]
    for recipe in recipes:
        target = _target(recipe, repository.recipes_dir, kind, new)
        writes.extend(_heirs(repository, recipe, target))
    change = Change(tuple(moves), tuple(writes))
    change.check()
    return change


def next_version(repository: Repository, name: str) -> str:
    """``name`` with the next ``.vN`` that no recipe bears: ``.v2`` where it has none.

    Raises:
        InputError: ``name`` is no legal name.
    """
    bare = _bare(name)
    declared = any(
        name_exception.find(config_block.read_text(path), path)
        for path in _below(repository.suites_dir, f"{bare}.sh")
    )
    words = vocabulary.load(repository.root)
    read = names.parse(bare, declared=declared, grammar=words.grammar)
    return str(replace(read, version=(read.version or 1) + 1))


def _bare(text: str) -> str:
    """The name that a path or a name means."""
    return re.sub(r"\.(?:sh|yaml|yml)\Z", "", text.rstrip("/").rpartition("/")[2])


def _below(folder: Path, file_name: str) -> list[Path]:
    # a name is compared, never used as a pattern: it may hold '*' or '['
    suffix = file_name[file_name.rfind(".") :]
    return sorted(path for path in folder.rglob(f"*{suffix}") if path.name == file_name)


def _checked_kind(repository: Repository, new: str, drivers: list[Path]) -> str:
    declared = any(name_exception.find(config_block.read_text(path), path) for path in drivers)
    words = vocabulary.load(repository.root)
    return names.parse(new, declared=declared, grammar=words.grammar).kind


def _target(path: Path, base: Path, kind: str, new: str) -> Path:
    """Where ``path`` goes: the same folders below ``base``, the first of them by kind."""
    folders = list(path.relative_to(base).parts[:-1])
    if folders and folders[0] in ("llm", "vlm"):
        folders[0] = kind
    suffix = path.suffix if path.suffix in (".sh", ".yaml") and path.is_file() else ""
    return base.joinpath(*folders, new + suffix)


def _baselines(repository: Repository, name: str) -> list[Path]:
    folder = repository.baselines_dir
    return sorted(path for path in folder.glob("*/*") if path.name == name and path.is_dir())


def _listings(repository: Repository, old: str, new: str) -> list[Write]:
    kinds = {"llm": "", "vlm": "vlm_"}
    writes = []
    for listing in suite.listings(repository.root):
        text = listing.path.read_text(encoding="utf-8")
        changed = suite.renamed(text, old, new)
        old_kind, new_kind = (
            "vlm" if name.startswith(kinds["vlm"]) else "llm" for name in (old, new)
        )
        if old_kind != new_kind:
            changed = changed.replace(f"{old_kind}/{new}.sh", f"{new_kind}/{new}.sh")
        if changed != text:
            writes.append(Write(listing.path, changed))
    return writes


def _heirs(repository: Repository, recipe: Path, target: Path) -> list[Write]:
    """The files that inherit from ``recipe``, with ``defaults`` that lead to ``target``."""
    writes = []
    for path in sorted((repository.root / _CONFIGS).rglob("*.yaml")):
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        if path == recipe or recipe.name not in text:
            continue
        changed = _repointed(path, text, recipe, target)
        if changed != text:
            writes.append(Write(path, changed))
    return writes


def _repointed(path: Path, text: str, recipe: Path, target: Path) -> str:
    lines = text.splitlines(keepends=True)
    node = read_tree(path, str(path)).get("defaults")
    if node is None:
        return text
    for entry in node.value if isinstance(node.value, list) else [node.value]:
        if not isinstance(entry, str) or (path.parent / entry).resolve() != recipe.resolve():
            continue
        moved = os.path.relpath(target, path.parent)
        # the entry may stand on its own line, below that of the key
        for index in range((node.origin.line or 1) - 1, len(lines)):
            if entry in lines[index]:
                lines[index] = lines[index].replace(entry, moved, 1)
                break
    return "".join(lines)
