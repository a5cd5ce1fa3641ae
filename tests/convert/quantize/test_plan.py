"""Calibration data that cannot give ranges is refused in plain words, before anything is written."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from embedlite.calibration import CalibrationDataError
from embedlite.convert import ExportOptions, export
from embedlite.runtime.errors import EmptyDataError, InputValueError

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), np.uint8)


def encoder() -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(image)
    return keras.Model(image, layers.Flatten()(layers.Conv2D(8, 7)(x)), name="small")


@pytest.mark.parametrize(
    ("images", "error", "says"),
    [
        (IMAGES[:0], EmptyDataError, "holds no images"),
        (IMAGES[:1], CalibrationDataError, "holds one calibration image"),
        (np.repeat(IMAGES[:1], 9, axis=0), CalibrationDataError, r"all \d calibration images of .* are the same"),
        (np.where(np.arange(30).reshape(30, 1, 1, 1) == 17, np.nan, IMAGES / 255), InputValueError, "image '17' has"),
        (np.where(np.arange(30).reshape(30, 1, 1, 1) == 3, np.inf, IMAGES / 255), InputValueError, "image '3' has"),
    ],
    ids=["none", "one", "alike", "NaN", "infinity"],
)
def test_images_that_give_no_ranges(images: np.ndarray, error: type[Exception], says: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=says):
        export(encoder(), tmp_path / "out", quantize=["int8"], calibration_data=images, test_data=IMAGES[:3])
    assert not (tmp_path / "out").exists()


def test_the_order_of_the_images_changes_nothing(tmp_path: Path) -> None:
    model, made = encoder(), []
    for name, images in (("one", IMAGES), ("two", IMAGES[::-1])):
        result = export(
            model,
            tmp_path / name,
            quantize=["int8"],
            calibration_data=images,
            test_data=IMAGES[:3],
            options=ExportOptions(measure=False),
        )
        made.append((result.calibration, [text for text in result.decisions if "dB" in text]))
        assert result.calibration is not None
    ranges = [[(group.name, group.low, group.high) for group in calibration.groups] for calibration, _ in made]
    assert ranges[0] == ranges[1]
    assert made[0][1] == made[1][1]
