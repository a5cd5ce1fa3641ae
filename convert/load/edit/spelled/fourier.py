"""Fourier transforms of real frames of any length: TFLite's is for powers of two.

Its result is complex, and TFLite has little for such numbers, so each operator that takes the real part, the imaginary
part or the size of it becomes a product with cosines and sines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

PARTS = ("Real", "Imag", "ComplexAbs")
TRANSFORM = "RFFT"

_LONGEST = 4096
"""Values of a frame; the cosines and sines of this many are 67 MB."""


def part(kind: str, shape: Any, length: Any) -> Callable[..., Any] | None:
    """A part of the transform of frames as a function of them and of the length; None where TFLite has it itself.

    Args:
        kind: one of :data:`PARTS`.
        shape: of the frames, whose last axis is transformed.
        length: how many values of each are taken, zeros after its end; None where that is not known.
    """
    import tensorflow as tf

    if shape is None or None in shape or length is None:
        return None
    count = int(np.asarray(length).ravel()[0])
    if not count & (count - 1) or count > _LONGEST:
        return None
    taken = min(count, shape[-1])
    angles = 2 * np.pi * (np.outer(np.arange(taken), np.arange(count // 2 + 1)) % count) / count
    waves = {"Real": np.cos(angles), "Imag": -np.sin(angles)}
    sizes = (*shape[:-1], count // 2 + 1)

    def product(frames: Any, name: str) -> Any:
        rows = tf.reshape(frames, (-1, shape[-1]))[:, :taken]
        return tf.reshape(tf.matmul(rows, waves[name].astype(np.float32)), sizes)

    def apply(frames: Any, _: Any) -> Any:
        if kind != "ComplexAbs":
            return product(frames, kind)
        return tf.sqrt(tf.square(product(frames, "Real")) + tf.square(product(frames, "Imag")))

    return apply
