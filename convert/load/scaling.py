"""What a model does to its pixels before its first layer, and the contract that follows from it.

A model may scale inside: Rescaling, Normalization with adapted statistics, ``preprocess_input``, chains of casts and
constants, channels in reverse. A contract that scales again gives pixels scaled twice, and nothing that compares the
file with the model under that contract can see it. So the graph is asked: the part in front of the first layer is run
on pictures of one colour, which tells factor, offset and source of each channel whatever operators it is spelled with,
and the pixel range that lands where networks are trained decides the contract.

TensorFlow's graph is asked before it is converted, because the converter multiplies a factor into the weights of the
first convolution, where nothing tells it any more.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.model.origin import numbers_text
from ..graph.graph import Graph
from ..graph.run import float_runner

_STRAIGHT = {
    # TFLite
    *("MUL", "ADD", "SUB", "DIV", "NEG", "CAST", "QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE", "EXPAND_DIMS"),
    *("TRANSPOSE", "STRIDED_SLICE", "SLICE", "REVERSE_V2", "GATHER", "SPLIT", "SPLIT_V", "UNPACK", "PACK"),
    *("CONCATENATION", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "PAD", "PADV2", "MIRROR_PAD"),
    # TensorFlow
    *("Mul", "Add", "AddV2", "Sub", "RealDiv", "Div", "DivNoNan", "Neg", "Cast", "Identity", "BiasAdd", "Reshape"),
    *("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "Squeeze", "ExpandDims", "Transpose", "StridedSlice"),
    *("Slice", "Reverse", "ReverseV2", "Gather", "GatherV2", "Split", "SplitV", "Unpack", "Pack", "Concat", "ConcatV2"),
    *("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea", "CropAndResize", "StopGradient"),
    *("Pad", "PadV2", "MirrorPad"),
}
"""Operators that scale, or arrange pixels and channels; whether they are factor and offset is measured."""

_BENDING = {
    *("LOG", "EXP", "SQRT", "RSQRT", "POW", "SQUARE", "SQUARED_DIFFERENCE", "ABS", "MINIMUM", "MAXIMUM", "MEAN", "SUM"),
    *("REDUCE_MAX", "REDUCE_MIN", "TANH", "LOGISTIC", "FLOOR", "ROUND", "L2_NORMALIZATION"),
    *("Log", "Log1p", "Exp", "Sqrt", "Rsqrt", "Pow", "Square", "SquaredDifference", "Abs", "Minimum", "Maximum"),
    *("Mean", "Sum", "Max", "Min", "Tanh", "Sigmoid", "Floor", "Round", "Rint", "ClipByValue", "FloorMod"),
}
"""Operators that a preprocessing may have and that no factor and offset can say."""

CLAMPS = {"MINIMUM", "MAXIMUM", "Minimum", "Maximum", "ClipByValue"}
"""Those of them that do nothing to pixels where their limits are wide enough."""

_SAME = 1e-3
"""Relative to the largest: factors, offsets and answers that are nearer than this are taken for equal."""


@dataclass(frozen=True)
class Scaling:
    """``output[c] = factor[c] * input[source[c]] + offset[c]``, after resizing and cropping.

    Attributes:
        factor, offset: one for each channel that the first layer sees.
        source: the input channel that each of them comes from.
        bent: operators after it that are not a factor and an offset, and that still come before the first layer.
    """

    factor: tuple[float, ...]
    offset: tuple[float, ...]
    source: tuple[int, ...]
    bent: tuple[str, ...] = ()

    @property
    def identity(self) -> bool:
        """Whether values arrive as they are, in their order."""
        same = np.allclose(self.factor, 1, atol=0.01) and np.allclose(self.offset, 0, atol=0.01)
        return same and not self.reversed and not self.bent

    @property
    def reversed(self) -> bool:
        """Whether the model reverses three channels itself."""
        return self.source == (2, 1, 0)

    def __str__(self) -> str:
        order = " with channels reversed" if self.reversed else ""
        return f"x * {numbers_text(self.factor)} + {numbers_text(self.offset)}{order}"


Run = Callable[[NDArray[np.float32]], NDArray[Any]]


@dataclass(frozen=True)
class Operator:
    """An operator: its name, the tensors that depend on the model's input among those it reads, those it writes."""

    name: str
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]


@dataclass(frozen=True)
class View:
    """A graph of either kind.

    Attributes:
        shape: of the input, (H, W, C); None for a size that is open.
        source: the input tensor.
        operators: what depends on the input, in order.
        rank: of a tensor, None where it is unknown.
        run_to: the graph up to a tensor, as a function of one (1, H, W, C) input.
    """

    shape: tuple[int | None, int | None, int]
    source: Any
    operators: tuple[Operator, ...]
    rank: Callable[[Any], int | None]
    run_to: Callable[[Any], Run]


