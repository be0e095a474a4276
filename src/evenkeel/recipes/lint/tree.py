"""The files of one tree, found once and read when they are first needed.

Layout: drivers below ``tests/test_suites``, recipes below ``examples/configs/recipes`` at mirrored
paths, listings ``tests/test_suites/*.txt``. Nothing of ours needs to be in the tree.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from evenkeel.errors import InputError, did_you_mean
from evenkeel.recipes.lint.claims import is_algorithm, read_claims, words_of
from evenkeel.recipes.lint.driver_file import DriverFile
from evenkeel.recipes.lint.listing_file import ListingFile
from evenkeel.recipes.lint.recipe_file import RecipeFile, RecipeFiles
from evenkeel.run_paths import files_below

SUITES = "tests/test_suites"
CONFIGS = "examples/configs"
RECIPES = f"{CONFIGS}/recipes"
_KEPT_LEAVES = 32
_FREQUENT = 3
_COMPARED = 200


class Tree:
    """An index of drivers, recipes and listings.

    Args:
        root: the folder that holds ``tests/`` and ``examples/``.

    Raises:
        InputError: there is neither a suites nor a recipes folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        suites, recipes = root / SUITES, root / RECIPES
        if not suites.is_dir() and not recipes.is_dir():
            raise InputError(
                f"there is neither {SUITES} nor {RECIPES} here",
                path=root,
                fix="name the root of a recipe collection with --root DIR",
            )
        scripts = sorted(files_below(root, SUITES, (".sh",)))
        self._scripts = frozenset(scripts)
        self.recipes = sorted(files_below(root, RECIPES, (".yaml", ".yml")))
        self.recipe_paths = frozenset(self.recipes)
        self.files = RecipeFiles(root)
        self.listings = sorted(
            path for path in files_below(root, SUITES, (".txt",)) if _is_listing(root, path)
        )
        self.base: str | None = None
        """The git revision that recipes are compared with; None: found."""
        self._drivers: dict[str, DriverFile] = {}
        self._listings: dict[str, ListingFile] = {}
        self.drivers = [path for path in scripts if self._is_driver(path)]

    def driver(self, path: str) -> DriverFile:
        """The driver at ``path``, read once while it is among the latest."""
        known = self._drivers.get(path)
        if known is None:
            if len(self._drivers) >= _KEPT_LEAVES:
                self._drivers.clear()
            known = self._drivers[path] = DriverFile(self.root, path, mirrored_recipe(path))
        return known

    def recipe(self, path: str) -> RecipeFile:
        """The recipe at ``path``."""
        return self.files.get(path)

    def listing(self, path: str) -> ListingFile:
        """The listing at ``path``."""
        if path not in self._listings:
            folders = tuple(dict.fromkeys((SUITES, path.rpartition("/")[0])))
            self._listings[path] = ListingFile(self.root, path, folders, self._scripts)
        return self._listings[path]

    def exists(self, path: str) -> bool:
        """Whether ``path``, relative to the root, is a file."""
        return path in self._scripts or path in self.recipe_paths or (self.root / path).is_file()

    @cached_property
    def listed(self) -> dict[str, list[tuple[str, int]]]:
        """Driver → (listing, line) of each entry that names it."""
        found: dict[str, list[tuple[str, int]]] = {}
        for path in self.listings:
            for entry in self.listing(path).entries:
                if entry.driver is not None:
                    found.setdefault(entry.driver, []).append((path, entry.line))
        return found

    @cached_property
    def names(self) -> dict[str, list[str]]:
        """Driver name → paths."""
        found: dict[str, list[str]] = {}
        for path in self.drivers:
            found.setdefault(Path(path).stem, []).append(path)
        return found

    @cached_property
    def recipe_users(self) -> dict[str, str]:
        """Recipe → a driver elsewhere that names it on its command line; reads every driver."""
        found: dict[str, str] = {}
        for path in self.drivers:
            if "--config" in self.text_of(path):
                driver = self.driver(path)
                if driver.recipe != driver.mirrored:
                    found.setdefault(driver.recipe, path)
        return found

    @cached_property
    def inherited(self) -> frozenset[str]:
        """Names of the YAML files that some recipe inherits from; reads every recipe."""
        found: set[str] = set()
        for path in self.recipes:
            try:
                with (self.root / path).open(encoding="utf-8", errors="replace") as file:
                    for number, line in enumerate(file):
                        if ".y" in line and number < 40:
                            found.update(
                                os.path.basename(word.strip("'\",[]"))  # noqa: PTH119
                                for word in line.split()
                                if ".y" in word
                            )
            except OSError:
                continue
        return frozenset(found)

    def num_drivers_reading(self, metric: str, at_most: int) -> int:
        """How many drivers name ``metric`` in quotes, counted up to ``at_most``; reads drivers."""
        count = 0
        # without its quotes, 'train/los' would be found in every 'train/loss'
        quoted = (f'"{metric}"', f"'{metric}'")
        for path in self.drivers:
            text = self.text_of(path)
            count += any(name in text for name in quoted)
            if count >= at_most:
                break
        return count

    def text_of(self, path: str) -> str:
        """A file's text for a search in it; empty where it cannot be read."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    @cached_property
    def is_ours(self) -> bool:
        """Whether its recipes use our schema, by the first that can be read."""
        from evenkeel.recipes.lint.setup import is_ours

        for path in self.recipes[:20]:
            recipe = self.recipe(path)
            if recipe.usable:
                return is_ours(recipe)
        return False

    @cached_property
    def words(self) -> Counter[str]:
        """Word of a name → number of drivers and recipes that have it in theirs."""
        names = {Path(path).stem for path in (*self.drivers, *self.recipes)}
        return Counter(word for name in names for word in set(words_of(name)))

    @cached_property
    def frequent_words(self) -> list[str]:
        """Words that are in several names: no slip of the pen."""
        return [word for word, count in self.words.items() if count >= _FREQUENT]

    def nearest(self, name: str, names: Iterable[str]) -> str:
        """`` (did you mean 'x'?)``; only names that begin alike, so that it stays quick."""
        alike = [other for other in names if other[:6] == name[:6]]
        return did_you_mean(name, alike[:_COMPARED])

    @cached_property
    def states_allocations(self) -> bool:
        """Whether names say on what they run: not where most of several do without."""
        stated = sum(read_claims(name).allocation is not None for name in self.names)
        return len(self.names) < 4 or 2 * stated > len(self.names)

    @cached_property
    def begins_with_algorithms(self) -> bool:
        """Whether that is how this tree writes names: nearly all of several do."""
        begun = sum(is_algorithm(words_of(name)[0]) for name in self.names)
        return len(self.names) >= 4 and 10 * begun >= 9 * len(self.names)

    @cached_property
    def declares_gpus_per_node(self) -> bool:
        """Whether the tree's drivers say GPUS_PER_NODE where it is not 8; reads such drivers."""
        for path in self.drivers:
            allocation = read_claims(Path(path).stem).allocation
            if allocation and allocation[1] != 8 and "GPUS_PER_NODE=" in self.text_of(path):
                return True
        return False

    def _is_driver(self, path: str) -> bool:
        if mirrored_recipe(path) in self.recipe_paths or path in self.listed:
            return True
        return read_claims(Path(path).stem).looks_like_a_recipe or "BEGIN CONFIG" in self.text_of(
            path
        )


def mirrored_recipe(driver: str) -> str:
    """The recipe's path for a driver's."""
    return f"{RECIPES}{driver.removeprefix(SUITES).removesuffix('.sh')}.yaml"


def mirrored_driver(recipe: str) -> str:
    """The driver's path for a recipe's."""
    return f"{SUITES}{recipe.removeprefix(RECIPES).rsplit('.', 1)[0]}.sh"


def _is_listing(root: Path, path: str) -> bool:
    """Whether a file lists drivers or, in the suites folder itself, nothing; prose does neither."""
    try:
        rows = (root / path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return True  # whoever reads it says what is wrong
    named = [row for row in (row.partition("#")[0].strip() for row in rows) if row]
    if not named:
        return path.rpartition("/")[0] == SUITES
    return any(row.endswith(".sh") and " " not in row for row in named)
