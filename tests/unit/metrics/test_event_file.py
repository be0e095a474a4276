"""Event files: both encodings of scalars, real writers, damage, and reading on."""

from __future__ import annotations

import math
import random
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from event_bytes import SCALARS, frame, opening, scalar, tensor, write
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from evenkeel.errors import InputError
from evenkeel.metrics import event_file
from evenkeel.metrics.event_file import EventFile
from evenkeel.metrics.event_message import Decoder
from evenkeel.metrics.record_file import Fault
from evenkeel.metrics.scalar_scan import scan
from evenkeel.metrics.series import Metrics


def float32(value: float) -> float:
    return float(np.float32(value))


def read_thoroughly(path: Path) -> Metrics:
    """The file's metrics through protobuf alone."""
    metrics: Metrics = {}
    for found in event_file.follow(path, 0, Decoder())[0]:
        metrics.setdefault(found.tag, {})[found.step] = found.value
    return metrics


def test_a_file_of_tensorboards_own_writer(tmp_path: Path) -> None:
    writer = EventFileWriter(str(tmp_path))
    for step in (0, 1, 127, 128, 16383, 16384, 2097151, 2097152, 2**28 - 1, 2**28, 2**40):
        for tag, value in {"train/loss": 1.0 / (step + 1), "lr": 3e-4}.items():
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.add_event(Event(wall_time=1.5, step=step, summary=summary))
    writer.close()
    (path,) = tmp_path.iterdir()
    found = event_file.read(path)
    assert found.metrics["lr"][2**40] == float32(3e-4)
    assert len(found.metrics["train/loss"]) == 11
    assert found.metrics == read_thoroughly(path)
    assert (found.num_values, found.warnings, found.end) == (22, [], path.stat().st_size)


@given(
    st.lists(
        st.tuples(
            st.one_of(st.sampled_from(["a", "b"]), st.text(min_size=1, max_size=200)),
            st.integers(0, 2**21 + 5),
            st.floats(width=32),
        ),
        max_size=30,
    )
)
@settings(max_examples=60)
def test_the_quick_way_reads_what_the_parser_reads(
    tmp_path_factory: pytest.TempPathFactory, logged: list[tuple[str, int, float]]
) -> None:
    path = tmp_path_factory.mktemp("run") / "events.out.tfevents.1.h"
    content = write(path, [opening(), *(scalar(*entry) for entry in logged)])
    expected: Metrics = {}
    for tag, step, value in logged:
        expected.setdefault(tag, {})[step] = value
    assert repr(read_thoroughly(path)) == repr(expected)
    found = event_file.read(path).metrics
    assert {t: sorted(s.items()).__repr__() for t, s in found.items()} == {
        t: sorted(s.items()).__repr__() for t, s in expected.items()
    }
    quick = scan(content)
    assert quick is not None
    assert (quick.num_records, quick.end) == (len(logged) + 1, len(content))


def summary_event(step: int, values: dict[str, float]) -> bytes:
    entries = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    return bytes(
        Event(wall_time=9.0, step=step, summary=Summary(value=entries)).SerializeToString()
    )


LAYOUTS = st.lists(st.text(max_size=150), unique=True, max_size=4)


@given(st.lists(LAYOUTS, min_size=1, max_size=3), st.data())
@settings(max_examples=40)
def test_events_of_several_scalars(
    tmp_path_factory: pytest.TempPathFactory, layouts: list[list[str]], draw: st.DataObject
) -> None:
    steps = draw.draw(st.lists(st.integers(-1, 2**40), max_size=12))
    events = [opening()]
    for step in steps:
        tags = draw.draw(st.sampled_from(layouts))
        events.append(summary_event(step, {tag: draw.draw(st.floats(width=32)) for tag in tags}))
    path = tmp_path_factory.mktemp("run") / "events.out.tfevents.1.h"
    write(path, events)
    assert as_text(event_file.read(path).metrics) == as_text(read_thoroughly(path))


