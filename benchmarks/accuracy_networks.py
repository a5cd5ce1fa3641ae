"""Three encoders, trained on scikit-learn's digits, that int8 treats very differently; see `accuracy.py`."""

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from embedlite.runtime.commands.options import quiet_libraries

with quiet_libraries():
    import keras
    from calibration_accuracy import train
    from keras import layers

    from embedlite.convert.layers import L2Normalization

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

SEED, DIMENSIONS = 0, 64
# Width and stride of each residual block, and width of each pair of the VGG-like network's convolutions.
RESIDUAL = ((24, 1), (24, 1), (32, 2), (32, 1), (64, 2), (64, 1), (64, 1))
VGG = (16, 32, 64)


def residual(shape: tuple[int, int, int]) -> keras.Model:
    """Inverted residual blocks (MobileNetV2): pointwise, depthwise, linear pointwise, BatchNormalization after each."""

    def convolution(x: keras.KerasTensor, layer: layers.Layer, *, rectified: bool = True) -> keras.KerasTensor:
        x = layers.BatchNormalization(momentum=0.9)(layer(x))
        return layers.ReLU()(x) if rectified else x

    image = keras.Input(shape, name="image")
    x = convolution(image, layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False))
    for width, stride in RESIDUAL:
        y = convolution(x, layers.Conv2D(2 * x.shape[-1], 1, use_bias=False))
        y = convolution(y, layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False))
        y = convolution(y, layers.Conv2D(width, 1, use_bias=False), rectified=False)
        x = layers.Add()([x, y]) if stride == 1 and x.shape[-1] == width else y
    x = convolution(x, layers.Conv2D(128, 1, use_bias=False))
    x = layers.Dense(DIMENSIONS, name="embedding")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, L2Normalization()(x), name="residual")


def vgg(shape: tuple[int, int, int]) -> keras.Model:
    """Pairs of 3x3 convolutions and pooling, then two dense layers; no BatchNormalization."""
    model = keras.Sequential([keras.Input(shape, name="image")], name="vgg")
    for width in VGG:
        for _ in range(2):
            model.add(layers.Conv2D(width, 3, padding="same", activation="relu"))
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(128, activation="relu"))
    model.add(layers.Dense(DIMENSIONS, name="embedding"))
    model.add(L2Normalization())
    return model


def trained() -> Iterator[tuple[str, keras.Model, np.ndarray, np.ndarray]]:
    """Name, encoder, the images that it was trained on and the test images, (N, 32, 32, 1) uint8."""
    import digits

    images, labels = digits.load_images()
    pool, test, pool_labels, test_labels = train_test_split(
        images, labels, test_size=0.25, stratify=labels, random_state=SEED
    )
    with quiet_libraries(), contextlib.redirect_stdout(io.StringIO()):
        example = digits.train(pool, pool_labels, test, test_labels, SEED)
    yield "six blocks (examples/digits.py)", example, pool, test
    for name, build in (("depthwise-separable, residual", residual), ("VGG-like", vgg)):
        keras.utils.set_random_seed(SEED)
        with quiet_libraries():
            model = build(images.shape[1:])
            train(model, pool / np.float32(255), pool_labels)
        yield name, model, pool, test
