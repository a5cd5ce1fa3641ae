"""A bound that comes later gives the layer before it finer steps, and nothing else changes."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from embedlite.calibration import Ranges
from embedlite.convert.graph.graph import Graph
from embedlite.convert.graph.run import float_rows
from embedlite.convert.load.lower import lower
from embedlite.convert.load.original import Original
from embedlite.convert.quantize.bounds import carry_back
from embedlite.convert.quantize.integer import scale_of
from embedlite.convert.quantize.litert import quantize

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