def as_text(metrics: Metrics) -> str:
    return repr(sorted((name, sorted(series.items())) for name, series in metrics.items()))


@pytest.mark.parametrize("num_values", [1, 3])
def test_a_strange_encoding_is_never_misread(tmp_path: Path, num_values: int) -> None:
    values = {f"tag{number}": number + 0.5 for number in range(num_values)}
    usual = [summary_event(step, values) for step in (300, 301)]
    path = tmp_path / "events.out.tfevents.1.h"
    for place in range(len(usual[0])):
        for bit in range(8):
            changed = bytearray(summary_event(302, values))
            changed[place] ^= 1 << bit
            write(path, [*usual, bytes(changed)])
            assert as_text(event_file.read(path).metrics) == as_text(read_thoroughly(path))


def test_plain_files_are_read_without_loading_protobuf(tmp_path: Path) -> None:
    writer = EventFileWriter(str(tmp_path))
    summary = Summary(value=[Summary.Value(tag="train/loss", simple_value=0.5)])
    writer.add_event(Event(wall_time=1.5, step=3, summary=summary))
    writer.close()
    (path,) = tmp_path.iterdir()
    code = (
        "import sys; from pathlib import Path; from evenkeel.metrics import event_file\n"
        f"print(event_file.read(Path({str(path)!r})).metrics)\n"
        "print(sorted({'numpy', 'google.protobuf', 'rich', 'tensorboard'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["{'train/loss': {3: 0.5}}", "[]"]


def events_of_every_kind() -> list[bytes]:
    pair = Summary(
        value=[
            Summary.Value(tag="two", simple_value=2.0),
            Summary.Value(tag="three", simple_value=3.0),
        ]
    )
    return [
        opening(),
        scalar("plain", 1, 0.25),
        bytes(Event(wall_time=1.0, step=7, summary=pair).SerializeToString()),
        tensor("new", 1, make_tensor_proto(np.float32(0.5))),
        tensor("new", 2, make_tensor_proto(np.float32(0.75)), metadata=None),
        tensor("text", 1, make_tensor_proto("words"), metadata=None),
        tensor("unknown", 1, make_tensor_proto(np.float32(1.0)), metadata=None),
        bytes(
            Event(
                step=3, summary=Summary(value=[Summary.Value(tag="h", histo=HistogramProto())])
            ).SerializeToString()
        ),
        bytes(Event(wall_time=1.0, graph_def=b"\x01\x02").SerializeToString()),
        b"",
        scalar("plain", 0, 0.0),
        scalar("plain", -3, math.nan),
        scalar("", 5, 1.0),
    ]


def test_everything_else_in_a_file_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1.h"
    write(path, events_of_every_kind())
    found = event_file.read(path)
    assert repr({name: dict(sorted(s.items())) for name, s in sorted(found.metrics.items())}) == (
        "{'': {5: 1.0}, 'new': {1: 0.5, 2: 0.75}, 'plain': {-3: nan, 0: 0.0, 1: 0.25}, "
        "'three': {7: 3.0}, 'two': {7: 2.0}}"
    )
    assert found.warnings == []


@pytest.mark.parametrize(
    ("proto", "value"),
    [
        (make_tensor_proto(np.float32(0.1)), float32(0.1)),
        (make_tensor_proto(np.float64(0.1)), 0.1),
        (make_tensor_proto(np.int32(-7)), -7.0),
        (make_tensor_proto(np.int64(2**40)), float(2**40)),
        (make_tensor_proto(np.uint8(200)), 200.0),
        (make_tensor_proto(np.float16(1.5)), 1.5),
        (make_tensor_proto(np.bool_(True)), 1.0),
        (TensorProto(dtype=1, tensor_content=struct.pack("<f", 2.5)), 2.5),
        (TensorProto(dtype=2, tensor_content=struct.pack("<d", math.inf)), math.inf),
        (TensorProto(dtype=9, tensor_content=struct.pack("<q", -5)), -5.0),
        (TensorProto(dtype=14, tensor_content=b"\x80\x3f"), 1.0),
        (TensorProto(dtype=14, half_val=[0x4000]), 2.0),
        (TensorProto(dtype=19, half_val=[0x3C00]), 1.0),
        (make_tensor_proto(np.ones((1, 1), np.float32)), 1.0),
    ],
)
def test_tensors_of_one_number(tmp_path: Path, proto: TensorProto, value: float) -> None:
    path = tmp_path / "events.out.tfevents.1.h"
    write(path, [opening(), tensor("m", 4, proto)])
    assert event_file.read(path).metrics == {"m": {4: value}}


@pytest.mark.parametrize(
    "proto",
    [
        make_tensor_proto(np.ones(3, np.float32)),
        make_tensor_proto("text"),
        TensorProto(dtype=1),
        TensorProto(dtype=1, tensor_content=b"\0"),
        TensorProto(dtype=14, half_val=[-1]),
        TensorProto(dtype=19, half_val=[1 << 20]),
        TensorProto(dtype=1, tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=0)])),
    ],
)
def test_a_scalar_that_is_no_single_number_is_named(tmp_path: Path, proto: TensorProto) -> None:
    path = tmp_path / "events.out.tfevents.1.h"
    write(path, [opening(), tensor("m", 4, proto), scalar("ok", 1, 1.0)])
    found = event_file.read(path)
    assert found.metrics == {"ok": {1: 1.0}}
    assert found.warnings == [f"{path}: 'm': 1 tensors that are no single number were left out"]


