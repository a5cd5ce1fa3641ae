"""Placement ``frozen``: a min-max normalization whose minimum and maximum are constants from the calibration images.

A per-sample min-max becomes the same affine function for every image, x s + t with s = 1 / divisor and t = -min s. That
is another function than the original, so its drift is judged against the original's float graph with the same
constants, and how far that is from the original is reported beside it. What it buys: no reductions and no division on
the device, and no coupling between the images of a batch.

The affine function is folded into the layer before, which is exact whatever the padding, because it acts on that
layer's output; folding it forward into the next layer would not be, where that one pads with zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from ...calibration import CalibrationDataError
from ...runtime.input.normalize import guard_divisor
from ...runtime.model.contract import NormalizationSpec
from ..graph.graph import Graph
from ..graph.repair import drop_unused_tensors
from ..graph.run import tensor_values
from .recognise import Normalization

_CHANNEL_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
"""Axis of the output channels in the weights of each operator that an affine function folds into."""

Extremes = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class FrozenNormalization:
    """The constants of one normalization.

    Attributes:
        spec: the normalization they were taken for.
        source: name of the raw tensor.
        minimum: shaped to broadcast against the raw tensor, float32.
        maximum: likewise.
    """

    spec: NormalizationSpec
    source: str
    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]

    def affine(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scale and offset: x s + t is the normalization with these constants.

        Raises:
            CalibrationDataError: the divisor is zero, so there is nothing to scale by.
        """
        low, high = self.minimum.astype(np.float64), self.maximum.astype(np.float64)
        divisor = guard_divisor(high - low if self.spec.divisor == "shifted" else high, self.spec)
        if (divisor == 0).any():
            raise CalibrationDataError(
                f"the calibration images give a flat embedding in {int((divisor == 0).sum())} of {divisor.size} "
                "places, and a frozen normalization would divide by zero there. Use more images, or --normalization "
                "graph."
            )
        return (1 / divisor).astype(np.float32), (-low / divisor).astype(np.float32)


def collect_extremes(
    flatbuffer: bytes, found: Sequence[tuple[str, NormalizationSpec]], images: Iterable[NDArray[np.float32]]
) -> list[FrozenNormalization]:
    """The smallest and largest values of raw tensors over images, along each normalization's axes.

    Minima and maxima merge exactly, so neither the order of the images nor any split of them matters.

    Args:
        flatbuffer: the float graph.
        found: names of the raw tensors and what normalizes them.
        images: model-ready, (H, W, C) float32.
    """
    extremes: dict[str, Extremes] = {}
    specs = dict(found)
    for values in tensor_values(flatbuffer, list(specs), images):
        for name, raw in values.items():
            axes = specs[name].axes
            low, high = raw.min(axis=axes, keepdims=True), raw.max(axis=axes, keepdims=True)
            if name in extremes:
                low, high = np.minimum(low, extremes[name][0]), np.maximum(high, extremes[name][1])
            extremes[name] = low, high
    return [FrozenNormalization(spec, name, *extremes[name]) for name, spec in found]


def share_outside(
    flatbuffer: bytes, frozen: Sequence[FrozenNormalization], images: Iterable[NDArray[np.float32]]
) -> float:
    """Share of the raw values of images that lie outside the constants."""
    outside = count = 0
    for values in tensor_values(flatbuffer, [item.source for item in frozen], images):
        for item in frozen:
            raw = values[item.source]
            outside += int(((raw < item.minimum) | (raw > item.maximum)).sum())
            count += raw.size
    return outside / max(1, count)


def freeze(
    flatbuffer: bytes, found: Sequence[Normalization], constants: Sequence[FrozenNormalization], *, fold: bool
) -> tuple[bytes, int]:
    """Put the constants in the place of the normalizations.

    Args:
        flatbuffer: the float graph in which ``found`` were found.
        found: the min-max normalizations.
        constants: theirs, in the same order.
        fold: whether to fold them into the layers before; False leaves a MUL and an ADD, the reference for judging.

    Returns:
        The new graph, and how many of the normalizations were folded away entirely.
    """
    graph = Graph(flatbuffer)
    # Operators are found again by what they write: this is another copy of the graph.
    for item, frozen in zip(found, constants, strict=True):
        _replace(graph, item, *frozen.affine())
    folded = sum(_fold(graph, item) for item in found) if fold else 0
    drop_unused_tensors(graph)
    return graph.to_bytes(), folded


