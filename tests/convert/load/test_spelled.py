"""Operators that TFLite lacks are spelled in others, and give what they gave."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from embedlite.convert.graph.run import float_runner
from embedlite.convert.load import load_original
from embedlite.convert.load.edit.graph_def import rename_functions
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions

from encoders import Call

SHAPE = (12, 10, 3)
VOLUME = (6, 8, 7, 4)

ANY = np.concatenate([np.linspace(-6, 6, 121), [0, 1e-4, -1e-3, 0.02]]).astype(np.float32)
WITHIN = np.concatenate([np.linspace(-0.99, 0.99, 121), [0, 1e-4, -1e-3, 0.02]]).astype(np.float32)

FUNCTIONS: dict[Callable[[Any], Any], Any] = {
    tf.math.erf: ANY,
    tf.math.erfc: ANY,
    tf.math.atan: ANY,
    tf.math.asinh: ANY,
    tf.math.sinh: ANY,
    tf.math.cosh: ANY,
    tf.math.tan: WITHIN,
    tf.math.acos: WITHIN,
    tf.math.asin: WITHIN,
    tf.math.atanh: WITHIN,
    tf.math.acosh: ANY**2 + 1.05,
}


def test_functions_of_single_values() -> None:
    values = np.concatenate(list(FUNCTIONS.values()))
    row = keras.Input(values.shape)
    parts = [Call(function)(row[:, 125 * n : 125 * (n + 1)]) for n, function in enumerate(FUNCTIONS)]
    model = keras.Model(row, layers.Concatenate()(parts))
    got = float_runner(lower(from_keras(model, "model", LoadOptions())).flatbuffer)(values)
    for n, (function, given) in enumerate(FUNCTIONS.items()):
        wanted = np.asarray(function(given.astype(np.float64)))
        absolute = 2e-7 if function in (tf.math.erfc, tf.math.acos, tf.math.acosh) else 0
        np.testing.assert_allclose(
            got[125 * n : 125 * (n + 1)], wanted, rtol=1e-6, atol=absolute, err_msg=function.__name__
        )


def resized(image: Any) -> Any:
    sizes = [(7, 13), (5, 6), (4, 10), (24, 5), (9, 9)]
    made = [
        tf.image.resize(image, sizes[0], "bicubic"),
        tf.image.resize(image, sizes[1], "area"),
        tf.image.resize(image, sizes[2], antialias=True),
        tf.image.resize(image, sizes[3], "lanczos3"),
        tf.compat.v1.image.resize_bicubic(image, sizes[4], align_corners=True),
        tf.image.extract_patches(image, [1, 3, 2, 1], [1, 2, 2, 1], [1, 1, 1, 1], "SAME"),
    ]
    return tf.concat([tf.reshape(one, (tf.shape(image)[0], 1, -1)) for one in made], -1)


def volumes(volume: Any) -> Any:
    made = [
        layers.MaxPooling3D(2)(volume),
        layers.MaxPooling3D(3, strides=2, padding="same")(volume),
        layers.AveragePooling3D((2, 3, 1))(volume),
        layers.AveragePooling3D(3, strides=(1, 2, 2), padding="same")(volume),
        layers.Conv3D(2, 2, dilation_rate=(1, 2, 3))(volume),
        layers.Conv3D(2, 3, dilation_rate=2, padding="same")(volume),
        layers.Conv3D(4, 2, groups=2)(layers.Conv3D(4, 2)(volume)),
    ]
    return layers.Concatenate()([layers.Flatten()(one) for one in made])


def loops(image: Any) -> Any:
    return tf.while_loop(lambda n, x: n < 3, lambda n, x: (n + 1, tf.math.erf(x) * 1.2), (0, image))[1]


def positions(image: Any) -> Any:
    return ops.one_hot(ops.argmax(image, axis=-1), 3)


CASES = {
    "resized": (SHAPE, lambda x: layers.Flatten()(Call(resized)(x))),
    "volumes": (VOLUME, volumes),
    "loops": (SHAPE, lambda x: layers.Flatten()(Call(loops)(x))),
    "positions": (SHAPE, lambda x: layers.Flatten()(Call(positions)(x))),
}


@pytest.mark.parametrize(
    ("kind", "saved"), [("resized", False), ("volumes", True), ("loops", True), ("positions", False)]
)
def test_layers(kind: str, saved: bool, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    shape, build = CASES[kind]
    given = keras.Input(shape)
    model = keras.Model(given, build(given))
    if saved:
        model.export(tmp_path / "model", verbose=False)
    original = load_original(tmp_path / "model") if saved else from_keras(model, "model", LoadOptions())
    values = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    got = float_runner(lower(original).flatbuffer)(values)
    wanted = np.asarray(model(values[None]))
    np.testing.assert_allclose(got.ravel(), wanted.ravel(), rtol=0, atol=2e-6 * np.abs(wanted).max())


def test_functions_get_names_that_no_other_has_wherever_they_are_named() -> None:
    """TensorFlow knows the functions of a process by name: of two models, one would run what is the other's."""

    def graph() -> tf.compat.v1.GraphDef:
        made = tf.compat.v1.GraphDef()
        made.library.function.add().signature.name = "f"
        inside = made.library.function[0].node_def.add(name="inside", op="f")
        inside.attr["body"].func.name = "f"
        made.node.add(name="branches", op="Case").attr["branches"].list.func.add(name="f")
        rename_functions(made)
        return made

    found = []
    for made in (graph(), graph()):
        inside = made.library.function[0].node_def[0]
        names = {made.library.function[0].signature.name, inside.op, inside.attr["body"].func.name}
        names.add(made.node[0].attr["branches"].list.func[0].name)
        (name,) = names
        found.append(name)
    assert len({*found, "f"}) == 3
