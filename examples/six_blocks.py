"""The encoder of the examples and benchmarks: six blocks of convolutions, then an embedding convolution.

A block is {conv 3x3 -> BatchNormalization -> ReLU} twice, then a strided conv -> BatchNormalization -> ReLU in
place of pooling. The embedding is min-max normalized, each image by itself.
"""

import keras
from keras import layers

from embedlite.convert.layers import MinMaxNormalization

FILTERS = (8, 32, 32, 64, 64, 128)


def convolution(filters: int, strides: int, momentum: float) -> list[keras.layers.Layer]:
    """Convolution, batch normalization, ReLU."""
    return [
        layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False),
        layers.BatchNormalization(momentum=momentum),
        layers.ReLU(),
    ]


def six_blocks(shape: tuple[int, int, int], dimensions: int = 128, momentum: float = 0.9) -> keras.Sequential:
    """The encoder for images of ``shape``; each block halves height and width.

    Args:
        shape: (height, width, channels).
        dimensions: length of the embedding.
        momentum: of BatchNormalization. Keras' default of 0.99 needs thousands of steps before its averages are
            of any use on new images.
    """
    model = keras.Sequential(name="encoder")
    model.add(keras.Input(shape, name="image"))
    for index, filters in enumerate(FILTERS, 1):
        body = [layer for strides in (1, 1, 2) for layer in convolution(filters, strides, momentum)]
        model.add(keras.Sequential(body, name=f"block{index}"))
    left = [-(-size // 2 ** len(FILTERS)) for size in shape[:2]]
    model.add(layers.Conv2D(dimensions, left, padding="valid", name="embedding"))
    model.add(layers.Flatten())
    model.add(MinMaxNormalization(name="normalization"))
    return model
