"""The manifest of a snapshot: which commit, which changes, and the hash of every file.

A file's hash is git's own (``blob <length>\\0<content>``), so any git can confirm that a snapshot
shows the commit it claims to show. Only a file that git filters on checkout (line ends, LFS) has
another hash than in the commit.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenkeel import atomic_file
from evenkeel.errors import InputError
from evenkeel.launch.git_code import EXECUTABLE, SYMLINK

MANIFEST_SCHEMA_VERSION = 1
FILE_MODE = 0o444
EXECUTABLE_MODE = 0o555


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a snapshot.

    Attributes:
        mode: git's (``100644``, ``100755``, ``120000`` for a symbolic link).
        content: git's hash of what was written.
        size: in bytes; of a symbolic link, of its target's text.
        blob: git's id of the file in the commit; another than ``content`` for a filtered file.
    """

    mode: str
    content: str
    size: int
    blob: str


@dataclass(frozen=True)
class Manifest:
    """What a snapshot's tree holds, and where it comes from.

    Attributes:
        tree: the folder's name below ``.trees``.
        content_id: the same for the same files with the same content.
        commit: of the repository.
        created: UTC, ISO 8601.
        newest_ns: the newest modification time of its files; a later one was written to since.
        submodules: path → commit, None for one that was not checked out.
        included: uncommitted changes that it holds.
        left_out: uncommitted and untracked paths that it does not hold.
        diff_sha256: of the file with the included changes; None where there are none.
        files: path → entry.
    """

    tree: str
    content_id: str
    commit: str
    created: str
    newest_ns: int
    submodules: dict[str, str | None]
    included: tuple[str, ...]
    left_out: tuple[str, ...]
    diff_sha256: str | None
    files: dict[str, FileEntry]

    def write(self, path: Path) -> None:
        """Write it to ``path``, one line per file."""
        head = {
            "schema_version": MANIFEST_SCHEMA_VERSION,
            "tree": self.tree,
            "content_id": self.content_id,
            "commit": self.commit,
            "created": self.created,
            "newest_ns": self.newest_ns,
            "submodules": self.submodules,
            "included": list(self.included),
            "left_out": list(self.left_out),
            "diff_sha256": self.diff_sha256,
        }
        rows = (f"{json.dumps(name)}:{_row(entry)}" for name, entry in self.files.items())
        opening = json.dumps(head, indent=1)[:-2]
        atomic_file.write_text(path, opening + ',\n "files": {\n' + ",\n".join(rows) + "\n }\n}\n")


def read_manifest(path: Path) -> Manifest:
    """The manifest at ``path``.

    Raises:
        InputError: it is missing, unreadable or of another version.
    """
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = value.pop("schema_version")
        if version != MANIFEST_SCHEMA_VERSION:
            raise InputError(f"a manifest of version {version}", path=path)
        value["files"] = {
            name: FileEntry(mode, content, size, *(rest or [content]))
            for name, (mode, content, size, *rest) in value["files"].items()
        }
        for name in ("included", "left_out"):
            value[name] = tuple(value[name])
        return Manifest(**value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"not the manifest of a snapshot: {error}", path=path) from error


def hash_file(path: Path, like: str) -> str:
    """Git's hash of a file's content, or of a symbolic link's target.

    Args:
        path: the file.
        like: a hash of the same repository; its length says which algorithm it uses.
    """
    if path.is_symlink():
        data = os.fsencode(path.readlink())
    else:
        with path.open("rb") as file:
            data = file.read()
    digest = hashlib.sha256 if len(like) == 64 else hashlib.sha1
    return digest(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def looks_untouched(path: Path, entry: FileEntry, newest_ns: int) -> bool:
    """Whether size, kind and modification time are as written; cheap, and no proof."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return (
        found.st_size == entry.size
        and stat.S_ISLNK(found.st_mode) == (entry.mode == SYMLINK)
        and found.st_mtime_ns <= newest_ns
    )


def differences(manifest: Manifest, tree: Path, results: frozenset[str]) -> Iterator[str]:
    """What of ``tree`` is not as its manifest says, one line each.

    Args:
        manifest: of the tree.
        tree: the folder.
        results: folders, relative to the tree, that runs write to.
    """
    for name, entry in manifest.files.items():
        path = tree / name
        try:
            found = path.lstat()
        except OSError:
            yield f"missing: {name}"
            continue
        is_link = stat.S_ISLNK(found.st_mode)
        if is_link != (entry.mode == SYMLINK) or not (is_link or stat.S_ISREG(found.st_mode)):
            yield f"of another kind: {name}"
        elif hash_file(path, entry.content) != entry.content:
            yield f"modified: {name}"
        elif not is_link and bool(found.st_mode & 0o100) != (entry.mode == EXECUTABLE):
            yield f"of another mode: {name} ({stat.filemode(found.st_mode)})"
    for folder, folders, files in os.walk(tree):
        relative = os.path.relpath(folder, tree)
        here = "" if relative == "." else f"{relative}/"
        folders[:] = sorted(
            name for name in folders if name != "__pycache__" and here + name not in results
        )
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in sorted([*files, *links]):
            if here + name not in manifest.files:
                yield f"added: {here}{name}"


def _row(entry: FileEntry) -> str:
    row = [entry.mode, entry.content, entry.size]
    return json.dumps(row if entry.blob == entry.content else [*row, entry.blob])
