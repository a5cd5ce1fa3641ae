"""Inputs that are made up: for golden vectors, and to run files on what calibration data seldom hold.

An image's pixels have a range, 0-255. Any other array's values have none, so what is made up for it lies where the data
given lie, or around the contract's mean where there are none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...runtime.images.source import Source
from ...runtime.input.preprocess import model_ready
from ...runtime.model.contract import InputContract

_SIDE = 32
"""Height and width of a stored synthetic frame; a larger model sees each pixel repeated."""

_LONGEST = {1: (1024,), 2: (64, 256), 3: (32, 32, 64), 4: (8, 16, 16, 16)}
"""The same for the axes of other arrays, by their number."""

_LOOKED_AT = 64
"""Inputs that say where values lie."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Span:
    """Where an array's values lie, model-ready.

    Attributes:
        low, high: of all values, (1,), or of each element of the last axis, (C,).
    """

    low: Floats
    high: Floats

    def put(self, unit: NDArray[np.float64]) -> Floats:
        """Values from -1 to 1 spread over it; what differs by element of the last axis is stretched with that."""
        last = unit.shape[-1]
        places = np.arange(last) * len(self.low) // last
        middle, half = (self.high + self.low)[places] / 2, (self.high - self.low)[places] / 2
        values: Floats = (middle + unit * half).astype(np.float32)
        return values


STANDARD = Span(np.array([-1], np.float32), np.array([1], np.float32))
"""As data lie that were standardized."""


def span_of(source: Source | None) -> Span:
    """Where some inputs of a source lie; :data:`STANDARD` without one, and for images, which have no need of it."""
    if source is None or source.contract.is_image:
        return STANDARD
    places = np.unique(np.linspace(0, len(source) - 1, _LOOKED_AT).astype(int))
    low = high = source.ready(0).reshape(-1, source.contract.shape[-1])[0]
    for place in places:
        rows = source.ready(int(place)).reshape(-1, source.contract.shape[-1])
        low, high = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))
    flat = low == high
    return Span(np.where(flat, low - 1, low), np.where(flat, high + 1, high))


def synthetic_frames(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Three images with structure at several scales and colours that differ by channel: (3, h, w, C) uint8.

    Blocks of random colour; waves of another direction and length in each channel; a lit disc with noise on a gradient.
    At most 32x32, whatever the model's size. Contrast and brightness are those of photos: harsher frames leave the
    ranges that calibration found, and a saturated file says little about the device.
    """
    height, width, channels = min(shape[0], _SIDE), min(shape[1], _SIDE), shape[2]
    rng = np.random.default_rng(0)
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    coarse = rng.integers(0, 160, (8, 8, channels))
    blocks = coarse[(y * 7.999).astype(int), (x * 7.999).astype(int)]
    turn = np.arange(channels)
    waves = 127.5 + 110 * np.sin(2 * np.pi * ((1 + turn) * x[..., None] + (3 - turn % 3) * y[..., None]))
    disc = ((x - 0.6) ** 2 + (y - 0.4) ** 2 < 0.08)[..., None]
    scene = np.where(disc, 200 - 40 * (turn % 3), 40 + 120 * x[..., None] * (1 + turn % 3) / 3)
    scene = scene + rng.integers(-16, 17, (height, width, channels))
    frames: NDArray[np.uint8] = np.stack([blocks, waves, scene]).clip(0, 255).astype(np.uint8)
    return frames


def synthetic_arrays(contract: InputContract, span: Span) -> Floats:
    """Three arrays in the data's own units: waves, steps and noise over three quarters of the span, (3, ...) float32.

    Of long axes fewer elements are made, each of which stands for several.
    """
    shape = [min(size, most) for size, most in zip(contract.shape, _LONGEST[len(contract.shape)], strict=True)]
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*(np.linspace(0, 1, size) for size in shape), indexing="ij")
    phase = sum((place + 1) * axis for place, axis in enumerate(axes))
    waves = np.sin(2 * np.pi * (3 * phase + axes[-1]))
    steps = np.where(np.floor(8 * axes[0] + 4 * axes[-1]) % 2 == 0, 0.8, -0.5)
    unit = np.stack([waves, steps, rng.uniform(-1, 1, shape)]) * 0.75
    return _unscaled(span.put(unit), contract, shape[-1])


def edge_frames(contract: InputContract, span: Span = STANDARD) -> Iterator[Floats]:
    """Frames that sensors deliver and calibration data seldom hold, model-ready.

    Of images flat black, flat white, saturated (half black, half white), one hot pixel, low contrast; of other arrays
    the same at the ends of their span.
    """
    if not contract.is_image:
        yield from map(span.put, _edges(contract.shape, -1.0, 1.0, 0.0, 0.01))
        return
    for frame in _edges(contract.shape, 0, 255, 127, 129):
        yield model_ready(frame.astype(np.uint8), contract)


def _edges(
    shape: tuple[int, ...], low: float, high: float, middle: float, beside: float
) -> Iterator[NDArray[np.float64]]:
    black, white = np.full(shape, low, np.float64), np.full(shape, high, np.float64)
    # Along the width of an image, and in time of a series.
    axis = 1 if len(shape) == 3 else 0
    half = (slice(None),) * axis + (slice(shape[axis] // 2, None),)
    saturated = black.copy()
    saturated[half] = high
    hot = black.copy()
    hot[tuple(size // 2 for size in (shape[:-1] or shape))] = high
    contrast = np.full(shape, middle, np.float64)
    contrast[(slice(None, None, 2),) * max(1, len(shape) - 1)] = beside
    yield from (black, white, saturated, hot, contrast)


def plain_frames(contract: InputContract, span: Span) -> Iterator[Floats]:
    """A few model-ready frames for files that have no data to be verified on: noise, a ramp, and the middle."""
    rng = np.random.default_rng(0)
    if contract.is_image:
        noise = rng.integers(0, 256, (2, *contract.shape))
        ramp = np.broadcast_to(np.linspace(0, 255, contract.shape[1])[:, None], contract.shape)
        for frame in (*noise, ramp, np.full(contract.shape, 128)):
            yield model_ready(frame.astype(np.uint8), contract)
        return
    first = np.linspace(-1, 1, contract.shape[0]).reshape(-1, *[1] * (len(contract.shape) - 1))
    for unit in (*rng.uniform(-1, 1, (2, *contract.shape)), np.broadcast_to(first, contract.shape)):
        yield span.put(unit)
    yield span.put(np.zeros(contract.shape))


def _unscaled(ready: Floats, contract: InputContract, last: int) -> Floats:
    """Model-ready values in the data's own units; of a last axis that was shortened, as the elements kept have them."""
    places = np.arange(last) * contract.shape[-1] // last
    mean, std = (np.broadcast_to(part, contract.shape[-1])[places] for part in (contract.mean, contract.std))
    values: Floats = (ready * std + mean).astype(np.float32)
    return values
