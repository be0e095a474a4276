"""Writing a file so that a reader sees the old content or the new, never half of either."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from evenkeel.errors import MachineError


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in UTF-8; see ``write_bytes``."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``: temporary file beside it, fsync, rename.

    Raises:
        MachineError: the file system refused (full, read-only, no
            permission); ``path`` is as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise _refused(path, error) from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        mode = path.stat().st_mode & 0o7777 if path.exists() else 0o666 & ~_umask()
        temporary.chmod(mode)
        temporary.replace(path)
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """``write_text`` of ``value`` as indented JSON with a final newline; non-finite values stay."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


def _refused(path: Path, error: OSError) -> MachineError:
    return MachineError(
        f"cannot write: {error.strerror or error}",
        path=path,
        fix="make room or get permission there, then run it again; the old file is whole",
    )
