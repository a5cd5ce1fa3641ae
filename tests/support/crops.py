"""Pictures of many sizes and proportions, cut from scikit-image's photos."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image


def crops(count: int, sides: tuple[int, int], corners: int) -> Iterator[Image.Image]:
    """RGB pictures, always the same ones.

    Args:
        count: how many.
        sides: least height and width, and what they stay below.
        corners: what the distance of the upper left corner from the photo's stays below.
    """
    from skimage import data

    rng = np.random.default_rng(0)
    for number in range(count):
        photo = getattr(data, ("astronaut", "coffee", "chelsea")[number % 3])()
        height, width = rng.integers(*sides, 2)
        top, left = rng.integers(0, corners, 2)
        yield Image.fromarray(photo[top : top + height, left : left + width])


def save_crops(root: Path, count: int, sides: tuple[int, int], corners: int) -> None:
    """The same in ``png/all`` as PNG files and in ``jpg/all`` as JPEG files."""
    for kind in ("png", "jpg"):
        (root / kind / "all").mkdir(parents=True, exist_ok=True)
    for number, crop in enumerate(crops(count, sides, corners)):
        crop.save(root / "png" / "all" / f"{number:02d}.png")
        crop.save(root / "jpg" / "all" / f"{number:02d}.jpg")
