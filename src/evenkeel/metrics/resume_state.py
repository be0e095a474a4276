"""Where a collection stopped, as a file: the next one reads only what was written since.

The state holds, for each event file, how far it was read and a checksum of the bytes before that
place, and a checksum of the metrics file that came out. If any of it does not fit any more, the
state is worth nothing and everything is read again; it never has to be deleted by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from google_crc32c import value as crc32c

from evenkeel import atomic_file
from evenkeel.errors import InputError
from evenkeel.metrics import series
from evenkeel.metrics.collection import Collection
from evenkeel.metrics.event_file import EventFile

SCHEMA_VERSION = 1
_PROBE_SIZE = 4096


def save(path: Path, collection: Collection, log_dir: Path, output: Path) -> None:
    """Write to ``path`` where ``collection`` stopped; ``output`` holds its metrics already.

    Raises:
        MachineError: the file system refused.
    """
    lasting = [text for file in collection.files for text in file.lasting_warnings]
    atomic_file.write_json(
        path,
        {
            "schema_version": SCHEMA_VERSION,
            "log_dir": str(log_dir.resolve()),
            "output_crc32c": crc32c(output.read_bytes()),
            "notices": collection.notices + lasting,
            "damaged": collection.damaged,
            "num_conflicts": collection.num_conflicts,
            "files": [
                {
                    "path": str(file.path),
                    "end": file.end,
                    "num_records": file.num_records,
                    "probe_crc32c": _probe(file.path, file.end),
                }
                for file in collection.files
            ],
        },
    )


def load(path: Path, log_dir: Path, output: Path) -> Collection | None:
    """The collection that was saved to ``path``; None where files are not what they were then."""
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if state["schema_version"] != SCHEMA_VERSION or state["log_dir"] != str(log_dir.resolve()):
            return None
        content = output.read_bytes()
        if crc32c(content) != state["output_crc32c"]:
            return None
        files = [
            EventFile(Path(file["path"]), num_records=file["num_records"], end=file["end"])
            for file in state["files"]
        ]
        probes = [file["probe_crc32c"] for file in state["files"]]
        if [_probe(file.path, file.end) for file in files] != probes:
            return None
        return Collection(
            metrics=series.loads(content.decode(), output),
            files=files,
            notices=list(map(str, state["notices"])),
            damaged=bool(state["damaged"]),
            num_conflicts=int(state["num_conflicts"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError):
        return None  # no state yet, or not one of ours: reading everything is always right


def _probe(path: Path, end: int) -> int:
    """crc32c of the last bytes before ``end``; a file that was replaced has others there."""
    with path.open("rb") as file:
        file.seek(max(end - _PROBE_SIZE, 0))
        checksum: int = crc32c(file.read(min(end, _PROBE_SIZE)))
    return checksum