def scaling_of_tflite(flatbuffer: bytes) -> Scaling | None:
    """The scaling in front of a float ``.tflite``'s first layer; see :func:`scaling_of_tensorflow`."""
    graph = Graph(flatbuffer)
    source = int(graph.subgraph.inputs[0])
    operators = tuple(
        Operator(graph.operator_name(operator), tuple(graph.inputs(operator)), tuple(int(i) for i in operator.outputs))
        for operator in graph.operators
        if graph.inputs(operator)
    )

    def run_to(tensor: int) -> Run:
        cut = Graph(flatbuffer)
        cut.end_at(tensor)
        run = float_runner(cut.to_bytes(), 1)
        return lambda image: run(image[0])

    if len(graph.shape(source)) != 4:
        return None
    _, height, width, channels = graph.shape(source)
    return _find(View((height, width, channels), source, operators, lambda i: len(graph.shape(i)), run_to))


def scaling_of_tensorflow(frozen: Any) -> Scaling | None:
    """The scaling in front of a model's first layer.

    Args:
        frozen: a concrete function without variables, of one (1, H, W, C) float32 input.

    Returns:
        None where nothing is done to the input, or nothing of the kind.
    """
    return None if frozen.inputs[0].shape.rank != 4 else _find(view_of_tensorflow(frozen))


def view_of_tensorflow(frozen: Any) -> View:
    """What is asked of a concrete function without variables, of one (N, H, W, C) float32 input; H, W may be open."""
    definition = frozen.graph.as_graph_def()
    source = frozen.inputs[0].name
    shape = frozen.inputs[0].shape.as_list()
    nodes = {node.name: node for node in definition.node}
    # A loop's second round comes after all that is looked at; without it there is no cycle.
    again = {name for name, node in nodes.items() if node.op in ("NextIteration", "RefNextIteration")}
    reads = {
        name: [_tensor(text) for text in node.input if not text.startswith("^") and text.partition(":")[0] not in again]
        for name, node in nodes.items()
    }
    order = TopologicalSorter({name: [text.partition(":")[0] for text in texts] for name, texts in reads.items()})
    reached, operators = {source.partition(":")[0]}, list[Operator]()
    for name in order.static_order():
        inputs = tuple(text for text in reads[name] if text.partition(":")[0] in reached)
        # A shape is known before any pixel.
        if inputs and nodes[name].op not in ("Shape", "ShapeN", "Size", "Rank"):
            reached.add(name)
            outputs = tuple(tensor.name for tensor in frozen.graph.get_operation_by_name(name).outputs)
            operators.append(Operator(nodes[name].op, inputs, outputs))

    def run_to(tensor: str) -> Run:
        run = runner_of_tensorflow(source, definition, [tensor])
        return lambda image: run(image)[0]

    def rank(tensor: str) -> int | None:
        found: int | None = frozen.graph.get_tensor_by_name(tensor).shape.rank
        return found

    return View((shape[1], shape[2], shape[3]), source, tuple(operators), rank, run_to)


def runner_of_tensorflow(
    source: str, definition: Any, tensors: list[str]
) -> Callable[[NDArray[np.float32]], list[NDArray[Any]]]:
    """A function that gives what a graph computes on the way, of a float32 batch.

    Args:
        source: name of its input.
        definition: its GraphDef, without variables.
        tensors: names of what is computed.
    """
    import tensorflow as tf

    # What comes before them may be a small part; to import a whole network takes longer than to run it.
    part = tf.compat.v1.graph_util.extract_sub_graph(definition, [tensor.partition(":")[0] for tensor in tensors])

    def cut(image: Any) -> Any:
        return tf.import_graph_def(part, {source: image}, tensors, name="")

    run = tf.compat.v1.wrap_function(cut, [tf.TensorSpec(None, tf.float32)])
    return lambda image: [np.asarray(value) for value in run(tf.constant(image))]


def _tensor(text: str) -> str:
    return text if ":" in text else f"{text}:0"


def _find(view: View) -> Scaling | None:
    found: Scaling | None = None
    beyond: list[str] = []
    for tensor, names in waists(view, _STRAIGHT | _BENDING):
        bending = [name for name in names if name in _BENDING]
        maybe = CLAMPS.issuperset(bending) and not beyond and view.rank(tensor) == 4
        scaling = probe(view, tensor, view.shape) if maybe else None
        if beyond or (bending and scaling is None):
            beyond += bending
        elif scaling is not None:
            found = scaling
        elif view.rank(tensor) == 4:
            break
    if found is None and not beyond:
        return None
    if found is None:
        channels = view.shape[2]
        found = Scaling((1.0,) * channels, (0.0,) * channels, tuple(range(channels)))
    return Scaling(found.factor, found.offset, found.source, tuple(dict.fromkeys(beyond)))


