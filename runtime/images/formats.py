"""Which image files are read, and how they are opened: by Pillow, of a written list of formats.

Pillow's own list has more, some of it no images (it claims ``.h5`` and ``.pdf``) and some that run other programs.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

from ..errors import MissingPackageError

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".heic", ".heif"),
)
"""Files in a folder that are taken for images; the content decides what they are."""

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "AVIF", "PPM", "JPEG2000")
"""What the content may be, by Pillow's names; of animations the first picture is read."""

_PLUGINS = ("Tiff", "WebP", "Avif", "Jpeg2K", "Tga")
"""Pillow's modules for those of them that it does not know from the start; none for AVIF before 11.3."""

_TARGA = ".tga"
"""TGA has no signature: Pillow would take almost anything for one, so the name decides."""

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")

LARGE = 1 << 26
"""Images of more pixels are decoded one at a time, whatever the number of threads."""

MOST_PIXELS = 1 << 29
"""More is taken for damage, or for a small file that is meant to fill the memory: decoded it would be 1.5 GB."""

_opening, _one_at_a_time = threading.Lock(), threading.Lock()


@contextlib.contextmanager
def opened_image(file: BinaryIO, name: str) -> Iterator[Any]:
    """An image file, opened by Pillow and not decoded yet; of large ones there is one open at a time.

    Args:
        file: the content, from its beginning.
        name: what it is called; the suffix counts for TGA alone.

    Raises:
        MissingPackageError: Pillow is not installed.
        ValueError: it is HEIC and pillow-heif is not installed, or it has too many pixels.
        Exception: what Pillow raises for a file that is not an image or is damaged.
    """
    image_module, _ = pillow()
    _load_plugins(image_module)
    known = (*_FORMATS, "TGA") if name.lower().endswith(_TARGA) else _FORMATS
    formats = [kind for kind in known if kind in image_module.OPEN]
    head = file.read(12)
    file.seek(0)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        _register_heif()
        formats.append("HEIF")
    with _opening:
        # Pillow refuses and warns by numbers that a phone's camera surpasses; ours stands below.
        most, image_module.MAX_IMAGE_PIXELS = image_module.MAX_IMAGE_PIXELS, None
        try:
            opened = image_module.open(file, formats=formats)
        finally:
            image_module.MAX_IMAGE_PIXELS = most
    with opened:
        pixels = opened.width * opened.height
        if pixels > MOST_PIXELS:
            raise ValueError(
                f"it claims to have {opened.width}x{opened.height}, {pixels} pixels; at most {MOST_PIXELS} are decoded"
            )
        with _one_at_a_time if pixels > LARGE else contextlib.nullcontext():
            yield opened


def begins_like_an_image(data: bytes) -> bool:
    """Whether bytes begin as PNG, JPEG, GIF, WebP, TIFF, BMP, AVIF, HEIC or JPEG 2000 do.

    Pillow's own answer is no use for bytes that may be raw pixels: some formats that it knows, such as TGA, have no
    signature, so that it takes flat pixels for them.
    """
    signatures = (
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"GIF87a",
        b"GIF89a",
        b"II*\0",
        b"MM\0*",
        b"\0\0\0\x0cjP  \r\n",
    )
    if data.startswith(signatures):
        return True
    if data.startswith(b"RIFF"):
        return data[8:12] == b"WEBP"
    if data[4:8] == b"ftyp":
        return data[8:12] in (*_HEIF_BRANDS, *_AVIF_BRANDS)
    # Two letters are not a signature: a pixel in 65536 has them. The file's length follows.
    return data.startswith(b"BM") and int.from_bytes(data[2:6], "little") == len(data)


def pillow() -> tuple[Any, Any]:
    """Pillow's modules ``Image`` and ``ImageOps``.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingPackageError(
            "reading image files needs Pillow, which is not installed. "
            "Run: pip install 'embedlite[images]', or pass arrays (.npy)."
        ) from error
    return Image, ImageOps


@functools.cache
def _load_plugins(image_module: Any) -> None:
    image_module.preinit()
    for name in _PLUGINS:
        with contextlib.suppress(ImportError):
            importlib.import_module(f"PIL.{name}ImagePlugin")


def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError as error:
        # No MissingPackageError: --skip-unreadable passes over what cannot be read here.
        raise ValueError("it is HEIC, which needs pillow-heif: pip install 'embedlite[heic]'") from error
    pillow_heif.register_heif_opener()
