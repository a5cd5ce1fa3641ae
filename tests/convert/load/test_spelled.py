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


def channels_first(volume: Any) -> Any:
    first = {"data_format": "channels_first"}
    line, image = layers.Reshape((4, 336))(volume), layers.Reshape((4, 48, 7))(volume)
    volume = layers.Permute((4, 1, 2, 3))(volume)
    made = [
        layers.Conv1D(3, 3, strides=2, **first)(line),
        layers.SeparableConv1D(3, 3, **first)(line),
        layers.DepthwiseConv1D(3, padding="same", **first)(line),
        layers.Conv1DTranspose(3, 3, dilation_rate=2, **first)(line),
        layers.AveragePooling1D(2, **first)(line),
        layers.Conv2D(3, 3, strides=2, padding="same", **first)(image),
        layers.SeparableConv2D(3, 3, **first)(image),
        layers.Conv2DTranspose(3, 3, dilation_rate=2, **first)(image),
        layers.MaxPooling2D(2, **first)(image),
        layers.Conv3D(3, 3, strides=2, padding="same", **first)(volume),
        layers.Conv3D(2, 2, groups=2, **first)(volume),
        layers.Conv3DTranspose(2, 2, strides=2, **first)(volume),
        layers.AveragePooling3D(2, padding="same", **first)(volume),
        layers.BatchNormalization(axis=1)(volume),
    ]
    return layers.Concatenate()([layers.Flatten()(one) for one in made])


def transposed(image: Any) -> Any:
    made = [
        layers.Conv2DTranspose(2, 3, dilation_rate=2)(image),
        layers.Conv2DTranspose(2, (2, 3), dilation_rate=(3, 1), padding="same")(image),
        layers.Reshape((-1, 2))(layers.Conv1DTranspose(2, 3, dilation_rate=3)(layers.Reshape((40, 9))(image))),
    ]
    return layers.Concatenate()([layers.Flatten()(one) for one in made])


def volumes_in_time(volume: Any) -> Any:
    return layers.Flatten()(layers.ConvLSTM3D(2, 2)(layers.Reshape((3, 2, 8, 7, 4))(volume)))


def frames(wave: Any) -> Any:
    """Frames whose length is not a power of two, as they are and cut short and filled up with zeros."""
    made = [
        tf.abs(tf.signal.stft(wave, 100, 60)),
        tf.abs(tf.signal.stft(wave, 100, 60, 120)),
        tf.math.real(tf.signal.rfft(wave, [150])),
        tf.math.imag(tf.signal.rfft(wave, [150])),
    ]
    return tf.concat([tf.reshape(one, (tf.shape(wave)[0], -1)) for one in made], -1)


def colours(image: Any) -> Any:
    image = tf.abs(image)
    # Of a grey pixel, and where two are largest.
    image = tf.concat([image, image[:, :1, :, :1] * [[[1.0, 1.0, 1.0]]], image[:, 1:2] * [[[0.0, 1.0, 1.0]]]], 1)
    return tf.concat([tf.image.rgb_to_hsv(image), tf.image.hsv_to_rgb(image)], -1)


def loops(image: Any) -> Any:
    return tf.while_loop(lambda n, x: n < 3, lambda n, x: (n + 1, tf.math.erf(x) * 1.2), (0, image))[1]


def positions(image: Any) -> Any:
    return ops.one_hot(ops.argmax(image, axis=-1), 3)


CASES = {
    "resized": (SHAPE, lambda x: layers.Flatten()(Call(resized)(x))),
    "volumes": (VOLUME, volumes),
    "channels first": (VOLUME, channels_first),
    "transposed": (SHAPE, transposed),
    "volumes in time": (VOLUME, volumes_in_time),
    "frames": ((400,), Call(frames)),
    "colours": (SHAPE, lambda x: layers.Flatten()(Call(colours)(x))),
    "loops": (SHAPE, lambda x: layers.Flatten()(Call(loops)(x))),
    "positions": (SHAPE, lambda x: layers.Flatten()(Call(positions)(x))),
}


@pytest.mark.parametrize(
    ("kind", "saved"),
    [
        ("resized", False),
        ("volumes", True),
        ("channels first", True),
        ("transposed", False),
        ("volumes in time", False),
        ("frames", False),
        ("colours", False),
        ("loops", True),
        ("positions", False),
    ],
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
    try:
        wanted = np.asarray(model(values[None]))
    except tf.errors.InvalidArgumentError as error:
        # Transposed convolutions that are dilated or have channels first are oneDNN's alone.
        pytest.skip(f"TensorFlow does not run the model on this processor: {error.message.splitlines()[0]}")
    got = float_runner(lower(original).flatbuffer)(values)
    np.testing.assert_allclose(got.ravel(), wanted.ravel(), rtol=0, atol=2e-6 * np.abs(wanted).max())


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_layers_that_keras_quantized() -> None:
    """Its products of 8-bit integers are whole numbers, and their steps hide any rounding: equal but for the scales."""
    keras.utils.set_random_seed(0)
    row = keras.Input((12, 5))
    hidden = layers.MultiHeadAttention(2, 4)(row, row)
    model = keras.Model(row, layers.Dense(4)(layers.Dense(8, activation="relu")(layers.Flatten()(hidden))))
    model.quantize("int8")
    values = np.random.default_rng(0).uniform(-1, 1, (12, 5)).astype(np.float32)
    got = float_runner(lower(from_keras(model, "model", LoadOptions())).flatbuffer)(values)
    np.testing.assert_allclose(got, np.asarray(model(values[None]))[0], rtol=1e-5, atol=1e-6)


def test_what_no_processor_runs_is_compared_with_the_same_on_channels_last(tmp_path: Path) -> None:
    """TensorFlow has ``depth_to_space`` with channels first for graphics cards only."""
    spec = tf.TensorSpec((None, 8, 6, 5), tf.float32, name="image")
    module = tf.Module()
    module.embed = tf.function(
        lambda image: tf.reshape(tf.nn.depth_to_space(image, 2, "NCHW"), (-1, 240)), input_signature=[spec]
    )
    tf.saved_model.save(module, str(tmp_path), module.embed)
    lowered = lower(load_original(tmp_path))
    values = np.random.default_rng(0).random((8, 6, 5), np.float32)
    last = tf.nn.depth_to_space(values.transpose(1, 2, 0)[None], 2).numpy()[0]
    for run in (float_runner(lowered.flatbuffer), lowered.reference):
        np.testing.assert_array_equal(run(values), last.transpose(2, 0, 1).ravel())
    assert any("the same model on channels last" in said for said in lowered.decisions)
    assert lowered.in_batches is None


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
