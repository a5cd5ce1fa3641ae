"""Giving memory back that a mapped file took: what was read stays in the system's cache, but is no longer ours."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
