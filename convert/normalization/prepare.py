"""The float graph made ready for every mode: normalizations found, proved, guarded or frozen, and what stays float."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import RequestError
from ...runtime.images.source import Source
from ...runtime.model.contract import NormalizationSpec
from ...runtime.model.normalizations import KINDS
from ..graph.activations import fuse_activations, join_activations
from ..graph.graph import HEAVY, Graph
from ..graph.loops import steps
from ..graph.repair import drop_unused_tensors
from ..graph.run import embedding_shape
from ..load.lower import INPUT_NAME, OUTPUT_NAME, LoweredModel
from .freeze import FrozenNormalization, collect_extremes, freeze, frozen_spec
from .guard import guard_normalization
from .recognise import Normalization, final_normalization, find_normalizations

_PROOF_IMAGES = 4
"""Calibration images whose raw embeddings a recognised normalization is proved on, besides random and edge vectors."""

_RESHAPING = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})


@dataclass(frozen=True)
class Frozen:
    """What a frozen normalization is judged by.

    Attributes:
        constants: of every min-max normalization in the graph.
        unfrozen: the graph that they were taken from.
        reference: the same graph with the constants in it and nothing folded.
    """

    constants: tuple[FrozenNormalization, ...]
    unfrozen: bytes
    reference: bytes


@dataclass(frozen=True)
class FloatGraph:
    """The float flatbuffer with its normalization guarded, and what was found out about it.

    Attributes:
        flatbuffer: the float graph.
        spec: the normalization that ends the encoder.
        keep_float: operators that stay float in int8, by the name of their first output tensor.
        normalizations: name of the raw tensor and specification of each normalization that is still computed from it.
        raw_name: name of the raw embedding that ``spec`` normalizes; None without a normalization, or a frozen one.
        input_name: name of the input tensor.
        output_shape: shape of one embedding, without the batch axis.
        frozen: for a frozen normalization, what it is judged by.
        decisions: what was decided on the user's behalf.
        looped: the same model with its loops, which the float32 file keeps; None where this is as it was.
    """

    flatbuffer: bytes
    spec: NormalizationSpec
    keep_float: tuple[str, ...]
    raw_name: str | None
    input_name: str
    output_shape: tuple[int, ...]
    frozen: Frozen | None
    decisions: tuple[str, ...]
    normalizations: tuple[tuple[str, NormalizationSpec], ...]
    looped: FloatGraph | None = None


def prepare_lowered(
    lowered: LoweredModel, calibration: Source | None, modes: Sequence[str], normalization: str
) -> FloatGraph:
    """Prepare a model for its modes: the steps of loops are laid out one after the other for all but float32.

    Args:
        lowered: the model.
        calibration: the calibration images; None if there are none.
        modes: what files are made.
        normalization: ``frozen`` freezes min-max normalizations with the images.

    Raises:
        RequestError, CalibrationDataError: see :func:`prepare`.
    """

    def prepared(flatbuffer: bytes) -> FloatGraph:
        if calibration is None:
            # Nothing was proved on images, and what was fused changes no vector.
            return replace(prepare(flatbuffer), decisions=())
        images = (calibration.ready(index) for index in range(len(calibration)))
        if normalization == "frozen":
            return prepare(flatbuffer, freeze_with=images)
        return prepare(flatbuffer, islice(images, _PROOF_IMAGES))

    graph = prepared(lowered.flatbuffer)
    if lowered.unroll is None or all(mode == "float32" for mode in modes):
        return graph
    taken = steps(Graph(lowered.flatbuffer))
    said = (
        f"the {taken} steps of its loops are laid out one after the other in all files but float32, which keeps them."
    )
    return replace(prepared(lowered.unroll()), looped=graph, decisions=(*graph.decisions, said))


def prepare(
    flatbuffer: bytes,
    samples: Iterable[NDArray[np.float32]] = (),
    freeze_with: Iterable[NDArray[np.float32]] | None = None,
) -> FloatGraph:
    """Prepare the converter's float graph.

    Args:
        flatbuffer: the float graph.
        samples: a few model-ready images (H, W, C); recognition is proved on what the encoder makes of them, too.
        freeze_with: the calibration images, model-ready, read once; if given, min-max normalizations are frozen.

    Raises:
        RequestError: a frozen normalization was asked for, and there is no min-max in the graph.
        CalibrationDataError: the images give no constants.
    """
    graph = Graph(flatbuffer)
    fused = fuse_activations(graph)
    if join_activations(graph) or fused:
        drop_unused_tensors(graph)
    found = find_normalizations(graph, samples)
    ready = _guarded(graph, found) if freeze_with is None else _frozen(graph, found, freeze_with)
    if not fused:
        return ready
    text = f"{fused} activation function(s) spelled out in several operators are one operator each, proved the same."
    return replace(ready, decisions=(text, *ready.decisions))


def _guarded(graph: Graph, found: list[Normalization]) -> FloatGraph:
    guarded = [guard_normalization(graph, item) for item in found]
    last = final_normalization(graph, guarded)
    raw = None if last is None else graph.tensor_name(last.source)
    return _describe(graph, guarded, float_tail(graph), NormalizationSpec() if last is None else last.spec, raw)


def _frozen(graph: Graph, found: list[Normalization], images: Iterable[NDArray[np.float32]]) -> FloatGraph:
    reducing = [item for item in found if KINDS[item.spec.kind].freezes]
    if not reducing:
        raise RequestError(
            "--normalization frozen: there is no min-max normalization in this model whose extremes could be frozen. "
            "Leave the option out."
        )
    unfrozen = graph.to_bytes()
    named = [(graph.tensor_name(item.source), item.spec) for item in reducing]
    constants = collect_extremes(unfrozen, named, images)
    reference, _ = freeze(unfrozen, reducing, constants, fold=False)
    folded, count = freeze(unfrozen, reducing, constants, fold=True)
    last = final_normalization(graph, reducing)
    spec = NormalizationSpec() if last is None else frozen_spec(constants[reducing.index(last)])
    result = Graph(folded)
    others = [guard_normalization(result, item) for item in find_normalizations(result)]
    ready = _describe(result, others, [], spec, None)
    text = f"the minimum and maximum of {len(reducing)} normalization(s) are constants from the calibration images"
    text += f", folded into the layer before in {count}." if count else ", left as one multiplication and one addition."
    decisions = (text, *ready.decisions)
    return replace(ready, frozen=Frozen(tuple(constants), unfrozen, reference), decisions=decisions)


def _describe(
    graph: Graph, found: list[Normalization], tail: list[Any], spec: NormalizationSpec, raw: str | None
) -> FloatGraph:
    island = [operator for item in found for operator in item.operators] + tail
    keep_float = dict.fromkeys(graph.tensor_name(int(operator.outputs[0])) for operator in island)
    normalizations = tuple((graph.tensor_name(item.source), item.spec) for item in found)
    # A guard may have replaced operators; what they wrote is never computed now and has no range.
    drop_unused_tensors(graph)
    # litert-quantizer insists on a signature, and a .tflite from elsewhere may have none.
    graph.sign(INPUT_NAME, OUTPUT_NAME)
    return FloatGraph(
        flatbuffer=graph.to_bytes(),
        spec=spec,
        keep_float=tuple(keep_float),
        raw_name=raw,
        input_name=graph.tensor_name(int(graph.subgraph.inputs[0])),
        output_shape=embedding_shape(graph.shape(int(graph.subgraph.outputs[0]))),
        frozen=None,
        decisions=(),
        normalizations=normalizations,
    )


def float_tail(graph: Graph) -> list[Any]:
    """The operators after the raw embedding, if they do arithmetic: they are cheap and int8 would hurt them.

    Walks back from the output as long as the operators have no weights of their own to speak of and their inputs
    are no larger than the embedding. Covers LayerNormalization and whatever else no pattern knows by name.
    """
    size = int(np.prod(graph.shape(int(graph.subgraph.outputs[0])), dtype=np.int64))
    tail: list[Any] = []
    for operator in reversed(graph.operators):
        readers = graph.consumers(int(operator.outputs[0]))
        small = all(int(np.prod(graph.shape(i), dtype=np.int64)) <= size for i in graph.inputs(operator))
        if graph.operator_name(operator) in HEAVY or not small:
            continue
        if all(any(reader is member for member in tail) for reader in readers):
            tail.insert(0, operator)
    # Reshapes in front of the arithmetic are as exact in int8, and the raw embedding is then an int8 tensor.
    arithmetic: list[Any] = []
    for operator in tail:
        producers = [graph.producer(index) for index in graph.inputs(operator)]
        after = any(producer is member for producer in producers for member in arithmetic)
        if after or graph.operator_name(operator) not in _RESHAPING:
            arithmetic.append(operator)
    return arithmetic
