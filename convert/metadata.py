"""TFLite Metadata, by which MediaPipe and other readers learn how an image becomes the model's input.

A flatbuffer of its own inside the model's metadata entry ``TFLITE_METADATA``. What is written is
what MediaPipe's ImageEmbedder asks for: the colour space, and for float input one mean and one std. A union takes two
fields, its type and its value; the reader, :mod:`..runtime.tflite_metadata`, names the schema.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flatbuffers

from ..runtime.contract import InputContract
from ..runtime.tflite_metadata import COLOR_SPACES, IMAGE_PROPERTIES, METADATA_IDENTIFIER, NORMALIZATION_OPTIONS


def tflite_metadata(contract: InputContract) -> bytes | None:
    """The content of ``TFLITE_METADATA``; None for inputs that MediaPipe refuses whatever it is told.

    It takes images of three channels only, float32 or uint8. One mean and one std serve all channels there: where they
    differ by channel none is written, and MediaPipe refuses the file instead of computing other embeddings. It refuses
    BGR as well, whose colour space has no name.
    """
    if contract.color_order not in ("rgb", "bgr") or contract.dtype == "int8":
        return None
    builder = flatbuffers.Builder(256)
    space = COLOR_SPACES.index("rgb" if contract.color_order == "rgb" else "unknown")
    image = _table(builder, 1, lambda: builder.PrependInt8Slot(0, space, -1))
    content = _union(builder, IMAGE_PROPERTIES, image)
    mean, std = set(contract.mean), set(contract.std)
    units = []
    if contract.dtype == "float32" and len(mean) == len(std) == 1:
        values = [_floats(builder, [mean.pop()]), _floats(builder, [std.pop()])]
        units.append(_union(builder, NORMALIZATION_OPTIONS, _offsets(builder, values)))
    listed = _vector(builder, units)
    name = builder.CreateString("image")
    source = _table(builder, 5, lambda: _set(builder, {0: name, 3: content, 4: listed}))
    result = _offsets(builder, [builder.CreateString("embedding")])
    sources, results = _vector(builder, [source]), _vector(builder, [result])
    graph = _table(builder, 4, lambda: _set(builder, {2: sources, 3: results}))
    graphs = _vector(builder, [graph])
    builder.Finish(_table(builder, 4, lambda: _set(builder, {3: graphs})), METADATA_IDENTIFIER)
    return bytes(builder.Output())


def _table(builder: flatbuffers.Builder, fields: int, fill: Callable[[], object]) -> int:
    builder.StartObject(fields)
    fill()
    return int(builder.EndObject())


def _set(builder: flatbuffers.Builder, offsets: dict[int, int]) -> None:
    for field, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(field, offset, 0)


def _offsets(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    """A table whose first fields are these objects."""
    return _table(builder, len(offsets), lambda: _set(builder, dict(enumerate(offsets))))


def _union(builder: flatbuffers.Builder, kind: int, value: int) -> int:
    """A table that holds a union and nothing else."""

    def fill() -> None:
        builder.PrependUint8Slot(0, kind, 0)
        _set(builder, {1: value})

    return _table(builder, 2, fill)


def _vector(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _floats(builder: flatbuffers.Builder, values: Sequence[float]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return int(builder.EndVector())
