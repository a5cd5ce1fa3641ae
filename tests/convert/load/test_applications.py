"""Encoders of keras.applications with their own preprocessing, untrained: what is exported equals Keras."""

from typing import Any

import keras
import numpy as np
import pytest

from embedlite.convert.graph.run import float_runner
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions

# The smallest of each; benchmarks/applications.py runs all architectures.
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "MobileNet": ("mobilenet", {"alpha": 0.25}),
    "MobileNetV2": ("mobilenet_v2", {"alpha": 0.35}),
    "MobileNetV3Small": ("mobilenet_v3", {"alpha": 0.75, "minimalistic": True}),
    "EfficientNetB0": ("efficientnet", {}),
    "ResNet50V2": ("resnet_v2", {}),
    "VGG16": ("vgg16", {}),
}

WIDE = ("ResNet50V2", "VGG16")
"""Those that cannot be asked for fewer channels; a hundred megabytes of weights are copied ten times over."""


def thin(body: keras.Model) -> keras.Model:
    """The same layers with an eighth of the channels."""

    def fewer(layer: keras.layers.Layer) -> keras.layers.Layer:
        settings = layer.get_config()
        if "filters" in settings:
            settings["filters"] //= 8
        return type(layer).from_config(settings)

    return keras.models.clone_model(body, clone_function=fewer)


@pytest.mark.parametrize("name", SMALL)
def test_an_application_equals_keras(name: str) -> None:
    module, settings = SMALL[name]
    keras.utils.set_random_seed(0)
    body = getattr(keras.applications, name)(
        weights=None, include_top=False, pooling="avg", input_shape=(32, 32, 3), **settings
    )
    body = thin(body) if name in WIDE else body
    pixels = keras.Input((32, 32, 3))
    model = keras.Model(pixels, body(getattr(keras.applications, module).preprocess_input(pixels * 1.0)))
    image = np.random.default_rng(0).uniform(0, 255, (32, 32, 3)).astype(np.float32)
    wanted = np.asarray(model(image[None], training=False))[0].astype(np.float64)
    found = float_runner(lower(from_keras(model, name, LoadOptions())).flatbuffer)(image)
    assert 10 * np.log10((wanted**2).sum() / max(((wanted - found) ** 2).sum(), 1e-300)) > 95