def test_cut_at_every_byte_keeps_what_is_whole(tmp_path: Path) -> None:
    events = [opening(), *(scalar("loss", step, 1.0 / step) for step in range(1, 6))]
    content = b"".join(map(frame, events))
    ends = [sum(len(frame(event)) for event in events[:n]) for n in range(len(events) + 1)]
    path = tmp_path / "events.out.tfevents.1.h"
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        found = event_file.read(path)
        whole = sum(end <= length for end in ends[1:])
        assert found.metrics.get("loss", {}) == {s: float32(1 / s) for s in range(1, whole)}
        assert found.end == ends[whole]
        if length in ends:
            assert found.warnings == []
        else:
            assert found.warnings == [
                f"{path}: the last record is cut off: {length - ends[whole]} bytes at offset "
                f"{ends[whole]}; {whole} whole records kept"
            ]


def test_a_changed_byte_is_always_noticed(tmp_path: Path) -> None:
    events = [opening(), *(scalar("loss", step, 1.0 / step) for step in range(1, 5))]
    content = b"".join(map(frame, events))
    whole = event_file.read(_written(tmp_path, content)).metrics["loss"]
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        found = event_file.read(_written(tmp_path, bytes(changed)))
        series = found.metrics["loss"]
        assert len(found.damages) == 1
        assert all(whole[step] == value for step, value in series.items())
        assert len(series) >= 3
        last = place >= len(content) - len(frame(events[-1]))
        assert found.damages[0].in_the_middle is not last


def _written(folder: Path, content: bytes) -> Path:
    path = folder / "events.out.tfevents.1.h"
    path.write_bytes(content)
    return path


def test_a_record_that_is_no_event_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1.h"
    not_utf8 = scalar("tag", 1, 1.0).replace(b"tag", b"t\xffg")
    write(path, [opening(), scalar("a", 1, 1.0), b"\x2a\xff", not_utf8, scalar("a", 2, 2.0)])
    found = event_file.read(path)
    assert found.metrics == {"a": {1: 1.0, 2: 2.0}}
    assert [damage.fault for damage in found.damages] == [Fault.NO_EVENT] * 2
    assert "is not an event" in found.warnings[0]


