"""Resizing as ``tf.image.resize`` does it without antialiasing, to the last bit, in numpy alone.

Models that were trained on ``keras.utils.image_dataset_from_directory`` or ``tf.image.resize`` know images made in this
way; no filter of Pillow's makes the same. float32 throughout and TensorFlow's order of operations: in float64 a result
may differ by a fifth of a gray level. The results have fractions, which are kept: rounded to 8 bits they cost a model
as much as int8 may.

Sources of the formulas: tensorflow/core/kernels/image/resize_bilinear_op.cc, resize_nearest_neighbor_op.cc,
resize_area_op.cc and resize_bicubic_op.cc, with half pixel centers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_F = np.float32

Floats = NDArray[np.float32]
Places = NDArray[np.intp]


def resize(pixels: NDArray[Any], height: int, width: int, resampler: str) -> NDArray[Any]:
    """One image in another size, as ``tf.image.resize(pixels, (height, width), method)`` gives it.

    Args:
        pixels: (h, w, C), uint8 or float32.
        height: of the result.
        width: of the result.
        resampler: a key of :data:`TF_RESAMPLERS`.

    Returns:
        (height, width, C) float32; of the pixels' own dtype if nothing is computed: for ``tf-nearest``, and where the
        size is the same.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    return TF_RESAMPLERS[resampler](pixels, height, width)


def _scale(size: int, new: int) -> np.float32:
    return np.float32(_F(size) / _F(new))


def _centers(size: int, new: int) -> Floats:
    """Where the new pixels' centers lie among the old ones, which are at whole numbers."""
    centers: Floats = (np.arange(new, dtype=_F) + _F(0.5)) * _scale(size, new) - _F(0.5)
    return centers


def _bilinear(pixels: NDArray[Any], height: int, width: int) -> Floats:
    (above, below, down), (left, right, across) = (
        _neighbours(size, new) for size, new in zip(pixels.shape, (height, width), strict=False)
    )
    down, across = down[:, None, None], across[:, None]
    top, bottom = (
        _between(_columns(pixels[ends], left), _columns(pixels[ends], right), across) for ends in (above, below)
    )
    return _between(top, bottom, down)


def _neighbours(size: int, new: int) -> tuple[Places, Places, Floats]:
    centers = _centers(size, new)
    lower = np.floor(centers)
    places = [np.clip(ends, 0, size - 1).astype(np.intp) for ends in (lower, np.ceil(centers))]
    return places[0], places[1], centers - lower


def _between(first: Floats, second: Floats, share: Floats) -> Floats:
    """``first + (second - first) * share``, in the memory of ``second``."""
    second -= first
    second *= share
    second += first
    return second


def _columns(rows: NDArray[Any], places: Places) -> Floats:
    columns: Floats = rows.take(places, axis=1).astype(_F)
    return columns


def _nearest(pixels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    rows, columns = (
        np.minimum(np.floor((np.arange(new, dtype=_F) + _F(0.5)) * _scale(size, new)), size - 1).astype(np.intp)
        for size, new in zip(pixels.shape, (height, width), strict=False)
    )
    chosen: NDArray[Any] = pixels.take(rows, axis=0).take(columns, axis=1)
    return chosen


def _area(pixels: NDArray[Any], height: int, width: int) -> Floats:
    """The mean over the area of each new pixel, old ones at its rim by the share of them that is in it."""
    tall, wide = _scale(pixels.shape[0], height), _scale(pixels.shape[1], width)
    sums: Floats | None = None
    for column, share, inside in _covered(pixels.shape[1], width, wide):
        values = _columns(pixels, column) * share[:, None]
        sums = values if sums is None else np.where(inside[:, None], sums + values, sums)
    assert sums is not None
    total = np.zeros((height, *sums.shape[1:]), _F)
    for row, share, inside in _covered(pixels.shape[0], height, tall):
        total = np.where(inside[:, None, None], total + sums[row] * share[:, None, None], total)
    return total * (_F(1) / (tall * wide))


def _covered(size: int, new: int, scale: np.float32) -> Iterable[tuple[Places, Floats, NDArray[np.bool_]]]:
    """The old pixels that new ones cover: the first of each, the second of each, and so on; with their shares."""
    begins, ends = np.arange(new, dtype=_F) * scale, (np.arange(new, dtype=_F) + _F(1)) * scale
    first, last = np.floor(begins).astype(np.intp), np.ceil(ends).astype(np.intp)
    for number in range(int((last - first).max())):
        place = first + number
        at = place.astype(_F)
        cut = at + 1 > ends
        share = np.where(at < begins, np.where(cut, scale, at + 1 - begins), np.where(cut, ends - at, _F(1)))
        yield np.clip(place, 0, size - 1), share.astype(_F), place < last


_STEPS = 1024
"""TensorFlow looks the cubic weights up in a table with so many steps between two pixels."""


@functools.cache
def _cubic_table() -> tuple[Floats, Floats]:
    """Keys' cubic with a = -0.5 at distances 0 to 1, and at 1 to 2."""
    a = -0.5
    near = (np.arange(_STEPS + 1) / _STEPS).astype(_F)
    far = (near + _F(1)).astype(np.float64)
    x = near.astype(np.float64)
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = ((a * far - 5 * a) * far + 8 * a) * far - 4 * a
    return inner.astype(_F), outer.astype(_F)


def _bicubic(pixels: NDArray[Any], height: int, width: int) -> Floats:
    (rows, down), (columns, across) = (
        _four(size, new) for size, new in zip(pixels.shape, (height, width), strict=False)
    )
    mixed = _mix((pixels.take(row, axis=0).astype(_F) for row in rows), [share[:, None, None] for share in down])
    return _mix((mixed.take(column, axis=1) for column in columns), [share[:, None] for share in across])


def _four(size: int, new: int) -> tuple[list[Places], list[Floats]]:
    """Four neighbours of each new pixel and their weights; those outside weigh nothing."""
    inner, outer = _cubic_table()
    centers = _centers(size, new)
    lower = np.floor(centers)
    step = np.rint((centers - lower) * _F(_STEPS)).astype(np.intp)
    places, weights = [], []
    for number, weight in enumerate((outer[step], inner[step], inner[_STEPS - step], outer[_STEPS - step])):
        place = lower.astype(np.intp) + number - 1
        held = np.clip(place, 0, size - 1)
        places.append(held)
        weights.append(np.where(held == place, weight, _F(0)).astype(_F))
    whole = _F(1) / (weights[0] + weights[1] + weights[2] + weights[3])
    return places, [weight * whole for weight in weights]


def _mix(parts: Iterable[Floats], weights: Sequence[Floats]) -> Floats:
    total: Floats | None = None
    for values, weight in zip(parts, weights, strict=True):
        part = np.multiply(values, weight, out=values)
        total = part if total is None else np.add(total, part, out=total)
    assert total is not None
    return total


TF_RESAMPLERS: dict[str, Callable[[NDArray[Any], int, int], NDArray[Any]]] = {
    "tf-bilinear": _bilinear,
    "tf-nearest": _nearest,
    "tf-area": _area,
    "tf-bicubic": _bicubic,
}
"""TensorFlow's methods by the names that a contract has for them."""


def leaves_fractions(resampler: str) -> bool:
    """Whether pixels resized so are not whole numbers."""
    return resampler in TF_RESAMPLERS and resampler != "tf-nearest"
