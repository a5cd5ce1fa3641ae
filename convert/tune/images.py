"""The images that are trained on: calibration images and further ones, shifted a little as a camera would."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...runtime.images.source import Source

_MOST_KEPT = 512 << 20
"""Bytes of images that are kept in memory; others are read each time."""

_SHIFTED = 0.5
_FARTHEST = 16
"""Images are shifted by at most this part of their sides."""


class Batches:
    """Random batches of images, the same for the same seed."""

    def __init__(self, sources: Sequence[Source], size: int, seed: int) -> None:
        """Read nothing yet.

        Args:
            sources: model-ready images of one shape.
            size: images in a batch.
            seed: of what is drawn.
        """
        self._places = [(source, index) for source in sources for index in range(len(source))]
        self._size, self._rng = size, np.random.default_rng(seed)
        self._kept: dict[int, NDArray[np.float32]] = {}
        self._bytes = 0
        # What is not an image (a spectrogram, a window of a sensor) is as it is.
        self._shifts = all(source.contract.is_image for source in sources)

    def __len__(self) -> int:
        """How many images there are."""
        return len(self._places)

    def draw(self) -> NDArray[np.float32]:
        """One batch, (size, H, W, C)."""
        drawn = self._rng.integers(0, len(self._places), self._size)
        return np.stack([self._moved(self._image(int(number))) for number in drawn])

    def _image(self, number: int) -> NDArray[np.float32]:
        if number in self._kept:
            return self._kept[number]
        source, index = self._places[number]
        image = source.ready(index)
        if self._bytes + image.nbytes <= _MOST_KEPT:
            self._kept[number], self._bytes = image, self._bytes + image.nbytes
        return image

    def _moved(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """The image, or one that is shifted; the edge is repeated where nothing is known."""
        if not self._shifts or self._rng.random() >= _SHIFTED:
            return image
        for axis in (0, 1):
            length = image.shape[axis]
            shift = int(self._rng.integers(-(length // _FARTHEST), length // _FARTHEST + 1))
            image = np.take(image, np.clip(np.arange(length) - shift, 0, length - 1), axis=axis)
        return image
