"""``run.json``: what was run, where, and how each start of the trainer ended.

Two sides write it, never at the same time: the runner opens an attempt before it starts the
trainer and closes it afterwards; in between, the trainer adds the provenance that only it knows
(resolved configuration, library versions, device). The layout is in ``docs/data-formats.md``.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Any

from evenkeel import atomic_file
from evenkeel.errors import InputError

SCHEMA_VERSION = 1


class TrainerExit(IntEnum):
    """Exit statuses with which a trainer says how it ended; any other one is a crash."""

    FINISHED = 0
    """It did the steps it was asked for and saved a checkpoint."""
    STOPPED = 75
    """It was asked to stop (signal or stop request), saved a checkpoint and ended."""
    NON_FINITE = 76
    """The loss or the gradient norm was not finite; the step's metrics are logged."""


def now() -> str:
    """The time in UTC as ISO 8601 with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read(path: Path) -> dict[str, Any]:
    """The record, or an empty one when the file does not exist yet.

    Raises:
        InputError: the file is not a run record.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {"schema_version": SCHEMA_VERSION, "attempts": []}
    try:
        record = json.loads(text)
    except ValueError as error:
        raise InputError(f"not JSON: {error}", path=path, fix="remove the file") from error
    if not isinstance(record, dict) or not isinstance(record.get("attempts", []), list):
        raise InputError("not a run record", path=path, fix="remove the file")
    record.setdefault("attempts", [])
    return record


def add(path: Path, values: Mapping[str, Any]) -> None:
    """Set top-level keys of the record and keep the others."""
    record = read(path)
    record.update(values)
    _write(path, record)


def open_attempt(path: Path, values: Mapping[str, Any]) -> int:
    """Append an attempt that starts now; the result is its index.

    An earlier attempt that was never closed (its runner was killed) stays as it is: without an
    ``end`` and without an ``exit_status``.
    """
    record = read(path)
    attempt = {
        "start": now(),
        "end": None,
        "exit_status": None,
        "host": socket.gethostname(),
        "job_id": os.environ.get("SLURM_JOB_ID"),
        "restart_count": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        "node_list": os.environ.get("SLURM_JOB_NODELIST"),
        **values,
    }
    record["attempts"].append(attempt)
    _write(path, record)
    return len(record["attempts"]) - 1


def note_trainer_exit(path: Path, status: int) -> None:
    """The trainer's own word on how it ended, kept in the attempt that is open, if there is one.

    torchrun turns every status of its ranks into 1, so the process cannot tell it.
    """
    record = read(path)
    if record["attempts"] and record["attempts"][-1]["end"] is None:
        record["attempts"][-1]["trainer_exit"] = int(status)
        _write(path, record)


def close_attempt(path: Path, index: int, process_status: int) -> int:
    """Complete the attempt ``index`` with its end; the result is its ``exit_status``.

    Args:
        path: ``run.json``.
        index: from ``open_attempt``.
        process_status: of the process that was started; negative when a signal killed it. Where
            it is torchrun's 1, the status that the trainer noted itself counts.
    """
    record = read(path)
    attempt = record["attempts"][index]
    status = (
        int(attempt.get("trainer_exit") or process_status)
        if process_status == 1
        else process_status
    )
    attempt.update({"end": now(), "exit_status": status})
    _write(path, record)
    return status


def _write(path: Path, record: dict[str, Any]) -> None:
    ordered = {key: value for key, value in record.items() if key != "attempts"}
    atomic_file.write_json(path, {**ordered, "attempts": record["attempts"]})
