"""A raw embedding of nine or ten bits out of int8: copies of the last layer, each over a part of the range.

A file that ends in int8 rounds its embedding to 255 steps, and that is often much of what is left of its noise. With k
copies of the last layer's outputs, in steps k times as small, each copy holds one part of the range and saturates
outside of it. So their sum, as integers, is the whole range in 255 k steps: of the copies below the value's part each
gives 127, of those above it each -128. With the layer's scale s and zero point z, y = s (q - z) becomes

    y = s / k (q_0 + ... + q_(k-1) - k z),   q_i = clamp(y k / s + k z - 255 i + 128 (k - 1))

The copies are one layer with k times as many outputs, and what differs between them is in its bias, so there is no
operator that a runtime, a microcontroller or an NPU would not know. ``Encoder`` adds the copies up, and so does the C
source, before the normalization: both in exact integers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from ...calibration.auto import better
from ...runtime import Encoder
from ...runtime.drift.metrics import ranked_db
from ...runtime.drift.wording import gained
from ..graph.graph import Graph
from ..quantize.floating.end import products, products_of
from ..quantize.trial import Trial

COPIES = (2, 4)
"""How many copies are tried: one bit more, and two."""

_LEAST_GAIN_DB = 1.0
_MOST_PRODUCTS = 0.03
"""Of the network's products that the copies may add."""

_STANDARD_ERRORS = 2
_STEPS = 255
_MOST_BIAS = 1 << 30
_LAYERS = ("CONV_2D", "FULLY_CONNECTED")
_RESHAPING = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")


@dataclass(frozen=True)
class Width:
    """How many copies of the last layer a file has, and what is to be said of it."""

    copies: int = 1
    decisions: tuple[str, ...] = ()


def choose_width(
    mode: str, quantized: bytes, file: Callable[[int], bytes], trial: Trial, threads: int | None, *, asked: bool
) -> Width:
    """The fewest copies that held-out images gain from; unless they were asked for, one, and what others would bring.

    Args:
        mode: of the file, to speak of.
        quantized: its graph.
        file: makes it with so many copies.
        trial: judges.
        threads: processors; default all.
        asked: whether copies are wanted.
    """

    def errors(copies: int) -> NDArray[np.float64]:
        with tempfile.TemporaryDirectory(prefix="embedlite-") as folder:
            path = Path(folder, "file.tflite")
            path.write_bytes(file(copies))
            with Encoder(path, threads) as encoder:
                return trial.compared(np.stack([row.ravel() for row in encoder.embed_iter(trial.images, ready=True)]))

    graph = Graph(file(1))
    layer = last_layer(graph)
    if layer is None:
        why = "its last layer is none that can be computed several times"
        return Width(decisions=(f"{mode} keeps its raw embedding in eight bits: {why}.",) if asked else ())
    whole, own = products(Graph(quantized)), products_of(graph, layer)
    affordable = [copies for copies in COPIES if (copies - 1) * own <= _MOST_PRODUCTS * whole]
    if not affordable:
        why = f"its last layer makes {own / whole:.0%} of the network's products, and copies of it would take time"
        return Width(decisions=(f"{mode} keeps its raw embedding in eight bits: {why}.",) if asked else ())
    plain = best = errors(1)
    chosen, tried = 1, 1
    for tried in affordable:
        found = errors(tried)
        gain = ranked_db(trial.sqnr(found)) - ranked_db(trial.sqnr(best))
        if gain < _LEAST_GAIN_DB or not better(found, best, _STANDARD_ERRORS):
            break
        chosen, best = tried, found
    more = len(file(chosen)) - len(file(1))
    cost = f"{max((chosen - 1) * own / whole, 0.001):.1%} more products and {more:,} more bytes"
    if chosen == 1:
        gain_of = gained(trial.sqnr(plain), trial.sqnr(found))
        why = f"{tried} copies of the last layer bring less than {_LEAST_GAIN_DB:g} dB or nothing sure"
        said = f"{mode} keeps its raw embedding in eight bits: {why} ({gain_of} on {len(trial)} calibration images)."
        return Width(decisions=(said,) if asked else ())
    gain_of = f"{gained(trial.sqnr(plain), trial.sqnr(best))} on {len(trial)} held-out calibration images"
    if asked:
        return Width(
            chosen,
            (f"{mode} computes its last layer {chosen} times, each over a part of the range: {gain_of}, for {cost}.",),
        )
    return Width(
        decisions=(
            f"the rounding of the raw embedding is much of what is left of {mode}: --wide-output, which computes the "
            f"last layer {chosen} times, would bring {gain_of}, for {cost}.",
        )
    )


