"""The float graph made ready for every mode: normalization found, proved, guarded, and named as what stays float."""

from __future__ import annotations

from dataclasses import dataclass

from ..runtime.contract import NormalizationSpec
from .graph import Graph
from .quantize import float_tail
from .recognise import final_normalization, find_normalizations, guard_normalization
from .repair import drop_unused_tensors


@dataclass(frozen=True)
class FloatGraph:
    """The float flatbuffer with its normalization guarded, and what was found out about it.

    Attributes:
        flatbuffer: the float graph.
        spec: the normalization that ends the encoder.
        keep_float: operators that stay float in int8, by the name of their first output tensor.
        raw_name: name of the raw embedding that ``spec`` normalizes; None without a normalization.
        input_name: name of the input tensor.
        output_shape: shape of one embedding, without the batch axis.
        decisions: what was decided on the user's behalf.
    """

    flatbuffer: bytes
    spec: NormalizationSpec
    keep_float: tuple[str, ...]
    raw_name: str | None
    input_name: str
    output_shape: tuple[int, ...]
    decisions: tuple[str, ...]


def prepare(flatbuffer: bytes) -> FloatGraph:
    """Prepare the converter's float graph."""
    graph = Graph(flatbuffer)
    found = [guard_normalization(graph, item) for item in find_normalizations(graph)]
    last = final_normalization(graph, found)
    island = [operator for item in found for operator in item.operators] + float_tail(graph)
    keep_float = dict.fromkeys(graph.tensor_name(int(operator.outputs[0])) for operator in island)
    raw = None if last is None else graph.tensor_name(last.source)
    # A guard may have replaced operators; what they wrote is never computed now and has no range.
    drop_unused_tensors(graph)
    shape = graph.shape(int(graph.subgraph.outputs[0]))
    return FloatGraph(
        flatbuffer=graph.to_bytes(),
        spec=NormalizationSpec() if last is None else last.spec,
        keep_float=tuple(keep_float),
        raw_name=raw,
        input_name=graph.tensor_name(int(graph.subgraph.inputs[0])),
        output_shape=shape[1:] if shape[0] == 1 else shape,
        decisions=() if last is None else _decisions(last.spec),
    )


def _decisions(spec: NormalizationSpec) -> tuple[str, ...]:
    stays = f"the normalization ({spec.kind}, axes {list(spec.axes)}) stays in the file as float operators."
    if 0 in spec.axes and spec.kind == "minmax":
        return (
            stays,
            "the normalization reduces over the batch: on the device the batch is one, so an image's embedding differs "
            "from the one it got in a larger batch. Normalize over each sample to avoid that.",
        )
    return (stays,)
