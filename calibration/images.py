"""Whether the images that were observed are the ones that were there at the beginning.

Setting images aside to measure drift on: what set the ranges cannot judge them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..runtime.images.source import Source
from .engine import Engine, Listing, list_images
from .errors import CalibrationDataError
from .statistics import MODULUS, Statistics, image_number


def check_unchanged(
    statistics: Statistics, source: Source, indices: Sequence[int], listing: Listing, engine: Engine
) -> None:
    """Refuse statistics of other images than those that were listed.

    Args:
        statistics: of the images.
        source: what they came from.
        indices: which they were.
        listing: of the source, made before.
        engine: what reads the source again, to say which images are others now.

    Raises:
        CalibrationDataError: the pool changed while it was read, or an image was counted twice or not at all.
    """
    expected = sum(image_number(source.ids[index], listing.digest(index)) for index in indices) % MODULUS
    if (statistics.samples, statistics.images) == (len(indices), expected):
        return
    now = list_images(source, engine)
    changed = [source.ids[index] for index in indices if now.digest(index) != listing.digest(index)]
    which = f"{len(changed)} image(s), such as {changed[0]!r}" if changed else "which of its images is not known"
    raise CalibrationDataError(
        f"{source.name} changed while it was read: {which}. Run again once nothing is written there any more."
    )


_IMAGES = 32
"""Decoding more would cost an export time, and the mean is only held against other means."""

_LEAST = 8


def channel_means(source: Source) -> tuple[float, ...]:
    """The mean of each channel, in pixel values rounded to tenths, over images spread evenly through a source.

    Empty where that says nothing of colours: unless there are three channels and at least 8 images.
    """
    contract = source.contract
    if not contract.is_image or contract.shape[2] != 3 or len(source) < _LEAST:
        return ()
    indices = np.linspace(0, len(source) - 1, min(len(source), _IMAGES)).round().astype(int)
    ready = np.mean([source.ready(int(i)).mean(axis=(0, 1), dtype=np.float64) for i in indices], axis=0)
    return tuple(round(float(mean), 1) for mean in ready * contract.std + contract.mean)


HELD_OUT_SHARE = 5
HELD_OUT_MOST = 64


def hold_out(count: int, seed: int) -> tuple[list[int], list[int]]:
    """Split ``count`` images into calibration and held-out indices, both ascending.

    A seeded fifth is held out, at most 64 images; fewer than five images are all used for calibration.
    """
    held = min(count // HELD_OUT_SHARE, HELD_OUT_MOST)
    chosen = set(np.random.default_rng(seed).choice(count, held, replace=False).tolist())
    return [i for i in range(count) if i not in chosen], sorted(chosen)
