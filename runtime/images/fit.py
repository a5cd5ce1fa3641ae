"""How a picture of other proportions comes into the model's size: stretched, cut or with black bars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True)
class Fit:
    """What is done to one picture, in this order.

    Attributes:
        top, left, taken: the part of the picture that is taken, and its size; what of it lies outside is black.
        resized: the size that this part is brought to.
        down, right: where that lies in the model's input; what lies outside is cut off, what stays free is black.
    """

    top: int
    left: int
    taken: Size
    resized: Size
    down: int = 0
    right: int = 0


def fit(kind: str, picture: Size, model: Size) -> Fit:
    """How a picture comes into the model's size.

    Args:
        kind: as the contract says: ``stretch``; ``crop``, the largest part of the model's proportions from the middle,
            then resized (``keras.preprocessing.image.smart_resize``, ``crop_to_aspect_ratio``); ``resize-crop``,
            resized until the picture just covers the model's size, then the middle (torchvision's ``Resize`` and
            ``CenterCrop``), or ``resize-crop:N``, resized until its short side is N; ``pad``, resized until it just
            fits, with black bars (``tf.image.resize_with_pad``); ``pad-resize``, first black bars, then resized (Keras'
            ``Resizing`` with ``pad_to_aspect_ratio``); ``center-crop``, the middle as it is, and as ``crop`` where the
            picture is smaller (Keras' ``CenterCrop``).
        picture: height and width of the picture.
        model: height and width of the model's input.
    """
    name, _, short = kind.partition(":")
    height, width = picture
    if name == "crop":
        return _crop(picture, model)
    if name == "pad":
        return _pad(picture, model)
    if name == "pad-resize":
        return _framed(picture, model)
    if name == "center-crop" and height >= model[0] and width >= model[1]:
        return Fit((height - model[0]) // 2, (width - model[1]) // 2, model, model)
    if name == "center-crop":
        return _crop(picture, model)
    if name == "resize-crop":
        resized = _covering(picture, model) if not short else _short_side(picture, int(short))
        # Python's round, to even, as torchvision's CenterCrop has it.
        down, right = (-round((size - wanted) / 2.0) for size, wanted in zip(resized, model, strict=True))
        return Fit(0, 0, picture, resized, down, right)
    return Fit(0, 0, (height, width), model)


def _crop(picture: Size, model: Size) -> Fit:
    (height, width), (tall, wide) = picture, model
    # float32, as in TensorFlow: the last pixel depends on it where whole numbers are not exact any more.
    taken = (
        max(1, min(height, int(np.float32(width * tall) / np.float32(wide)))),
        max(1, min(width, int(np.float32(height * wide) / np.float32(tall)))),
    )
    return Fit((height - taken[0]) // 2, (width - taken[1]) // 2, taken, model)


def _pad(picture: Size, model: Size) -> Fit:
    sides = np.array(picture, np.float32)
    resized = sides / (sides / np.array(model, np.float32)).max()
    free = np.maximum(np.floor((np.array(model, np.float32) - resized) / np.float32(2)), 0).astype(int)
    height, width = np.maximum(np.floor(resized), 1).astype(int)
    return Fit(0, 0, picture, (int(height), int(width)), int(free[0]), int(free[1]))


def _framed(picture: Size, model: Size) -> Fit:
    (height, width), (tall, wide) = picture, model
    # float32, and bars of one size on both sides, as in Keras.
    top = (max(height, int(np.float32(width * tall) / np.float32(wide))) - height) // 2
    left = (max(width, int(np.float32(height * wide) / np.float32(tall))) - width) // 2
    return Fit(-top, -left, (height + 2 * top, width + 2 * left), model)


def _short_side(picture: Size, short: int) -> Size:
    height, width = picture
    return (short, int(short * width / height)) if height <= width else (int(short * height / width), short)


def _covering(picture: Size, model: Size) -> Size:
    (height, width), (tall, wide) = picture, model
    if height * wide <= width * tall:
        return tall, max(wide, int(tall * width / height))
    return max(tall, int(wide * height / width)), wide
