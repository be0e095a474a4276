"""Checkpoints on disk: whole or not there.

A checkpoint is written into a hidden folder, synced, and renamed once ``checkpoint.json`` lists
all its files with their sizes. A process that dies at any moment leaves complete checkpoints and
at most one hidden folder, which the next start removes. "The latest" is never written down: it is
the complete checkpoint of the highest step.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.api import CheckpointException

from evenkeel import atomic_file
from evenkeel.errors import EvenkeelError, MachineError
from evenkeel.training.distributed import SharedMachineError, World

SCHEMA_VERSION = 1
MANIFEST = "checkpoint.json"
SAVING = ".saving-"
REMOVING = ".removing-"
CUT_SHORT = ("unexpected pos", "file write failed")
"""What torch's archive writer says when a disk is full, and nothing about disks."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint, as its manifest describes it."""

    folder: Path
    step: int
    manifest: Mapping[str, Any]

    def check_files(self) -> None:
        """Raise an error where a file is missing or has another size than when it was written.

        Raises:
            MachineError: with the first such file.
        """
        for name, size in self.manifest["files"].items():
            file = self.folder / name
            found = file.stat().st_size if file.is_file() else None
            if found != size:
                state = "is missing" if found is None else f"has {found} bytes instead of {size}"
                raise MachineError(
                    f"the checkpoint of step {self.step} is damaged: {name} {state}",
                    path=self.folder,
                    fix="restore the file, or remove this folder to continue from the checkpoint "
                    "before it",
                )


class CheckpointStore:
    """The folder in which one run keeps its checkpoints."""

    def __init__(self, folder: Path, keep_latest: int, world: World) -> None:
        self.folder = folder
        self._keep_latest = max(1, keep_latest)
        self._world = world

    def remove_leftovers(self) -> None:
        """Remove what a killed process left half written or half removed."""
        if self._world.is_main and self.folder.is_dir():
            for entry in self.folder.iterdir():
                if entry.name.startswith((SAVING, REMOVING)):
                    shutil.rmtree(entry, ignore_errors=True)
        self._world.barrier()

    def all(self) -> list[Checkpoint]:
        """Complete checkpoints by step.

        Raises:
            MachineError: a manifest cannot be read.
        """
        if not self.folder.is_dir():
            return []
        found = [_read(folder) for folder in self.folder.glob("step_*")]
        return sorted((c for c in found if c is not None), key=lambda c: c.step)

    def latest(self) -> Checkpoint | None:
        """The complete checkpoint of the highest step, or None."""
        found = self.all()
        return found[-1] if found else None

    def save(
        self, step: int, write: Callable[[Path], None], description: Mapping[str, Any]
    ) -> None:
        """Let ``write`` fill a folder, then make it the checkpoint of ``step``.

        Every rank calls it; ``write`` runs on every rank and may communicate.

        Raises:
            MachineError: something could not be written; earlier checkpoints are as they were.
        """
        half = self.folder / f"{SAVING}step_{step:08d}"
        whole = self.folder / f"step_{step:08d}"
        if self._agreed(lambda: self._begin(half), step):
            self._agreed(lambda: write(half), step, half)
            if self._world.is_main:
                self._agreed(lambda: _complete(half, whole, step, description), step, half)
                self._remove_old()
            else:
                self._agreed(lambda: None, step)

    def _begin(self, half: Path) -> None:
        if self._world.is_main:
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir(parents=True)

    def _agreed(self, action: Callable[[], None], step: int, half: Path | None = None) -> bool:
        """Run ``action`` on this rank, and raise on all ranks when it failed on one."""
        failure: str | None = None
        try:
            action()
        except (Exception, CheckpointException) as error:
            failure = _reason(error, self.folder)
        failure = self._world.first_failure(failure)
        if failure is None:
            return True
        if self._world.is_main and half is not None:
            shutil.rmtree(half, ignore_errors=True)
        last = self.latest()
        kept = "there is none yet" if last is None else f"that of step {last.step} is whole"
        raise SharedMachineError(
            f"cannot save the checkpoint of step {step}: {failure}",
            path=self.folder,
            fix=f"make room or get permission there, then run it again; of earlier checkpoints, "
            f"{kept}",
        )

    def _remove_old(self) -> None:
        for old in self.all()[: -self._keep_latest]:
            hidden = self.folder / f"{REMOVING}{old.folder.name}"
            old.folder.rename(hidden)  # from one moment to the next: never a half checkpoint
            shutil.rmtree(hidden, ignore_errors=True)


def _complete(half: Path, whole: Path, step: int, description: Mapping[str, Any]) -> None:
    files = {
        str(path.relative_to(half)): path.stat().st_size
        for path in sorted(half.rglob("*"))
        if path.is_file()
    }
    atomic_file.write_json(
        half / MANIFEST,
        {"schema_version": SCHEMA_VERSION, "step": step, **description, "files": files},
    )
    for folder in (half, *(path for path in half.rglob("*") if path.is_dir())):
        _sync(folder)
    if whole.exists():
        shutil.rmtree(whole)
    half.rename(whole)
    _sync(whole.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(folder: Path) -> Checkpoint | None:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        return Checkpoint(folder, int(manifest["step"]), manifest)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MachineError(
            f"not a checkpoint's description: {error}", path=path, fix=f"remove {folder}"
        ) from error


def _reason(error: BaseException, folder: Path) -> str:
    """The cause in a few words; DCP wraps each rank's exception in one of its own."""
    if isinstance(error, CheckpointException):
        rank, (cause, _) = next(iter(error.failures.items()))
        return f"rank {rank}: {_reason(cause, folder)}"
    if isinstance(error, EvenkeelError):
        return error.message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in CUT_SHORT):
        free_mib = shutil.disk_usage(folder).free >> 20
        return f"the file system took only a part of it ({free_mib} MiB are free there)"
    return f"{type(error).__name__}: {error}"
