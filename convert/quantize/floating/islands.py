"""Operators without weights that compute in float in an int8 file, because it takes no more time than integers do.

Of some operators runtimes have an int8 kernel that is many times slower than the float one, because no fast library has
it: the squared difference and the root of a layer normalization, the products and the softmax of an attention, a PReLU.
Around them each rounding to 8 bits costs accuracy and saves nothing. An island grows from such an operator, or from one
that is float anyway, over its neighbours as long as the estimated time does not: what a neighbour takes in float, and
the values that are then converted at its other side. One layer may be part of it: a small convolution of an image that
has one channel, for integer kernels take four at a time, three of them for nothing. An island is kept where calibration
images clearly gain, and, with a root or a squared difference in it, which alone may take longer than all layers
together, where they do not lose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ....calibration import Ranges
from ....calibration.auto import all_if_better
from ....runtime.drift.metrics import ranked_db
from ....runtime.drift.wording import gained
from ...graph.graph import Graph
from ...normalization.prepare import FloatGraph
from ..litert import LEAST_WEIGHTS, NO_KERNEL
from ..trial import CrossTrial

TIMES: Mapping[str, tuple[float, float]] = {
    "ABS": (0.11, 3.3),
    "ADD": (0.12, 0.16),
    "AVERAGE_POOL_2D": (0.11, 1.0),
    "BATCH_MATMUL": (0.021, 0.21),
    "CONCATENATION": (0.27, 0.13),
    "HARD_SWISH": (0.12, 3.6),
    "L2_NORMALIZATION": (0.88, 5.3),
    "LEAKY_RELU": (0.09, 0.08),
    "LOGISTIC": (0.21, 0.12),
    "MAXIMUM": (0.14, 0.05),
    "MEAN": (0.07, 0.09),
    "MINIMUM": (0.09, 0.09),
    "MUL": (0.11, 0.24),
    "NEG": (0.09, 0.12),
    "PRELU": (0.53, 11.9),
    "RELU": (0.09, 3.1),
    "RESHAPE": (0.11, 0.05),
    "RSQRT": (0.13, 58.0),
    "SOFTMAX": (0.75, 2.1),
    "SQUARED_DIFFERENCE": (0.12, 7.4),
    "SUB": (0.1, 0.15),
    "SUM": (0.07, 0.09),
    "TANH": (0.23, 0.12),
    "TRANSPOSE": (0.14, 0.07),
}
"""Nanoseconds on an x86-64 in one thread, in float and in int8, as ``benchmarks/kernels.py`` prints them: for each
value of the largest tensor, for each product of ``BATCH_MATMUL``. Only ratios matter, and those of ten and more are of
kernels that XNNPACK lacks, on every processor. An operator that is not here is left as it is."""

_CONVERTED = 0.06
"""Nanoseconds of a value that is quantized or dequantized, measured likewise."""

_SLOW = 2.5
"""An integer kernel that takes so many times as long as the float one may be worth an island."""

_SLOWEST = 50
"""An integer kernel that takes so many times as long is worth one whatever is gained."""

_STANDARD_ERRORS, _LEAST_DB = 2, 1.0
"""What calibration images must gain: for less, operators stay in the integers that other processors want."""

_NOT_WORSE = -1
"""Standard errors likewise, where it is for the time: sum and tail may not rise, and the mean by no more than that."""


def find_islands(flatbuffer: bytes, quantized: bytes, integer_input: bool = False) -> tuple[str, ...]:
    """Operators that may as well be float, by the name of what they write.

    Args:
        flatbuffer: the float graph.
        quantized: its int8 graph, which tells what is float anyway.
        integer_input: whether the file takes integers: what reads the image is not float then.
    """
    return _Growth(Graph(flatbuffer), Graph(quantized), integer_input).found()


def may_have_islands(graph: FloatGraph) -> bool:
    """Whether an operator has a slow integer kernel, or is float without being part of the normalization."""
    operators, staying = Graph(graph.flatbuffer), set(graph.keep_float)
    slow = {kind for kind in TIMES if _ratio(kind) > _SLOW}
    return any(
        operators.operator_name(operator) in slow | NO_KERNEL
        and operators.tensor_name(int(operator.outputs[0])) not in staying
        for operator in operators.operators
    )


def within(flatbuffer: bytes, floating: Sequence[str]) -> set[str]:
    """Activations that only float operators write and read, which need no ranges in int8, by name."""
    graph, names = Graph(flatbuffer), set(floating)
    _, consumers = graph.links()
    return {
        name
        for operator in (graph.operators if names else ())
        if (name := graph.tensor_name(index := int(operator.outputs[0]))) in names
        and (readers := consumers.get(index))
        and all(graph.tensor_name(int(reader.outputs[0])) in names for reader in readers)
    }


def _ratio(kind: str) -> float:
    """How many times as long as in float an operator takes in integers; 1 of one that is not listed."""
    in_float, in_integers = TIMES.get(kind, (1.0, 1.0))
    return in_integers / in_float


class _Growth:
    """Islands of one graph while they grow."""

    def __init__(self, graph: Graph, quantized: Graph, integer_input: bool) -> None:
        kept = {
            quantized.tensor_name(int(index))
            for operator in quantized.operators
            for index in operator.outputs
            if quantized.operator_name(operator) != "DEQUANTIZE" and quantized.dtype(int(index)) == "float32"
        }
        self._graph = graph
        self._integers = set(map(int, graph.subgraph.inputs)) if integer_input else set()
        self._producers, self._consumers = graph.links()
        self._float = {id(operator) for operator in graph.operators if self._is_kept(operator, kept)}

    def _is_kept(self, operator: Any, kept: set[str]) -> bool:
        """Whether an operator is float as it is; one that writes no floats, such as a comparison, is held to be."""
        index = int(operator.outputs[0])
        return self._graph.dtype(index) != "float32" or self._graph.tensor_name(index) in kept

    def found(self) -> tuple[str, ...]:
        added, grows = list[Any](), True
        while grows:
            grows = False
            for operator in self._graph.operators:
                if id(operator) not in self._float and self._may_be_float(operator) and self._more(operator) <= 0:
                    self._float.add(id(operator))
                    added.append(operator)
                    grows = True
        # Of one alone the result is rounded either way, so that only much time is worth it.
        slowest = any(_ratio(self._graph.operator_name(operator)) > _SLOWEST for operator in added)
        if not slowest and not any(map(self._has_float_neighbour, added)):
            return ()
        return tuple(self._graph.tensor_name(int(operator.outputs[0])) for operator in added)

    def _has_float_neighbour(self, operator: Any) -> bool:
        before = [self._producers.get(index) for index in self._graph.inputs(operator)]
        after = self._consumers.get(int(operator.outputs[0]), ())
        return any(id(other) in self._float for other in (*before, *after))

    def _may_be_float(self, operator: Any) -> bool:
        inputs = self._graph.inputs(operator)
        listed = self._graph.operator_name(operator) in TIMES and len(operator.outputs) == 1
        floats = bool(inputs) and all(self._graph.dtype(index) == "float32" for index in inputs)
        floats = floats and not self._integers.intersection(inputs)
        return (listed or self._reads_one_channel(operator)) and floats

    def _reads_one_channel(self, operator: Any) -> bool:
        """Whether it is a convolution of an image with one channel, with so few weights that they stay float.

        In int8 it multiplies four times as many numbers as there are, of which four times as many fit into a register.
        """
        if self._graph.operator_name(operator) != "CONV_2D":
            return False
        image, weights = int(operator.inputs[0]), self._graph.constant(int(operator.inputs[1]))
        gray = image in map(int, self._graph.subgraph.inputs) and self._graph.shape(image)[-1] == 1
        return gray and weights is not None and weights.size < LEAST_WEIGHTS

    def _more(self, operator: Any) -> float:
        """Nanoseconds that the graph takes longer with the operator in float."""
        in_float, in_integers = TIMES.get(self._graph.operator_name(operator), (0.0, 0.0))
        touched = {*self._graph.inputs(operator), int(operator.outputs[0])}
        before = sum(map(self._converted, touched))
        self._float.add(id(operator))
        after = sum(map(self._converted, touched))
        self._float.remove(id(operator))
        return (in_float - in_integers) * self._count(operator) + _CONVERTED * (after - before)

    def _converted(self, index: int) -> int:
        """Values of a tensor that are quantized or dequantized: where it is written in one kind and read in another."""
        producer = self._producers.get(index)
        readers = {id(reader) in self._float for reader in self._consumers.get(index, ())}
        if index in map(int, self._graph.subgraph.outputs):
            readers.add(True)
        return len(readers - {producer is None or id(producer) in self._float}) * self._graph.size(index)

    def _count(self, operator: Any) -> int:
        inputs, result = self._graph.inputs(operator), int(operator.outputs[0])
        if self._graph.operator_name(operator) == "BATCH_MATMUL":
            return self._graph.size(result) * self._graph.shape(inputs[0])[-2 if operator.builtinOptions.adjX else -1]
        return max(map(self._graph.size, (*inputs, result)))


def try_islands(
    flatbuffer: bytes, ranges: Ranges, others: Sequence[Ranges], trial: CrossTrial, integer_input: bool
) -> tuple[tuple[str, ...], str | None]:
    """Which operators are float in islands, by the name of what they write, and what is to be said of it.

    Args:
        flatbuffer: the float graph that int8 is made from.
        ranges: of its activations.
        others: for each fold those of the other folds' images.
        trial: judges.
        integer_input: see :func:`find_islands`.
    """
    islands = find_islands(flatbuffer, trial.folds[0].quantized(flatbuffer, ranges), integer_input)
    if not islands:
        return (), None
    graph, names = Graph(flatbuffer), set(islands)
    kinds = {
        graph.operator_name(operator)
        for operator in graph.operators
        if graph.tensor_name(int(operator.outputs[0])) in names
    }
    slowest = max(map(_ratio, kinds)) > _SLOWEST
    least, gain = (_NOT_WORSE, 0.0) if slowest else (_STANDARD_ERRORS, _LEAST_DB)
    before = np.concatenate(list(trial.errors((flatbuffer, item) for item in others)))
    made = (trial.folds[0].quantized(flatbuffer, item, islands) for item in others)
    errors = all_if_better((fold.errors_of(item) for fold, item in zip(trial.folds, made, strict=True)), before, least)
    if errors is None or ranked_db(trial.sqnr(errors)) < ranked_db(trial.sqnr(before)) + gain:
        return (), None
    return islands, (
        f"{len(islands)} operator(s) whose integer kernels are slow, or beside such ones, are computed in float "
        f"({', '.join(sorted(kinds))}): {gained(trial.sqnr(before), trial.sqnr(errors))} on {len(trial)} calibration "
        "images, each judged with ranges of others. --output-type int8 keeps them in integers."
    )
