"""The example's test images, and what its int8 and its float32 file make of them."""

import numpy as np
from PIL import Image

from embedlite.runtime import Encoder

from conftest import Digits


def digit_images(digits: Digits, count: int) -> np.ndarray:
    """(count, 32, 32, 1) uint8."""
    files = sorted(digits.test_images.glob("*.png"))[:count]
    return np.stack([np.asarray(Image.open(path))[..., None] for path in files])


def digit_vectors(digits: Digits, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings by the int8 and by the float32 file, both (N, 128) float32."""
    found = []
    for path in (digits.int8, digits.float32):
        with Encoder(path, threads=1) as encoder:
            found.append(encoder.embed(images))
    return found[0], found[1]
