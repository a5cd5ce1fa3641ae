"""Rows of a ``.npy`` file, of which another process can be handed any part."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .numpy_files import load_npy
from .pages import read_row


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
        """See :meth:`.image_files.Images.part`."""
        return ArrayFile(self._path, self._rows[np.asarray(indices, np.intp)])

    @functools.cached_property
    def _array(self) -> NDArray[Any]:
        return load_npy(self._path)


def raw_row(array: NDArray[Any], index: int) -> bytes:
    """A row as it is stored, after its dtype and shape."""
    return f"{array.dtype} {array.shape[1:]} ".encode() + read_row(array, index).tobytes()
