"""Snapshot trees: the code of one moment as a plain, read-only folder, its content stored once.

    code_snapshots/.trees/<commit>-<content>/       the code
    code_snapshots/.trees/<commit>-<content>.json   its manifest
    code_snapshots/.trees/<commit>-<content>.runs/  one empty file per recipe that runs from it

One tree serves every recipe that is launched from the same code; a recipe that is launched again
from it gets a second tree, so that no two launches write into one results folder. A new tree
takes each file that an older one already has by hard link (by reflink or a copy where the file
system cannot link), so a night costs what changed since the night before.

A tree is built in a folder of another name and renamed when all of it is on disk. It is never
changed afterwards, except that runs write their results beside their drivers.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from evenkeel import atomic_file
from evenkeel.errors import EvenkeelError, InputError, MachineError
from evenkeel.launch import manifest as manifests
from evenkeel.launch.git_code import EXECUTABLE, SYMLINK, Code, CodeFile, write_files
from evenkeel.launch.manifest import FileEntry, Manifest, hash_file, looks_untouched
from evenkeel.run_paths import RunPaths

TREES = ".trees"
_BUILDING = ".building-"
_MOST_TREES_TO_SHARE_WITH = 64
_FICLONE = 0x40049409  # ioctl of Linux: share the blocks of another file, copy on write
_CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES, errno.ENOSYS}


@dataclass(frozen=True)
class Tree:
    """A finished tree and its manifest."""

    path: Path
    manifest: Manifest


class TreeStore:
    """The trees below one folder of snapshots. All changes are made under ``locked()``."""

    def __init__(self, snapshots_dir: Path) -> None:
        self.root = snapshots_dir / TREES

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store's lock; the system takes it back when the process dies."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise _refused(self.root, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            self._remove_unfinished()
            yield
        finally:
            os.close(handle)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A private folder on the store's file system, gone afterwards."""
        path = self.root / f"{_BUILDING}{os.getpid()}-scratch"
        try:
            path.mkdir()
            yield path
        except OSError as error:
            raise _refused(path, error) from error
        finally:
            remove_tree(path)

    def trees(self) -> Iterator[Tree]:
        """The finished trees, newest first; one whose manifest is unreadable is left out."""
        ages = [(path.stat().st_mtime_ns, path) for path in self.root.glob("*.json")]
        for _, path in sorted(ages, reverse=True):
            folder = path.with_suffix("")
            if folder.is_dir():
                try:
                    yield Tree(folder, manifests.read_manifest(path))
                except InputError:
                    continue

    def claim(self, code: Code, drivers: list[PurePosixPath]) -> dict[PurePosixPath, Tree]:
        """A tree with the code for each driver, whose results folder is nobody else's.

        Raises:
            InputError: a driver's results folder is tracked by git.
            MachineError: the disk is full, or git failed; nothing half-made is left.
        """
        _refuse_tracked_results(code, drivers)
        content_id = content_id_of(code)
        claimed: dict[PurePosixPath, Tree] = {}
        waiting = list(drivers)
        generation = 0
        try:
            while waiting:
                generation += 1
                tree = self._tree(code, content_id, generation)
                for driver in waiting if tree else ():
                    if tree and self._claim_one(tree, driver):
                        claimed[driver] = tree
                waiting = [driver for driver in waiting if driver not in claimed]
        except BaseException as error:
            for driver, tree in claimed.items():
                self.release(tree.path.name, driver)
            if isinstance(error, OSError):
                raise _refused(self.root, error) from error
            raise
        return claimed

    def release(self, tree: str, driver: PurePosixPath) -> None:
        """Give up a claim; the driver's results in that tree, and those beside, are removed."""
        results = RunPaths((self.root / tree / driver).with_suffix(""))
        for run in (results, *results.all_beside()):
            remove_tree(run.root)
        (self._claims(self.root / tree) / driver.stem).unlink(missing_ok=True)

    def claims(self, tree: Path) -> frozenset[str]:
        """The recipes that run from the tree."""
        folder = self._claims(tree)
        return frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset()

    def remove(self, tree: Path) -> None:
        """Remove a tree; content that no other tree shares is freed."""
        # renamed first: from here on nobody takes it for a whole one
        doomed = tree.with_name(f"{_BUILDING}doomed-{tree.name}")
        tree.rename(doomed)
        for path in (Path(f"{tree}.json"), Path(f"{tree}.diff")):
            path.unlink(missing_ok=True)
        remove_tree(self._claims(tree))
        remove_tree(doomed)

    def _tree(self, code: Code, content_id: str, generation: int) -> Tree | None:
        suffix = "" if generation == 1 else f".{generation}"
        path = self.root / f"{code.commit[:8]}-{content_id[:12]}{suffix}"
        if not path.exists():
            return self._build(code, content_id, path)
        try:
            found = Tree(path, manifests.read_manifest(Path(f"{path}.json")))
        except InputError:
            return None
        whole = found.manifest.content_id == content_id and all(
            looks_untouched(path / name, entry, found.manifest.newest_ns)
            for name, entry in found.manifest.files.items()
        )
        return found if whole else None

    def _claim_one(self, tree: Tree, driver: PurePosixPath) -> bool:
        claims = self._claims(tree.path)
        claims.mkdir(exist_ok=True)
        script = tree.path / driver
        if script.with_suffix("").exists():  # results that nobody claims: whoever left them
            return False
        try:
            os.close(os.open(claims / driver.stem, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
        except FileExistsError:
            return False
        script.parent.chmod(0o755)  # results land beside the driver
        return True

    def _build(self, code: Code, content_id: str, path: Path) -> Tree:
        building = self.root / f"{_BUILDING}{os.getpid()}"
        try:
            building.mkdir()
            entries, newest_ns = _fill(code, building, self.trees())
            made = Manifest(
                tree=path.name,
                content_id=content_id,
                commit=code.commit,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                newest_ns=newest_ns,
                submodules=code.submodules,
                included=code.included,
                left_out=(*code.left_out.modified, *code.left_out.untracked),
                diff_sha256=hashlib.sha256(code.diff).hexdigest() if code.diff else None,
                files=entries,
            )
            _sync(building)
            if code.diff:
                atomic_file.write_bytes(Path(f"{path}.diff"), code.diff)
            made.write(Path(f"{path}.json"))
            building.rename(path)
        except OSError as error:
            raise _refused(path, error) from error
        finally:
            remove_tree(building)
        return Tree(path, made)

    def _remove_unfinished(self) -> None:
        for path in self.root.glob(f"{_BUILDING}*"):
            remove_tree(path)
        for path in self.root.glob(".*.tmp"):
            path.unlink(missing_ok=True)
        for path in (*self.root.glob("*.json"), *self.root.glob("*.diff")):
            if not path.with_suffix("").exists():
                path.unlink(missing_ok=True)

    @staticmethod
    def _claims(tree: Path) -> Path:
        return Path(f"{tree}.runs")


def content_id_of(code: Code) -> str:
    """The same for the same paths, modes and contents, whatever the commit is called."""
    digest = hashlib.sha256()
    for file in code.files:
        digest.update(f"{file.mode} {file.blob} {file.path}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _refuse_tracked_results(code: Code, drivers: list[PurePosixPath]) -> None:
    folders = {f"{driver.with_suffix('')}/": driver for driver in drivers}
    for file in code.files:
        for end in (i for i, letter in enumerate(file.path, 1) if letter == "/"):
            driver = folders.get(file.path[:end])
            if driver is not None:
                raise InputError(
                    f"git tracks files where the results of {driver.name} will land",
                    path=file.path,
                    fix=f"git rm -r --cached {file.path[:end]} and ignore that folder",
                )


def share(source: Path, target: Path) -> None:
    """Make ``target`` hold what ``source`` holds: hard link, else reflink, else copy.

    Raises:
        OSError: none of them worked.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        copy(source, target)


def copy(source: Path, target: Path) -> None:
    """Copy a file with its mode and times, sharing blocks where the file system can."""
    if not source.is_symlink():
        with source.open("rb") as old, target.open("wb") as new:
            try:
                fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
            except OSError:
                shutil.copyfileobj(old, new)
        shutil.copystat(source, target)
    else:
        target.symlink_to(source.readlink())


def remove_tree(path: Path) -> None:
    """Remove a folder, read-only folders in it included; nothing happens if there is none."""
    if not path.is_dir() or path.is_symlink():
        return
    for folder, _, _ in os.walk(path):
        Path(folder).chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)


def _fill(code: Code, folder: Path, older: Iterator[Tree]) -> tuple[dict[str, FileEntry], int]:
    """Write every file of ``code`` below ``folder``; (entries, newest modification time)."""
    known = _shareable(code, older)
    fresh = []
    made: set[str] = set()
    entries: dict[str, FileEntry] = {}
    for file in code.files:
        parent = os.path.dirname(file.path)  # noqa: PTH120 - one of thousands
        if parent not in made:
            (folder / parent).mkdir(parents=True, exist_ok=True)
            made.add(parent)
        source = known.get((file.mode, file.blob))
        if source is None:
            fresh.append(file)
        else:
            share(source[0], folder / file.path)
            entries[file.path] = source[1]
    write_files(code, (file.path for file in fresh), folder)
    for file in fresh:
        entries[file.path] = _protect(folder / file.path, file)
    newest_ns = 0
    for name in entries:
        newest_ns = max(newest_ns, (folder / name).lstat().st_mtime_ns)
    for path, _, _ in os.walk(folder, topdown=False):
        Path(path).chmod(0o555)
    return dict(sorted(entries.items())), newest_ns


def _shareable(code: Code, older: Iterator[Tree]) -> dict[tuple[str, str], tuple[Path, FileEntry]]:
    """(mode, blob) → a file of an older tree with that content."""
    missing = {(file.mode, file.blob) for file in code.files}
    found: dict[tuple[str, str], tuple[Path, FileEntry]] = {}
    for tree in itertools.islice(older, _MOST_TREES_TO_SHARE_WITH):
        for name, entry in tree.manifest.files.items():
            key = (entry.mode, entry.blob)
            # what a filter made of a file depends on more than its content
            if key not in missing or entry.blob != entry.content:
                continue
            path = tree.path / name
            if looks_untouched(path, entry, tree.manifest.newest_ns):
                found[key] = (path, entry)
                missing.discard(key)
        if not missing:
            break
    return found


def _protect(path: Path, file: CodeFile) -> FileEntry:
    size = path.lstat().st_size
    if file.mode != SYMLINK:
        read_only = manifests.EXECUTABLE_MODE if file.mode == EXECUTABLE else manifests.FILE_MODE
        path.chmod(read_only)
    return FileEntry(file.mode, hash_file(path, file.blob), size, file.blob)


def _sync(folder: Path) -> None:
    """Wait until all of the folder's file system is on disk: one call, not one per file."""
    import ctypes

    syncfs: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "syncfs", None)
    if syncfs is None:
        os.sync()
        return
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if syncfs(handle) != 0:
            raise OSError(errno.EIO, "syncfs failed")
    finally:
        os.close(handle)


def _refused(path: Path, error: OSError) -> EvenkeelError:
    return MachineError(
        f"cannot write the snapshot: {error.strerror or error}",
        path=path,
        fix="make room or get permission there (evenkeel snapshot prune frees old nights),"
        " then launch again; nothing half-made was left",
    )
