"""Image files as pixel arrays, always in the same way.

What happens, in this order, where the contract does not say otherwise: the EXIF orientation is applied; 16-bit
grayscale is scaled to 8 bits; the image is converted to the model's channels (transparency is dropped, CMYK and
palettes become RGB, colour becomes gray by ITU-R 601-2 luma); it is stretched to the model's size with the contract's
resampler.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import EmbedliteError, MissingPackageError, RequestError, UnreadableDataError
from ..input.preprocess import scaled
from ..input.tf_resample import TF_RESAMPLERS, resize
from ..model.contract import InputContract
from .fit import Fit, fit
from .formats import MOST_PIXELS, opened_image, pillow

_MODES = {"gray": "L", "rgb": "RGB", "bgr": "RGB", "rgba": "RGBA"}

_JPEGS = ("JPEG", "MPO")
"""Pillow's formats of files that TensorFlow decodes as JPEG."""

_ORIENTATION = 0x0112
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""What shows an image upright, by the orientation that its file has (EXIF 2.32, tag 0x0112)."""


def load_image(path: Path, contract: InputContract) -> NDArray[Any]:
    """An image file as the contract's (H, W, C) in its colour order: uint8 pixels, or model-ready float32 where its
    resampler leaves fractions.

    Raises:
        MissingPackageError: Pillow is not installed, or the contract's JPEG decoder.
        RequestError: the model's channels are not colours.
        UnreadableDataError: the file is not an image, is cut short, or holds floating-point pixels.
    """
    try:
        # An open file: by name, Pillow maps plain TIFFs into memory, and gets the size of rotated ones wrong.
        with path.open("rb") as file:
            return decode_image(file, str(path), contract)
    except OSError as error:
        raise UnreadableDataError(f"cannot read the image {path}: {error}. Remove or replace the file.") from error


def decode_image(file: BinaryIO, name: str, contract: InputContract, holder: str = "file") -> NDArray[Any]:
    """The content of an image file, as :func:`load_image` gives it.

    Args:
        file: the content, from its beginning.
        name: what to call it in an error.
        contract: how it is read.
        holder: what the user would have to remove or replace.

    Raises:
        MissingPackageError, RequestError, UnreadableDataError: see :func:`load_image`.
    """
    image_module, ops = pillow()
    if contract.color_order not in _MODES:
        raise RequestError(
            f"the model takes {contract.shape[-1]} channels, which no image file has. Pass arrays (.npy) instead."
            if contract.is_image
            else f"{name} is an image, and the model takes arrays of shape {contract.shape}. Pass .npy files instead."
        )
    try:
        with opened_image(file, name) as opened:
            if contract.jpeg_decoder == "tensorflow" and opened.format in _JPEGS and opened.mode in ("L", "RGB"):
                image = _decode_jpeg(file, opened, contract, image_module)
            else:
                opened.load()
                turned = contract.exif == "apply" and opened.getexif().get(_ORIENTATION) in _TURNS
                image = ops.exif_transpose(opened) if turned else opened
            return _sized(_to_mode(image, contract, name, image_module), contract, image_module)
    except EmbedliteError:
        raise
    except Exception as error:
        # Pillow has no common class for damaged files: a wrong byte in EXIF data may raise TypeError or struct.error.
        kind = type(error).__name__
        reason = "its content is not an image" if kind == "UnidentifiedImageError" else str(error) or kind
        raise UnreadableDataError(f"cannot read the image {name}: {reason}. Remove or replace the {holder}.") from error


def _sized(image: Any, contract: InputContract, image_module: Any) -> NDArray[Any]:
    """An image of the contract's mode in its size."""
    height, width, _ = contract.shape
    if image.size == (width, height) and ":" not in contract.fit:
        pixels = np.asarray(image, np.uint8).reshape(contract.shape)
    else:
        pixels = _fitted(image, fit(contract.fit, (image.height, image.width), (height, width)), contract, image_module)
    if contract.color_order == "bgr":
        pixels = pixels[..., ::-1]
    return pixels if pixels.dtype == np.uint8 else scaled(pixels, contract)


