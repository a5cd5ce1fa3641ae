"""Reading ``.npy`` and ``.npz`` files that may be damaged; pickled objects are refused, never loaded.

Giving memory back that a mapped file took: what was read stays in the system's cache, but is no longer ours.
"""

from __future__ import annotations

import mmap
import shutil
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .errors import UnreadableDataError

# What numpy and zipfile let through for damaged files: they have no common class.
READ_ERRORS = (
    *(ValueError, OSError, EOFError, SyntaxError, zipfile.BadZipFile, zlib.error, tokenize.TokenError),
    *(NotImplementedError, RuntimeError, MemoryError, OverflowError),
)

NPY_MAGIC = b"\x93NUMPY"

MAPPED_BYTES = 64 << 20
"""Arrays of a ``.npz`` that are larger than this are mapped, if the caller can do with that."""

_CHUNK = 1 << 20


def load_npy(path: Path) -> NDArray[Any]:
    """A ``.npy`` array, memory-mapped.

    Raises:
        UnreadableDataError: it is not there, or is not a sound ``.npy``.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(NPY_MAGIC))
        # numpy.load would take another beginning for a zip or a pickle.
        if start != NPY_MAGIC:
            raise UnreadableDataError(
                f"{path} is not a .npy file: it begins with {start!r}. Rename it, or save it again "
                "with numpy.save or embed-tflite."
            )
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except READ_ERRORS as error:
        raise _unreadable(path, error) from error
    return array


def load_npz(path: Path, names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """Arrays of a ``.npz``, read whole.

    Args:
        path: the file.
        names: which of them, where they are there; default all.

    Raises:
        UnreadableDataError: it is not there, or is not a sound ``.npz``.
    """
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise UnreadableDataError(f"{path} is a .npy array called .npz. Rename it.")
            with archive:
                wanted = [name for name in archive.files if names is None or name in names]
                return {name: np.asarray(archive[name]) for name in wanted}
    except READ_ERRORS as error:
        raise _unreadable(path, error) from error


def map_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Arrays of a ``.npz``; large ones are mapped for reading instead of read, their checksums verified all the same.

    A compressed one is unpacked into a temporary file that has no name and goes with the array.

    Raises:
        UnreadableDataError: see :func:`load_npz`.
    """
    if not zipfile.is_zipfile(path):
        return load_npz(path)
    small: list[tuple[str, zipfile.ZipInfo]] = []
    large: list[tuple[str, zipfile.ZipInfo]] = []
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                (large if entry.file_size > MAPPED_BYTES else small).append((name, entry))
            arrays = {name: _map_entry(archive, entry) for name, entry in large}
    except READ_ERRORS as error:
        raise _unreadable(path, error) from error
    return {**(load_npz(path, [name for name, _ in small]) if small or not large else {}), **arrays}


def _map_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    assert archive.filename is not None
    with archive.open(entry) as packed:
        if entry.compress_type == zipfile.ZIP_STORED:
            # Reading to the end is what verifies the checksum.
            while packed.read(_CHUNK):
                pass
            with Path(archive.filename).open("rb") as file:
                return _map(file, _data_offset(file, entry))
        with tempfile.TemporaryFile() as file:
            shutil.copyfileobj(packed, file, _CHUNK)
            return _map(file, 0)


def _map(file: Any, start: int) -> NDArray[Any]:
    """The ``.npy`` that begins there, mapped; it stays so when the file is closed."""
    file.seek(start)
    headers = cast(Any, np.lib.format)
    read = headers.read_array_header_1_0 if headers.read_magic(file) == (1, 0) else headers.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which are never loaded")
    return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")


def _data_offset(file: Any, entry: zipfile.ZipInfo) -> int:
    """Where an entry's bytes begin: after its local header, whose lengths may differ from the directory's."""
    file.seek(entry.header_offset + 26)
    lengths = file.read(4)
    return entry.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")


def text_array(array: NDArray[Any], path: Path) -> NDArray[np.str_]:
    """A one-dimensional array of ids as text, (N,).

    Raises:
        UnreadableDataError: another number of axes, or bytes that are not UTF-8.
    """
    if array.ndim != 1:
        raise UnreadableDataError(f"the ids of {path} have shape {array.shape}; expected one for each row.")
    try:
        text: NDArray[np.str_] = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array.astype(str)
    except UnicodeDecodeError as error:
        raise UnreadableDataError(f"the ids of {path} are bytes that are not UTF-8 ({error}). Store text.") from error
    return text


def texts(array: NDArray[Any], path: Path) -> list[str]:
    """The same as a list."""
    names: list[str] = text_array(array, path).tolist()
    return names


def _unreadable(path: Path, error: BaseException) -> UnreadableDataError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return UnreadableDataError(
        f"cannot read {path} as {path.suffix}: {reason}. Save it again with numpy.save, numpy.savez or embed-tflite."
    )


_REACH = 2 << 20
"""The kernel maps pages around the one that was asked for, at most as far as a huge page reaches."""


def give_back(mapping: mmap.mmap, start: int, end: int) -> None:
    """Let go of the pages under some bytes of a read-only mapping of a file; they are read again when needed.

    Whoever reads them at the same time gets the same bytes, a little later. Nothing happens where the platform has
    no madvise.
    """
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    first = start // _REACH * _REACH
    last = min(-(-end // _REACH) * _REACH, len(mapping))
    mapping.madvise(mmap.MADV_DONTNEED, first, last - first)


def read_row(array: NDArray[Any], index: int) -> NDArray[Any]:
    """``array[index]``; of an array that maps a file for reading a copy, and its pages are given back."""
    row = np.asarray(array[index])
    mapping = _mapping_of(array)
    if mapping is None:
        return row
    copy = row.copy()
    begin = row.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data
    reach = [(size - 1) * stride for size, stride in zip(row.shape, row.strides, strict=True)]
    give_back(mapping, begin + sum(min(0, way) for way in reach), begin + sum(max(0, way) for way in reach) + 1)
    return copy


def _mapping_of(array: NDArray[Any]) -> mmap.mmap | None:
    """The mapping under an array, if nothing that was written through it could be lost."""
    if not isinstance(array, np.memmap) or array.mode != "r":
        return None
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None
