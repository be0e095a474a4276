"""The code of a repository as git holds it: which files, with which content, and how to write them.

Content comes from git's objects, never from the working tree, so an edit during a launch changes
nothing. A submodule is read at the commit that its superproject records.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evenkeel.errors import InputError, MachineError

GITLINK = "160000"
SYMLINK = "120000"
EXECUTABLE = "100755"


@dataclass(frozen=True, slots=True)
class CodeFile:
    """One tracked file: its path below the repository, git's mode and the id of its content."""

    path: str
    mode: str
    blob: str


@dataclass(frozen=True)
class Changes:
    """What the working tree has and its commit has not, as paths below the repository."""

    modified: tuple[str, ...] = ()
    untracked: tuple[str, ...] = ()


@dataclass(frozen=True)
class CodeSource:
    """One repository that files come from: the launched one, or a submodule of it.

    Attributes:
        folder: its working tree.
        prefix: where it lies below the launched repository, ``""`` or ``third_party/x/``.
        commit: whose files these are.
        index: a private index that holds exactly these files.
        objects: where objects lie that only ``index`` knows; None where there are none.
    """

    folder: Path
    prefix: str
    commit: str
    index: Path
    objects: Path | None = None


@dataclass(frozen=True)
class Code:
    """Everything a snapshot will hold.

    Attributes:
        toplevel: the repository.
        commit: what is checked out there, in full.
        files: sorted by path, submodules included.
        sources: where each file comes from; the first is the launched repository.
        submodules: path → commit; ``None`` for one that is not checked out, and so is left out.
        left_out: changes that the snapshot does not hold.
        included: changes that it does hold.
        diff: the included changes, as ``git apply`` takes them.
    """

    toplevel: Path
    commit: str
    files: tuple[CodeFile, ...]
    sources: tuple[CodeSource, ...]
    submodules: dict[str, str | None]
    left_out: Changes
    included: tuple[str, ...] = ()
    diff: bytes = b""


def toplevel_of(folder: Path) -> Path:
    """The root of the git repository around ``folder``.

    Raises:
        InputError: there is none.
    """
    try:
        text = _git(folder, "rev-parse", "--show-toplevel").decode(errors="surrogateescape")
    except InputError as error:
        raise InputError(
            f"a launch takes a snapshot of the code from git, but: {error.message}",
            path=folder,
            fix="git init, git add and git commit there; a dry run needs no git",
        ) from None
    return Path(text.rstrip("\n"))


def read_code(toplevel: Path, scratch: Path, include_dirty: bool, ignore: Sequence[str]) -> Code:
    """What a snapshot of ``toplevel`` holds now.

    Args:
        toplevel: the repository's root.
        scratch: an empty folder for private indexes; it must outlive the result.
        include_dirty: take tracked files as they are in the working tree (and what was added).
        ignore: untracked paths that are no finding, such as the snapshots themselves.

    Raises:
        InputError: no commit yet, a merge in progress, or an object is missing.
    """
    try:
        commit = _git(toplevel, "rev-parse", "--verify", "-q", "HEAD^{commit}").decode().strip()
    except InputError:
        raise InputError(
            "the repository has no commit yet", path=toplevel, fix="git add and git commit first"
        ) from None
    changes = changes_of(toplevel, ignore)
    dirty = include_dirty and bool(changes.modified)
    sources: list[CodeSource] = []
    submodules: dict[str, str | None] = {}
    files = _read_source(toplevel, "", commit, dirty, scratch, sources, submodules)
    return Code(
        toplevel=toplevel,
        commit=commit,
        files=tuple(sorted(files, key=lambda file: file.path)),
        sources=tuple(sources),
        submodules=submodules,
        left_out=Changes((), changes.untracked) if dirty else changes,
        included=changes.modified if dirty else (),
        diff=b"".join(_diff(source) for source in sources) if dirty else b"",
    )


def changes_of(toplevel: Path, ignore: Sequence[str] = ()) -> Changes:
    """How the working tree differs from its commit.

    Raises:
        InputError: a merge is not finished.
    """
    options = ("--porcelain=v2", "-z", "--untracked-files=normal", "--ignore-submodules=none")
    fields = _git(toplevel, "status", *options).decode(errors="surrogateescape").split("\0")
    modified: list[str] = []
    untracked: list[str] = []
    place = iter(fields)
    for field in place:
        kind = field[:1]
        if kind == "1":
            modified.append(field.split(" ", 8)[8])
        elif kind == "2":
            modified.append(field.split(" ", 9)[9])
            modified.append(next(place))  # the old path of a rename stands in a field of its own
        elif kind == "u":
            raise InputError(
                "a merge is not finished", path=field.split(" ", 10)[10], fix="commit or abort it"
            )
        elif kind == "?" and not field[2:].rstrip("/").startswith(tuple(ignore) or ("\0",)):
            untracked.append(field[2:])
    return Changes(tuple(modified), tuple(untracked))


