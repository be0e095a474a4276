"""Several files of a tree changed as one: all of them, or none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evenkeel import atomic_file
from evenkeel.errors import InputError, MachineError


@dataclass(frozen=True)
class Write:
    """A file gets a text; a new file is refused where one exists."""

    path: Path
    text: str
    is_new: bool = False
    executable: bool = False


@dataclass(frozen=True)
class Move:
    """A file or folder gets another name; refused where that name is taken."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Change:
    """Moves, then writes; a write names a moved file by its new path."""

    moves: tuple[Move, ...] = ()
    writes: tuple[Write, ...] = ()

    def lines(self, root: Path, *, planned: bool = False) -> list[str]:
        """What it does, a line for each file; ``planned``: what it would do."""
        moved, wrote, changed = (
            ("would move  ", "would write ", "would change")
            if planned
            else ("moved  ", "wrote  ", "changed")
        )
        said = [
            f"{moved} {_short(move.source, root)} -> {_short(move.target, root)}"
            for move in self.moves
        ]
        return said + [
            f"{wrote if write.is_new else changed} {_short(write.path, root)}"
            for write in self.writes
        ]

    def check(self) -> None:
        """Refuse what would overwrite a file, before anything is touched.

        Raises:
            InputError: a new file or a move's target exists, or a move's source does not.
        """
        for move in self.moves:
            if not move.source.exists():
                raise InputError("there is no such file to move", path=move.source)
        taken = [move.target for move in self.moves if move.target.exists()]
        taken += [write.path for write in self.writes if write.is_new and write.path.exists()]
        if taken:
            others = f", and so do {', '.join(map(str, taken[1:]))}" if taken[1:] else ""
            raise InputError(
                f"this file exists already{others}",
                path=taken[0],
                fix="choose another name, or remove what stands there",
            )

    def apply(self) -> None:
        """Do it all; where one step fails, undo those before it.

        Raises:
            InputError: see ``check``.
            MachineError: the file system refused; the tree is as it was.
        """
        self.check()
        undo: list[Callable[[], object]] = []
        try:
            for move in self.moves:
                _make_folder(move.target.parent, undo)
                move.source.rename(move.target)
                undo.append(_rename_back(move))
            for write in self.writes:
                _make_folder(write.path.parent, undo)
                undo.append(_restore(write.path))
                atomic_file.write_text(write.path, write.text)
                if write.executable:
                    write.path.chmod(write.path.stat().st_mode | 0o111)
        except BaseException as error:
            for step in reversed(undo):
                step()
            if isinstance(error, OSError):
                raise MachineError(
                    f"cannot change the tree: {error.strerror or error}",
                    path=error.filename,
                    fix="make room or get permission there, then run it again; nothing changed",
                ) from error
            raise


def _short(path: Path, root: Path) -> str:
    return os.path.relpath(path, root)


def _make_folder(folder: Path, undo: list[Callable[[], object]]) -> None:
    if not folder.exists():
        _make_folder(folder.parent, undo)
        folder.mkdir()
        undo.append(folder.rmdir)


def _rename_back(move: Move) -> Callable[[], object]:
    return lambda: move.target.rename(move.source)


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.unlink()


def _restore(path: Path) -> Callable[[], object]:
    if not path.exists():
        return lambda: _remove(path)
    before, mode = path.read_bytes(), path.stat().st_mode

    def put_back() -> None:
        path.write_bytes(before)
        path.chmod(mode)

    return put_back
