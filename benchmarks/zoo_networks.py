"""Networks of many kinds for `zoo.py`, each with images that are divided by source photo."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from accuracy_networks import trained
from PIL import Image
from skimage import data

from embedlite.runtime.commands.options import quiet_libraries

with quiet_libraries():
    import keras
    from keras import layers

CALIBRATION = ("astronaut", "coffee", "chelsea", "rocket", "camera", "coins", "brick")
TEST = ("immunohistochemistry", "retina", "page", "moon", "grass", "gravel")
POOL, TESTED = 128, 256
SMALL, LARGE = 48, 96

Network = tuple[str, bool, keras.Model, np.ndarray, np.ndarray]


def crops(photos: tuple[str, ...], count: int, size: int, seed: int) -> np.ndarray:
    """Square crops of photos, (count, size, size, 3) uint8."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        photo = getattr(data, photos[rng.integers(len(photos))])()
        photo = np.repeat(photo[..., None], 3, axis=-1) if photo.ndim == 2 else photo[..., :3]
        side = int(rng.integers(96, min(photo.shape[:2])))
        top, left = (int(rng.integers(0, length - side + 1)) for length in photo.shape[:2])
        crop = Image.fromarray(np.ascontiguousarray(photo[top : top + side, left : left + side]))
        found.append(np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR)))
    return np.stack(found)


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
}

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


def _small(block: Callable[[keras.KerasTensor], keras.KerasTensor], images: np.ndarray) -> keras.Model:
    keras.utils.set_random_seed(3)
    x = source = keras.Input((SMALL, SMALL, 3))
    for width in (16, 32):
        x = layers.Conv2D(width, 3, strides=2, padding="same", use_bias=False)(x)
        x = block(layers.ReLU()(layers.BatchNormalization()(x)))
    x = layers.Dense(64)(layers.GlobalAveragePooling2D()(x))
    return awake(keras.Model(source, layers.UnitNormalization()(x)), images)


def networks(wanted: list[str]) -> Iterator[Network]:
    """Name, whether it is trained, the encoder, calibration pool and test images; uint8, 0-1 for the model."""
    if not wanted or "trained" in wanted:
        for name, model, pool, test in trained():
            yield name, True, model, pool, test
    pool, test = crops(CALIBRATION, POOL, SMALL, 0), crops(TEST, TESTED, SMALL, 1)
    for name, block in BLOCKS.items():
        if not wanted or name in wanted:
            yield name, False, _small(block, pool), pool, test
    for name, options in APPLICATIONS.items():
        if not wanted or name in wanted:
            keras.utils.set_random_seed(0)
            shape = {"input_shape": (LARGE, LARGE, 3), "weights": None, "include_top": False, "pooling": "avg"}
            pool, test = crops(CALIBRATION, POOL, LARGE, 0), crops(TEST, TESTED, LARGE, 1)
            yield name, False, awake(getattr(keras.applications, name)(**shape, **options), pool[:32]), pool, test