def write_files(code: Code, paths: Iterable[str], folder: Path) -> None:
    """Write the files ``paths`` of the snapshot below ``folder``, filters of git applied.

    Raises:
        MachineError: git could not; what is written so far stays.
    """
    wanted: dict[str, list[str]] = {source.prefix: [] for source in code.sources}
    longest_first = sorted(wanted, key=len, reverse=True)
    for path in paths:
        prefix = next(prefix for prefix in longest_first if path.startswith(prefix))
        wanted[prefix].append(path[len(prefix) :])
    for source in code.sources:
        if not wanted[source.prefix]:
            continue
        names = "".join(f"{path}\0" for path in wanted[source.prefix])
        done = _run(
            source.folder,
            ("checkout-index", "-q", "-z", "--stdin", f"--prefix={folder}/{source.prefix}"),
            _environment(source),
            names.encode(errors="surrogateescape"),
        )
        if done.returncode:
            raise MachineError(
                f"git could not write the snapshot: {_message(done)}",
                path=folder,
                fix="make room there, or repair the repository with git fsck",
            )


def blobs_of(repository: Path, commit: str) -> dict[str, str] | None:
    """Path → content id of every file of a commit; None where the repository has it not."""
    done = _run(repository, ("ls-tree", "-r", "-z", commit), _clean_environment())
    if done.returncode:
        return None
    found = {}
    for entry in done.stdout.decode(errors="surrogateescape").split("\0")[:-1]:
        about, _, path = entry.partition("\t")
        mode, _kind, blob = about.split(" ")
        if mode != GITLINK:
            found[path] = blob
    return found


def _read_source(
    folder: Path,
    prefix: str,
    commit: str,
    dirty: bool,
    scratch: Path,
    sources: list[CodeSource],
    submodules: dict[str, str | None],
) -> list[CodeFile]:
    source = CodeSource(
        folder,
        prefix,
        commit,
        index=scratch / f"index-{len(sources)}",
        objects=scratch / f"objects-{len(sources)}" if dirty else None,
    )
    sources.append(source)
    _fill_index(source)
    files: list[CodeFile] = []
    listing = _git(folder, "ls-files", "-s", "-z", environment=_environment(source))
    for entry in listing.decode(errors="surrogateescape").split("\0")[:-1]:
        about, _, path = entry.partition("\t")
        mode, blob, _stage = about.split(" ")
        if mode != GITLINK:
            files.append(CodeFile(prefix + path, mode, blob))
            continue
        below = folder / path
        present = (below / ".git").exists()
        submodules[prefix + path] = blob if present else None
        if present:
            files += _read_source(
                below, f"{prefix}{path}/", blob, dirty, scratch, sources, submodules
            )
    return files


def _fill_index(source: CodeSource) -> None:
    environment = _environment(source)
    if source.objects is None:
        try:
            _git(source.folder, "read-tree", source.commit, environment=environment)
        except InputError as error:
            raise InputError(
                f"commit {source.commit[:12]} cannot be read: {error.message}",
                path=source.folder,
                fix="git fetch, or git submodule update --init --recursive",
            ) from None
        return
    source.objects.mkdir()
    real = _git(source.folder, "rev-parse", "--git-path", "index").decode().rstrip("\n")
    # With the real index's entries git add looks only into files that changed. The copy keeps the
    # time of the original, because git looks closely at files that are not older than their index:
    # it compares times in seconds only.
    shutil.copy2(source.folder / real, source.index)
    _git(source.folder, "add", "-u", environment=environment)


def _diff(source: CodeSource) -> bytes:
    words = ["diff", "--cached", "--binary", "--no-color", "--no-ext-diff", source.commit]
    if source.prefix:
        words[1:1] = [f"--src-prefix=a/{source.prefix}", f"--dst-prefix=b/{source.prefix}"]
    return _git(source.folder, *words, environment=_environment(source))


def _environment(source: CodeSource) -> dict[str, str]:
    environment = _clean_environment()
    environment["GIT_INDEX_FILE"] = str(source.index)
    if source.objects is not None:
        words = ("rev-parse", "--path-format=absolute", "--git-path", "objects")
        environment["GIT_ALTERNATE_OBJECT_DIRECTORIES"] = (
            _git(source.folder, *words).decode(errors="surrogateescape").rstrip("\n")
        )
        environment["GIT_OBJECT_DIRECTORY"] = str(source.objects)
    return environment


def _clean_environment() -> dict[str, str]:
    """Ours without what a git hook sets, which would lead git to another repository."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or name.startswith(("GIT_CONFIG", "GIT_EXEC_PATH"))
    }
    return {**kept, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}


def _git(folder: Path, *words: str, environment: dict[str, str] | None = None) -> bytes:
    done = _run(folder, words, _clean_environment() if environment is None else environment)
    if done.returncode:
        raise InputError(_message(done) or f"git {words[0]} failed", path=folder)
    return done.stdout


def _run(
    folder: Path, words: Sequence[str], environment: dict[str, str], stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *words], env=environment, input=stdin, capture_output=True
        )
    except FileNotFoundError:
        raise MachineError(
            "git is not on the PATH", fix="install git; a launch takes the code from it"
        ) from None


def _message(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[0].removeprefix("fatal: ").removeprefix("error: ") if lines else ""
