"""A YAML file of the tree: what it says itself, what it inherits, and both together."""

from __future__ import annotations

from pathlib import Path

from evenkeel.errors import InputError
from evenkeel.recipes.inheritance import merge, parents_of
from evenkeel.recipes.located_yaml import Node, Origin, Tree, read_tree

_SELF = "_self_"
_KEPT_LEAVES = 64


class RecipeFile:
    """One YAML file, read.

    Args:
        path: relative to the root.
        own: what stands in the file, without ``defaults``; empty where it cannot be read.
        inherited: everything that it inherits, merged.
        merged: the file over what it inherits.
        parents: the files that it names, relative to the root.
        problem: why ``merged`` is not known.
        inherits_after: whether ``_self_`` puts something inherited over the file's own content.
    """

    __slots__ = ("inherited", "inherits_after", "merged", "own", "parents", "path", "problem")

    def __init__(self, path: str) -> None:
        self.path = path
        self.own: Tree = {}
        self.inherited: Tree = {}
        self.merged: Tree = {}
        self.parents: list[str] = []
        self.problem: InputError | None = None
        self.inherits_after = False

    @property
    def usable(self) -> bool:
        """Whether everything it needs could be read."""
        return self.problem is None


class RecipeFiles:
    """The YAML files below one root; those that others inherit from are read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._bases: dict[str, RecipeFile] = {}
        self._leaves: dict[str, RecipeFile] = {}

    def get(self, path: str) -> RecipeFile:
        """The file at ``path``, relative to the root; what is wrong with it is its ``problem``."""
        known = self._bases.get(path) or self._leaves.get(path)
        if known is None:
            if len(self._leaves) >= _KEPT_LEAVES:
                self._leaves.clear()
            known = self._leaves[path] = self._read(path, ())
        return known

    def read(self, path: str) -> Tree:
        """What stands in the file itself.

        Raises:
            InputError: it cannot be read.
        """
        return read_tree(self.root / path, path)

    def chain_of(self, path: str) -> set[str]:
        """The file and everything that it inherits from, at any distance."""
        found: set[str] = set()
        open_paths = [path]
        while open_paths:
            current = open_paths.pop()
            if current not in found:
                found.add(current)
                file = self._bases.get(current) or self.get(current)
                open_paths.extend(file.parents)
        return found

    def _read(self, path: str, chain: tuple[str, ...]) -> RecipeFile:
        file = RecipeFile(path)
        try:
            tree = self.read(path)
            entries = parents_of(tree, path)
            file.own = {key: node for key, node in tree.items() if key != "defaults"}
            self._inherit(file, entries, tree.get("defaults"), (*chain, path))
        except InputError as problem:
            file.problem = problem
        return file

    def _inherit(
        self,
        file: RecipeFile,
        entries: list[tuple[str, Origin]],
        defaults: Node | None,
        chain: tuple[str, ...],
    ) -> None:
        line = None if defaults is None else defaults.origin.line
        merged: Tree = {}
        own_done = False
        for entry, _ in entries:
            parent = self._with_suffix(entry)
            if parent == _SELF:
                merged, own_done = merge(merged, file.own), True
                continue
            file.parents.append(parent)
            if parent in chain:
                circle = " → ".join([*chain[chain.index(parent) :], parent])
                raise InputError(
                    f"defaults: a cycle: {circle}",
                    path=file.path,
                    line=line,
                    fix="let one of these files inherit from none of the others",
                )
            base = self._base(parent, chain)
            if base.problem is not None:
                file.problem = file.problem or _handed_down(base, file, line)
                continue
            file.inherits_after = file.inherits_after or own_done
            file.inherited = merge(file.inherited, base.merged) if file.inherited else base.merged
            merged = merge(merged, base.merged) if merged else base.merged
        file.merged = merged if own_done else merge(merged, file.own)

    def _with_suffix(self, path: str) -> str:
        if path == _SELF or path.endswith((".yaml", ".yml")):
            return path
        return f"{path}.yaml" if (self.root / f"{path}.yaml").is_file() else path

    def _base(self, path: str, chain: tuple[str, ...]) -> RecipeFile:
        known = self._bases.get(path)
        if known is None:
            known = self._read(path, chain)
            if known.problem is None or "cycle" not in known.problem.message:
                # the way in which a cycle shows depends on where one came from
                self._bases[path] = known
        return known


def _handed_down(base: RecipeFile, file: RecipeFile, line: int | None) -> InputError:
    """A base's problem as its heir has it; a missing base is the heir's own mistake."""
    problem = base.problem
    assert problem is not None
    if problem.path == base.path and problem.line is None and "cannot read" in problem.message:
        return InputError(
            f"defaults: {base.path}: {problem.message}",
            path=file.path,
            line=line,
            fix="name a file that exists, relative to this one",
        )
    return problem