def last_layer(graph: Graph) -> Any | None:
    """The layer that makes a graph's int8 output, with nothing but reshaping after it that keeps the last axis."""
    index = int(graph.subgraph.outputs[0])
    size = graph.shape(index)[-1]
    while (operator := graph.producer(index)) is not None:
        if graph.shape(index)[-1] != size or graph.dtype(index) != "int8":
            return None
        if graph.operator_name(operator) in _LAYERS:
            constants = [int(place) for place in operator.inputs[1:] if place >= 0]
            fused = operator.builtinOptions.fusedActivationFunction
            plain = fused == schema.ActivationFunctionType.NONE and graph.dtype(constants[0]) == "int8"
            return operator if plain and all(map(graph.is_constant, constants)) else None
        if graph.operator_name(operator) not in _RESHAPING:
            return None
        index = int(operator.inputs[0])
        if len(graph.consumers(index)) > 1:
            return None
    return None


def widen(graph: Graph, copies: int) -> int:
    """Compute the last layer of a graph with an int8 output several times.

    Args:
        graph: one that :func:`last_layer` finds a layer in; it is changed.
        copies: two or more.

    Returns:
        The zero point of the sum of the copies, whose scale is that of the output.
    """
    layer = last_layer(graph)
    assert layer is not None
    source, weights = int(layer.inputs[0]), int(layer.inputs[1])
    bias = int(layer.inputs[2]) if len(layer.inputs) > 2 else -1
    written = int(layer.outputs[0])
    scale, zero_point = _parameters(graph, written)
    step = scale / copies
    stored = graph.constant(bias) if bias >= 0 else np.zeros(graph.shape(weights)[0], np.int32)
    assert stored is not None
    # In real numbers what stands for zero in each copy would often lie outside int8, so the bias moves instead.
    unit = np.float64(_parameters(graph, source)[0]) * np.asarray(graph.tensor(weights).quantization.scale, np.float64)
    shifts = [copies * zero_point - _STEPS * place + 128 * (copies - 1) for place in range(copies)]
    moved = np.concatenate([stored + np.round(shift * step / unit) for shift in shifts])
    moved = np.clip(moved, -_MOST_BIAS, _MOST_BIAS).astype(stored.dtype)
    kernel = graph.constant(weights)
    assert kernel is not None
    scales = np.asarray(graph.tensor(weights).quantization.scale, np.float32)
    layer.inputs = [
        source,
        _repeated(
            graph, f"{graph.tensor_name(written)}/wide/weights", np.concatenate([kernel] * copies), scales, copies
        ),
        _repeated(graph, f"{graph.tensor_name(written)}/wide/bias", moved, unit.astype(np.float32), copies),
    ]
    index = written
    while True:
        tensor = graph.tensor(index)
        shape = (*graph.shape(index)[:-1], graph.shape(index)[-1] * copies)
        tensor.shape, tensor.shapeSignature = list(shape), None
        tensor.quantization.scale = np.array([step], np.float32)
        tensor.quantization.zeroPoint = np.array([0], np.int64)
        tensor.quantization.min = tensor.quantization.max = None
        reader = next(iter(graph.consumers(index)), None)
        if reader is None:
            return copies * zero_point
        index = int(reader.outputs[0])
        if graph.operator_name(reader) == "RESHAPE":
            told = np.array([*graph.shape(index)[:-1], graph.shape(index)[-1] * copies], np.int32)
            reader.inputs = [int(reader.inputs[0]), graph.add_constant(f"{graph.tensor_name(index)}/shape", told)]
            if reader.builtinOptions is not None:
                reader.builtinOptions.newShape = told


def _parameters(graph: Graph, index: int) -> tuple[float, int]:
    quantization = graph.tensor(index).quantization
    return float(quantization.scale[0]), int(quantization.zeroPoint[0])


def _repeated(graph: Graph, name: str, values: NDArray[Any], scales: NDArray[np.float32], copies: int) -> int:
    """A constant of all copies, with the scales of one."""
    index = graph.add_constant(name, values)
    quantization = schema.QuantizationParametersT()
    quantization.scale = np.tile(scales, copies if len(scales) > 1 else 1)
    quantization.zeroPoint = np.zeros(len(quantization.scale), np.int64)
    graph.tensor(index).quantization = quantization
    return index
