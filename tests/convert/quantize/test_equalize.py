"""Cross-layer equalization is exact in float, and kept only where int8 gains from it."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

from embedlite.calibration import collect_ranges
from embedlite.convert import ExportOptions, export
from embedlite.convert.graph.graph import Graph
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.convert.quantize.equalize import equalizable, equalize
from embedlite.runtime import InputContract
from embedlite.runtime.backends.interpreters import find_runtime, open_interpreter
from embedlite.runtime.images.open import open_source
from embedlite.runtime.images.source import Source

from encoders import PLAIN

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

SHAPE = (24, 24, 3)


def convolutions(kind: str) -> keras.Model:
    keras.utils.set_random_seed(3)
    image = keras.Input(SHAPE)
    x = layers.Conv2D(8, 3, activation={"relu6": "relu6", "linear": None, "swish": "swish"}.get(kind, "relu"))(image)
    if kind == "depthwise":
        x = layers.DepthwiseConv2D(3, activation="relu", use_bias=False)(x)
        x = layers.Conv2D(12, 1, activation="relu")(x)
    elif kind == "grouped":
        x = layers.Conv2D(8, 3, groups=4)(x)
        x = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu")(x)
    elif kind == "residual":
        x = layers.Add()([x, layers.Conv2D(8, 3, padding="same")(x)])
    elif kind == "slopes":
        x = layers.PReLU(shared_axes=[1, 2], alpha_initializer="random_normal")(layers.Conv2D(8, 3)(x))
        x = layers.LeakyReLU()(layers.Conv2D(8, 3)(x))
        x = layers.AveragePooling2D(2, 1)(layers.MaxPooling2D(2, 1, padding="same")(layers.ZeroPadding2D(1)(x)))
    elif kind == "two":
        x = layers.Concatenate()([x, layers.MaxPooling2D(3, 1, padding="same")(x)])
        x = layers.Dense(10, activation="relu")(layers.GlobalAveragePooling2D()(layers.MaxPooling2D(5)(x)))
        return keras.Model(image, layers.Dense(6)(x), name=kind)
    return keras.Model(image, layers.Flatten()(layers.Conv2D(6, 5, strides=4)(x)), name=kind)


def float_graph(kind: str) -> bytes:
    return lower(from_keras(convolutions(kind), kind, LoadOptions())).flatbuffer


def source_images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, *SHAPE), np.uint8)


def source() -> Source:
    return open_source(source_images(), InputContract(SHAPE))


def run(flatbuffer: bytes, images: Source) -> np.ndarray:
    interpreter = open_interpreter(find_runtime(), flatbuffer, threads=1)
    rows = []
    for index in range(len(images)):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images.ready(index)[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])
    return np.stack(rows)


KINDS = {"relu": 1, "linear": 1, "relu6": 1, "depthwise": 3, "residual": 3, "grouped": 3, "slopes": 8, "two": 6}
"""Kinds of networks, and how many activations can be equalized in each."""


@pytest.mark.parametrize("kind", KINDS)
def test_the_float_function_stays_and_the_ranges_follow(kind: str) -> None:
    flatbuffer, images = float_graph(kind), source()
    names = equalizable(Graph(flatbuffer))
    assert len(names) == KINDS[kind]
    plain = collect_ranges(flatbuffer, images, by_channel=names)
    before = run(flatbuffer, images)
    for backwards in (False, True):
        changed, ranges = equalize(flatbuffer, plain, backwards=backwards)
        np.testing.assert_allclose(run(changed, images), before, atol=2e-6 * np.abs(before).max())
        measured = collect_ranges(changed, images)
        assert ranges.limits.keys() == measured.limits.keys()
        for name, limits in measured.limits.items():
            assert ranges.limits[name] == pytest.approx(limits, rel=1e-5, abs=1e-6)
        assert any(ranges.limits[name] != pytest.approx(plain.limits[name], rel=1e-3) for name in names)


def test_what_cannot_be_equalized_exactly_is_left_alone() -> None:
    assert equalizable(Graph(float_graph("swish"))) == set()


def test_channels_near_the_bound_of_a_relu6_keep_their_scale() -> None:
    """Given channels of a RELU6 from far below six to beyond. Result: those far below alone are scaled, so that twice
    of what was seen still passes."""
    model = convolutions("relu6")
    first = next(layer for layer in model.layers if isinstance(layer, layers.Conv2D))
    kernel, bias = first.get_weights()
    first.set_weights([np.abs(kernel) * np.array([0.01, 0.02, 0.05, 0.1, 0.2, 2, 4, 8], np.float32), bias])
    flatbuffer = lower(from_keras(model, "bounded", LoadOptions())).flatbuffer
    (name,) = equalizable(Graph(flatbuffer))
    plain = collect_ranges(flatbuffer, source(), by_channel={name})
    changed, _ = equalize(flatbuffer, plain)
    after = collect_ranges(changed, source(), by_channel={name}).channels[name][1]
    before = plain.channels[name][1]
    assert (before == 6).any()
    near = before > 3
    np.testing.assert_array_equal(after[near], before[near])
    assert (after[~near] > 1.1 * before[~near]).all()
    assert (after[~near] <= 3 * (1 + 1e-6)).all()
    twice = open_source(np.minimum(source_images().astype(np.int64) * 2, 255).astype(np.uint8), InputContract(SHAPE))
    wanted = run(flatbuffer, twice)
    np.testing.assert_allclose(run(changed, twice), wanted, atol=2e-6 * np.abs(wanted).max())


def test_unequal_channels_gain_and_the_switch_turns_it_off(tmp_path) -> None:
    model = convolutions("relu")
    first, second = (layer for layer in model.layers if isinstance(layer, layers.Conv2D))
    weights, bias = first.get_weights()
    spread = np.array([1, 1e-3, 1, 1e-3, 1, 1e-3, 1e-3, 1e-3], np.float32)
    first.set_weights([weights * spread, bias])
    second.set_weights([second.get_weights()[0] / spread[:, None], second.get_weights()[1]])
    images = np.random.default_rng(0).integers(0, 256, (60, *SHAPE), np.uint8)
    figures = []
    for equalized in (True, False):
        result = export(
            model,
            tmp_path / str(equalized),
            quantize=["int8"],
            calibration_data=images[:40],
            test_data=images[40:],
            options=ExportOptions(**{**PLAIN, "equalize": equalized}),
        )
        assert any("were equalized" in decision for decision in result.decisions) == equalized
        assert result.files[0].drift is not None
        figures.append(result.files[0].drift.sqnr_db or 0)
    # Without it the narrow channels keep a handful of the 256 steps.
    assert figures[0] > figures[1] + 6


def test_channels_are_observed_exactly_whatever_the_shape() -> None:
    from embedlite.calibration.ranges import channel_limits

    rng = np.random.default_rng(0)
    for shape in ((1, 7, 5, 3), (1, 64, 64, 8), (1, 1, 1, 128), (1, 16, 2048), (1, 3)):
        values = rng.normal(size=shape).astype(np.float32)
        lows, highs = channel_limits(values)
        rows = values.reshape(-1, shape[-1])
        np.testing.assert_array_equal(lows, rows.min(axis=0))
        np.testing.assert_array_equal(highs, rows.max(axis=0))


def test_unequal_channels_along_a_chain_cost_next_to_nothing(tmp_path) -> None:
    """Forwards alone they cost some twenty decibels: a pair saw the weights before the next pair had mended them."""
    images = np.random.default_rng(0).integers(0, 256, (80, *SHAPE), np.uint8)
    figures = []
    for spread in (0, 6):
        model = convolutions("depthwise")
        chain = [layer for layer in model.layers if hasattr(layer, "kernel")]
        rng = np.random.default_rng(1)
        for layer, reader in itertools.pairwise(chain):
            factor = 2.0 ** rng.integers(-spread, spread + 1, layer.output.shape[-1])
            # Output channels are the last axis, of a depthwise kernel the one before; input channels always that one.
            along = factor[:, None] if isinstance(layer, layers.DepthwiseConv2D) else factor
            layer.kernel.assign(layer.kernel * along)
            if layer.use_bias:
                layer.bias.assign(layer.bias * factor)
            reader.kernel.assign(reader.kernel / factor[:, None])
        result = export(
            model,
            tmp_path / str(spread),
            quantize=["int8"],
            calibration_data=images[:60],
            test_data=images[60:],
            options=ExportOptions(**{**PLAIN, "equalize": True}),
        )
        assert result.files[0].drift is not None
        figures.append(result.files[0].drift.sqnr_db or 0)
    assert figures[1] > figures[0] - 3
