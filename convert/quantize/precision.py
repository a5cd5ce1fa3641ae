"""Which layers of an int8 file are not int8: what can be chosen, layer by layer, and on which target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...calibration.tensors import short_name
from ..graph.graph import HEAVY, Graph
from ..modes import Precision


@dataclass(frozen=True)
class Layer:
    """A convolution or dense layer with what follows it until the next one: they are of one precision.

    Attributes:
        name: of the tensor that its first operator writes.
        operators: kinds of its operators, in the order of execution.
        tensors: what they write, by name: how :func:`embedlite.convert.quantize.litert.quantize` knows them.
    """

    name: str
    operators: tuple[str, ...]
    tensors: tuple[str, ...]

    @property
    def short_name(self) -> str:
        """The last part of its name, for people."""
        return short_name(self.name)

    @property
    def weighted(self) -> bool:
        """Whether it has weights."""
        return self.operators[0] in HEAVY


def find_layers(flatbuffer: bytes, keep_float: Sequence[str]) -> tuple[Layer, ...]:
    """The layers of a float graph that int8 quantizes, in the order of execution.

    An operator without weights belongs to the last of the layers that it reads, so that what adds up two branches
    belongs to one of them; those in front of the first layer with weights are a layer of their own.

    Args:
        flatbuffer: the float graph.
        keep_float: operators that stay float anyway, by the name of their first output tensor.
    """
    graph, staying = Graph(flatbuffer), set(keep_float)
    found: list[list[tuple[str, str]]] = []
    layer_of: dict[int, int] = {}
    for operator in graph.operators:
        name, kind = graph.tensor_name(int(operator.outputs[0])), graph.operator_name(operator)
        if name in staying:
            continue
        read = [layer_of[index] for index in graph.inputs(operator) if index in layer_of]
        if kind in HEAVY or not found:
            found.append([])
        place = len(found) - 1 if kind in HEAVY or not read else max(read)
        found[place].append((name, kind))
        layer_of.update(dict.fromkeys(map(int, operator.outputs), place))
    return tuple(
        Layer(members[0][0], tuple(kind for _, kind in members), tuple(name for name, _ in members))
        for members in found
    )


def by_operator(layers: Sequence[Layer], precision: Precision) -> dict[str, str]:
    """The precision of each operator that is not int8, by the tensor that it writes."""
    return {tensor: precision[layer.name] for layer in layers if layer.name in precision for tensor in layer.tensors}
