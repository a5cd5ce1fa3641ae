"""Channels that can be scaled without a change of the float function, and what must be scaled with them.

Divide channel c of an activation by s_c > 0: whatever is linear or positively homogeneous passes that on (a ReLU, a
PReLU, a pool, zeros around it, a mean over places), a sum needs the same factors on both sides, and in the end a
layer's weights take them back. So the channels of all activations fall into classes that share one factor: a class is
divided out of the constants that write it, and multiplied into the weights that read it. What passes nothing on (a
sigmoid, the graph's input and output, a normalization) fixes the factors of what it reads and writes at one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from .graph import Graph

Labels = NDArray[np.int64]

FIXED = 0
"""The class whose factor is one."""

_PLAIN = frozenset({"NEG", "ABS", "RELU", "RELU6", "LEAKY_RELU", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "TILE"})
_WINDOWS = frozenset({"MAX_POOL_2D", "AVERAGE_POOL_2D", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "SLICE"})
_OVER_AXES = frozenset({"MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"})
_SHAPES = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})


@dataclass(frozen=True)
class Scaled:
    """A constant that takes factors.

    Attributes:
        operator: that reads it.
        place: among its inputs.
        times: the class whose factor multiplies each of its values, of a shape that broadcasts to it; None where none.
        over: the class whose factor divides, likewise.
        own_step: whether every channel that is read has a step size of its own, so that factors cost nothing.
    """

    operator: Any
    place: int
    times: Labels | None
    over: Labels
    own_step: bool = False


@dataclass
class Channels:
    """The classes of a graph's channels.

    Attributes:
        labels: the class of each channel, the last axis, of every activation that is not fixed as a whole, by index.
        scaled: the constants that take factors.
        clipped: activations that end at 6, by index: exact for what stays below, in both scales.
        count: of classes, the fixed one among them.
    """

    labels: dict[int, Labels] = field(default_factory=dict)
    scaled: list[Scaled] = field(default_factory=list)
    clipped: set[int] = field(default_factory=set)
    count: int = 1


def channels(graph: Graph) -> Channels:
    """The classes of a float graph's channels."""
    return _Ties(graph).found()


def scale_channels(graph: Graph, found: Channels, factors: NDArray[np.float64]) -> None:
    """Divide every class by its factor: the activations follow from the constants.

    Args:
        graph: is changed; constants in copies, because the converter shares equal ones.
        found: the graph's classes.
        factors: (classes,), larger than zero, that of :data:`FIXED` one.
    """
    for item in found.scaled:
        values = graph.constant(int(item.operator.inputs[item.place]))
        assert values is not None
        factor = 1 / factors[item.over]
        if item.times is not None:
            factor = factor * factors[item.times]
        if (factor != 1).any():
            name = f"{graph.tensor_name(int(item.operator.outputs[0]))}/equalized{item.place}"
            inputs = [int(index) for index in item.operator.inputs]
            inputs[item.place] = graph.add_constant(name, (values * factor).astype(np.float32))
            item.operator.inputs = inputs


class _Ties:
    """The classes while they grow together."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._parents = [FIXED]
        self._labels: dict[int, Labels] = {}
        self._scaled: list[Scaled] = []
        self._clipped: set[int] = set()

    def found(self) -> Channels:
        for operator in self.graph.operators:
            if not (_clips_evenly(operator) and _rule(self.graph.operator_name(operator))(self, operator)):
                for index in self.graph.inputs(operator):
                    self.fix(index)
                for index in map(int, operator.outputs):
                    self.give(index, np.zeros(self.width(index), np.int64))
                continue
            fused = getattr(operator.builtinOptions, "fusedActivationFunction", None)
            if self.graph.operator_name(operator) == "RELU6" or fused == schema.ActivationFunctionType.RELU6:
                self._clipped.add(int(operator.outputs[0]))
        for index in map(int, self.graph.subgraph.outputs):
            self.fix(index)
        roots = np.array([self._root(number) for number in range(len(self._parents))])
        kept, numbers = np.unique(roots, return_inverse=True)
        labels = {index: numbers[found] for index, found in self._labels.items()}
        return Channels(
            {index: found for index, found in labels.items() if found.any()},
            [
                Scaled(item.operator, item.place, times, numbers[item.over], item.own_step)
                for item in self._scaled
                for times in (None if item.times is None else numbers[item.times],)
                if numbers[item.over].any() or (times is not None and times.any())
            ],
            {index for index in self._clipped if labels[index].any()},
            len(kept),
        )

    def width(self, index: int) -> int:
        return (self.graph.shape(index) or (1,))[-1]

    def of(self, index: int) -> Labels:
        """The classes of a tensor's channels; of an input, whatever it is, the fixed one."""
        return self._labels.get(index, np.zeros(self.width(index), np.int64))

    def give(self, index: int, labels: Labels) -> bool:
        """Let a tensor's channels be of these classes, one for each or one for all."""
        self._labels[index] = np.broadcast_to(labels, (self.width(index),))
        return True

    def new(self, count: int) -> Labels:
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def fix(self, index: int) -> None:
        self.tie(self.of(index), np.zeros(1, np.int64))

    def is_fixed(self, index: int) -> bool:
        return all(self._root(int(label)) == FIXED for label in np.unique(self.of(index)))

    def tie(self, one: Labels, other: Labels) -> None:
        """Make classes one, pair by pair."""
        pairs = np.unique(np.stack(np.broadcast_arrays(one, other), axis=-1).reshape(-1, 2), axis=0)
        for first, second in pairs:
            low, high = sorted((self._root(int(first)), self._root(int(second))))
            self._parents[high] = low

    def scale(self, operator: Any, place: int, times: Labels | None, over: Labels, *, own_step: bool = False) -> None:
        """Have a constant take factors; a layer without a bias has none there."""
        if len(operator.inputs) > place and operator.inputs[place] >= 0:
            self._scaled.append(Scaled(operator, place, times, over, own_step))

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number


