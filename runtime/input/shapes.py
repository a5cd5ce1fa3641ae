"""Shapes and dtypes of what callers pass as inputs: refused with the name of the likely mistake."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EmptyBatchError, InputShapeError, InputTypeError
from ..model.contract import InputContract

_INT8 = np.dtype(np.int8)


def check_batch(inputs: Any, contract: InputContract) -> NDArray[Any]:
    """``inputs`` as an array (N, ...) of inputs of the contract's shape, of a dtype that has a meaning here.

    Of images, integers are pixels 0-255 (uint16: 0-65535) and floats are model-ready. Values are checked one input at
    a time, by :func:`embedlite.runtime.input.preprocess.model_ready` or
    :class:`embedlite.runtime.input.values.InputValues`, so that a memory-mapped pool is never read twice.

    Raises:
        InputShapeError: another rank or size.
        InputTypeError: int8 (nobody means it), bool, complex, text or objects.
    """
    array = _as_array(inputs, contract)
    if array.shape[1:] != contract.shape:
        raise InputShapeError(_shape_message(array.shape, contract))
    return array


def check_images(inputs: Any, contract: InputContract) -> NDArray[Any] | list[NDArray[Any]] | Iterator[NDArray[Any]]:
    """The images of a batch, of a list of arrays, or of an iterator, each checked; an iterator's as they come.

    A list of arrays is not made into one array: that would copy it, and turn pixels beside floats into floats.

    Raises:
        EmptyBatchError: there is no image in it.
        InputError: see :func:`check_batch`; an image of a list or iterator is named by its place.
    """
    if isinstance(inputs, Iterator):
        return (_check_place(image, index, contract) for index, image in enumerate(inputs))
    if isinstance(inputs, (list, tuple)) and inputs and all(hasattr(image, "__array__") for image in inputs):
        return [_check_place(image, index, contract) for index, image in enumerate(inputs)]
    array = _as_array(inputs, contract)
    if array.size == 0:
        raise EmptyBatchError(f"the batch holds no {contract.noun}: its shape is {array.shape}. Pass at least one.")
    return check_batch(array, contract)


def check_one(image: Any, contract: InputContract) -> NDArray[Any]:
    """One input of the contract's shape; see :func:`check_batch`."""
    array = _as_array(image, contract)
    if array.shape != contract.shape:
        raise InputShapeError(_shape_message(array.shape, contract))
    return array


def _check_place(image: Any, index: int, contract: InputContract) -> NDArray[Any]:
    try:
        return check_one(image, contract)
    except (InputShapeError, InputTypeError) as error:
        raise type(error)(f"{contract.noun} {index}: {error}") from error


def _as_array(inputs: Any, contract: InputContract) -> NDArray[Any]:
    try:
        array = inputs if isinstance(inputs, np.ndarray) else np.asarray(inputs)
    except ValueError as error:
        axes = "H, W, C" if contract.is_image else ", ".join(map(str, contract.shape))
        raise InputShapeError(
            f"the inputs do not form one array ({error}). Pass {contract.noun}s of one size as an array (N, {axes})."
        ) from error
    dtype = array.dtype
    if dtype.kind != "f" and (dtype.kind not in "iu" or dtype == _INT8):
        advice = _dtype_advice(dtype) if contract.is_image else _array_dtype_advice(dtype)
        raise InputTypeError(f"an input of dtype {dtype} cannot be embedded. {advice}")
    return array


def _array_dtype_advice(dtype: np.dtype[Any]) -> str:
    if dtype == _INT8:
        return (
            "int8 may be values or may be quantized already, so its meaning would be a guess: Encoder quantizes for "
            "the model itself. Values become whole numbers that are taken as such by x.astype(np.int16)."
        )
    if dtype.kind in "US":
        return "Pass numbers. Names of files are not opened here: np.load(name), or use embed-tflite, which does."
    if dtype == np.object_:
        return "Pass numbers. Inputs of several lengths, or None among them, make such an array: cut, then np.stack."
    return "Pass floats or integers, in the units that the model was trained on."


