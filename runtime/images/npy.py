"""Rows of a ``.npy`` file, here or far away, and many such files, of which another process can be handed any part."""

from __future__ import annotations

import functools
import io
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..arrays import NPY_MAGIC, READ_ERRORS, load_npy, read_row
from ..errors import InputError, UnreadableDataError
from ..input.shapes import check_one
from ..model.contract import InputContract
from .folder import Folder
from .remote import RemoteFile

_BLOCK = 4 << 20
"""Bytes of consecutive rows that are fetched at once."""


class RemoteArray:
    """Images that are rows of a ``.npy``.

    Attributes:
        dtype, row_shape: of each image.

    Args:
        file: where it is.
        dtype, row_shape: of each image.
        offset: where the first row begins, in bytes.
        rows: which rows, (N,).
    """

    def __init__(
        self, file: RemoteFile, dtype: np.dtype[Any], row_shape: tuple[int, ...], offset: int, rows: NDArray[np.intp]
    ) -> None:
        self.dtype, self.row_shape = dtype, row_shape
        self._file, self._offset, self._rows = file, offset, rows
        self._lock = threading.Lock()
        self._first, self._block = 0, b""

    def __reduce__(self) -> Any:
        return RemoteArray, (self._file, self.dtype, self.row_shape, self._offset, self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def load(self, index: int) -> NDArray[Any]:
        """Row ``index`` of those.

        Raises:
            UnreadableDataError: it cannot be fetched.
        """
        return np.frombuffer(self._stored(index), self.dtype).reshape(self.row_shape)

    def raw(self, index: int) -> bytes:
        """The same as it is stored, after its dtype and shape."""
        return f"{self.dtype} {self.row_shape} ".encode() + self._stored(index)

    def part(self, indices: Sequence[int]) -> RemoteArray:
        """See :meth:`embedlite.runtime.images.folder.Images.part`."""
        chosen = self._rows[np.asarray(indices, np.intp)]
        return RemoteArray(self._file, self.dtype, self.row_shape, self._offset, chosen)

    def _stored(self, index: int) -> bytes:
        size = self.dtype.itemsize * math.prod(self.row_shape)
        begin = int(self._rows[index]) * size
        with self._lock:
            if not self._first <= begin <= begin + size <= self._first + len(self._block):
                # As many of the next images as follow in the file without a gap.
                ahead = self._rows[index : index + max(1, _BLOCK // size)]
                steps = np.flatnonzero(np.diff(ahead) != 1)
                count = int(steps[0]) + 1 if len(steps) else len(ahead)
                start = self._offset + begin
                self._first, self._block = begin, self._file.read_range(start, start + count * size)
            stored = self._block[begin - self._first : begin - self._first + size]
        if len(stored) != size:
            raise UnreadableDataError(f"{self._file} ends before row {self._rows[index]}. Copy the file again.")
        return stored


def open_remote_array(file: RemoteFile) -> RemoteArray:
    """All rows of a ``.npy``; of the file, the header is read.

    Raises:
        UnreadableDataError: it is not a ``.npy``, holds objects, or its rows are not one after the other.
    """
    headers = cast(Any, np.lib.format)
    try:
        with file.open("rb") as stream:
            read = headers.read_array_header_1_0 if headers.read_magic(stream) == (1, 0) else None
            shape, fortran, dtype = (read or headers.read_array_header_2_0)(stream)
            offset = int(stream.tell())
    except READ_ERRORS as error:
        raise UnreadableDataError(f"{file} is not a sound .npy ({error}). Save it again with numpy.save.") from error
    if dtype.hasobject or fortran or len(shape) < 2:
        raise UnreadableDataError(
            f"{file} holds {dtype} of shape {shape}{' in Fortran order' if fortran else ''}; inputs are numbers of "
            "shape (N, ...), for images (N, H, W, C), row after row. Save it again with numpy.save and "
            "numpy.ascontiguousarray."
        )
    return RemoteArray(file, dtype, tuple(shape[1:]), offset, np.arange(shape[0]))


class ArrayFile:
    """Images that are rows of a ``.npy``; mapped when the first is read.

    Args:
        path: of the file.
        rows: which of its rows, (N,).
    """

    def __init__(self, path: Path, rows: NDArray[np.intp]) -> None:
        self._path, self._rows = path, rows

    def __reduce__(self) -> Any:
        return ArrayFile, (self._path.resolve(), self._rows)

    def load(self, index: int) -> NDArray[Any]:
        """Row ``index`` of those, (H, W, C).

        Raises:
            UnreadableDataError: the file cannot be read.
        """
        return read_row(self._array, int(self._rows[index]))

    def raw(self, index: int) -> bytes:
        """The same as it is stored."""
        return raw_row(self._array, int(self._rows[index]))

    def part(self, indices: Sequence[int]) -> ArrayFile:
        """See :meth:`embedlite.runtime.images.folder.Images.part`."""
        return ArrayFile(self._path, self._rows[np.asarray(indices, np.intp)])

    @functools.cached_property
    def _array(self) -> NDArray[Any]:
        return load_npy(self._path)


class NpyFiles:
    """Many ``.npy`` files, each of one input or of a batch of them.

    A file that cannot be read, is of another shape, or holds floats where the first sound one holds pixels, counts as
    inputs whose loading says so.

    Attributes:
        pixels: whether the first sound file holds pixels of images.
        ids: the file's name for one input, ``name:row`` for those of a batch.

    Args:
        folder: where they are.
        names: of the files.
        contract: says what one input is.
        places: file and row (-1: the file is one input) of each input; default all that the files hold.
        pixels: see the attribute; default what the files tell.
    """

    def __init__(
        self,
        folder: Folder,
        names: Sequence[str],
        contract: InputContract,
        places: Sequence[tuple[int, int]] | None = None,
        pixels: bool | None = None,
    ) -> None:
        self._folder, self._names, self._contract = folder, names, contract
        self._last = threading.local()
        self._pixels = pixels
        self._places = [place for file in range(len(names)) for place in self._rows(file)] if places is None else places
        self.pixels = bool(self._pixels)

    def __reduce__(self) -> Any:
        return NpyFiles, (self._folder, self._names, self._contract, self._places, self.pixels)

    @property
    def ids(self) -> list[str]:
        """See the class."""
        return [self._names[file] + ("" if row < 0 else f":{row}") for file, row in self._places]

    def load(self, index: int) -> NDArray[Any]:
        """Input ``index``, of the contract's shape.

        Raises:
            UnreadableDataError: its file cannot be read, or is of another kind than the first sound one.
            InputError: it is of another shape, or of a dtype without a meaning here.
        """
        file, row = self._places[index]
        array = self._open(file)
        if self._contract.is_image and _are_pixels(array) != self.pixels:
            kinds = ("floats", "pixels")
            raise UnreadableDataError(
                f"{self._folder.spell(self._names[file])} holds {kinds[not self.pixels]}, but the first sound file "
                f"holds {kinds[self.pixels]}. Save all of them in the same way."
            )
        one = array if row < 0 else read_row(array, row)
        try:
            return check_one(np.array(one) if row < 0 else one, self._contract)
        except InputError as error:
            raise type(error)(f"{self._folder.spell(self._names[file])}: {error}") from error

    def raw(self, index: int) -> bytes:
        """The same as it is stored, after its dtype and shape: as of an array of all of them."""
        file, row = self._places[index]
        array = self._open(file)
        return raw_row(array[None], 0) if row < 0 else raw_row(array, row)

    def part(self, indices: Sequence[int]) -> NpyFiles:
        """See :meth:`embedlite.runtime.images.folder.Images.part`."""
        return NpyFiles(
            self._folder, self._names, self._contract, [self._places[index] for index in indices], self.pixels
        )

    def _rows(self, file: int) -> list[tuple[int, int]]:
        try:
            array = self._open(file)
        except UnreadableDataError:
            return [(file, -1)]
        if self._pixels is None:
            self._pixels = self._contract.is_image and _are_pixels(array)
        batch = array.shape[1:] == self._contract.shape
        return [(file, row) for row in range(len(array))] if batch else [(file, -1)]

    def _open(self, file: int) -> NDArray[Any]:
        # Rows of a batch are read one after the other.
        place, array = getattr(self._last, "read", (-1, None))
        if place == file and array is not None:
            return cast(NDArray[Any], array)
        path = self._folder.file(self._names[file])
        if isinstance(path, Path):
            array = load_npy(path)
        else:
            array = npy_from_bytes(self._folder.read(self._names[file]), str(path))
        self._last.read = (file, array)
        return array


def _are_pixels(array: NDArray[Any]) -> bool:
    return array.dtype.kind in "iu"


def npy_from_bytes(data: bytes, name: str) -> NDArray[Any]:
    """The array of a ``.npy``'s content.

    Raises:
        UnreadableDataError: it is not that, or holds objects.
    """
    try:
        if not data.startswith(NPY_MAGIC):
            raise ValueError(f"it begins with {data[:6]!r}")
        return cast(NDArray[Any], np.load(io.BytesIO(data), allow_pickle=False))
    except READ_ERRORS as error:
        raise UnreadableDataError(f"{name} is not a sound .npy ({error}). Save it again with numpy.save.") from error


def raw_row(array: NDArray[Any], index: int) -> bytes:
    """A row as it is stored, after its dtype and shape."""
    return f"{array.dtype} {array.shape[1:]} ".encode() + read_row(array, index).tobytes()