_Rule = Callable[[_Ties, Any], bool]
"""Gives an operator's output its classes; False where it passes none on."""


def _clips_evenly(operator: Any) -> bool:
    kinds = schema.ActivationFunctionType
    fused = getattr(operator.builtinOptions, "fusedActivationFunction", kinds.NONE)
    return fused in (kinds.NONE, kinds.RELU, kinds.RELU6)


def _rule(kind: str) -> _Rule:
    for kinds, rule in _RULES.items():
        if kind in kinds:
            return rule
    return lambda ties, operator: False


def _constants(ties: _Ties, operator: Any, places: Sequence[int]) -> bool:
    """Whether these inputs are constants, or absent."""
    indices = [int(operator.inputs[place]) for place in places if place < len(operator.inputs)]
    return all(index < 0 or ties.graph.constant(index) is not None for index in indices)


def _as_before(ties: _Ties, operator: Any) -> bool:
    source, result = int(operator.inputs[0]), int(operator.outputs[0])
    return ties.width(source) == ties.width(result) and ties.give(result, ties.of(source))


def _prelu(ties: _Ties, operator: Any) -> bool:
    return _constants(ties, operator, [1]) and _as_before(ties, operator)


def _over_axes(ties: _Ties, operator: Any) -> bool:
    axes, rank = ties.graph.constant(int(operator.inputs[1])), len(ties.graph.shape(int(operator.inputs[0])))
    return axes is not None and rank - 1 not in axes.ravel() % rank and _as_before(ties, operator)


def _transpose(ties: _Ties, operator: Any) -> bool:
    order = ties.graph.constant(int(operator.inputs[1]))
    return order is not None and int(order[-1]) == len(order) - 1 and _as_before(ties, operator)


def _strided_slice(ties: _Ties, operator: Any) -> bool:
    strides, options = ties.graph.constant(int(operator.inputs[3])), operator.builtinOptions
    rank = len(ties.graph.shape(int(operator.inputs[0])))
    if strides is None or len(strides) != rank or strides[-1] != 1 or options.ellipsisMask or options.newAxisMask:
        return False
    return not options.shrinkAxisMask >> rank - 1 & 1 and _as_before(ties, operator)


def _pad(ties: _Ties, operator: Any) -> bool:
    paddings = ties.graph.constant(int(operator.inputs[1]))
    if paddings is None:
        return False
    # Zeros are zeros in any scale.
    before, after = (ties.new(int(count)) for count in paddings[-1])
    return ties.give(int(operator.outputs[0]), np.concatenate([before, ties.of(int(operator.inputs[0])), after]))


def _mirror_pad(ties: _Ties, operator: Any) -> bool:
    return _constants(ties, operator, [1]) and _as_before(ties, operator)