def _fitted(image: Any, how: Fit, contract: InputContract, image_module: Any) -> NDArray[Any]:
    """uint8 pixels, or float32 ones with fractions."""
    channels = contract.shape[2]
    # A line of a few thousand pixels is a small file, and a square around it fills the memory.
    tall, wide = max(how.taken, how.resized, key=math.prod)
    if tall * wide > MOST_PIXELS:
        raise ValueError(
            f"it has {image.width}x{image.height} pixels, of which fit {contract.fit} makes {wide}x{tall} on the way; "
            f"at most {MOST_PIXELS} in all are made"
        )
    if how.taken != (image.height, image.width):
        image = image.crop((how.left, how.top, how.left + how.taken[1], how.top + how.taken[0]))
    if contract.resampler in TF_RESAMPLERS:
        pixels = resize(np.asarray(image, np.uint8).reshape(*how.taken, channels), *how.resized, contract.resampler)
    else:
        if how.resized != how.taken:
            image = image.resize(how.resized[::-1], getattr(image_module.Resampling, contract.resampler.upper()))
        pixels = np.asarray(image, np.uint8).reshape(*how.resized, channels)
    if pixels.shape == contract.shape:
        return pixels
    framed = np.zeros(contract.shape, pixels.dtype)
    height, width = (
        (max(0, start), min(whole, start + size), max(0, -start))
        for start, size, whole in zip((how.down, how.right), how.resized, contract.shape, strict=False)
    )
    inner = pixels[height[2] :, width[2] :][: height[1] - height[0], : width[1] - width[0]]
    framed[height[0] : height[1], width[0] : width[1]] = inner
    return framed


def _decode_jpeg(file: BinaryIO, opened: Any, contract: InputContract, image_module: Any) -> Any:
    """A JPEG as ``tf.io.decode_jpeg`` decodes it by default: libjpeg's fast DCT, colours repeated, not interpolated."""
    try:
        import simplejpeg
    except ImportError as error:
        raise MissingPackageError(
            "--jpeg-decoder tensorflow needs simplejpeg, which is not installed. Run: pip install 'embedlite[tfjpeg]'."
        ) from error
    # One channel as TensorFlow decodes it is the luma that the file holds.
    gray = opened.mode == "L" or (contract.color_order == "gray" and contract.gray == "tf-decode")
    file.seek(0)
    decoded = simplejpeg.decode_jpeg(
        file.read(), colorspace="GRAY" if gray else "RGB", fastdct=True, fastupsample=False
    )
    image = image_module.fromarray(decoded[..., 0] if gray else decoded)
    turn = _TURNS.get(opened.getexif().get(_ORIENTATION)) if contract.exif == "apply" else None
    return image if turn is None else image.transpose(getattr(image_module.Transpose, turn))


def _to_mode(image: Any, contract: InputContract, name: str, image_module: Any) -> Any:
    mode = _MODES[contract.color_order]
    if image.mode == "F":
        raise UnreadableDataError(
            f"the image {name} holds floating-point pixels, whose range is unknown. Pass it as an array (.npy)."
        )
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit values at 255 instead of scaling them.
        values = np.asarray(image, np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadableDataError(
                f"the image {name} holds {image.mode} values from {values.min()} to {values.max()}, which are not "
                "16-bit gray levels. Pass it as an array (.npy)."
            )
        image = image_module.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode == mode:
        return image
    if image.mode == "P" and "transparency" in image.info:
        # Pillow's documented way to drop a palette's transparency; it warns about any other.
        image = image.convert("RGBA")
    if mode == "L" and image.mode not in ("1", "LA"):
        # Palettes and CMYK have no direct way to gray that goes over the visible colours.
        image = image.convert("RGB")
        if contract.gray != "pillow":
            return image_module.fromarray(_GRAYS[contract.gray](np.asarray(image)))
    return image.convert(mode)


def _gray_by_image(colors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``tf.image.rgb_to_grayscale``: (H, W, 3) to (H, W), in float32 and its order of operations."""
    shares = colors.astype(np.float32) * np.float32(1 / 255)
    red, green, blue = (shares[..., channel] * np.float32(_LUMA[channel]) for channel in range(3))
    gray: NDArray[np.uint8] = np.minimum((red + green + blue) * np.float32(255.5), 255).astype(np.uint8)
    return gray


def _gray_by_decode(colors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``tf.io.decode_image(channels=1)`` of a PNG: libpng's whole numbers."""
    red, green, blue = (colors[..., channel].astype(np.uint32) for channel in range(3))
    gray: NDArray[np.uint8] = ((9797 * red + 19234 * green + 3737 * blue) >> 15).astype(np.uint8)
    return gray


_LUMA = (0.2989, 0.5870, 0.1140)
_GRAYS = {"tf-image": _gray_by_image, "tf-decode": _gray_by_decode}