def waists(view: View, known: Container[str]) -> list[tuple[Any, list[str]]]:
    """Tensors that everything from the input passes through, and the operators between them.

    Args:
        view: the graph.
        known: names of operators; what comes after the first other one is left out.
    """
    counts: dict[Any, int] = {}
    for operator in view.operators:
        for tensor in set(operator.inputs):
            counts[tensor] = counts.get(tensor, 0) + 1
    found, names = list[tuple[Any, list[str]]](), list[str]()
    # Tensors that come from the input, by the readers that they still have.
    readers = {view.source: counts.get(view.source, 0)}
    for operator in view.operators:
        if operator.name not in known or any(tensor not in readers for tensor in operator.inputs):
            break
        for tensor in set(operator.inputs):
            readers[tensor] -= 1
            if not readers[tensor]:
                del readers[tensor]
        readers |= {tensor: counts[tensor] for tensor in operator.outputs if tensor in counts}
        names.append(operator.name)
        if len(readers) == 1:
            found.append((next(iter(readers)), names))
            names = []
    return found


def probe(view: View, tensor: Any, shape: tuple[Any, ...]) -> Scaling | None:
    """The map from the input's channels to a tensor's, if it is one factor, one offset and one source for each.

    Args:
        view: the graph.
        tensor: one that comes from the input alone.
        shape: of the pictures that are tried, (H, W, C).
    """
    channels = view.shape[2]
    run = view.run_to(tensor)

    def answer(colour: NDArray[np.float64]) -> NDArray[np.float64]:
        values = np.asarray(run(np.broadcast_to(colour, (1, *shape)).astype(np.float32)), np.float64)
        return values.reshape(-1, values.shape[-1])

    mixed = np.linspace(30, 90, channels)
    zero, found = answer(np.zeros(channels)), answer(mixed)
    # (source, pixel, channel); a mean image has an offset of its own for every pixel.
    slopes = np.stack([(answer(colour) - zero) / 200.0 for colour in 200.0 * np.eye(channels)])
    if not np.isfinite(slopes).all() or not np.isfinite(found).all():
        return None
    sizes = np.abs(slopes).mean(axis=1)
    largest = sizes.max(axis=0)
    if not largest.all() or (sizes > _SAME * largest).sum(axis=0).max() > 1:
        return None
    predicted = np.einsum("s,spc->pc", mixed, slopes) + zero
    if not np.allclose(found, predicted, rtol=_SAME, atol=_SAME * float(np.abs(found).max())):
        return None
    source = sizes.argmax(axis=0)
    mine = slopes[source, :, np.arange(len(source))].T
    # Where a margin was padded nothing of the picture arrives.
    inside = np.abs(mine) > _SAME * largest
    factor, offset = (np.mean(values, axis=0, where=inside) for values in (mine, zero))
    return Scaling(tuple(factor.tolist()), tuple(offset.tolist()), tuple(source.tolist()))


@dataclass(frozen=True)
class PixelRange:
    """One way to hand over pixels: the values that 0 and 255 have then, and the mean and std that make them."""

    name: str
    low: float
    high: float
    mean: float
    std: float


_RANGES = (
    PixelRange("0-255", 0.0, 255.0, 0.0, 1.0),
    PixelRange("0-1", 0.0, 1.0, 0.0, 255.0),
    PixelRange("-1 to 1", -1.0, 1.0, 127.5, 127.5),
)


def _lands(scaling: Scaling, given: PixelRange) -> bool:
    """Whether pixels of that range come out in about [0, 1], [-1, 1], with unit variance, or as caffe's."""
    factor, offset = np.abs(scaling.factor), np.asarray(scaling.offset)
    ends = np.sort(np.stack([np.multiply(scaling.factor, given.low), np.multiply(scaling.factor, given.high)]), axis=0)
    low, high = ends + offset
    for wanted in ((0, 1), (-1, 1)):
        if np.allclose([low.mean(), high.mean()], wanted, atol=0.1) and np.ptp(low) < 0.2 and np.ptp(high) < 0.2:
            return True
    # Photos have a mean of about 0.45 and a deviation of about 0.25 of their range.
    mean, deviation = low + 0.45 * (high - low), 0.25 * factor * (given.high - given.low)
    if (np.abs(mean) < 0.8).all() and (deviation > 0.35).all() and (deviation < 2.5).all():
        return True
    caffe = len(offset) == 3 and np.allclose(factor, 1, atol=0.02) and ((offset < -90) & (offset > -140)).all()
    return bool(caffe and given.high == 255)


def fitting_ranges(scaling: Scaling) -> list[PixelRange]:
    """The pixel ranges that come out as networks are trained."""
    return [pixels for pixels in _RANGES if _lands(scaling, pixels)]
