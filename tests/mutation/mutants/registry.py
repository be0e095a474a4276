"""The registry: a mutant is a named function that plants one bug into the trainers of a process."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

ROOM = "evenkeel.training"


class Patch:
    """Replaces parts of the imported trainers; a part that does not exist is an error."""

    def __call__(self, target: str, make: Callable[[Any], Any]) -> None:
        """Put ``make(original)`` in the place of the original.

        Args:
            target: ``module:name`` or ``module:Class.name``; modules of ``evenkeel.training``.
            make: from the original to its replacement.

        Raises:
            LookupError: there is no such part: a refactoring has made the mutant void.
        """
        module_name, _, path = target.partition(":")
        module = importlib.import_module(f"{ROOM}.{module_name}")
        *owners, name = path.split(".")
        owner: Any = module
        for part in owners:
            owner = getattr(owner, part, None)
        if owner is None or name not in vars(owner):
            raise LookupError(f"{target} does not exist any more: the mutant needs another target")
        original = vars(owner)[name]
        replacement = make(original)
        setattr(owner, name, replacement)
        if owner is module:
            _replace_imported(original, replacement)


def _replace_imported(original: Any, replacement: Any) -> None:
    """Also where another trainer module has imported it by name."""
    for module_name, module in list(sys.modules.items()):
        if not module_name.startswith(ROOM):
            continue
        for name, value in list(vars(module).items()):
            if value is original:
                setattr(module, name, replacement)


@dataclass(frozen=True)
class Mutant:
    """One planted bug.

    Args:
        name: what it is called in tables and on the command line.
        breaks: what is wrong, in a few words.
        seen: where such a bug was met in public, or the class of bugs it belongs to.
        needs: features of a recipe without which the bug would change nothing.
        plant: does it.
    """

    name: str
    breaks: str
    seen: str
    needs: tuple[str, ...]
    plant: Callable[[Patch], None]


@dataclass(frozen=True)
class Harmless:
    """A change that alters nothing but rounding.

    Args:
        name: what it is called in tables.
        changes: what is different, in a few words.
        unless: features of a recipe that would make it more than that.
        overrides: of the recipe.
        plant: changes the code.
    """

    name: str
    changes: str
    unless: tuple[str, ...]
    overrides: tuple[str, ...]
    plant: Callable[[Patch], None]


MUTANTS: dict[str, Mutant] = {}
HARMLESS: dict[str, Harmless] = {}


def mutant(
    name: str, *, breaks: str, seen: str, needs: tuple[str, ...] = ()
) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Register the decorated function under ``name``."""

    def register(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        if name in MUTANTS:
            raise ValueError(f"two mutants are called {name}")
        MUTANTS[name] = Mutant(name, breaks, seen, needs, plant)
        return plant

    return register


def harmless(
    name: str, *, changes: str, unless: tuple[str, ...] = (), overrides: tuple[str, ...] = ()
) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Register a harmless change, and the decorated function, if any, as its code."""
    HARMLESS[name] = Harmless(name, changes, unless, overrides, lambda _: None)

    def register(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        HARMLESS[name] = Harmless(name, changes, unless, overrides, plant)
        return plant

    return register


def plant(name: str) -> None:
    """Plant the mutant, or make the harmless change, ``name`` in this process.

    Raises:
        LookupError: there is no such mutant, or its target is gone.
    """
    if name not in MUTANTS and name not in HARMLESS:
        raise LookupError(f"no mutant {name!r}; there are: {', '.join(MUTANTS)}")
    (MUTANTS.get(name) or HARMLESS[name]).plant(Patch())


def listing() -> Mapping[str, list[Mapping[str, Any]]]:
    """What the control side reads of every mutant and every harmless change."""
    return {
        "mutants": [
            {"name": one.name, "breaks": one.breaks, "seen": one.seen, "needs": list(one.needs)}
            for one in MUTANTS.values()
        ],
        "harmless": [
            {
                "name": one.name,
                "changes": one.changes,
                "unless": list(one.unless),
                "overrides": list(one.overrides),
            }
            for one in HARMLESS.values()
        ],
    }
