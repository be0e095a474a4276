"""Event files for tests: written by TensorBoard's own classes, framed here byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto

from evenkeel.metrics.record_file import masked_crc

SCALARS = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"))


def frame(data: bytes) -> bytes:
    """One record of an event file."""
    length = struct.pack("<Q", len(data))
    return b"".join(
        [
            length,
            struct.pack("<I", masked_crc(length)),
            data,
            struct.pack("<I", masked_crc(data)),
        ]
    )


def opening(wall_time: float = 1000.0) -> bytes:
    """The first event of a file, as data."""
    return bytes(Event(wall_time=wall_time, file_version="brain.Event:2").SerializeToString())


def scalar(tag: str, step: int, value: float, wall_time: float = 1000.5) -> bytes:
    """An event of one plain scalar, as data."""
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
    return bytes(Event(wall_time=wall_time, step=step, summary=summary).SerializeToString())


def tensor(
    tag: str, step: int, proto: TensorProto, metadata: SummaryMetadata | None = SCALARS
) -> bytes:
    """An event of one tensor, as data; by default with the scalar plugin's metadata."""
    summary = Summary(value=[Summary.Value(tag=tag, tensor=proto, metadata=metadata)])
    return bytes(Event(wall_time=1000.5, step=step, summary=summary).SerializeToString())


def write(path: Path, events: Iterable[bytes]) -> bytes:
    """A file of these events; returns its content."""
    content = b"".join(map(frame, events))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return content


def write_run(
    log_dir: Path, losses: dict[int, float], start: float = 1000.0, tag: str = "train/loss"
) -> Path:
    """The event file of one start of a trainer, begun at ``start``."""
    path = log_dir / f"events.out.tfevents.{int(start)}.host.1.0"
    events = [scalar(tag, step, value, start + step) for step, value in losses.items()]
    write(path, [opening(start), *events])
    return path