def _replace(graph: Graph, item: Normalization, scale: NDArray[np.float32], offset: NDArray[np.float32]) -> None:
    name, shape = graph.tensor_name(item.result), graph.shape(item.result)
    raw, added = item.source, []
    if graph.shape(raw) != shape:
        # The graph gave the values another shape on the way; only one value reduced from all of them allows that.
        raw = graph.add_tensor(f"{name}/raw", shape)
        wanted = graph.add_constant(f"{name}/shape", np.array(shape, np.int32))
        added = [graph.make_operator("RESHAPE", [item.source, wanted], [raw], schema.ReshapeOptionsT())]
    scaled = graph.add_tensor(f"{name}/scaled", shape)
    factor = graph.add_constant(f"{name}/scale", _trim(scale))
    shift = graph.add_constant(f"{name}/offset", _trim(offset))
    last = graph.producer(item.result)
    assert last is not None
    added += [
        graph.make_operator("MUL", [raw, factor], [scaled], schema.MulOptionsT()),
        graph.make_operator("ADD", [scaled, shift], [item.result], schema.AddOptionsT()),
    ]
    graph.operators[graph.operators.index(last) : graph.operators.index(last) + 1] = added
    graph.drop_dead_operators()


def _trim(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """One value, or one a channel, without leading axes of length one: the form every interpreter broadcasts."""
    return values.reshape(values.shape[-1]) if values.size == values.shape[-1] else values


def _fold(graph: Graph, item: Normalization) -> bool:
    """Fold a MUL and an ADD into the weights before them, if nothing else reads what lies between."""
    add = graph.producer(item.result)
    assert add is not None
    multiply = graph.producer(int(add.inputs[0]))
    assert multiply is not None
    scale, offset = graph.constant(int(multiply.inputs[1])), graph.constant(int(add.inputs[1]))
    assert scale is not None
    assert offset is not None
    index = raw = int(multiply.inputs[0])
    while (before := graph.producer(index)) is not None and graph.operator_name(before) == "RESHAPE":
        # A reshape keeps channels apart only if it keeps the last axis.
        keeps = graph.shape(int(before.inputs[0]))[-1:] == graph.shape(index)[-1:]
        if len(graph.consumers(index)) != 1 or not (scale.size == 1 or keeps):
            return False
        index = int(before.inputs[0])
    axis = None if before is None else _CHANNEL_AXIS.get(graph.operator_name(before))
    if before is None or axis is None or len(graph.consumers(index)) != 1 or scale.ndim > 1:
        return False
    activation = before.builtinOptions.fusedActivationFunction
    relu = activation == schema.ActivationFunctionType.RELU and (scale > 0).all() and (offset == 0).all()
    if activation != schema.ActivationFunctionType.NONE and not relu:
        return False
    _scale_weights(graph, before, axis, scale, offset)
    for reader in graph.consumers(item.result):
        reader.inputs = [raw if int(i) == item.result else int(i) for i in reader.inputs]
    graph.subgraph.outputs = [raw if int(i) == item.result else int(i) for i in graph.subgraph.outputs]
    graph.drop_dead_operators()
    return True


def _scale_weights(
    graph: Graph, layer: Any, axis: int, scale: NDArray[np.float32], offset: NDArray[np.float32]
) -> None:
    weights = graph.constant(int(layer.inputs[1]))
    assert weights is not None
    name, channels = graph.tensor_name(int(layer.inputs[1])), weights.shape[axis]
    factor = np.broadcast_to(scale.astype(np.float64), channels)
    shape = [1] * weights.ndim
    shape[axis] = channels
    old = graph.constant(int(layer.inputs[2])) if len(layer.inputs) > 2 and layer.inputs[2] >= 0 else None
    bias = (np.zeros(channels) if old is None else old.astype(np.float64)) * factor + offset
    # New constants, because a weight may be shared.
    scaled = graph.add_constant(f"{name}/frozen", (weights * factor.reshape(shape)).astype(np.float32))
    shifted = graph.add_constant(f"{name}/frozen_bias", bias.astype(np.float32))
    layer.inputs = [int(layer.inputs[0]), scaled, shifted]


def frozen_spec(frozen: FrozenNormalization) -> NormalizationSpec:
    """The specification as the contract carries it, constants included."""
    low, high = (tuple(float(value) for value in values.ravel()) for values in (frozen.minimum, frozen.maximum))
    return replace(frozen.spec, placement="frozen", minimum=low, maximum=high)
