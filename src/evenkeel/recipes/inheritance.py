"""``defaults:``: the files that a YAML file inherits from, read, cached and merged.

``defaults`` is one file or a list of files, relative to the file that says it. They are merged in
order, later over earlier, and the file's own content over all of them (or where ``_self_`` stands
in the list). The suffix ``.yaml`` may be left out. Sections merge key by key; everything else,
lists too, is replaced, and so is a section that says ``_override_: true``.
"""

from __future__ import annotations

import os
from pathlib import Path

from evenkeel.errors import InputError, did_you_mean
from evenkeel.recipes.located_yaml import Node, Origin, Tree, kind_of, read_tree

REPLACES = "_override_"
_SELF = "_self_"
_CACHED_FILES = 1024
_MAX_CHAIN = 100

Signature = tuple[tuple[str, int, int], ...]


class _Merged:
    """A file with all it inherits, and the state of the files that it was read from."""

    __slots__ = ("signature", "tree")

    def __init__(self, tree: Tree, signature: Signature) -> None:
        self.tree = tree
        self.signature = signature

    def is_current(self) -> bool:
        return all(_stamp(path) == (path, time, size) for path, time, size in self.signature)


# Most files of a tree inherit from a few: those are read once per process. Trees are never
# changed after they were made, so that sharing them is safe.
_cache: dict[tuple[str, str], _Merged] = {}


def read_with_defaults(path: Path) -> Tree:
    """The file's tree with everything it inherits.

    Raises:
        InputError: a file is missing or wrong, or inherits from itself.
    """
    return _read(str(path), ()).tree


def merge(base: Tree, over: Tree) -> Tree:
    """``over`` on top of ``base``: sections key by key, other values as a whole.

    A section that says ``_override_: true`` takes the place of the inherited one.
    """
    merged = dict(base)
    for key, node in over.items():
        below = merged.get(key)
        if type(node.value) is dict and _replaces(node.value):
            own = {name: child for name, child in node.value.items() if name != REPLACES}
            merged[key] = Node(own, node.origin)
        elif below is not None and type(node.value) is dict and type(below.value) is dict:
            merged[key] = Node(merge(below.value, node.value), node.origin)
        else:
            merged[key] = node
    return merged


def _replaces(section: Tree) -> bool:
    marker = section.get(REPLACES)
    return marker is not None and marker.value is True


def parents_of(tree: Tree, path: str) -> list[tuple[str, Origin]]:
    """The entries of ``defaults``, each as (file or ``_self_``, place).

    Raises:
        InputError: ``defaults`` is not a file or a list of files.
    """
    node = tree.get("defaults")
    if node is None or node.value is None:
        return []
    entries = node.value if isinstance(node.value, list) else [node.value]
    for entry in entries:
        if not isinstance(entry, str) or not entry:
            raise InputError(
                f"defaults: wants a file or a list of files, got {kind_of(entry)}",
                path=path,
                line=node.origin.line,
                column=node.origin.column,
                fix="write 'defaults: ../../sft.yaml', relative to this file",
            )
    return [(entry if entry == _SELF else _beside(path, entry), node.origin) for entry in entries]


def _read(path: str, chain: tuple[str, ...]) -> _Merged:
    """``chain``: the files that led here; they are what a cycle shows."""
    key = (os.path.abspath(path), path)  # noqa: PTH100 - normalised as text, no disk access
    known = _cache.get(key)
    if known is not None and known.is_current():
        return known
    stamp = _stamp(path)
    own = read_tree(Path(path), path)
    parents = parents_of(own, path)
    content = {name: node for name, node in own.items() if name != "defaults"}
    if all(parent != _SELF for parent, _ in parents):
        parents.append((_SELF, Origin(path)))
    tree: Tree = {}
    signature: Signature = (stamp,)
    for parent, origin in parents:
        if parent == _SELF:
            tree = merge(tree, content)
            continue
        base = _parent(parent, origin, (*chain, path))
        tree = merge(tree, base.tree) if tree else base.tree
        signature += base.signature
    merged = _Merged(tree, signature)
    if chain:  # a file that others inherit from
        if len(_cache) >= _CACHED_FILES:
            _cache.clear()
        _cache[key] = merged
    return merged


def _parent(parent: str, origin: Origin, chain: tuple[str, ...]) -> _Merged:
    absolute = [os.path.abspath(file) for file in chain]  # noqa: PTH100
    target = os.path.abspath(parent)  # noqa: PTH100
    if target in absolute:
        cycle = [*chain[absolute.index(target) :], parent]
        raise InputError(
            f"defaults: a cycle: {' → '.join(cycle)}",
            path=origin.path,
            line=origin.line,
            column=origin.column,
            fix="let one of these files inherit from none of the others",
        )
    if len(chain) > _MAX_CHAIN:
        raise InputError(
            f"defaults: a chain of more than {_MAX_CHAIN} files",
            path=origin.path,
            line=origin.line,
            column=origin.column,
        )
    if not os.path.isfile(parent):  # noqa: PTH113
        folder = Path(parent).parent
        names = [file.name for file in folder.glob("*.y*ml")] if folder.is_dir() else []
        raise InputError(
            f"defaults: there is no file {parent}{did_you_mean(Path(parent).name, names)}",
            path=origin.path,
            line=origin.line,
            column=origin.column,
            fix=f"name a file relative to {Path(origin.path).parent}/",
        )
    return _read(parent, chain)


def _beside(path: str, entry: str) -> str:
    file = os.path.normpath(os.path.join(os.path.dirname(path), entry))  # noqa: PTH118, PTH120
    if not file.endswith((".yaml", ".yml")) and os.path.isfile(f"{file}.yaml"):  # noqa: PTH113
        return f"{file}.yaml"
    return file


def _stamp(path: str) -> tuple[str, int, int]:
    try:
        state = os.stat(path)  # noqa: PTH116 - Path costs more than the call, per file of 10,000
    except OSError:
        return (path, 0, -1)
    return (path, state.st_mtime_ns, state.st_size)
