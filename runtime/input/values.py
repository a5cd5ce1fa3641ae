"""What the values of an input say of it: NaN, and the scalings that people mix up.

An array does not say what its numbers mean. The contract does: it says what black and white become, and floats far from
that were probably scaled otherwise. Such a finding is a warning and not an error, because a model may have been trained
on odd values; each is said once for an encoder. NaN and infinity are errors, always.

Whether images come with red and blue exchanged, as from OpenCV, which reads BGR.

No single array shows it. Some dozens do: photos of one kind are redder than blue on average, or bluer, and the file
knows which: by what it was calibrated on, or by a mean for each channel, such as ImageNet's.
"""

from __future__ import annotations

import itertools
import math
import threading
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EmbedliteWarning
from ..model.contract import InputContract
from .preprocess import as_float32, extremes, refuse_non_finite

WHOLE = 32_768
"""Images up to so many values are always looked at as a whole; it takes some 5 microseconds."""

SAMPLE = 12_288
"""Of a larger image, whole rows with about so many values are looked at, other rows every time."""

FIRST_IMAGES = 32
"""Mistakes that every image shows are looked for in so many."""

_FEWEST = 8
"""Where no more images come, so many tell of a scaling that no single one shows."""

_OVERSHOOT = 0.3
"""Of the range of pixels: sharp resamplers go beyond it by a tenth at an edge, and twice at a corner."""

_STANDARDIZED = 3.2
"""No pixel is further from zero once a usual mean and deviation are taken off, as torchvision does it."""

_SCALES = {"beyond", "scaled already", "together"}
"""Mistakes of scale, of which one is said."""


