"""What the colours of calibration images are on average, for the device to notice exchanged channels by."""

from __future__ import annotations

import numpy as np

from ..runtime.sources import Source

_IMAGES = 32
"""Decoding more would cost an export time, and the mean is only held against other means."""

_LEAST = 8


def channel_means(source: Source) -> tuple[float, ...]:
    """The mean of each channel, in pixel values rounded to tenths, over images spread evenly through a source.

    Empty where that says nothing of colours: unless there are three channels and at least 8 images.
    """
    contract = source.contract
    if contract.shape[2] != 3 or len(source) < _LEAST:
        return ()
    indices = np.linspace(0, len(source) - 1, min(len(source), _IMAGES)).round().astype(int)
    ready = np.mean([source.ready(int(i)).mean(axis=(0, 1), dtype=np.float64) for i in indices], axis=0)
    return tuple(round(float(mean), 1) for mean in ready * contract.std + contract.mean)