def test_the_last_value_of_a_step_counts_and_the_conflict_is_told(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1.h"
    pair = Summary(value=[Summary.Value(tag="b", simple_value=9.0)] * 2)
    both = bytes(Event(step=1, summary=pair).SerializeToString())
    write(path, [opening(), scalar("a", 1, 1.0), scalar("a", 1, 2.0), scalar("a", 1, 2.0), both])
    found = event_file.read(path)
    assert found.metrics == {"a": {1: 2.0}, "b": {1: 9.0}}
    assert [(c.metric, c.step, c.earlier, c.later) for c in found.conflicts] == [("a", 1, 1.0, 2.0)]


def test_two_encodings_of_one_tag_keep_their_order(tmp_path: Path) -> None:
    plain, encoded = scalar("a", 1, 1.0), tensor("a", 1, make_tensor_proto(np.float32(2.0)))
    for events, last in (([plain, encoded], 2.0), ([encoded, plain], 1.0)):
        path = tmp_path / "events.out.tfevents.1.h"
        write(path, [opening(), *events])
        found = event_file.read(path)
        assert found.metrics == {"a": {1: last}}
        assert len(found.conflicts) == 1


@pytest.mark.parametrize("seed", range(5))
def test_read_on_from_where_it_stopped(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(event_file, "BLOCK_SIZE", rng.choice([1, 7, 64, 1000]))
    events = events_of_every_kind() + [scalar("plain", step, step / 7) for step in range(2, 30)]
    path = tmp_path / "events.out.tfevents.1.h"
    content = b"".join(map(frame, events))
    collected: dict[str, dict[int, float]] = {}
    grown, end, num_records = 0, 0, 0
    while grown < len(content):
        grown = min(len(content), grown + rng.randint(1, 400))
        path.write_bytes(content[:grown])
        part = event_file.read(path, end, frozenset(collected), num_records)
        end, num_records = part.end, part.num_records
        for name, series in part.metrics.items():
            collected.setdefault(name, {}).update(series)
    whole = event_file.read(path)
    assert repr(sorted((n, sorted(s.items())) for n, s in collected.items())) == repr(
        sorted((n, sorted(s.items())) for n, s in whole.metrics.items())
    )
    assert (end, num_records) == (len(content), whole.num_records)


def test_blocks_smaller_than_a_corrupt_stretch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_file, "BLOCK_SIZE", 50)
    good = [frame(scalar("a", step, float(step))) for step in (1, 2, 3)]
    path = _written(tmp_path, good[0] + b"\xee" * 333 + good[1] + good[2] + b"\xee" * 99)
    found = event_file.read(path)
    assert found.metrics == {"a": {1: 1.0, 2: 2.0, 3: 3.0}}
    assert [(damage.fault, damage.size) for damage in found.damages] == [
        (Fault.CORRUPT, 333),
        (Fault.CORRUPT_TAIL, 99),
    ]


def test_order_by_first_event_then_by_name(tmp_path: Path) -> None:
    late, early = tmp_path / "a.tfevents.1.h", tmp_path / "b.tfevents.2.h"
    write(late, [opening(2000.0)])
    write(early, [opening(1000.0)])
    unreadable = tmp_path / "c.tfevents.1500.h"
    unreadable.write_bytes(b"\x00")
    nameless = tmp_path / "tfevents"
    nameless.write_bytes(b"")
    paths = [late, early, unreadable, nameless]
    assert sorted(paths, key=event_file.start_of) == [nameless, early, unreadable, late]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the event file"):
        event_file.read(tmp_path / "none")
    with pytest.raises(InputError, match="cannot read the event file"):
        event_file.start_of(tmp_path)


def test_no_bytes_make_the_reader_crash(tmp_path: Path) -> None:
    rng = random.Random(0)
    for _ in range(200):
        body = [frame(rng.randbytes(rng.randint(0, 40))) for _ in range(5)]
        body.append(frame(b"\x09" + rng.randbytes(8) + b"\x10" + rng.randbytes(rng.randint(1, 30))))
        found: EventFile = event_file.read(_written(tmp_path, b"".join(body)))
        assert found.end == path_size(found)
    assert SCALARS.plugin_data.plugin_name == "scalars"


def path_size(found: EventFile) -> int:
    return found.path.stat().st_size
