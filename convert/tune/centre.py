"""The values of an attention centred: the rounded weights of a softmax no longer sum to one, and then it matters less.

A softmax in 8 bits has steps of 1/256. With many keys most of its weights are below that, and their sum is far from
one: what comes out is too small by that part of the values' mean. The weights of a row sum to one, so a constant can be
taken off the values and added to what comes out, channel by channel, and in float nothing changes: both are biases of
the layers beside. With the mean of the values as the constant what the sum lacks is of values around zero, which are
finer in 8 bits, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from ...calibration import Ranges
from ..graph.graph import Graph
from .network import Network

_MOVING = ("RESHAPE", "TRANSPOSE")
_LAYERS = ("FULLY_CONNECTED", "CONV_2D")

_SAME = 1e-3
"""By how much of the embedding's length the float graph may differ after it, of float32's rounding: else an order of
channels is another than it seems, and nothing is centred."""

Batch = NDArray[np.float32]


@dataclass(frozen=True)
class _Attention:
    """Places of operators.

    Attributes:
        values: the layer that makes them.
        reads: the layer that reads what the attention gives.
        between: what is written from the first of them to before the second, by index.
    """

    values: int
    reads: int
    between: tuple[int, ...]


class Centring:
    """The attentions of a graph, and what their values are."""

    def __init__(self, original: bytes, ranges: Ranges) -> None:
        """Find them.

        Args:
            original: the float graph.
            ranges: of its activations.
        """
        self._original, self._ranges, self._network = original, ranges, Network(original)
        self._found = _attentions(self._network.graph)
        self._sums = {item.values: (0.0, 0) for item in self._found}
        self._reach: dict[int, tuple[float, float]] = {}
        self._some: list[Batch] = []

    @property
    def scales(self) -> bool:
        """Whether there is any."""
        return bool(self._found)

    def measure(self, images: Batch, _: int = 0) -> None:
        """Add what these images say.

        Args:
            images: a batch, (N, ...).
        """
        values = self._network(images)
        for item in self._found:
            made = np.asarray(values[self._written(item.values)], np.float64)
            rows = made.reshape(-1, made.shape[-1])
            total, count = self._sums[item.values]
            self._sums[item.values] = total + rows.sum(axis=0), count + len(rows)
        _widen(self._reach, {index: values[index] for item in self._found for index in item.between})
        self._some.append(images)

    def centred(self, part: float = 1.0) -> tuple[bytes, Ranges]:
        """The float graph with centred values, which computes the same, and its ranges.

        Args:
            part: of the mean that is taken off.
        """
        graph = Graph(self._original)
        for item in self._found:
            total, count = self._sums[item.values]
            mean = part * np.asarray(total) / count
            weights = graph.constant(int(graph.operators[item.reads].inputs[1]))
            assert weights is not None
            _add_to_bias(graph, item.values, -mean)
            _add_to_bias(graph, item.reads, weights.reshape(len(weights), -1).astype(np.float64) @ mean)
        made = graph.to_bytes()
        network, reach, apart = Network(made), dict[int, tuple[float, float]](), 0.0
        for images in self._some:
            values = network(images)
            _widen(reach, {index: values[index] for item in self._found for index in item.between})
            expected = np.asarray(self._network(images)[self._network.output])
            apart = max(
                apart, float(np.abs(np.asarray(values[network.output]) - expected).max() / np.abs(expected).max())
            )
        if not apart <= _SAME:
            return self._original, self._ranges
        limits = dict(self._ranges.limits)
        for index, (low, high) in reach.items():
            name, (least, most) = graph.tensor_name(index), self._reach[index]
            if name in limits:
                # As far beyond these images as before, or as much short of them.
                wider = (limits[name][1] - limits[name][0]) / max(most - least, 1e-30)
                limits[name] = low * wider, high * wider
        return made, replace(self._ranges, limits=limits)

    def _written(self, place: int) -> int:
        return int(self._network.graph.operators[place].outputs[0])


def _widen(reach: dict[int, tuple[float, float]], values: Mapping[int, Any]) -> None:
    for index, tensor in values.items():
        found = np.asarray(tensor)
        low, high = reach.get(index, (np.inf, -np.inf))
        reach[index] = min(low, float(found.min())), max(high, float(found.max()))


def _attentions(graph: Graph) -> list[_Attention]:
    """Where a softmax's result is multiplied with the values of a layer, and a layer alone reads what comes out."""
    producers, consumers = graph.links()
    places = {id(operator): place for place, operator in enumerate(graph.operators)}
    outputs, found = {int(index) for index in graph.subgraph.outputs}, list[_Attention]()

    def only_reader(index: int) -> Any | None:
        readers = consumers.get(index, [])
        return readers[0] if len(readers) == 1 and index not in outputs else None

    for operator in graph.operators:
        if graph.operator_name(operator) != "BATCH_MATMUL":
            continue
        weights, values = (producers.get(int(index)) for index in operator.inputs)
        if weights is None or graph.operator_name(weights) != "SOFTMAX" or operator.builtinOptions.adjX:
            continue
        before, index = list[int](), int(operator.inputs[1])
        while values is not None and graph.operator_name(values) in _MOVING and only_reader(index) is not None:
            before.append(index)
            index = int(values.inputs[0])
            values = producers.get(index)
        after, result = list[int](), int(operator.outputs[0])
        reads = only_reader(result)
        while reads is not None and graph.operator_name(reads) in _MOVING:
            after.append(result)
            result = int(reads.outputs[0])
            reads = only_reader(result)
        if values is None or reads is None or only_reader(index) is None:
            continue
        if not (_is_layer(graph, values) and _is_layer(graph, reads)):
            continue
        if values.builtinOptions.fusedActivationFunction != schema.ActivationFunctionType.NONE:
            continue
        if graph.shape(index)[-1] == graph.shape(result)[-1]:
            found.append(_Attention(places[id(values)], places[id(reads)], (index, *before, *after, result)))
    return found


def _is_layer(graph: Graph, operator: Any) -> bool:
    """Whether it is one over the last axis alone, with constant weights and bias."""
    if graph.operator_name(operator) not in _LAYERS:
        return False
    weights = graph.constant(int(operator.inputs[1]))
    is_point = weights is not None and (weights.ndim == 2 or weights.shape[1:3] == (1, 1))
    return is_point and (not _has_bias(operator) or graph.constant(int(operator.inputs[2])) is not None)


def _has_bias(operator: Any) -> bool:
    return len(operator.inputs) > 2 and int(operator.inputs[2]) >= 0


def _add_to_bias(graph: Graph, place: int, values: NDArray[np.float64]) -> None:
    """In a copy: layers may share a bias."""
    operator = graph.operators[place]
    bias = graph.constant(int(operator.inputs[2])) if _has_bias(operator) else None
    moved = (values if bias is None else bias + values).astype(np.float32)
    name = f"{graph.tensor_name(int(operator.outputs[0]))}/centred"
    operator.inputs = [*map(int, operator.inputs[:2]), graph.add_constant(name, moved)]
