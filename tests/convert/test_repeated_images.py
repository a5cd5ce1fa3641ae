"""Test images that prove less than their number: one image many times, or those that set the ranges."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedlite.convert import repeated_images
from embedlite.convert.repeated_images import explain_repeats
from embedlite.runtime.images.open import open_source
from embedlite.runtime.images.source import Source
from embedlite.runtime.model.contract import InputContract

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)


def source(data: Any) -> Source:
    return open_source(data, InputContract((8, 8, 3)), None)


def test_images_that_are_apart_need_no_word() -> None:
    assert explain_repeats(source(PIXELS[:6]), source(PIXELS[6:]), 0) == []
    assert explain_repeats(None, source(PIXELS), 0) == []
    assert explain_repeats(source(PIXELS), None, 0) == []


def test_one_image_many_times() -> None:
    (said,) = explain_repeats(None, source(np.repeat(PIXELS[:1], 5, axis=0)), 0)
    assert said.startswith("WARNING: all 5 test images are the same one")
    (said,) = explain_repeats(None, source(PIXELS[:1]), 0)
    assert said.startswith("WARNING: there is one test image, so the drift says nothing of others.")


def test_what_sets_the_ranges_is_told_by_name(tmp_path: Path) -> None:
    """By content: the files have other names and another order."""
    from PIL import Image

    folders = {"calib": PIXELS[:8], "test": PIXELS[5:][::-1]}
    for name, images in folders.items():
        (tmp_path / name).mkdir()
        for index, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{name}{index}.png")
    (said,) = explain_repeats(source(tmp_path / "calib"), source(tmp_path / "test"), 0)
    assert said.startswith("WARNING: 3 of 7 test images are calibration images, too (test4.png, for instance).")


def test_of_very_many_a_part_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated_images, "MOST_COMPARED", 6)
    (said,) = explain_repeats(source(PIXELS), source(PIXELS), 0)
    assert said.startswith("WARNING: at least 6 of 12 test images are calibration images, too")
