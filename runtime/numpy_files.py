"""Reading ``.npy`` and ``.npz`` files that may be damaged; pickled objects are refused, never loaded."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UnreadableDataError

# What numpy and zipfile let through for damaged files: they have no common class.
READ_ERRORS = (
    *(ValueError, OSError, EOFError, SyntaxError, zipfile.BadZipFile, zlib.error, tokenize.TokenError),
    *(NotImplementedError, RuntimeError, MemoryError, OverflowError),
)

_NPY_MAGIC = b"\x93NUMPY"


def load_npy(path: Path) -> NDArray[Any]:
    """A ``.npy`` array, memory-mapped.

    Raises:
        UnreadableDataError: it is not there, or is no sound ``.npy``.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_NPY_MAGIC))
        # numpy.load would take another beginning for a zip or a pickle.
        if start != _NPY_MAGIC:
            raise UnreadableDataError(
                f"{path} is no .npy file: it begins with {start!r}. Rename it, or save it again "
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
        UnreadableDataError: it is not there, or is no sound ``.npz``.
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


def texts(array: NDArray[Any], path: Path) -> list[str]:
    """A one-dimensional array of ids as text.

    Raises:
        UnreadableDataError: another number of axes, or bytes that are no UTF-8.
    """
    if array.ndim != 1:
        raise UnreadableDataError(f"the ids of {path} have shape {array.shape}; expected one for each row.")
    try:
        return [item.decode() if isinstance(item, bytes) else str(item) for item in array.tolist()]
    except UnicodeDecodeError as error:
        raise UnreadableDataError(f"the ids of {path} are bytes that are no UTF-8 ({error}). Store text.") from error


def _unreadable(path: Path, error: BaseException) -> UnreadableDataError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return UnreadableDataError(
        f"cannot read {path} as {path.suffix}: {reason}. Save it again with numpy.save, numpy.savez or embed-tflite."
    )