def _dtype_advice(dtype: np.dtype[Any]) -> str:
    advice = "Pass uint8 pixels (0-255), or floats as the model was trained on."
    if dtype == np.int8:
        return (
            "int8 has no scale of its own, so its meaning would be a guess: Encoder quantizes for the model itself. "
            + advice
        )
    if dtype == np.bool_:
        return advice + " A mask of True and False becomes pixels by image.astype(np.uint8) * 255."
    if dtype.kind in "US":
        return (
            advice
            + " Names of files are not opened here: np.asarray(PIL.Image.open(name)), or use embed-tflite, which "
            "reads image files."
        )
    if dtype == np.object_:
        return (
            advice + " Images of several sizes, or None among them, make such an array: resize, then np.stack(images)."
        )
    return advice


def _shape_message(found: tuple[int, ...], contract: InputContract) -> str:
    wanted = contract.shape
    if not contract.is_image:
        received = f"expected inputs of shape {wanted}, received an array of shape {found}"
        return f"{received}. {_call_advice(found, wanted, 'inputs') or _array_shape_advice(found, wanted)}"
    return (
        f"expected images of shape {wanted} (height, width, channels), received an array of shape {found}. "
        f"{_shape_advice(found, contract)}"
    )


def _call_advice(found: tuple[int, ...], wanted: tuple[int, ...], noun: str) -> str:
    """What to do where one is expected and a batch came, or the other way round; empty for another mistake."""
    one = noun.removesuffix("s")
    if found == wanted:
        return f"That is one {one}: call embed_one, or add a batch axis with {one}[None]."
    if found == (1, *wanted):
        return f"That is a batch of one: call embed, or take the {one} out with {noun}[0]."
    if found[1:] == wanted:
        return "That is a batch: call embed."
    rank = len(wanted)
    if len(found) > rank + 1 and found[-rank:] == wanted:
        whole = f"{noun}.reshape(-1, {', '.join(map(str, wanted))})"
        return "That is a batch in a batch: " + (
            f"take it out with {noun}[0], or {whole}." if found[0] == 1 else whole + "."
        )
    return ""


def _array_shape_advice(found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    rank = len(wanted)
    if rank > 1 and found[-rank:] == wanted[::-1]:
        order = ", ".join(str(axis) for axis in range(-1, -rank - 1, -1))
        ahead = "0, " if len(found) > rank else ""
        return f"The axes come in reverse order: np.transpose(x, ({ahead}{order})) turns them round."
    if rank > 1 and wanted[-1] == 1 and found[-rank + 1 :] == wanted[:-1]:
        return "The last axis is missing: add it with x[..., None]."
    if found[-1:] == (1,) and found[-rank - 1 : -1] == wanted:
        return "There is an axis of one too many: take it away with x[..., 0]."
    if rank > 1 and len(found) in (1, 2) and found[-1] == math.prod(wanted):
        return f"The inputs are flat: x.reshape(-1, {', '.join(map(str, wanted))})."
    return "Inputs are never cut or padded; bring them to that shape, as in training."


def _shape_advice(found: tuple[int, ...], contract: InputContract) -> str:
    wanted = contract.shape
    height, width, channels = wanted
    size = (height, width)
    if advice := _call_advice(found, wanted, "images"):
        return advice
    if found[-3:] == (channels, height, width):
        return "The channels come first: move them with np.moveaxis(images, -3, -1)."
    if found[-3:] == (width, height, channels):
        return "Height and width are swapped: np.swapaxes(images, -3, -2). Pillow and OpenCV speak of (width, height)."
    if found[-3:-1] == size and found[-1] != channels:
        return _channel_advice(found[-1], contract)
    if found[-2:] == size:
        if channels == 1:
            return "The channel axis is missing: add it with images[..., None]."
        return f"The images are gray: np.repeat(images[..., None], {channels}, axis=-1) gives them {channels} channels."
    if len(found) in (1, 2) and found[-1] == height * width * channels:
        return f"The images are flat: images.reshape(-1, {height}, {width}, {channels})."
    return "Arrays are never resized; resize them, or pass image files."


def _channel_advice(found: int, contract: InputContract) -> str:
    channels = contract.shape[2]
    if found == 4 and channels == 3:
        order = contract.color_order.upper()
        return f"They have an alpha channel: drop it with images[..., :3], and mind that the model takes {order}."
    if found == 1:
        return f"The images are gray: np.repeat(images, {channels}, axis=-1) gives them {channels} channels."
    if found == 3 and channels == 1:
        return "The model takes gray images: images @ (0.299, 0.587, 0.114), rounded to uint8 and with [..., None]."
    return f"The model takes {channels} channel(s): {contract.color_order}."
