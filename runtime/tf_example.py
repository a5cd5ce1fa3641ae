"""The features of a serialized ``tf.train.Example``, without protobuf.

An Example is a map from text to one list each of bytes, float32 or int64 (tensorflow/core/example/feature.proto). On
the wire a message is a row of fields, each with a number and a type; messages that stand in several pieces are joined
by joining their bytes, and of a map's entries with the same key the last one counts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Feature = tuple[bytes, ...] | NDArray[np.float32] | NDArray[np.int64]
"""The values of a feature; a feature without a list has no bytes."""

_VARINT, _LENGTH, _FIXED32 = 0, 2, 5
_SIZES = {1: 8, _FIXED32: 4}
_BYTES, _FLOAT, _INT64 = 1, 2, 3


def parse_example(data: bytes) -> dict[str, Feature]:
    """The features of an Example by name, in the order in which they stand.

    Raises:
        ValueError: the bytes are no Example.
    """
    features: dict[str, Feature] = {}
    for entry in _messages(_join(_messages(memoryview(data), 1)), 1):
        if any((number, wire) not in ((1, _LENGTH), (2, _LENGTH)) for number, wire, _ in _fields(entry)):
            # Protobuf's own implementations do not agree on what that is.
            raise ValueError("an entry of its map has more than a name and a value")
        # A piece that comes again replaces a text, and is joined to a message.
        name = bytes(next(iter(reversed(list(_messages(entry, 1)))), b"")).decode()
        features[name] = _feature(_join(_messages(entry, 2)))
    return features


def _feature(data: memoryview) -> Feature:
    kind, pieces = _BYTES, list[memoryview]()
    for number, wire, value in _fields(data):
        if wire == _LENGTH and number in (_BYTES, _FLOAT, _INT64):
            # Only one of the three lists can be there: the last.
            pieces = [*pieces, value] if number == kind else [value]
            kind = number
    values = _join(pieces)
    if kind == _BYTES:
        return tuple(bytes(value) for value in _messages(values, 1))
    return _floats(values) if kind == _FLOAT else _integers(values)


def _floats(data: memoryview) -> NDArray[np.float32]:
    """Values one by one or packed: four bytes each in both cases."""
    parts = [value for number, wire, value in _fields(data) if number == 1 and wire in (_LENGTH, _FIXED32)]
    if any(len(part) % 4 for part in parts):
        raise ValueError("a list of floats is no multiple of four bytes long")
    return np.frombuffer(b"".join(parts), "<f4").astype(np.float32, copy=False)


def _integers(data: memoryview) -> NDArray[np.int64]:
    """Values one by one or packed: seven bits a byte, the lowest first, in both cases."""
    parts = [value for number, wire, value in _fields(data) if number == 1 and wire in (_LENGTH, _VARINT)]
    if any(len(part) and part[-1] > 127 for part in parts):
        raise ValueError("a list of integers breaks off")
    stored = np.frombuffer(b"".join(parts), np.uint8)
    ends = np.flatnonzero(stored < 128) + 1
    starts = np.concatenate([[0], ends])[:-1]
    lengths = ends - starts
    if lengths.max(initial=0) > 10:
        raise ValueError("an integer is longer than ten bytes")
    total = np.zeros(len(ends), np.uint64)
    for place in range(lengths.max(initial=0)):
        longer = np.flatnonzero(lengths > place)
        total[longer] |= (stored[starts[longer] + place] & 127).astype(np.uint64) << np.uint64(7 * place)
    return total.view(np.int64)


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """The content of every text, bytes or message under one number."""
    return (value for number, wire, value in _fields(data) if number == wanted and wire == _LENGTH)


def _join(pieces: Iterator[memoryview] | list[memoryview]) -> memoryview:
    parts = list(pieces)
    return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Number, type and bytes of each field.

    Raises:
        ValueError: a field reaches beyond the end, or its type does not exist.
    """
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise ValueError(f"there is no field {number}")
        if wire == _VARINT:
            end = _varint(data, position)[1]
        elif wire == _LENGTH:
            length, position = _varint(data, position)
            end = position + length
        elif wire in _SIZES:
            end = position + _SIZES[wire]
        else:
            raise ValueError(f"field {number} has the type {wire}, which an Example does not have")
        if end > len(data):
            raise ValueError(f"field {number} reaches {end - len(data)} bytes beyond its end")
        yield number, wire, data[position:end]
        position = end


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = 0
    for place, byte in enumerate(data[position : position + 10]):
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value, position + place + 1
    raise ValueError("a number breaks off or is longer than ten bytes")
