"""The record of a launch: everything that is needed to run its recipes once more, years later.

    code_snapshots/.launches/<id>/launch.json     the record
    code_snapshots/.launches/<id>/state.json      how far the launch came
    code_snapshots/.launches/<id>/<number>/       scripts, output and continue.sh of one recipe
    code_snapshots/<recipe>                       a link to the newest of these

The last folder is a number because a link of fewer than 60 bytes takes no block of the disk, and
the names of recipes are long.

Places in it are relative, so a folder of snapshots may be moved or mounted elsewhere.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from evenkeel import atomic_file
from evenkeel.errors import InputError
from evenkeel.launch.request import (
    LAUNCH_SCHEMA_VERSION,
    JobShape,
    LaunchOptions,
    Recording,
    Submission,
    options_from_json,
    options_to_json,
)
from evenkeel.launch.tree_store import TREES

LAUNCHES = ".launches"
RECORD = "launch.json"
STATE = "state.json"


class LaunchState(enum.Enum):
    """How far a launch came. Only the second is left behind by a launcher that died."""

    PREPARED = "prepared"  # snapshots and scripts; nothing will be submitted
    SUBMITTING = "submitting"
    SUBMITTED = "submitted"  # or, for a local launch, run


@dataclass(frozen=True)
class LaunchedRecipe:
    """One recipe of a launch: its driver below the tree (by name) that it runs from."""

    name: str
    folder: str
    driver: PurePosixPath
    tree: str
    shape: JobShape


@dataclass(frozen=True)
class LaunchRecord:
    """One launch, as written to ``launch.json``.

    Attributes:
        folder: where it lies, ``…/.launches/<id>``; not written down.
        created: UTC, ISO 8601.
        python: the interpreter that launched; what ``continue.sh`` tries first.
        recording: what it trains for a baseline, where that is what it is for.
    """

    folder: Path
    launch_id: str
    created: str
    user: str
    host: str
    python: str
    commit: str
    suite: str | None
    options: LaunchOptions
    recipes: tuple[LaunchedRecipe, ...]
    recording: Recording | None = None

    @property
    def snapshots_dir(self) -> Path:
        """The folder of snapshots that it belongs to."""
        return self.folder.parent.parent

    @property
    def names(self) -> tuple[str, ...]:
        """Its recipes."""
        return tuple(recipe.name for recipe in self.recipes)

    def recipe(self, name: str) -> LaunchedRecipe:
        """The recipe called ``name``.

        Raises:
            InputError: it is not part of this launch.
        """
        for recipe in self.recipes:
            if recipe.name == name:
                return recipe
        raise InputError(f"{name!r} is not part of launch {self.launch_id}", path=self.folder)

    def submission(self, name: str) -> Submission:
        """All runs of one recipe, ready to submit."""
        recipe = self.recipe(name)
        return Submission(
            launch_id=self.launch_id,
            name=recipe.name,
            driver=recipe.driver,
            tree=self.snapshots_dir / TREES / recipe.tree,
            launch_dir=self.folder / recipe.folder,
            shape=recipe.shape,
            options=self.options,
            commit=self.commit,
            runs=recipe.shape.num_runs,
        )

    def submissions(self) -> list[Submission]:
        """All of them, in the order of the launch."""
        return [self.submission(recipe.name) for recipe in self.recipes]

    def write(self, folder: Path) -> None:
        """Write it to ``folder``, which will be renamed to ``self.folder``."""
        value: dict[str, Any] = {
            "schema_version": LAUNCH_SCHEMA_VERSION,
            "launch_id": self.launch_id,
            "created": self.created,
            "user": self.user,
            "host": self.host,
            "python": self.python,
            "commit": self.commit,
            "suite": self.suite,
            "options": options_to_json(self.options),
            "recipes": [
                {
                    "name": recipe.name,
                    "folder": recipe.folder,
                    "driver": str(recipe.driver),
                    "tree": recipe.tree,
                    "shape": asdict(recipe.shape),
                }
                for recipe in self.recipes
            ],
        }
        if self.recording is not None:
            value["recording"] = asdict(self.recording)
        atomic_file.write_json(folder / RECORD, value)


def read_record(folder: Path) -> LaunchRecord:
    """The record in the folder of a launch.

    Raises:
        InputError: there is none, or it is of another version.
    """
    path = folder / RECORD
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = value.pop("schema_version")
        if version != LAUNCH_SCHEMA_VERSION:
            raise InputError(
                f"the record of a launch, of version {version}; this reads version"
                f" {LAUNCH_SCHEMA_VERSION}",
                path=path,
            )
        options = options_from_json(value.pop("options"))
        recipes = tuple(_recipe(item) for item in value.pop("recipes"))
        if "recording" in value:
            value["recording"] = Recording(**value["recording"])
        return LaunchRecord(folder=folder, options=options, recipes=recipes, **value)
    except FileNotFoundError:
        raise InputError("no record of a launch", path=path) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"not the record of a launch: {error!r}", path=path) from error


def read_state(folder: Path) -> LaunchState:
    """How far the launch in ``folder`` came; ``SUBMITTING`` where nothing says.

    Raises:
        InputError: the file is not such a state.
    """
    path = folder / STATE
    try:
        return LaunchState(json.loads(path.read_text(encoding="utf-8"))["state"])
    except FileNotFoundError:
        return LaunchState.SUBMITTING
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"not the state of a launch: {error!r}", path=path) from error


def write_state(folder: Path, state: LaunchState) -> None:
    """Note how far the launch in ``folder`` came."""
    value = {"schema_version": LAUNCH_SCHEMA_VERSION, "state": state.value}
    atomic_file.write_json(folder / STATE, value)


def _recipe(value: Mapping[str, Any]) -> LaunchedRecipe:
    return LaunchedRecipe(
        name=value["name"],
        folder=value["folder"],
        driver=PurePosixPath(value["driver"]),
        tree=value["tree"],
        shape=JobShape(**value["shape"]),
    )
