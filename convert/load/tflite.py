"""Taking a float ``.tflite`` as the model: there is nothing to convert, only to check."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.backends.interpreters import find_runtime, open_interpreter
from ...runtime.model.artifact import read_artifact
from ...runtime.model.contract import InputOptions
from ...runtime.model.flatbuffer import ModelInfo
from ..errors import ModelLoadError, ModelShapeError
from ..graph.graph import Graph
from ..graph.repair import drop_unused_tensors
from .options import LoadOptions
from .original import Original, check_image_shape

_QUANTIZED = ("int8", "uint8", "int16", "int4")


def load_tflite(path: Path, options: LoadOptions) -> Original:
    """Load a float ``.tflite``, our own or from elsewhere.

    Raises:
        ModelLoadError: it is quantized, or has several subgraphs.
        ModelFileError: it is damaged, or no TFLite file.
        ModelShapeError: not one image in and one embedding out, or no such layer.
    """
    artifact = read_artifact(path)
    contract = artifact.contract
    if contract is not None and contract.normalization.placement == "runtime":
        raise ModelLoadError(
            f"{path} ends at the raw embedding; its normalization is left to Encoder and would be lost. Use the model "
            "it was exported from."
        )
    _check_float(path, artifact.info)
    graph = Graph(artifact.flatbuffer)
    if len(graph.model.subgraphs) > 1:
        raise ModelLoadError(
            f"{path} has {len(graph.model.subgraphs)} subgraphs (loops or branches); an encoder is one. "
            "Export the part of the model without them."
        )
    if len(graph.subgraph.inputs) != 1:
        raise ModelShapeError(
            f"{path} has {len(graph.subgraph.inputs)} inputs; an encoder takes one image. Export it with one input."
        )
    source = int(graph.subgraph.inputs[0])
    if artifact.info.inputs[0].dtype != "float32":
        raise ModelShapeError(
            f"{path} takes {artifact.info.inputs[0].dtype}; an encoder takes float32. Export it with that input."
        )
    _fix_batch(path, graph, source)
    shape = check_image_shape(str(path), graph.shape(source), options.input_shape)
    decisions = _choose_output(path, graph, options)
    _fold_shapes(graph)
    drop_unused_tensors(graph)
    return Original(
        name=str(path),
        input_shape=shape,
        flatbuffer=graph.to_bytes(),
        batch=1,
        inputs=None if contract is None else _said(contract.input),
        decisions=decisions,
    )


def _said(given: Any) -> InputOptions:
    return InputOptions(given.mean, given.std, given.color_order, given.resampler)


def _check_float(path: Path, info: ModelInfo) -> None:
    custom = sorted({operator.name for operator in info.operators if operator.name.startswith("CUSTOM")})
    if custom:
        raise ModelLoadError(
            f"{path} uses {', '.join(custom)}, which no interpreter here has. Convert the model again with TFLite's "
            "own operators only."
        )
    for tensor in info.tensors:
        if tensor.dtype in _QUANTIZED and tensor.scale:
            raise ModelLoadError(
                f"{path} is already quantized: its tensor {tensor.name!r} is {tensor.dtype}. "
                "Pass the float32 file or the Keras model; what quantization took away cannot be brought back."
            )
        if tensor.dtype == "float16":
            raise ModelLoadError(
                f"{path} holds float16 weights. Pass the float32 file or the Keras model; float16 can be made from it."
            )


def _fix_batch(path: Path, graph: Graph, source: int) -> None:
    """Batch 1; files with a dynamic batch already have it as their default."""
    batch = graph.shape(source)[0] if graph.shape(source) else 0
    if batch != 1:
        raise ModelShapeError(
            f"{path} takes {graph.shape(source)}; an encoder for a device takes one image at a time, batch 1. "
            "Convert the model again with a batch of 1."
        )
    for tensor in graph.subgraph.tensors:
        tensor.shapeSignature = None


def _choose_output(path: Path, graph: Graph, options: LoadOptions) -> tuple[str, ...]:
    outputs = [int(index) for index in graph.subgraph.outputs]
    if options.layer is not None:
        made = {graph.tensor_name(int(i)): int(i) for operator in graph.operators for i in operator.outputs}
        # Fused operators carry the names of all they were made of.
        found = made.get(options.layer) or next((i for n, i in made.items() if options.layer in n.split(";")), None)
        if found is None:
            near = difflib.get_close_matches(options.layer, made, n=4, cutoff=0.3) or list(made)[-4:]
            raise ModelShapeError(f"{path} has no tensor {options.layer!r} to end at. Near ones: {', '.join(near)}.")
        graph.end_at(found)
        return ()
    names = _output_names(graph, outputs)
    if options.output is not None and options.output not in names:
        raise ModelShapeError(f"{path} has no output {options.output!r}. Its outputs are: {', '.join(names)}.")
    if options.output is None and len(outputs) > 1:
        raise ModelShapeError(
            f"{path} has {len(outputs)} outputs; an encoder gives one embedding. Choose one: "
            f"{' or '.join(f'--output {name}' for name in names)}."
        )
    if options.output is None or len(outputs) == 1:
        return ()
    graph.end_at(outputs[names.index(options.output)])
    return (f"the embedding is the output {options.output!r} of {len(outputs)}.",)


def _output_names(graph: Graph, outputs: list[int]) -> list[str]:
    """The signature's names for the outputs where there is one, the tensors' names otherwise."""
    names = {index: graph.tensor_name(index) for index in outputs}
    for signature in (graph.model.signatureDefs or [])[:1]:
        for entry in signature.outputs:
            name = entry.name.decode() if isinstance(entry.name, bytes) else str(entry.name)
            names[int(entry.tensorIndex)] = name
    return [names[index] for index in outputs]


def _fold_shapes(graph: Graph) -> None:
    """Compute once what depends on shapes alone, such as the SHAPE, STRIDED_SLICE, PACK in front of a dynamic reshape.

    With the batch fixed these are constants; left in the graph they keep compilers for NPUs from placing the rest.
    """
    fixed: set[int] = set()
    for operator in graph.operators:
        from_shape = graph.operator_name(operator) == "SHAPE"
        if from_shape or (graph.inputs(operator) and all(i in fixed for i in graph.inputs(operator))):
            fixed.update(int(i) for i in operator.outputs)
    if not fixed:
        return
    interpreter = open_interpreter(find_runtime(), graph.to_bytes(), threads=1, keep_all_tensors=True)
    details = interpreter.get_input_details()[0]
    interpreter.set_tensor(details["index"], np.zeros(details["shape"], np.float32))
    interpreter.invoke()
    values = {index: interpreter.get_tensor(index) for index in fixed}
    graph.subgraph.operators = [op for op in graph.operators if not fixed.intersection(int(i) for i in op.outputs)]
    for index, value in values.items():
        graph.make_constant(index, value)
