"""What git knows about a tree; everything answers None where git or the revision is absent."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from evenkeel.errors import InputError

_MAIN = ("origin/main", "main", "origin/master", "master")
_TIMEOUT_S = 60
# set by hooks for their own repository, which need not be the tree's
_LOCATION = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")


def _git(root: Path, *arguments: str, stdin: bytes | None = None) -> bytes | None:
    environment = {key: value for key, value in os.environ.items() if key not in _LOCATION}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            input=b"" if stdin is None else stdin,
            capture_output=True,
            timeout=_TIMEOUT_S,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def commit_of(root: Path, revision: str) -> str | None:
    """The full hash of a revision."""
    if revision.startswith("-"):
        return None
    out = _git(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    return None if out is None else out.decode().strip()


def base_of(root: Path, revision: str | None) -> str | None:
    """The commit that work is compared with: ``revision``, else where it left the main branch.

    Raises:
        InputError: ``revision`` is given and there is no such one.
    """
    if revision is not None:
        commit = commit_of(root, revision)
        if commit is None:
            raise InputError(
                f"git knows no revision {revision!r} here",
                path=root,
                fix="fetch it, or name another",
            )
        return commit
    head = commit_of(root, "HEAD")
    if head is None:
        return None
    for branch in _MAIN:
        out = _git(root, "merge-base", "HEAD", branch)
        if out is not None:
            return out.decode().strip()
    return head


def changed_since(root: Path, commit: str, *folders: str) -> list[str]:
    """Files below ``folders`` that differ between ``commit`` and the working tree.

    Returns:
        paths relative to ``root``; a file that git does not track counts as changed.
    """
    out = _git(
        root, "diff", "--name-only", "--no-renames", "--relative", "-z", commit, "--", *folders
    )
    new = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *folders)
    paths = [part.decode("utf-8", "surrogateescape") for part in (out or b"").split(b"\0")]
    paths += [part.decode("utf-8", "surrogateescape") for part in (new or b"").split(b"\0")]
    return sorted({path for path in paths if path})


def texts_at(root: Path, commit: str, paths: Iterable[str]) -> dict[str, str]:
    """The text of files at ``commit``, in one call; those that were not there are left out."""
    asked = [path for path in paths if "\n" not in path]
    requests = "".join(f"{commit}:./{path}\n" for path in asked)
    out = _git(root, "cat-file", "--batch", stdin=requests.encode("utf-8", "surrogateescape"))
    found: dict[str, str] = {}
    at = 0
    for path in asked if out is not None else ():
        assert out is not None
        end = out.index(b"\n", at)
        header = out[at:end].split()
        at = end + 1
        # "<object> blob <size>" and the content, or "<what was asked> missing"
        if len(header) == 3 and header[2].isdigit():
            size = int(header[2])
            if header[1] == b"blob":
                found[path] = out[at : at + size].decode("utf-8", "replace")
            at += size + 1
    return found
