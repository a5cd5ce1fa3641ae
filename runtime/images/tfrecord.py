"""The records of a ``.tfrecord`` file, by number.

A record is its length (uint64), the length's checksum, the content, and the content's checksum, all little-endian;
a checksum is CRC-32C, turned by 15 bits and moved by a constant (tensorflow/core/lib/io/record_writer.h). Opening
walks over the lengths once and keeps nothing but where each record begins.

The features of a serialized ``tf.train.Example``, without protobuf.

An Example is a map from text to one list each of bytes, float32 or int64 (tensorflow/core/example/feature.proto). On
the wire a message is a row of fields, each with a number and a type; messages that stand in several pieces are joined
by joining their bytes, and of a map's entries with the same key the last one counts.
"""

from __future__ import annotations

import functools
import os
import re
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingPackageError, UnreadableDataError
from .remote import RemoteFile

_NAME = re.compile(r"\.tfrecords?(-\d+-of-\d+)?(\.gz)?", re.IGNORECASE)
_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")


FilePath = Path | RemoteFile
"""A file of this machine, or one far away."""


def is_tfrecord(name: str) -> bool:
    """Whether a file's name is that of a ``.tfrecord``, a ``.tfrecords`` or one of their shards."""
    return any(match.end() == len(name) for match in _NAME.finditer(name))


class RecordFile:
    """The records of one file.

    Attributes:
        path: where it is.

    Raises:
        MissingPackageError: google-crc32c is not installed.
        UnreadableDataError: it cannot be read, is not such a file or a compressed one, or ends within a record.
    """

    def __init__(self, path: FilePath) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._starts = self._walk(file)
        except OSError as error:
            raise UnreadableDataError(
                f"cannot read {path}: {error.strerror or error}. Make it readable, or name another file."
            ) from error

    def __len__(self) -> int:
        return len(self._starts) - 1

    def read(self, number: int) -> bytes:
        """The content of a record, counted from 0.

        Raises:
            UnreadableDataError: its checksum is not that of its content, or the file can no longer be read.
        """
        return _read(self.path, number, self._starts[number], self._starts[number + 1])

    def features(self, number: int) -> dict[str, Feature]:
        """See :class:`embedlite.runtime.images.records.Records`."""
        return parse_example(self.read(number))

    def only(self, feature: str) -> None:
        """A record is read whole, whatever is asked for."""

    def number(self, place: int) -> int:
        """The number in the file of the record at a place among these: the place itself."""
        return place

    def part(self, numbers: Sequence[int]) -> RecordPart:
        """These records alone."""
        return RecordPart(self.path, [(n, self._starts[n], self._starts[n + 1]) for n in numbers])

    def _walk(self, file: BinaryIO) -> array[int]:
        """Where each record begins, and where the last one ends."""
        size = file.seek(0, os.SEEK_END)
        starts = array("Q", [0])
        while starts[-1] < size:
            number, start = len(starts) - 1, starts[-1]
            file.seek(start)
            header = file.read(_HEADER.size)
            if len(header) == _HEADER.size and _masked_checksum()(header[:8]) == _HEADER.unpack(header)[1]:
                end = start + _HEADER.size + _HEADER.unpack(header)[0] + _CHECKSUM.size
            elif number == 0:
                raise _no_tfrecord(self.path, header)
            elif len(header) == _HEADER.size:
                raise UnreadableDataError(
                    f"{self.path}, record {number}: its length does not have the checksum that it was written with, "
                    "so nothing after it can be found. Copy or write the file again."
                )
            else:
                end = size + 1
            if end > size:
                raise UnreadableDataError(
                    f"{self.path} ends in the middle of a record, after {number} whole one(s) and {size} bytes. "
                    "Copy or write the file again."
                )
            starts.append(end)
        return starts


