"""Image files as pixel arrays, always in the same way.

What happens, in this order: the EXIF orientation is applied; 16-bit grayscale is scaled to 8 bits; the
image is converted to the model's channels (transparency is dropped, CMYK and palettes become RGB, colour
becomes gray by ITU-R 601-2 luma); it is stretched to the model's size with the contract's resampler.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingPackageError, RequestError, UnreadableDataError
from ..model.contract import InputContract

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
"""Files in a folder that are taken for images; the content decides what they are."""

_MODES = {"gray": "L", "rgb": "RGB", "bgr": "RGB", "rgba": "RGBA"}


def load_image(path: Path, contract: InputContract) -> NDArray[np.uint8]:
    """An image file as uint8 pixels of the contract's (H, W, C) and colour order.

    Raises:
        MissingPackageError: Pillow is not installed.
        RequestError: the model's channels are no colour.
        UnreadableDataError: the file is no image, is cut short, or holds floating-point pixels.
    """
    try:
        # An open file: by name, Pillow maps plain TIFFs into memory, and gets the size of rotated ones wrong.
        with path.open("rb") as file:
            return decode_image(file, str(path), contract)
    except OSError as error:
        raise UnreadableDataError(f"cannot read the image {path}: {error}. Remove or replace the file.") from error


def decode_image(file: BinaryIO, name: str, contract: InputContract, holder: str = "file") -> NDArray[np.uint8]:
    """The content of an image file as uint8 pixels of the contract's (H, W, C) and colour order.

    Args:
        file: the content, from its beginning.
        name: what to call it in an error.
        contract: size, colour order and resampler.
        holder: what the user would have to remove or replace.

    Raises:
        MissingPackageError, RequestError, UnreadableDataError: see :func:`load_image`.
    """
    image_module, ops = _pillow()
    if contract.color_order not in _MODES:
        raise RequestError(
            f"the model takes {contract.shape[2]} channels, which no image file has. Pass arrays (.npy) instead."
        )
    height, width, _ = contract.shape
    try:
        with image_module.open(file) as opened:
            opened.load()
            image = ops.exif_transpose(opened)
    except Exception as error:
        # Pillow has no common class for damaged files: a wrong byte in EXIF data may raise TypeError or struct.error.
        kind = type(error).__name__
        reason = "its content is no image" if kind == "UnidentifiedImageError" else str(error) or kind
        raise UnreadableDataError(f"cannot read the image {name}: {reason}. Remove or replace the {holder}.") from error
    image = _to_mode(image, _MODES[contract.color_order], name, image_module)
    if image.size != (width, height):
        image = image.resize((width, height), getattr(image_module.Resampling, contract.resampler.upper()))
    pixels = np.asarray(image, np.uint8).reshape(contract.shape)
    return pixels[..., ::-1] if contract.color_order == "bgr" else pixels


def begins_like_an_image(data: bytes) -> bool:
    """Whether bytes begin as PNG, JPEG, GIF, WebP, TIFF or BMP do.

    Pillow's own answer is no use for bytes that may be raw pixels: some formats that it knows, such as TGA, have no
    signature, so that it takes flat pixels for them.
    """
    if data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")):
        return True
    if data.startswith(b"RIFF"):
        return data[8:12] == b"WEBP"
    # Two letters are no signature: a pixel in 65536 has them. The file's length follows.
    return data.startswith(b"BM") and int.from_bytes(data[2:6], "little") == len(data)


def _to_mode(image: Any, mode: str, name: str, image_module: Any) -> Any:
    if image.mode == "F":
        raise UnreadableDataError(
            f"the image {name} holds floating-point pixels, whose range is unknown. Pass it as an array (.npy)."
        )
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit values at 255 instead of scaling them.
        values = np.asarray(image, np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadableDataError(
                f"the image {name} holds {image.mode} values from {values.min()} to {values.max()}, which are no "
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
    return image.convert(mode)


def _pillow() -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingPackageError(
            "reading image files needs Pillow, which is not installed. "
            "Run: pip install 'embedlite[images]', or pass arrays (.npy)."
        ) from error
    return Image, ImageOps
