"""Activation functions that were spelled out in several operators, put into one.

``max(x, 0) + a min(x, 0)``, ``(x + |x|) / 2 + a (x - |x|) / 2``, ``relu(x) - a relu(-x)``, ``where(x > 0, x, a x)`` are
all PRELU; five operators read and write the whole activation, and in int8 each of them rounds. Nothing is looked for by
its spelling: any few elementwise operators that depend on one activation alone are run on numbers, and where they
compute PRELU, LEAKY_RELU, RELU, RELU6 or HARD_SWISH to the last bits, that operator takes their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from .graph import Graph
from .run import Values, island_runner

_ELEMENTWISE = frozenset({
    "ABS", "ADD", "CAST", "DIV", "EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "LOGICAL_NOT", "MAXIMUM",
    "MINIMUM", "MUL", "NEG", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "SELECT", "SELECT_V2", "SQUARE", "SUB"
})  # fmt: skip
_MOST_OPERATORS = 12
_NEAR = 1e-6
"""Relative to the value: products and sums of the two spellings round differently by one or two units."""

_SCALES = (1e-3, 0.3, 1.0, 4.0, 50.0, 1e3)


_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "RELU": lambda x: np.maximum(x, 0),
    "RELU6": lambda x: np.clip(x, 0, 6),
    "HARD_SWISH": lambda x: x * (np.clip(x + np.float32(3), 0, 6) / np.float32(6)),
}


_KIND = schema.ActivationFunctionType
_FUSED = {"RELU": _KIND.RELU, "RELU6": _KIND.RELU6}
_FUSING = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB", "MUL"})
"""Activations that these operators compute on the way."""


@dataclass(frozen=True)
class _Island:
    source: int
    result: int
    positions: tuple[int, ...]


def fuse_activations(graph: Graph) -> int:
    """Replace every spelled-out activation function by one operator; how many there were.

    Args:
        graph: a float graph, which is changed.
    """
    count = 0
    for operator in reversed(list(graph.operators)):
        if not any(operator is other for other in graph.operators):
            continue
        for island in _islands(graph, operator):
            fused = _fused(graph, island)
            if fused is not None:
                graph.operators[graph.position(operator)] = fused
                _drop_unread(graph, island)
                count += 1
                break
    return count


def join_activations(graph: Graph) -> int:
    """Have the operators before them compute RELU and RELU6 that stand alone; how many there were.

    XNNPACK has no integer kernels of the two: they end what it runs at a time, and took four fifths of the time of an
    int8 file whose sums had one each.

    Args:
        graph: a float graph, which is changed.
    """
    producers, consumers = graph.links()
    outputs = {int(index) for index in graph.subgraph.outputs}
    joined = []
    for operator in graph.operators:
        source = int(operator.inputs[0]) if len(operator.inputs) else -1
        producer = producers.get(source)
        if graph.operator_name(operator) not in _FUSED or producer is None or source in outputs:
            continue
        able = graph.operator_name(producer) in _FUSING and graph.dtype(source) == "float32"
        if able and len(consumers[source]) == 1 and producer.builtinOptions.fusedActivationFunction == _KIND.NONE:
            producer.builtinOptions.fusedActivationFunction = _FUSED[graph.operator_name(operator)]
            producer.outputs = operator.outputs
            producers[int(operator.outputs[0])] = producer
            joined.append(operator)
    graph.subgraph.operators = [item for item in graph.operators if all(item is not other for other in joined)]
    return len(joined)


def _islands(graph: Graph, last: Any) -> Iterator[_Island]:
    """Elementwise operators that end in one and depend on a single activation, the fewest first."""
    if graph.operator_name(last) not in _ELEMENTWISE or len(last.outputs) != 1:
        return
    taken, open_ends = [graph.position(last)], set(graph.inputs(last))
    result = int(last.outputs[0])
    while len(taken) <= _MOST_OPERATORS and open_ends:
        if len(open_ends) == 1 and len(taken) > 1:
            source = next(iter(open_ends))
            if graph.shape(source) == graph.shape(result) and graph.dtype(source) == graph.dtype(result) == "float32":
                yield _Island(source, result, tuple(sorted(taken)))
        producers = {index: graph.producer(index) for index in open_ends}
        places = {index: graph.position(found) for index, found in producers.items() if found is not None}
        if not places:
            return
        # The one that runs last cannot be what the others depend on.
        index = max(places, key=places.__getitem__)
        if graph.operator_name(producers[index]) not in _ELEMENTWISE or places[index] in taken:
            return
        taken.append(places[index])
        open_ends.remove(index)
        open_ends.update(graph.inputs(producers[index]))


def _fused(graph: Graph, island: _Island) -> Any | None:
    """The operator that computes the same as an island, if there is one."""
    run, shape = island_runner(graph, island.source, island.result, island.positions), graph.shape(island.source)
    one = run(np.ones(shape, np.float32))
    for name, function in _FUNCTIONS.items():
        if np.abs(one - function(np.float32(1))).max() <= _NEAR and _proved(run, function, shape):
            return graph.make_operator(name, [island.source], [island.result], _options(name))
    slopes = -run(np.full(shape, -1, np.float32))
    if np.abs(one - 1).max() > _NEAR or not np.isfinite(slopes).all() or (slopes == 1).all():
        return None
    if not _proved(run, lambda x: np.where(x >= 0, x, slopes * x), shape):
        return None
    return _prelu(graph, island, slopes)


def _proved(run: Callable[[Values], Values], exact: Callable[[Values], Values], shape: tuple[int, ...]) -> bool:
    """Whether the operators compute a function, on numbers of every size and on zero."""
    rng = np.random.default_rng(0)
    for scale in _SCALES:
        values = rng.normal(0, scale, shape).astype(np.float32)
        values[rng.random(shape) < 0.05] = 0
        wanted = exact(values)
        if not (np.abs(run(values) - wanted) <= _NEAR * np.maximum(np.abs(values), np.abs(wanted))).all():
            return False
    return True


def _prelu(graph: Graph, island: _Island, slopes: NDArray[np.float32]) -> Any:
    ends = [island.source], [island.result]
    if (slopes == slopes.flat[0]).all() and 0 < slopes.flat[0] < 1:
        options = schema.LeakyReluOptionsT()
        options.alpha = float(slopes.flat[0])
        return graph.make_operator("LEAKY_RELU", *ends, options)
    # One for each channel, where places have no slopes of their own.
    alpha = slopes[0]
    middle = tuple(range(alpha.ndim - 1))
    if middle and (alpha == alpha[(0,) * len(middle)]).all():
        alpha = alpha[(slice(0, 1),) * len(middle)]
    name = f"{graph.tensor_name(island.result)}/slopes"
    return graph.make_operator("PRELU", [island.source, graph.add_constant(name, np.ascontiguousarray(alpha))], ends[1])


def _options(name: str) -> Any | None:
    return schema.HardSwishOptionsT() if name == "HARD_SWISH" else None


def _drop_unread(graph: Graph, island: _Island) -> None:
    """Drop the operators of an island that nothing reads any more; they stand in the order of execution."""
    outputs = {int(index) for index in graph.subgraph.outputs}
    for operator in [graph.operators[place] for place in reversed(island.positions[:-1])]:
        index = int(operator.outputs[0])
        if index not in outputs and not graph.consumers(index):
            del graph.operators[graph.position(operator)]
