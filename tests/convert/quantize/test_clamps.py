"""Networks whose values are tiny, so that the 6 of a RELU6 is more steps of its output than an integer holds."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from embedlite.convert import ExportOptions, export

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 12, 12, 3), np.uint8)


def shrinking(scale: float) -> keras.Model:
    """Every kind of layer that can hold a RELU6, after one that makes pixels tiny; no bias makes them larger again."""
    keras.utils.set_random_seed(0)
    image = keras.Input((12, 12, 3))
    first = layers.DepthwiseConv2D(1, use_bias=False)
    x = a = layers.Conv2D(8, 3, activation="relu6", padding="same", use_bias=False)(first(image))
    first.set_weights([np.full((1, 1, 3, 1), scale, np.float32)])
    x = layers.DepthwiseConv2D(3, activation="relu6", padding="same", use_bias=False)(x)
    x = layers.ReLU(6)(layers.Add()([a, x]))
    x = layers.ReLU(6)(layers.Concatenate()([x, layers.AveragePooling2D(3, 1, "same")(a)]))
    x = layers.Conv2DTranspose(8, 2, 2, activation="relu6", use_bias=False)(layers.MaxPooling2D(2)(x))
    x = layers.Dense(8, use_bias=False, activation="relu6")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(8, use_bias=False)(x), name="small")


def test_tiny_values_run_everywhere_and_cost_no_more_than_others(tmp_path: Path) -> None:
    drift = {}
    for scale in (1.0, 2.0**-27):
        result = export(
            shrinking(scale),
            tmp_path / str(scale),
            quantize=["int8", "int16x8"],
            calibration_data=IMAGES,
            test_data=IMAGES[:8],
            # What channels may be scaled by depends on how near to 6 they come.
            options=ExportOptions(correct=("none",), calibrate_method="minmax", equalize=False),
        )
        assert [verdict.detail for file in result.files for verdict in file.verified if not verdict.ok] == []
        drift[scale] = [file.drift.sqnr_db for file in result.files]
    # A power of two changes no weight's and no activation's digits, and every range is above the least one.
    np.testing.assert_allclose(drift[2.0**-27], drift[1.0], atol=1)
