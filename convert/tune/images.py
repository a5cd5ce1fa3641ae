"""The images that are trained on: calibration images and further ones, changed a little as a camera would."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import DataError, InputError
from ...runtime.images.source import Source

_MOST_KEPT = 512 << 20
"""Bytes of images that are kept in memory; others are read each time."""

_SHIFTED = 0.5
_FARTHEST = 16
"""Images are shifted by at most this part of their sides."""

_DARKENED, _DARKEST = 0.25, 0.7
_MIXED = 0.25
"""How often an image is darkened, and another one shines through it. Either stays between black and white."""


class Batches:
    """Random batches of images, the same for the same seed.

    Attributes:
        size: images in a batch.
        unreadable: names of images that turned out to be damaged; the next one is taken in the place of each.
    """

    def __init__(self, sources: Sequence[Source], size: int, seed: int, *, flips: bool = False) -> None:
        """Read nothing yet.

        Args:
            sources: model-ready images of one contract.
            size: images in a batch.
            seed: of what is drawn.
            flips: whether left and right may change places.
        """
        self.size = size
        self._sources = sources
        self._places = [(source, index) for source in sources for index in range(len(source))]
        self._flips, self._rng = flips, np.random.default_rng(seed)
        self._kept: dict[int, NDArray[np.float32] | None] = {}
        self.unreadable: list[str] = []
        self._bytes = 0
        contract = sources[0].contract
        # What is not an image (a spectrogram, a window of a sensor) is as it is.
        self._changes = contract.is_image
        self._black = -np.asarray(contract.mean, np.float32) / np.asarray(contract.std, np.float32)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the names of all images, and of the first ones of each source, as many as a batch has."""
        digest = hashlib.sha256()
        for source in self._sources:
            digest.update(json.dumps(list(source.ids)).encode())
            for index in range(min(self.size, len(source))):
                digest.update(source.ready(index).tobytes())
        return digest.hexdigest()

    @property
    def state(self) -> Any:
        """Of what is drawn, as JSON; can be set."""
        return self._rng.bit_generator.state

    @state.setter
    def state(self, state: Any) -> None:
        self._rng.bit_generator.state = state

    def __len__(self) -> int:
        """How many images there are."""
        return len(self._places)

    def draw(self) -> NDArray[np.float32]:
        """One batch, (size, H, W, C)."""
        drawn = self._rng.integers(0, len(self._places), self.size)
        return np.stack([self._changed(self._image(int(number))) for number in drawn])

    def _image(self, number: int) -> NDArray[np.float32]:
        while (image := self._read(number)) is None:
            number = (number + 1) % len(self)
        return image

    def _read(self, number: int) -> NDArray[np.float32] | None:
        """None of a damaged one, unless all are."""
        if number in self._kept:
            return self._kept[number]
        source, index = self._places[number]
        try:
            image = source.ready(index)
        except (DataError, InputError):
            self.unreadable.append(source.ids[index])
            if len(self.unreadable) == len(self):
                raise
            self._kept[number] = None
            return None
        if self._bytes + image.nbytes <= _MOST_KEPT:
            self._kept[number], self._bytes = image, self._bytes + image.nbytes
        return image

    def _changed(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self._changes:
            return image
        rng = self._rng
        if self._flips and rng.random() < 0.5:
            image = image[:, ::-1]
        if rng.random() < _SHIFTED:
            image = self._shifted(image)
        if rng.random() < _DARKENED:
            image = self._black + np.float32(rng.uniform(_DARKEST, 1)) * (image - self._black)
        if rng.random() < _MIXED:
            share = np.float32(rng.uniform(0, 0.5))
            image = image + share * (self._image(int(rng.integers(len(self._places)))) - image)
        return image

    def _shifted(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """The edge is repeated where nothing is known."""
        for axis in (0, 1):
            length = image.shape[axis]
            shift = int(self._rng.integers(-(length // _FARTHEST), length // _FARTHEST + 1))
            image = np.take(image, np.clip(np.arange(length) - shift, 0, length - 1), axis=axis)
        return image
