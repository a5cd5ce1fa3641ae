"""Channels that training switched off: their whole answer is their bias, and it is kept."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from embedlite.convert import ExportOptions, export
from embedlite.runtime import Encoder

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 12, 12, 3), np.uint8)


def channels_off(layer: layers.Layer, axis: int) -> None:
    weights, bias = layer.get_weights()
    moved = np.moveaxis(weights, axis, -1)
    moved[..., 0], moved[..., 1] = 0, moved[..., 1] * 1e-8
    bias[:2] = 0.7, 1.1
    layer.set_weights([np.moveaxis(moved, -1, axis), bias])


@pytest.mark.parametrize(
    ("layer", "axis"),
    [
        (layers.Conv2D(6, 3, activation="relu"), -1),
        (layers.DepthwiseConv2D(3), -2),
        (layers.Conv2DTranspose(6, 2, strides=2), -2),
        (layers.Dense(6), -1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_bias_beside_weights_of_almost_nothing_is_kept(layer: layers.Layer, axis: int, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    image = keras.Input((12, 12, 3))
    x = layer(image)
    channels_off(layer, axis)
    model = keras.Model(image, layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, strides=2)(x)), name="small")
    result = export(
        model,
        tmp_path,
        quantize=["int8", "int16x8"],
        calibration_data=IMAGES,
        options=ExportOptions(measure=False, correct=("none",)),
    )
    wanted = np.asarray(model(IMAGES / np.float32(255)))
    for file, least in zip(result.files, (30, 40), strict=True):
        noise = ((Encoder(file.path).embed(IMAGES) - wanted) ** 2).sum()
        assert 10 * np.log10((wanted**2).sum() / noise) > least