class InputValues:
    """Looks at the values of an encoder's inputs; may be shared by threads.

    Args:
        name: the model file's name, for warnings.
        contract: says what the values should be.
        calibration: what the file's contract says of the images that it was calibrated on.
    """

    def __init__(self, name: str, contract: InputContract, calibration: Mapping[str, Any] | None = None) -> None:
        self._name = name
        self._order = contract.color_order.upper()
        self._colors = ColorWatch(contract, calibration)
        size = math.prod(contract.shape)
        self._step = 1 if size <= WHOLE else min(-(-size // SAMPLE), contract.shape[0])
        self._turns = itertools.count()
        self._lock = threading.Lock()
        self._said: set[str] = set()
        self._pixel_images = 0
        self._wide_images, self._widest = 0, 0
        self._seen, self._lowest, self._highest = 0, math.inf, -math.inf
        if not contract.is_image:
            # Any number may be right, so that nothing is left to be found but what is not one.
            self._low, self._high = (float(limit) for limit in (np.finfo(np.float32).min, np.finfo(np.float32).max))
            self._unscaled, self._watches = -math.inf, False
            return
        black, white = (
            [(pixel - mean) / std for mean, std in np.broadcast(contract.mean, contract.std)] for pixel in (0, 255)
        )
        self._black, self._white = float(min(black)), float(max(white))
        span = self._white - self._black
        self._low, self._high = self._black - _OVERSHOOT * span, self._white + _OVERSHOOT * span
        # A range this wide means raw pixels, or nearly; an image within a few units was scaled before.
        self._unscaled = _STANDARDIZED if span > 32 else -math.inf
        # Black below zero, as with mean and std of 127.5 or of ImageNet: 0-1 floats fit in, but never go below 0.
        self._watches = self._black <= -span / 4 and self._white >= span / 4

    def check_floats(self, ready: NDArray[np.float32], *, every_value: bool) -> None:
        """Look at a float32 input of the contract's shape, model-ready.

        Args:
            ready: the image, or other array.
            every_value: at all of it, however large it is.

        Raises:
            InputValueError: a value that was looked at is NaN or infinite.
        """
        sampled = self._step > 1 and not every_value
        rows = ready[next(self._turns) % self._step :: self._step] if sampled else ready
        low, high = extremes(rows)
        # NaN compares false.
        if not (self._low <= low and high <= self._high) or high <= self._unscaled:
            self._judge(ready)
        if self._watches:
            self._watch(low, high)
        # Of another scale they would be judged by what they are not.
        if self._colors.watches and not self._said & _SCALES:
            self._look_at_colors(rows)

    def check_pixels(self, pixels: NDArray[np.uint8]) -> None:
        """Look at a uint8 image (H, W, C), one of the first, for nothing but 0 and 1, and for exchanged colours."""
        if self._colors.watches:
            self._look_at_colors(pixels[:: self._step])
        if self._pixel_images >= FIRST_IMAGES:
            return
        self._pixel_images += 1
        rows = pixels[:: self._step]
        # Integers of fewer bits than their type has, which is told by itself, leave next to nothing of pixels.
        few = "few bits" in self._said
        if not few and np.maximum.reduce(rows, axis=None) <= 1 and np.maximum.reduce(pixels, axis=None) == 1:
            self._warn(
                "pixels 0 and 1",
                "no pixel is above 1: integers are taken as pixels 0-255, of which 0 and 1 are both black. If they "
                "were floats 0-1, scale before you convert: np.round(image * 255).astype(np.uint8). A mask of 0 and 1 "
                "becomes pixels by image * 255.",
            )

    def check_wide(self, image: NDArray[np.uint16]) -> None:
        """Look at a uint16 image (H, W, C), one of the first, for values that leave the upper bits empty."""
        if self._wide_images >= FIRST_IMAGES:
            return
        self._wide_images += 1
        self._widest = max(self._widest, int(image.max()))
        bits = next((bits for bits in (8, 10, 12, 14) if self._widest < 1 << bits), 16)
        # A picture may be so dark that two bits are not used, but hardly one that leaves four, nor all of the first.
        if not self._widest or bits > (14 if self._wide_images == FIRST_IMAGES else 12):
            return
        way = "pass image.astype(np.uint8)" if bits == 8 else f"shift them, image << {16 - bits}"
        self._warn(
            "few bits",
            f"uint16 values reach {self._widest} and no more: integers of 16 bits are taken as 0-65535, so that the "
            f"model sees next to black. They look like values of {bits} bits: {way}.",
        )

    def conclude(self) -> None:
        """Say what the floats so far show together; what is watched is told by itself once there are enough."""
        if self._watches and self._seen >= _FEWEST:
            self._judge_together()

    def explain_non_finite(self, image: NDArray[Any], vector: NDArray[np.float32]) -> None:
        """If a vector is NaN or infinite, say why: because of the input, or of the model.

        Raises:
            InputValueError: it is, and the input holds NaN or infinity.
        """
        if np.isfinite(vector).all():
            return
        if image.dtype.kind == "f":
            refuse_non_finite(as_float32(image))
        self._warn(
            "no vector",
            "the model answered NaN or infinity for an input without any; such a vector is of no use. Compare the file "
            "with its reference by drift-report, which counts such vectors as invalid.",
        )

    def _judge(self, ready: NDArray[np.float32]) -> None:
        low, high = extremes(ready)
        if not (math.isfinite(low) and math.isfinite(high)):
            refuse_non_finite(ready)
        if self._said & _SCALES:
            return
        if low < self._low or high > self._high:
            self._warn(
                "beyond",
                f"a float image has values from {low:.4g} to {high:.4g}, but {self._ours}. {_likely(low, high)}",
            )
        elif self._scaled_already(low, high) and (ready != np.round(ready)).any():
            self._warn(
                "scaled already",
                f"a float image has values from {low:.4g} to {high:.4g}, but {self._ours}. It looks scaled already; "
                "this model scales pixels itself, so pass uint8 pixels, or image * 255 if the values are 0-1.",
            )

    @property
    def _ours(self) -> str:
        return f"pixels 0-255 become {self._black:.3g} to {self._white:.3g} for this model"

    def _scaled_already(self, low: float, high: float) -> bool:
        """Whether an image's values are those of 0-1, -1 to 1, or standardized, where raw pixels belong."""
        if not (-min(_STANDARDIZED, self._unscaled) <= low < high <= self._unscaled):
            return False
        # Dark pictures have values that are as small, but none below zero.
        return (low >= -1 and high <= 1) or low <= -0.5

    def _watch(self, low: float, high: float) -> None:
        with self._lock:
            self._seen += 1
            self._lowest, self._highest = min(self._lowest, low), max(self._highest, high)
            self._watches = self._seen < FIRST_IMAGES
        if not self._watches:
            self._judge_together()

    def _judge_together(self) -> None:
        """Say what many images show by never going where the contract's pixels go."""
        low, high = self._lowest, self._highest
        if self._said & _SCALES:
            return
        seen = f"{self._seen} float images have values from {low:.3g} to {high:.3g}"
        pass_pixels = "pass uint8 pixels, and the contract scales them."
        if low >= 0:
            likely = _likely(low, high) if high > 1.01 else f"They look scaled to 0-1: {pass_pixels}"
            self._warn("together", f"{seen} and none below 0, but {self._ours}. {likely}")
        elif self._black < -1.3 and self._white > 1.3 and -1.01 <= low <= -0.9 and 0.9 <= high <= 1.01:
            self._warn("together", f"{seen}, but {self._ours}. They look scaled to -1 to 1: {pass_pixels}")

    def _look_at_colors(self, rows: NDArray[Any]) -> None:
        with self._lock:
            exchanged = self._colors.watches and self._colors.look(rows)
        if exchanged:
            self._warn(
                "colours",
                f"red and blue look exchanged: the model takes {self._order} and knows images whose first channel is "
                f"{self._colors.expected:+.0f} above the last, but {self._colors.count} images have "
                f"{self._colors.found:+.0f}. "
                "OpenCV reads BGR and Pillow RGB; image[..., ::-1] turns one into the other. If the order is right, "
                "these are images of another kind than those that the model knows.",
            )

    def _warn(self, mistake: str, text: str) -> None:
        with self._lock:
            if mistake in self._said:
                return
            self._said.add(mistake)
        warnings.warn(f"{self._name}: {text} (Said once.)", EmbedliteWarning, stacklevel=2)


def _likely(low: float, high: float) -> str:
    """What floats of this range probably are, and what to do."""
    if low >= 0 and 2 < high <= 255:
        return "They look like pixels 0-255 that became floats: pass them as uint8, and the contract scales them."
    how = ""
    if -160 <= low < -_STANDARDIZED and _STANDARDIZED < high <= 256:
        how = " (a mean taken off pixels 0-255, as for caffe)"
    elif -_STANDARDIZED <= low <= -0.5 and 1.01 < high <= _STANDARDIZED:
        how = " (standardized, as torchvision does it)"
    return f"They look scaled with another mean and std{how}: pass uint8 pixels, and the contract scales them."


_FEW, _ENOUGH = 16, 32
"""From so many different images on colours are judged, strictly; and from so many on as usual."""

_MOST_LOOKS = 256
"""A camera that sees one scene all the time is not watched for ever."""

_ALIKE = 1.0
"""Frames of one scene, in which red less blue differs by no more than so many pixel values, count once."""

_LEAST = 8.0
"""Below so many pixel values between red and blue the file knows of no difference."""


class ColorWatch:
    """Compares red less blue of the first images with what the file knows; not safe to share between threads.

    Args:
        contract: gives mean and std of the channels.
        calibration: of the file's contract, see :class:`embedlite.runtime.model.contract.Contract`; its
            ``channel_means`` if it has any.
    """

    def __init__(self, contract: InputContract, calibration: Mapping[str, Any] | None) -> None:
        self.watches = False
        if not contract.is_image:
            return
        means = (calibration or {}).get("channel_means")
        # Nothing vouches for this part of a contract, so it may hold anything.
        if not (isinstance(means, list) and len(means) == 3 and all(type(mean) is float for mean in means)):
            means = contract.mean
        self.expected = float(means[0] - means[-1])
        self.watches = contract.shape[2] == 3 and _LEAST <= abs(self.expected) <= 255
        self._mean, self._std = np.broadcast_to(contract.mean, 3), np.broadcast_to(contract.std, 3)
        self._looks = 0
        self._found: list[float] = []

    def look(self, rows: NDArray[Any]) -> bool:
        """Take in one image; true once, if the images so far have red and blue exchanged.

        Args:
            rows: (h, W, 3), an image or some rows of it; integers are pixels, floats are model-ready.
        """
        first, _, last = np.mean(rows, axis=(0, 1), dtype=np.float64)
        if rows.dtype.kind == "f":
            first, last = first * self._std[0] + self._mean[0], last * self._std[2] + self._mean[2]
        difference = float(first - last)
        self._looks += 1
        if all(abs(difference - other) > _ALIKE for other in self._found[-1:]):
            self._found.append(difference)
        count = len(self._found)
        if count < _FEW:
            self.watches = self._looks < _MOST_LOOKS
            return False
        # By far no accident of these images, either way; else more of them are asked.
        opposite = -math.copysign(1, self.expected) * self.found
        certain = (4 if count >= _ENOUGH else 5) * float(np.std(self._found)) / math.sqrt(count - 1)
        exchanged = opposite >= abs(self.expected) / 2 and opposite > certain
        self.watches = not exchanged and -opposite <= certain and self._looks < _MOST_LOOKS
        return exchanged

    @property
    def count(self) -> int:
        """Different images that were taken in."""
        return len(self._found)

    @property
    def found(self) -> float:
        """Red less blue, in pixel values, on average over what was taken in."""
        return float(np.mean(self._found))