@dataclass(frozen=True)
class RecordPart:
    """Some records of a file, found by where they are; what it is pickled as says no more.

    Attributes:
        path: of the file.
        records: (number in the file, first byte, end) of each.
    """

    path: FilePath
    records: Sequence[tuple[int, int, int]]

    def __reduce__(self) -> Any:
        # Another process may have another working directory.
        path = self.path.resolve() if isinstance(self.path, Path) else self.path
        return RecordPart, (path, self.records)

    def __len__(self) -> int:
        return len(self.records)

    def read(self, place: int) -> bytes:
        """The content of the record at a place among these; see :meth:`RecordFile.read`."""
        return _read(self.path, *self.records[place])

    def features(self, place: int) -> dict[str, Feature]:
        """See :class:`embedlite.runtime.images.records.Records`."""
        return parse_example(self.read(place))

    def only(self, feature: str) -> None:
        """A record is read whole, whatever is asked for."""

    def number(self, place: int) -> int:
        """Its number in the file."""
        return self.records[place][0]

    def part(self, numbers: Sequence[int]) -> RecordPart:
        """These of them alone."""
        return RecordPart(self.path, [self.records[n] for n in numbers])


def _read(path: FilePath, number: int, begin: int, end: int) -> bytes:
    start = begin + _HEADER.size
    try:
        stored = _read_range(path, start, end)
    except OSError as error:
        raise UnreadableDataError(
            f"{path}, record {number}: cannot read it ({error.strerror or error}). Check the file."
        ) from error
    content = stored[: -_CHECKSUM.size]
    if len(stored) != end - start or _masked_checksum()(content) != _CHECKSUM.unpack(stored[-_CHECKSUM.size :])[0]:
        raise UnreadableDataError(
            f"{path}, record {number}: its content does not have the checksum that it was written with. "
            "Copy or write the file again."
        )
    return content


def _read_range(path: FilePath, begin: int, end: int) -> bytes:
    if not isinstance(path, Path):
        return path.read_range(begin, end)
    with path.open("rb") as file:
        file.seek(begin)
        return file.read(end - begin)


def _no_tfrecord(path: FilePath, header: bytes) -> UnreadableDataError:
    if header.startswith(b"\x1f\x8b"):
        return UnreadableDataError(
            f"{path} is compressed with gzip, so that no record can be found by its number. Decompress it: gunzip."
        )
    return UnreadableDataError(
        f"{path} is not a .tfrecord file: it begins with {header!r}, which is not a record's length. Write it with "
        "tf.io.TFRecordWriter and without compression, or rename it."
    )


@functools.cache
def _masked_checksum() -> Callable[[bytes], int]:
    try:
        import google_crc32c
    except ImportError as error:
        raise MissingPackageError(
            "reading .tfrecord files needs google-crc32c, which is not installed. "
            "Run: pip install 'embedlite[images]', or pass image files or arrays (.npy)."
        ) from error

    def masked(data: bytes) -> int:
        value: int = google_crc32c.value(data)
        return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF

    return masked


Feature = tuple[bytes, ...] | NDArray[np.float32] | NDArray[np.int64]
"""The values of a feature; a feature without a list has no bytes."""

_VARINT, _LENGTH, _FIXED32 = 0, 2, 5
_SIZES = {1: 8, _FIXED32: 4}
_BYTES, _FLOAT, _INT64 = 1, 2, 3


def parse_example(data: bytes) -> dict[str, Feature]:
    """The features of an Example by name, in the order in which they stand.

    Raises:
        ValueError: the bytes are not an Example.
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


_TENSOR_DTYPES = {
    **{1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8"},
    **{17: "<u2", 19: "<f2", 22: "<u4", 23: "<u8"},
}
"""Of TensorFlow's numbers for dtypes those that an array may have."""


def stored_tensor(data: bytes) -> NDArray[Any] | None:
    """The array in what ``tf.io.serialize_tensor`` made, a ``TensorProto``; None if that is something else."""
    try:
        fields = list(_fields(memoryview(data)))
        kind = next(_varint(value, 0)[0] for number, wire, value in fields if number == 1 and wire == _VARINT)
        content = next(value for number, wire, value in fields if number == 4 and wire == _LENGTH)
        shape = next(value for number, wire, value in fields if number == 2 and wire == _LENGTH)
        sizes = [
            next((_varint(value, 0)[0] for number, wire, value in _fields(one) if number == 1 and wire == _VARINT), 0)
            for one in _messages(shape, 2)
        ]
        return np.frombuffer(content, _TENSOR_DTYPES[kind]).reshape(sizes)
    except (ValueError, KeyError, StopIteration):
        return None


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
        raise ValueError("a list of floats is not a multiple of four bytes long")
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
