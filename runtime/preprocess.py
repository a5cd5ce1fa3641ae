"""From pixels or arrays to what an encoder's input tensor holds, by the file's own contract.

One place for the arithmetic: calibration, the device and the drift report all call it, because a model
that was calibrated with one preprocessing and run with another drifts more than int8 ever costs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contract import InputContract
from .errors import InputShapeError, InputTypeError, InputValueError


def check_batch(inputs: Any, contract: InputContract) -> NDArray[Any]:
    """``inputs`` as an array of shape (N, H, W, C) and of a dtype that has a meaning here.

    Integers are pixels 0-255 (uint16: 0-65535); floats are model-ready. Values are checked by
    :func:`model_ready`, one image at a time, so that a memory-mapped pool is never read twice.

    Raises:
        InputShapeError: another rank or size.
        InputTypeError: int8 (nobody means it), bool, complex, text or objects.
    """
    array = _as_array(inputs)
    if array.shape[1:] != contract.shape:
        raise InputShapeError(_shape_message(array.shape, contract.shape))
    return array


def check_one(image: Any, contract: InputContract) -> NDArray[Any]:
    """One image of shape (H, W, C); see :func:`check_batch`."""
    array = _as_array(image)
    if array.shape != contract.shape:
        raise InputShapeError(_shape_message(array.shape, contract.shape))
    return array


def model_ready(image: NDArray[Any], contract: InputContract, name: str = "") -> NDArray[np.float32]:
    """One image as the float32 values that the float model takes.

    Args:
        image: (H, W, C), checked by :func:`check_one` or :func:`check_batch`.
        contract: gives mean and std.
        name: what to call the image in an error.

    Raises:
        InputValueError: NaN or infinity among floats, or integers outside 0-255.
    """
    if image.dtype.kind == "f":
        # A sum is one pass and is non-finite as soon as any value is; only then is the culprit looked for.
        with np.errstate(over="ignore", invalid="ignore"):
            ready = image.astype(np.float32, copy=False)
            total = float(ready.sum(dtype=np.float64))
        if not np.isfinite(total):
            bad = np.argwhere(~np.isfinite(ready))
            if len(bad):
                raise InputValueError(
                    f"{name or 'the input'} has {len(bad)} value(s) that are NaN or infinite, the first at "
                    f"{tuple(int(i) for i in bad[0])}. Remove or repair that image."
                )
        return ready
    pixels = to_pixels(image, name).astype(np.float32)
    pixels -= np.asarray(contract.mean, np.float32)
    pixels /= np.asarray(contract.std, np.float32)
    return pixels


def to_pixels(image: NDArray[Any], name: str = "") -> NDArray[np.uint8]:
    """An integer image as uint8 pixels; uint16 is scaled from 0-65535 with rounding.

    Raises:
        InputValueError: a value outside 0-255.
    """
    if image.dtype == np.uint8:
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


def quantize(values: NDArray[np.float32], scale: float, zero_point: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """``round(values / scale) + zero_point``, clipped to the dtype (TFLite's 8-bit quantization specification)."""
    limits = np.iinfo(dtype)
    with np.errstate(over="ignore"):
        steps = np.round(values / np.float32(scale)) + np.float32(zero_point)
    quantized: NDArray[Any] = np.clip(steps, limits.min, limits.max).astype(dtype)
    return quantized


def dequantize(values: NDArray[Any], scale: float, zero_point: int) -> NDArray[np.float32]:
    """``(values - zero_point) * scale`` as float32."""
    return (values.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def _as_array(inputs: Any) -> NDArray[Any]:
    try:
        array = inputs if isinstance(inputs, np.ndarray) else np.asarray(inputs)
    except ValueError as error:
        raise InputShapeError(
            f"the inputs do not form one array ({error}). Pass images of one size as an array (N, H, W, C)."
        ) from error
    _check_dtype(array.dtype)
    return array


def _check_dtype(dtype: np.dtype[Any]) -> None:
    if dtype.kind == "f" or (dtype.kind in "iu" and dtype != np.int8):
        return
    advice = "Pass uint8 pixels (0-255), or floats as the model was trained on."
    if dtype == np.int8:
        advice = "int8 has no scale of its own, so its meaning would be a guess. " + advice
    raise InputTypeError(f"an input of dtype {dtype} cannot be embedded. {advice}")


def _shape_message(found: tuple[int, ...], wanted: tuple[int, int, int]) -> str:
    height, width, channels = wanted
    message = f"expected images of shape {wanted} (height, width, channels), received an array of shape {found}."
    if found == wanted:
        return message + " That is one image: call embed_one, or add a batch axis with image[None]."
    if found[1:] == wanted and len(found) == 4:
        return message + " That is a batch: call embed."
    if found[-3:] == (channels, height, width) and channels != height:
        return message + " The channels come first: move them with np.moveaxis(images, -3, -1)."
    if found[-2:] == (height, width) and channels == 1:
        return message + " The channel axis is missing: add it with images[..., None]."
    return message + " Arrays are never resized; resize them, or pass image files."
