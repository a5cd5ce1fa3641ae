"""From pixels or other values to what an encoder's input tensor holds, by the file's own contract.

One place for the arithmetic: calibration, the device and the drift report all call it, because a model
that was calibrated with one preprocessing and run with another drifts more than int8 ever costs.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputValueError
from ..model.contract import InputContract

# Comparing with these takes a third of what comparing with numpy's classes takes, a microsecond for each image.
_FLOAT32, _UINT8 = np.dtype(np.float32), np.dtype(np.uint8)


def model_ready(image: NDArray[Any], contract: InputContract, name: str = "") -> NDArray[np.float32]:
    """One input as the float32 values that the float model takes.

    Of an image, floats are model-ready as they are and pixels are scaled; of any other array, all values are.

    Args:
        image: of the contract's shape, checked by :func:`embedlite.runtime.input.shapes.check_one` or
            :func:`embedlite.runtime.input.shapes.check_batch`.
        contract: gives mean and std.
        name: what to call the input in an error.

    Raises:
        InputValueError: NaN or infinity among floats, or of an image integers outside 0-255.
    """
    if image.dtype.kind == "f" or not contract.is_image:
        ready = as_float32(image) if contract.is_image else scaled(image, contract)
        low, high = extremes(ready)
        if not (np.isfinite(low) and np.isfinite(high)):
            refuse_non_finite(ready, name)
        return ready
    return scaled(to_pixels(image, name), contract)


def scaled(pixels: NDArray[Any], contract: InputContract) -> NDArray[np.float32]:
    """Values as the float model takes them: ``(value - mean) / std``.

    Args:
        pixels: (H, W, C) from 0 to 255, uint8 or float32 with fractions; or of an array of any other kind, its values
            in any dtype, the last axis as the contract has it.
        contract: gives mean and std.
    """
    if contract.is_image:
        return _scaler(contract, pixels.shape[-2])(pixels, np.empty(pixels.shape, np.float32))
    # Integers beyond 24 bits lose their last digits here, as they would in the model.
    values = as_float32(pixels)
    if not any(contract.mean) and set(contract.std) == {1.0}:
        return values
    return _scaler(contract, 1)(values, np.empty(values.shape, np.float32))


class PixelScaler:
    """``(pixel - mean) / std`` in float32, rounded after each of the two operations.

    Args:
        contract: gives mean and std.
        width: of the images, 1 for other arrays. Values for channels are laid out over it: numpy is slow with three at
            a time.
    """

    def __init__(self, contract: InputContract, width: int) -> None:
        channels = contract.shape[-1]
        self._mean = self._row(contract.mean, width, channels)
        self._std = self._row(contract.std, width, channels)
        self._shifts = any(contract.mean)

    @staticmethod
    def _row(values: tuple[float, ...], width: int, channels: int) -> NDArray[np.float32]:
        # An array even of one value: with a scalar, numpy would compute uint8 pixels in float16.
        if len(set(values)) == 1:
            return np.array(values[:1], np.float32)
        row = np.tile(np.array(values, np.float32), width)
        return row if width == 1 else row.reshape(width, channels)

    def __call__(self, pixels: NDArray[Any], out: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scale an image (H, W, C) of uint8 or float32 pixels, or float32 values of another shape, into ``out``, of the
        same shape, and return that."""
        if not self._shifts:
            return np.divide(pixels, self._std, out)
        np.subtract(pixels, self._mean, out)
        return np.divide(out, self._std, out)


_scaler = functools.lru_cache(maxsize=8)(PixelScaler)


def as_float32(image: NDArray[Any]) -> NDArray[np.float32]:
    """Values as float32, the array itself if it is that; what float32 cannot hold becomes infinite."""
    if image.dtype == _FLOAT32:
        return image
    with np.errstate(over="ignore", invalid="ignore"):
        return image.astype(np.float32)


def extremes(values: NDArray[Any]) -> tuple[float, float]:
    """Minimum and maximum; both NaN if any value is, and an infinity is always one of them."""
    # Of a small image in a third of the time that values.min() and values.max() take.
    return float(values.item(values.argmin())), float(values.item(values.argmax()))


def refuse_non_finite(ready: NDArray[np.float32], name: str = "") -> None:
    """Say how many values are not numbers and where the first one is.

    Raises:
        InputValueError: there is one.
    """
    bad = np.argwhere(~np.isfinite(ready))
    if len(bad):
        raise InputValueError(
            f"{name or 'the input'} has {len(bad)} value(s) that are NaN or infinite, the first at "
            f"{tuple(int(i) for i in bad[0])}. Remove or repair it."
        )


def to_pixels(image: NDArray[Any], name: str = "") -> NDArray[np.uint8]:
    """An integer image as uint8 pixels; uint16 is scaled from 0-65535 with rounding.

    Raises:
        InputValueError: a value outside 0-255.
    """
    if image.dtype == _UINT8:
        return image
    if image.dtype.kind == "u" and image.dtype.itemsize == 2:
        return ((image.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    low, high = int(image.min()), int(image.max())
    if low < 0 or high > 255:
        raise InputValueError(
            f"{name or 'the input'} holds {image.dtype} values from {low} to {high}; integers are taken as pixels "
            "0-255. Pass uint8 pixels, or floats as the model was trained on."
        )
    return image.astype(np.uint8)


def quantize(
    values: NDArray[np.float32],
    scale: float,
    zero_point: int,
    dtype: np.dtype[Any],
    out: NDArray[np.float32] | None = None,
) -> NDArray[Any]:
    """``round(values / scale) + zero_point``, clipped to the dtype (TFLite's 8-bit quantization specification).

    Args:
        values: float32 of any shape.
        scale: of the quantization.
        zero_point: of the quantization.
        dtype: int8 or uint8.
        out: float32 of the same shape to compute in; may be ``values``.
    """
    limits = np.iinfo(dtype)
    with np.errstate(over="ignore"):
        steps = np.divide(values, np.float32(scale), out=out)
    np.round(steps, out=steps)
    steps += np.float32(zero_point)
    quantized: NDArray[Any] = np.clip(steps, limits.min, limits.max, out=steps).astype(dtype)
    return quantized


def dequantize(values: NDArray[Any], scale: float, zero_point: int) -> NDArray[np.float32]:
    """``(values - zero_point) * scale`` as float32."""
    return (values.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
