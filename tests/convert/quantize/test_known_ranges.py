"""A bound that comes later gives the layer before it finer steps, and nothing else changes."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers, ops

from embedlite.calibration import Ranges
from embedlite.convert.graph.graph import Graph
from embedlite.convert.graph.run import float_rows
from embedlite.convert.load.lower import lower
from embedlite.convert.load.original import Original
from embedlite.convert.quantize.integer import scale_of
from embedlite.convert.quantize.known_ranges import carry_back, pixel_range, told_of_pixels
from embedlite.convert.quantize.litert import quantize
from embedlite.runtime import InputContract

from encoders import Call

IMAGES = list(np.random.default_rng(0).random((16, 12, 12, 3)).astype(np.float32))


def network(clip) -> tuple[bytes, dict[str, tuple[float, float]]]:
    keras.utils.set_random_seed(0)
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(6, 3, kernel_initializer=keras.initializers.RandomNormal(0, 1.0))(image)
    x = layers.Conv2D(8, 3)(Call(clip)(x))
    model = keras.Model(image, layers.GlobalAveragePooling2D()(x))
    flatbuffer = lower(Original("small", (12, 12, 3), model)).flatbuffer
    graph = Graph(flatbuffer)
    names = {graph.tensor_name(int(i)): int(i) for op in graph.operators for i in op.outputs}
    limits = {graph.tensor_name(int(graph.subgraph.inputs[0])): (0.0, 1.0)}
    for name, index in names.items():
        graph = Graph(flatbuffer)
        graph.end_at(index)
        shape = graph.shape(index)
        rows = float_rows(graph.to_bytes(), [image.reshape(12, 12, 3) for image in IMAGES]).reshape(-1, *shape[1:])
        limits[name] = float(rows.min()), float(rows.max())
    return flatbuffer, limits


@pytest.mark.parametrize(
    "clip",
    [lambda x: ops.clip(x, -0.5, 0.4), lambda x: ops.minimum(x, 0.3), lambda x: ops.maximum(ops.minimum(x, 0.6), -0.2)],
)
def test_the_layer_before_takes_the_range_and_int8_gains(clip) -> None:
    flatbuffer, limits = network(clip)
    graph = Graph(flatbuffer)
    first, second = (op for op in graph.operators if graph.operator_name(op) == "CONV_2D")
    before, after = (graph.tensor_name(int(index)) for index in (first.outputs[0], second.inputs[0]))
    carried = carry_back(graph, limits)
    assert carried[before] == (min(limits[after][0], 0), max(limits[after][1], 0))
    assert {name for name in limits if carried[name] != limits[name]} >= {before}
    made = Graph(quantize(flatbuffer, "int8", Ranges(limits, {}, len(IMAGES)), ()))
    kinds = [made.operator_name(op) for op in made.operators]
    assert kinds.count("QUANTIZE") == 1, kinds
    assert kinds.count("DEQUANTIZE") == 1, kinds
    layer = next(op for op in made.operators if made.operator_name(op) == "CONV_2D")
    scale = scale_of(made, int(layer.outputs[0]))
    assert scale is not None
    assert scale[0] == pytest.approx((carried[before][1] - carried[before][0]) / 255, rel=1e-5)
    wanted = float_rows(flatbuffer, IMAGES)
    noise = ((float_rows(made.to_bytes(), IMAGES) - wanted) ** 2).sum()
    assert 10 * np.log10((wanted**2).sum() / noise) > 33


def test_what_others_read_as_well_keeps_its_range() -> None:
    flatbuffer, limits = network(lambda x: ops.clip(x, -0.5, 0.4) + 0.1 * x)
    assert carry_back(Graph(flatbuffer), limits).items() >= {
        (name, found) for name, found in limits.items() if name.endswith("convolution1")
    }


def errors_in_steps(low: float, high: float, mean: float, std: float) -> np.ndarray:
    """Of the pixels 0-255 in int8 with this range, in differences of two pixels; computed without the code."""
    step = (high - low) / 255
    zero = -128 + round(-low / step)
    values = (np.arange(256) - mean) / std
    stored = np.clip(np.rint(values / step) + zero, -128, 127)
    return ((stored - zero) * step - values) * std


@given(st.integers(-100, 700), st.floats(0.01, 300))
def test_steps_that_fit_are_never_worse_and_cover_all_pixels(twice: int, std: float) -> None:
    """Means of whole and half numbers, between the pixels and beyond."""
    mean = twice / 2
    low, high = pixel_range(InputContract((8, 8, 3), mean=(mean,), std=(std,)))
    black, white = -mean / std, (255 - mean) / std
    assert low == pytest.approx(black)
    assert white <= high + 1e-9
    if not black < 0 < white:
        assert high == pytest.approx(white)
        return
    plain, fitting = (np.square(errors_in_steps(black, top, mean, std)).mean() for top in (white, high))
    assert fitting <= plain + 1e-6
    if twice % 2 == 0:
        assert high == pytest.approx(white)
    elif 20 < mean < 235:
        assert fitting < plain / 2


def test_a_mean_between_two_pixels_puts_none_of_them_half_a_step_off() -> None:
    signed = InputContract((8, 8, 3), mean=(127.5,), std=(127.5,))
    low, high = pixel_range(signed)
    assert (low, high) == (-1, pytest.approx(128 / 127))
    found = errors_in_steps(low, high, 127.5, 127.5)
    assert (found[0], found[255]) == (pytest.approx(0), pytest.approx(0))
    assert np.sqrt(np.square(found).mean()) == pytest.approx(1 / np.sqrt(12), abs=0.01)
    assert np.sqrt(np.square(errors_in_steps(-1, 1, 127.5, 127.5)).mean()) == pytest.approx(0.5, abs=0.01)
    assert "half a step off" in told_of_pixels(signed)
    assert "a step of its own" in told_of_pixels(InputContract((8, 8, 3), mean=(127.0,), std=(128.0,)))
