"""The records of a ``.tfrecord`` file, by number.

A record is its length (uint64), the length's checksum, the content, and the content's checksum, all little-endian;
a checksum is CRC-32C, turned by 15 bits and moved by a constant (tensorflow/core/lib/io/record_writer.h). Opening
walks over the lengths once and keeps nothing but where each record begins.
"""

from __future__ import annotations

import functools
import os
import re
import struct
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .errors import MissingPackageError, UnreadableDataError
from .remote import RemoteFile
from .tf_example import Feature, parse_example

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
        UnreadableDataError: it cannot be read, is no such file or a compressed one, or ends within a record.
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
        """See :class:`.record_images.Records`."""
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
        """See :class:`.record_images.Records`."""
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
        f"{path} is no .tfrecord file: it begins with {header!r}, which is no record's length. Write it with "
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
