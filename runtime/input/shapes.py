"""Shapes and dtypes of what callers pass as images: refused with the name of the likely mistake."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EmptyBatchError, InputShapeError, InputTypeError
from ..model.contract import InputContract

_INT8 = np.dtype(np.int8)


def check_batch(inputs: Any, contract: InputContract) -> NDArray[Any]:
    """``inputs`` as an array of shape (N, H, W, C) and of a dtype that has a meaning here.

    Integers are pixels 0-255 (uint16: 0-65535); floats are model-ready. Values are checked one image at a time, by
    :func:`embedlite.runtime.input.preprocess.model_ready` or :class:`embedlite.runtime.input.values.InputValues`, so
    that a memory-mapped pool is never read twice.

    Raises:
        InputShapeError: another rank or size.
        InputTypeError: int8 (nobody means it), bool, complex, text or objects.
    """
    array = _as_array(inputs)
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
    array = _as_array(inputs)
    if array.size == 0:
        raise EmptyBatchError(f"the batch holds no image: its shape is {array.shape}. Pass at least one.")
    return check_batch(array, contract)


def check_one(image: Any, contract: InputContract) -> NDArray[Any]:
    """One image of shape (H, W, C); see :func:`check_batch`."""
    array = _as_array(image)
    if array.shape != contract.shape:
        raise InputShapeError(_shape_message(array.shape, contract))
    return array


def _check_place(image: Any, index: int, contract: InputContract) -> NDArray[Any]:
    try:
        return check_one(image, contract)
    except (InputShapeError, InputTypeError) as error:
        raise type(error)(f"image {index}: {error}") from error


def _as_array(inputs: Any) -> NDArray[Any]:
    try:
        array = inputs if isinstance(inputs, np.ndarray) else np.asarray(inputs)
    except ValueError as error:
        raise InputShapeError(
            f"the inputs do not form one array ({error}). Pass images of one size as an array (N, H, W, C)."
        ) from error
    dtype = array.dtype
    if dtype.kind != "f" and (dtype.kind not in "iu" or dtype == _INT8):
        raise InputTypeError(f"an input of dtype {dtype} cannot be embedded. {_dtype_advice(dtype)}")
    return array


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
    return (
        f"expected images of shape {wanted} (height, width, channels), received an array of shape {found}. "
        f"{_shape_advice(found, contract)}"
    )


def _shape_advice(found: tuple[int, ...], contract: InputContract) -> str:
    wanted, (height, width, channels) = contract.shape, contract.shape
    size = (height, width)
    if found == wanted:
        return "That is one image: call embed_one, or add a batch axis with image[None]."
    if found == (1, *wanted):
        return "That is a batch of one: call embed, or take the image out with images[0]."
    if found[1:] == wanted:
        return "That is a batch: call embed."
    if len(found) > 4 and found[-3:] == wanted:
        whole = f"images.reshape(-1, {height}, {width}, {channels})"
        return "That is a batch in a batch: " + (
            f"take it out with images[0], or {whole}." if found[0] == 1 else whole + "."
        )
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
