"""The rows of Parquet files as records; see :class:`embedlite.runtime.images.records.RecordImages` for the images in
them."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MissingPackageError, RequestError, UnreadableDataError
from .tfrecord import Feature, FilePath

PARQUET_SUFFIX = ".parquet"


class ParquetRows:
    """The rows of one file, or some of them. A group of rows is read at a time.

    Attributes:
        path: where the file is.

    Args:
        path: of the file.
        column: the one to read; None for all that could hold images.
        rows: numbers of the rows; None for all.

    Raises:
        MissingPackageError: pyarrow is not installed.
        RequestError: there is no such column.
        UnreadableDataError: it is not a Parquet file, or cannot be read.
    """

    def __init__(self, path: FilePath, column: str | None = None, rows: Sequence[int] | None = None) -> None:
        self.path = path
        self._column, self._rows = column, rows
        self._lock = threading.Lock()
        self._file: Any = None
        self._group, self._table = -1, None

    def __reduce__(self) -> Any:
        # Another process may have another working directory.
        path = self.path.resolve() if isinstance(self.path, Path) else self.path
        return ParquetRows, (path, self._column, self._rows)

    def __len__(self) -> int:
        with self._lock:
            return int(self._opened().metadata.num_rows) if self._rows is None else len(self._rows)

    def number(self, place: int) -> int:
        """The number in the file of the row at a place among these."""
        return place if self._rows is None else self._rows[place]

    def part(self, numbers: Sequence[int]) -> ParquetRows:
        """These of them alone."""
        return ParquetRows(self.path, self._column, [self.number(place) for place in numbers])

    def features(self, place: int) -> dict[str, Feature]:
        """The columns of a row that could hold an image, by name.

        Raises:
            UnreadableDataError: it cannot be read.
        """
        number = self.number(place)
        with self._lock:
            opened = self._opened()
            group = bisect_right(self._ends, number)
            if group != self._group:
                try:
                    self._table = opened.read_row_group(group, columns=self._columns)
                except Exception as error:
                    raise self._unreadable(error) from error
                self._group = group
            table: Any = self._table
            first = self._ends[group - 1] if group else 0
            return {name: _feature(table.column(name).slice(number - first, 1)) for name in table.column_names}

    def only(self, column: str) -> None:
        """Read no other column from now on."""
        with self._lock:
            self._column, self._file, self._group = column, None, -1

    def _opened(self) -> Any:
        if self._file is None:
            try:
                from pyarrow import parquet
            except ImportError as error:
                raise MissingPackageError(
                    f"reading {self.path} needs pyarrow, which cannot be imported ({error}). Run: pip install "
                    "'embedlite[dask]'."
                ) from error
            try:
                self._file = parquet.ParquetFile(self.path if isinstance(self.path, Path) else self.path.open("rb"))
            except UnreadableDataError:
                raise
            except Exception as error:
                raise self._unreadable(error) from error
            schema = self._file.schema_arrow
            if self._column is not None and self._column not in schema.names:
                raise RequestError(
                    f"{self.path} has no column {self._column!r}: it has {', '.join(schema.names)}. Name one of these "
                    "with --feature."
                )
            possible = [field.name for field in schema if _could_be_image(field.type)]
            self._columns = possible if self._column is None else [self._column]
            if not self._columns:
                raise UnreadableDataError(
                    f"{self.path} has no column of bytes or of lists of numbers: it has {', '.join(schema.names)}. "
                    "Store the images as files in a column of bytes, or as lists."
                )
            metadata = self._file.metadata
            self._ends = list(accumulate(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)))
        return self._file

    def _unreadable(self, error: Exception) -> UnreadableDataError:
        # pyarrow's messages run over several lines.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return UnreadableDataError(f"cannot read {self.path} as Parquet: {reason}. Copy or write the file again.")


def _could_be_image(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    if types.is_dictionary(kind):
        kind = kind.value_type
    while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind = kind.value_type
        if types.is_integer(kind) or types.is_floating(kind):
            return True
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _feature(column: Any) -> Feature:
    """The one value of a column: bytes as a tuple of one, numbers in one axis."""
    from pyarrow import types

    array = column.combine_chunks()
    if hasattr(array, "chunk"):
        array = array.chunk(0)
    if types.is_struct(array.type):
        # As the Hugging Face datasets library stores images.
        array = array.field("bytes")
    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if array.null_count == len(array):
        return ()
    while types.is_list(array.type) or types.is_large_list(array.type) or types.is_fixed_size_list(array.type):
        array = array.flatten()
    if types.is_integer(array.type) or types.is_floating(array.type):
        values = np.asarray(array.to_numpy(zero_copy_only=False))
        return values.astype(np.int64) if types.is_integer(array.type) else values.astype(np.float32)
    return (bytes(array[0].as_py()),)
