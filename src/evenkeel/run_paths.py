"""Where everything lies: the files of one run, and the folders of a repository.

No other module puts such a path together.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evenkeel.errors import InputError, did_you_mean

RECIPES = Path("examples/configs/recipes")
MODELS = Path("examples/configs/models")
SUITES = Path("tests/test_suites")
BASELINES = Path("tests/baselines")
SNAPSHOTS = Path("code_snapshots")
# runs that confirm the one of a driver, and those that are made for a baseline
_BESIDE = re.compile(r"\.(?:confirm\d|own-seed|seed1\d{3}|twin\d+)")


@dataclass(frozen=True)
class RunPaths:
    """The files of one run. They lie beside its driver, in a directory of the driver's name."""

    root: Path

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.root.name

    def beside(self, variant: str) -> RunPaths:
        """A run of the same code with other arguments; ``variant`` tells which."""
        return RunPaths(self.root.with_name(f"{self.root.name}.{variant}"))

    def confirming(self, number: int) -> RunPaths:
        """A confirming run of the same code with another seed; ``number`` counts from 1."""
        return self.beside(f"confirm{number}")

    @property
    def is_beside(self) -> bool:
        """Whether this is not the run of a driver itself, but one beside that."""
        return _BESIDE.fullmatch(self.root.suffix) is not None

    def all_beside(self) -> list[RunPaths]:
        """The runs that lie beside this one, sorted; ``<name>.v2`` is another recipe's."""
        found = self.root.parent.glob(f"{glob.escape(self.name)}.*")
        runs = [RunPaths(path) for path in sorted(found) if path.stem == self.name]
        return [run for run in runs if run.is_beside]

    @property
    def ckpt_dir(self) -> Path:
        """Checkpoints, one folder per saved step; removed after a passed run."""
        return self.root / "ckpts"

    @property
    def log_dir(self) -> Path:
        """TensorBoard event files, one per start of the trainer."""
        return self.root / "logs"

    @property
    def metrics(self) -> Path:
        """``metrics.json``: what the event files hold, merged by step."""
        return self.root / "metrics.json"

    @property
    def run_json(self) -> Path:
        """``run.json``: provenance of the run and how each of its starts ended."""
        return self.root / "run.json"

    @property
    def run_log(self) -> Path:
        """Everything the trainer printed, over all its starts."""
        return self.root / "run.log"

    @property
    def stop_request(self) -> Path:
        """Exists while somebody asks the trainer to checkpoint and end; its text is the reason.

        A file, not a signal: it reaches the trainer through torchrun, srun, containers and nodes.
        """
        return self.root / "stop_request"

    @property
    def lock_dir(self) -> Path:
        """Who writes to this directory: one file per holder, numbered (``evenkeel.run_lock``)."""
        return self.root / ".lock"

    @property
    def verdict(self) -> Path:
        """``verdict.json``: the last judgement of this run."""
        return self.root / "verdict.json"


@dataclass(frozen=True)
class Repository:
    """A tree that holds recipes and drivers: ours, or another team's of the same layout."""

    root: Path

    @classmethod
    def around(cls, start: Path) -> Repository:
        """The nearest folder at or above ``start`` that has ``tests/test_suites``.

        Raises:
            InputError: there is none.
        """
        start = start.resolve()
        for folder in (start, *start.parents):
            if (folder / SUITES).is_dir():
                return cls(folder)
        raise InputError(
            f"no {SUITES}/ at or above {start}",
            fix="call from inside the repository, or pass --root DIR",
        )

    @property
    def recipes_dir(self) -> Path:
        """``examples/configs/recipes``."""
        return self.root / RECIPES

    @property
    def models_dir(self) -> Path:
        """``examples/configs/models``: shapes of published models."""
        return self.root / MODELS

    @property
    def suites_dir(self) -> Path:
        """``tests/test_suites``: drivers by kind, and the listings."""
        return self.root / SUITES

    @property
    def baselines_dir(self) -> Path:
        """``tests/baselines``: one folder per recipe, one file per platform."""
        return self.root / BASELINES

    @property
    def snapshots_dir(self) -> Path:
        """``code_snapshots``: generated, ignored by git."""
        return self.root / SNAPSHOTS

    def driver(self, kind: str, name: str) -> Path:
        """The driver script of a recipe; ``kind`` is ``llm`` or ``vlm``."""
        return self.suites_dir / kind / f"{name}.sh"

    def recipe(self, kind: str, name: str) -> Path:
        """The YAML of a recipe; ``kind`` is ``llm`` or ``vlm``."""
        return self.recipes_dir / kind / f"{name}.yaml"

    def drivers(self) -> list[Path]:
        """Every driver script, sorted: those in the folders of ``suites_dir``, however deep."""
        suites = SUITES.as_posix()
        found = sorted(files_below(self.root, suites, (".sh",)))
        return [self.root / path for path in found if path.count("/") > suites.count("/") + 1]

    def drivers_by_name(self) -> dict[str, list[Path]]:
        """Name → drivers: one, where nobody has given a name twice."""
        found: dict[str, list[Path]] = {}
        for path in self.drivers():
            found.setdefault(path.stem, []).append(path)
        return found

    def find_driver(self, name: str) -> Path:
        """The one driver called ``name`` anywhere below ``suites_dir``.

        Raises:
            InputError: there is none, or more than one.
        """
        drivers = self.drivers_by_name()
        found = drivers.get(name, [])
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(
                f"{len(found)} drivers are called {name!r}: {', '.join(map(str, found))}",
                fix="rename one of them: a recipe's name stands for it everywhere",
            )
        raise InputError(
            f"no driver {name!r}{did_you_mean(name, drivers)}",
            path=self.suites_dir,
            fix="name a driver below it without .sh",
        )

    def find_recipe(self, name: str) -> Path:
        """The one YAML called ``name`` anywhere below ``recipes_dir``.

        Raises:
            InputError: there is none, or more than one.
        """
        found = sorted(self.recipes_dir.rglob(f"{glob.escape(name)}.yaml"))
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(
                f"{len(found)} recipes are called {name!r}: {', '.join(map(str, found))}"
            )
        names = [path.stem for path in self.recipes_dir.rglob("*.yaml")]
        raise InputError(
            f"no recipe {name!r} below {self.recipes_dir}{did_you_mean(name, names)}",
            fix="name a file below it without .yaml, or pass the path of a YAML file",
        )


def files_below(root: Path, folder: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Files below ``folder``, relative to the root; results beside a driver are no part of it."""
    entries = _entries(root / folder)
    names = {entry.name for entry in entries}
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = f"{folder}/{entry.name}"
        if entry.name.endswith(suffixes):
            # a link to nowhere is listed too: whoever reads it says what is wrong
            if not entry.is_dir():
                yield path
        elif entry.is_dir(follow_symlinks=False) and f"{entry.name}.sh" not in names:
            yield from files_below(root, path, suffixes)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []
