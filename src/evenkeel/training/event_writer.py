"""Writing TensorBoard event files, one record per step.

The format is TFRecord (little-endian length, masked CRC-32C of it, data, masked CRC-32C of that)
around ``Event`` messages of TensorBoard's ``event.proto``; scalars are ``simple_value`` entries.
TensorBoard's own writer queues records for a thread, so that a killed run loses the last of them
and a full disk surfaces later or never; this one hands each record to the system before it
returns, and needs no import that takes longer than a training step.
"""

from __future__ import annotations

import itertools
import math
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

import google_crc32c

from evenkeel.errors import MachineError

_FILE_VERSION = "brain.Event:2"
_serial = itertools.count()


class EventWriter:
    """One event file, for one start of the trainer."""

    def __init__(self, log_dir: Path) -> None:
        """Create the file.

        Raises:
            MachineError: the file system refuses.
        """
        created = time.time()
        # Names sort by time, which is the order in which TensorBoard and others merge the files.
        host, process = socket.gethostname(), os.getpid()
        self.path = log_dir / (
            f"events.out.tfevents.{int(created):010d}.{host}.{process}.{next(_serial)}"
        )
        try:
            log_dir.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("xb", buffering=0)
        except OSError as error:
            raise self._refused(error.strerror or str(error)) from error
        self._append(_double(1, created) + _bytes(3, _FILE_VERSION.encode()))

    def add_scalars(self, metrics: Mapping[str, float], step: int) -> None:
        """Append one event with every metric; values become 32-bit floats, as the format wants.

        Raises:
            MachineError: the file system refuses (full, quota, unmounted).
        """
        values = b"".join(
            _bytes(1, _bytes(1, tag.encode()) + b"\x15" + _float(value))
            for tag, value in metrics.items()
        )
        self._append(_double(1, time.time()) + b"\x10" + _varint(step) + _bytes(5, values))

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        self._file.close()

    def _append(self, data: bytes) -> None:
        length = struct.pack("<Q", len(data))
        record = length + _masked_crc(length) + data + _masked_crc(data)
        try:
            written = self._file.write(record)
        except OSError as error:
            raise self._refused(error.strerror or str(error)) from error
        if written != len(record):
            raise self._refused("no space left for a whole record")

    def _refused(self, reason: str) -> MachineError:
        return MachineError(
            f"cannot log metrics: {reason}",
            path=self.path,
            fix="make room or get permission there, then start again; the run continues from its "
            "last checkpoint",
        )


def _masked_crc(data: bytes) -> bytes:
    """TFRecord's checksum: CRC-32C, rotated and shifted so that it differs from stored CRCs."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _float(value: float) -> bytes:
    """A 32-bit float; what is too large for one becomes infinite."""
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", math.copysign(math.inf, value))


def _double(field: int, value: float) -> bytes:
    return bytes([field << 3 | 1]) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Protobuf's base-128 number, low groups first; ``value`` is not negative."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
