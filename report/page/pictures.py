"""Small pictures of the inputs."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.drift.report import DriftReport
from ...runtime.errors import EmbedliteError
from ...runtime.images.source import Source
from ...runtime.input.preprocess import to_pixels
from ...runtime.model.contract import InputContract
from .inputs import draw_input

_SIDE = 96
_HOVERED = 48


def thumbnails(source: Source, report: DriftReport) -> Mapping[str, bytes]:
    """PNG files of the worst images and their neighbours, as the model gets them, by id; SVG of other arrays."""
    place = {name: index for index, name in enumerate(source.ids)}
    pictures = {}
    for name in _shown(report):
        if name not in place:
            continue
        try:
            values = source.load(place[name])
        except EmbedliteError:
            # The report stands without the picture.
            continue
        if source.contract.is_image:
            pictures[name] = _png(_pixels(values, source.contract))
        else:
            pictures[name] = draw_input(values, name).encode(errors="backslashreplace")
    return pictures


def small_images(source: Source, ids: Sequence[str]) -> list[bytes | None]:
    """JPEG files of some tenths of a kilobyte and more, of the images of points; None where one cannot be read."""
    from PIL import Image

    if not source.contract.is_image:
        return [None] * len(ids)
    place = {name: index for index, name in enumerate(source.ids)}
    found: list[bytes | None] = []
    for name in ids:
        try:
            image = Image.fromarray(_pixels(source.load(place[name]), source.contract)).convert("RGB")
        except (KeyError, EmbedliteError):
            found.append(None)
            continue
        image.thumbnail((_HOVERED, _HOVERED))
        content = io.BytesIO()
        image.save(content, "JPEG", quality=70)
        found.append(content.getvalue())
    return found


def _png(pixels: NDArray[np.uint8]) -> bytes:
    # Needed by this alone; whether it is there was asked before the work began.
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def _shown(report: DriftReport) -> Iterable[str]:
    for row in report.worst:
        yield from dict.fromkeys((row.id, *row.reference_neighbours, *row.candidate_neighbours))


def _pixels(image: NDArray[Any], contract: InputContract) -> NDArray[np.uint8]:
    """An image as Pillow wants it: (H, W) or (H, W, 3 or 4) uint8; float images are stretched to their own range."""
    if image.dtype.kind == "f":
        low, high = float(image.min()), float(image.max())
        pixels = np.rint((image - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)
    else:
        pixels = to_pixels(image)
    if contract.color_order == "bgr":
        pixels = pixels[:, :, ::-1]
    if pixels.shape[2] in (3, 4):
        return np.ascontiguousarray(pixels)
    # Other numbers of channels have no colours; their mean shows what is there.
    gray: NDArray[np.uint8] = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels.mean(axis=2).astype(np.uint8)
    return gray
