"""What an event file's records say: the scalars of an ``Event`` message, in both encodings.

The message is declared here with the fields that scalars need, under a package and in a
descriptor pool of our own, so that TensorBoard may be imported in the same process. Field
numbers are those of TensorFlow's event.proto, summary.proto and tensor.proto; fields that are not
declared (images, graphs) are skipped by the parser.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "evenkeel.event"
_ONE, _MANY = _Field.LABEL_OPTIONAL, _Field.LABEL_REPEATED

# message → its fields as (name, number, type or name of a message, label)
_MESSAGES: dict[str, list[tuple[str, int, Any, Any]]] = {
    "PluginData": [("plugin_name", 1, _Field.TYPE_STRING, _ONE)],
    "Metadata": [("plugin_data", 1, "PluginData", _ONE)],
    "Dimension": [("size", 1, _Field.TYPE_INT64, _ONE)],
    "Shape": [("dim", 2, "Dimension", _MANY)],
    "Tensor": [
        ("dtype", 1, _Field.TYPE_INT32, _ONE),
        ("tensor_shape", 2, "Shape", _ONE),
        ("tensor_content", 4, _Field.TYPE_BYTES, _ONE),
        ("float_val", 5, _Field.TYPE_FLOAT, _MANY),
        ("double_val", 6, _Field.TYPE_DOUBLE, _MANY),
        ("int_val", 7, _Field.TYPE_INT32, _MANY),
        ("int64_val", 10, _Field.TYPE_INT64, _MANY),
        ("bool_val", 11, _Field.TYPE_BOOL, _MANY),
        ("half_val", 13, _Field.TYPE_INT32, _MANY),
        ("uint32_val", 16, _Field.TYPE_UINT32, _MANY),
        ("uint64_val", 17, _Field.TYPE_UINT64, _MANY),
    ],
    # simple_value is a oneof member there; optional here, to tell 0.0 from absent
    "Value": [
        ("tag", 1, _Field.TYPE_STRING, _ONE),
        ("simple_value", 2, _Field.TYPE_FLOAT, _ONE),
        ("tensor", 8, "Tensor", _ONE),
        ("metadata", 9, "Metadata", _ONE),
    ],
    "Summary": [("value", 1, "Value", _MANY)],
    "Event": [
        ("wall_time", 1, _Field.TYPE_DOUBLE, _ONE),
        ("step", 2, _Field.TYPE_INT64, _ONE),
        ("summary", 5, "Summary", _ONE),
    ],
}

# TensorFlow's DataType → (field of single values, struct format of tensor_content)
_DTYPES = {
    1: ("float_val", "<f"),
    2: ("double_val", "<d"),
    3: ("int_val", "<i"),
    4: ("int_val", "<B"),
    5: ("int_val", "<h"),
    6: ("int_val", "<b"),
    9: ("int64_val", "<q"),
    10: ("bool_val", "<?"),
    17: ("int_val", "<H"),
    19: ("half_val", "<e"),
    22: ("uint32_val", "<I"),
    23: ("uint64_val", "<Q"),
}
_BFLOAT16 = 14


@dataclass(frozen=True)
class Scalar:
    """One logged value; ``wall_time`` in seconds since the epoch."""

    tag: str
    step: int
    value: float
    wall_time: float


class Decoded(NamedTuple):
    """What one event says; ``wall_time`` in seconds since the epoch."""

    wall_time: float
    step: int
    values: list[tuple[str, float]]
    """(tag, value) in the order written."""


@dataclass
class Decoder:
    """Decodes the events of one file, in order."""

    scalar_tags: set[str] = field(default_factory=set)
    """Tags whose tensors are scalars: a writer may say so only at a tag's first event."""
    not_single: dict[str, int] = field(default_factory=dict)
    """How many values of a scalar tag were no single number, and were left out."""

    def decode(self, data: bytes) -> Decoded | None:
        """The scalars of the event in ``data``; None where it is no event."""
        try:
            event = _event_class().FromString(data)
        except DecodeError:
            return None
        values = []
        for value in event.summary.value:
            number = self._number(value)
            if number is not None:
                tag = value.tag
                if not isinstance(tag, str):
                    return None  # bytes that are not UTF-8 are no tag
                values.append((tag, number))
        return Decoded(event.wall_time, event.step, values)

    def _number(self, value: Any) -> float | None:
        if value.HasField("simple_value"):
            return float(value.simple_value)
        if not value.HasField("tensor"):
            return None
        if value.metadata.plugin_data.plugin_name == "scalars":
            self.scalar_tags.add(value.tag)
        if value.tag not in self.scalar_tags:
            return None
        number = _single_number(value.tensor)
        if number is None:
            self.not_single[value.tag] = self.not_single.get(value.tag, 0) + 1
        return number


def _single_number(tensor: Any) -> float | None:
    """The number in a tensor of one element, whatever its type and encoding."""
    if any(dimension.size != 1 for dimension in tensor.tensor_shape.dim):
        return None
    dtype, content = tensor.dtype, tensor.tensor_content
    if dtype == _BFLOAT16:
        # a bfloat16 is the upper half of a float32
        if len(content) == 2:
            return float(struct.unpack("<f", b"\0\0" + content)[0])
        bits = list(tensor.half_val)
        return _from_bits("<f", bits[0] << 16, 4) if len(bits) == 1 else None
    if dtype not in _DTYPES:
        return None
    name, form = _DTYPES[dtype]
    if content:
        return (
            float(struct.unpack(form, content)[0])
            if len(content) == struct.calcsize(form)
            else None
        )
    values = getattr(tensor, name)
    if len(values) != 1:
        return None
    return _from_bits("<e", values[0], 2) if name == "half_val" else float(values[0])


def _from_bits(form: str, bits: int, size: int) -> float | None:
    if not 0 <= bits < 1 << 8 * size:
        return None
    return float(struct.unpack(form, bits.to_bytes(size, "little"))[0])


@cache
def _event_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="evenkeel/event.proto", package=_PACKAGE, syntax="proto2"
    )
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for name, number, kind, label in fields:
            entry = message.field.add(name=name, number=number, label=label)
            if isinstance(kind, str):
                entry.type = _Field.TYPE_MESSAGE
                entry.type_name = f".{_PACKAGE}.{kind}"
            else:
                entry.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Event"))
