"""A driver, its recipe and their facts together: what rules of agreement look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evenkeel.recipes.lint.claims import Claims, read_claims
from evenkeel.recipes.lint.driver_file import DriverFile
from evenkeel.recipes.lint.facts import Fact, Facts, Layout, layout_of
from evenkeel.recipes.lint.recipe_file import RecipeFile
from evenkeel.recipes.lint.tree import Tree, mirrored_driver
from evenkeel.recipes.schema import Algorithm

# top-level sections of a recipe of ours
_OUR_SECTIONS = frozenset(
    {"algorithm", "seed", "policy", "data", "checkpointing", "logger", "cluster", "equivalence"}
) | frozenset(Algorithm)


@dataclass(frozen=True)
class Setup:
    """One training set-up, as far as it is known.

    Args:
        recipe: the YAML file.
        driver: the driver that trains it, or None.
        facts: the resolved recipe with the driver's overrides.
        layout: its backend and parallel sizes, or None.
    """

    recipe: RecipeFile
    driver: DriverFile | None
    facts: Facts
    layout: Layout | None

    @property
    def claims(self) -> Claims:
        """What the recipe's name states."""
        return read_claims(Path(self.recipe.path).stem)

    @property
    def is_ours(self) -> bool:
        """Whether the recipe uses our schema."""
        return is_ours(self.recipe)

    def line_of(self, fact: Fact) -> tuple[str, int]:
        """Where to report a fact: its line in the recipe or driver, else the recipe's first."""
        place = fact.origin.path
        if place == self.recipe.path or (self.driver is not None and place == self.driver.path):
            return place, fact.origin.line or 1
        return self.recipe.path, 1

    def where(self, fact: Fact) -> str:
        """`` (from examples/configs/sft.yaml:80)`` for a value that is not the recipe's own."""
        if fact.origin.path in (self.recipe.path, "default"):
            return ""
        return f" (from {fact.origin})"


def is_ours(recipe: RecipeFile) -> bool:
    """Whether what a recipe inherits from is of our schema; its own mistakes do not count."""
    base = recipe.inherited or recipe.own
    algorithm = base.get("algorithm")
    return (
        algorithm is not None
        and algorithm.value in set(Algorithm)
        and all(key in _OUR_SECTIONS for key in base)
    )


def setup_of_driver(tree: Tree, path: str) -> Setup | None:
    """The driver with its recipe, where both can be read."""
    driver = tree.driver(path)
    if driver.problem is not None or not tree.exists(driver.recipe):
        return None
    return _setup(tree.recipe(driver.recipe), driver)


def setup_of_recipe(tree: Tree, path: str) -> Setup | None:
    """The recipe with the driver at the mirrored path, where it has one."""
    driver_path = mirrored_driver(path)
    driver = tree.driver(driver_path) if tree.exists(driver_path) else None
    if driver is not None and (driver.problem is not None or driver.recipe != path):
        driver = None
    return _setup(tree.recipe(path), driver)


def _setup(recipe: RecipeFile, driver: DriverFile | None) -> Setup | None:
    if not recipe.usable:
        return None
    training = None if driver is None else driver.training
    overrides = {} if training is None else training.overrides
    facts = Facts(recipe.merged, overrides, "" if driver is None else driver.path)
    return Setup(recipe, driver, facts, layout_of(facts))