def _reshape(ties: _Ties, operator: Any) -> bool:
    """Value n lies in channel n % width, before and after, so channels that differ by a common divisor may meet."""
    labels, width = ties.of(int(operator.inputs[0])), ties.width(int(operator.outputs[0]))
    if not len(labels) or not width:
        return False
    common = math.gcd(len(labels), width)
    rows = labels.reshape(-1, common)
    ties.tie(rows, rows[:1])
    return ties.give(int(operator.outputs[0]), np.tile(rows[0], width // common))


def _concatenation(ties: _Ties, operator: Any) -> bool:
    result = int(operator.outputs[0])
    rank, axis = len(ties.graph.shape(result)), operator.builtinOptions.axis
    labels = [ties.of(int(index)) for index in operator.inputs]
    if axis % rank == rank - 1:
        return ties.give(result, np.concatenate(labels))
    for other in labels[1:]:
        ties.tie(labels[0], other)
    return ties.give(result, labels[0])


def _split(ties: _Ties, operator: Any) -> bool:
    kind = ties.graph.operator_name(operator)
    axis = ties.graph.constant(int(operator.inputs[0 if kind == "SPLIT" else 2]))
    source = int(operator.inputs[1 if kind == "SPLIT" else 0])
    if axis is None:
        return False
    rank, labels, first = len(ties.graph.shape(source)), ties.of(source), 0
    along = int(axis.ravel()[0]) % rank == rank - 1
    for result in map(int, operator.outputs):
        width = ties.width(result)
        ties.give(result, labels[first : first + width] if along else labels)
        first += width
    return True


def _sum(ties: _Ties, operator: Any) -> bool:
    result, width = int(operator.outputs[0]), ties.width(int(operator.outputs[0]))
    activations = ties.graph.inputs(operator)
    if not activations:
        return False
    labels = np.broadcast_to(ties.of(activations[0]), (width,))
    for other in activations[1:]:
        ties.tie(labels, ties.of(other))
    for place, index in enumerate(map(int, operator.inputs)):
        if ties.graph.is_constant(index):
            ties.scale(operator, place, None, labels)
    return ties.give(result, labels)


def _extreme(ties: _Ties, operator: Any) -> bool:
    """The larger or smaller of two activations, or of one and zero: constants share its step size in 8 bits."""
    constants = [values for index in operator.inputs if (values := ties.graph.constant(int(index))) is not None]
    return not any(values.any() for values in constants) and _sum(ties, operator)


def _product(ties: _Ties, operator: Any) -> bool:
    result, activations = int(operator.outputs[0]), ties.graph.inputs(operator)
    if len(activations) == 2:
        # A gate keeps its scale, and what it is laid over passes its own on.
        gate = next((index for index in activations if ties.is_fixed(index)), None)
        if gate is None:
            gate = min(activations, key=lambda index: math.prod(ties.graph.shape(index)))
            ties.fix(gate)
        activations.remove(gate)
    return len(activations) == 1 and ties.give(result, ties.of(activations[0]))


def _quotient(ties: _Ties, operator: Any) -> bool:
    return _constants(ties, operator, [1]) and _product(ties, operator)


def _convolution(ties: _Ties, operator: Any) -> bool:
    if not _constants(ties, operator, [1, 2]):
        return False
    source, result = int(operator.inputs[0]), int(operator.outputs[0])
    outputs, _, _, inputs = ties.graph.shape(int(operator.inputs[1]))
    labels, made = ties.of(source), ties.new(outputs)
    groups = len(labels) // inputs
    read = np.repeat(labels.reshape(groups, inputs), outputs // groups, axis=0)
    times = read if groups > 1 else read[:1]
    _layer(ties, operator, times[:, None, None, :], made[:, None, None, None], made)
    return ties.give(result, made)


def _depthwise(ties: _Ties, operator: Any) -> bool:
    if not _constants(ties, operator, [1, 2]):
        return False
    source, result = int(operator.inputs[0]), int(operator.outputs[0])
    labels, made = ties.of(source), ties.new(ties.width(result))
    _layer(ties, operator, np.repeat(labels, len(made) // len(labels)), made, made, own_step=True)
    return ties.give(result, made)


def _dense(ties: _Ties, operator: Any) -> bool:
    if not _constants(ties, operator, [1, 2]):
        return False
    source, result = int(operator.inputs[0]), int(operator.outputs[0])
    outputs, inputs = ties.graph.shape(int(operator.inputs[1]))
    labels, made = ties.of(source), ties.new(outputs)
    if inputs % len(labels) or ties.width(result) != outputs:
        return False
    # It reads whatever shape its input has as one row.
    _layer(ties, operator, np.tile(labels, inputs // len(labels))[None], made[:, None], made)
    return ties.give(result, made)


def _transposed(ties: _Ties, operator: Any) -> bool:
    if not _constants(ties, operator, [0, 1, 3]):
        return False
    source, result = int(operator.inputs[2]), int(operator.outputs[0])
    made = ties.new(ties.width(result))
    ties.scale(operator, 1, ties.of(source)[None, None, None], made[:, None, None, None])
    ties.scale(operator, 3, None, made)
    return ties.give(result, made)


def _layer(ties: _Ties, operator: Any, times: Labels, over: Labels, made: Labels, *, own_step: bool = False) -> None:
    ties.scale(operator, 1, times, over, own_step=own_step)
    ties.scale(operator, 2, None, made)


_RULES: dict[frozenset[str], _Rule] = {
    _PLAIN | _WINDOWS: _as_before,
    _OVER_AXES: _over_axes,
    _SHAPES: _reshape,
    frozenset({"PRELU"}): _prelu,
    frozenset({"TRANSPOSE"}): _transpose,
    frozenset({"STRIDED_SLICE"}): _strided_slice,
    frozenset({"PAD"}): _pad,
    frozenset({"MIRROR_PAD"}): _mirror_pad,
    frozenset({"CONCATENATION"}): _concatenation,
    frozenset({"SPLIT", "SPLIT_V"}): _split,
    frozenset({"ADD", "SUB"}): _sum,
    frozenset({"MAXIMUM", "MINIMUM"}): _extreme,
    frozenset({"MUL"}): _product,
    frozenset({"DIV"}): _quotient,
    frozenset({"CONV_2D"}): _convolution,
    frozenset({"DEPTHWISE_CONV_2D"}): _depthwise,
    frozenset({"FULLY_CONNECTED"}): _dense,
    frozenset({"TRANSPOSE_CONV"}): _transposed,
}
