"""Small untrained encoders for tests, with activations of an ordinary size on every layer."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

PLAIN: dict[str, Any] = {"calibrate_method": "minmax", "equalize": False, "correct": ["none"]}
"""Options of an export that tries nothing out: for what would be said of any int8 file, and a quarter of the time."""


def small_encoder(
    ending: Sequence[keras.layers.Layer], shape: tuple[int, int, int] = (24, 24, 3), dimensions: int = 16
) -> keras.Sequential:
    """Two strided convolutions, an embedding convolution with a 4x4 map, and what the test is about."""
    keras.utils.set_random_seed(7)
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(dimensions, 3, padding="valid", name="embedding"),
            *ending,
        ],
        name="small",
    )


def quick_encoder(shape: tuple[int, int, int] = (32, 32, 3), dimensions: int = 32) -> keras.Sequential:
    """So little work that thousands of images take a second; every pixel counts."""
    keras.utils.set_random_seed(7)
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.AveragePooling2D(4),
            layers.Conv2D(dimensions, 3, strides=2, activation="relu"),
            layers.GlobalAveragePooling2D(),
        ],
        name="quick",
    )


class Call(keras.layers.Layer):
    """A user's own normalization: any function as a layer."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)
