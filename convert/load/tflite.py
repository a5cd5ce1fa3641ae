"""Taking a float ``.tflite`` as the model: there is nothing to convert, only to check."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from ai_edge_litert import interpreter as litert

from ...runtime.backends.interpreters import find_runtime, open_interpreter
from ...runtime.backends.trial import try_foreign
from ...runtime.model.artifact import Artifact, read_artifact
from ...runtime.model.contract import IMAGE_PARTS, Contract, kind_of
from ...runtime.model.flatbuffer import ModelInfo, read_flatbuffer
from ...runtime.model.origin import PARTS, Statement, statement
from ...runtime.model.plain import metadata_statement
from ..errors import ModelLoadError, ModelShapeError
from ..graph.graph import DTYPES, Graph
from ..graph.loops import state
from ..graph.repair import drop_unused_tensors
from .options import LoadOptions
from .original import Original, check_input_shape, near, several_outputs

_QUANTIZED = ("int8", "uint8", "int16", "int4")


def load_tflite(path: Path, options: LoadOptions) -> Original:
    """Load a float ``.tflite``, our own or from elsewhere.

    Raises:
        ModelLoadError: it is quantized, or has several subgraphs.
        ModelFileError: it is damaged, or no TFLite file.
        ModelShapeError: not one image in and one embedding out, or no such layer.
        InterpreterFailedError: a file without a contract crashed the interpreter, never ended or answered NaN.
    """
    artifact = read_artifact(path)
    try_foreign(path, artifact, find_runtime())
    contract = artifact.contract
    if contract is not None and contract.normalization.placement == "runtime":
        raise ModelLoadError(
            f"{path} ends at the raw embedding; its normalization is left to Encoder and would be lost. Use the model "
            "it was exported from."
        )
    graph = Graph(artifact.flatbuffer)
    if len(graph.model.subgraphs) > 1:
        raise ModelLoadError(
            f"{path} has {len(graph.model.subgraphs)} subgraphs (loops or branches); an encoder is one. "
            "Export the part of the model without them."
        )
    if len(graph.subgraph.inputs) != 1:
        raise ModelShapeError(
            f"{path} has {len(graph.subgraph.inputs)} inputs; an encoder takes one. Export it with one input."
        )
    named = graph.tensor_name(int(graph.subgraph.inputs[0]))
    if options.input not in (None, named):
        raise ModelShapeError(f"{path} has no input {options.input!r}. Its inputs are: {named}.")
    kept = state(graph)
    if kept:
        # TensorFlow's converter makes such operators of recurrent layers, and interpreters never reset them.
        raise ModelLoadError(
            f"{path} keeps state from one input to the next ({kept[0]}), so an embedding would depend on the inputs "
            "before it. Pass the Keras model or the SavedModel that it was converted from; its layers keep none here."
        )
    decisions = _unpack_weights(graph)
    _check_float(path, read_flatbuffer(graph.to_bytes()))
    source = int(graph.subgraph.inputs[0])
    if artifact.info.inputs[0].dtype != "float32":
        raise ModelShapeError(
            f"{path} takes {artifact.info.inputs[0].dtype}; an encoder takes float32. Export it with that input."
        )
    _fix_batch(path, graph, source)
    shape = check_input_shape(str(path), graph.shape(source), options.input_shape)
    decisions += _choose_output(path, graph, options)
    _fold_shapes(graph)
    drop_unused_tensors(graph)
    return Original(
        name=str(path),
        input_shape=shape,
        flatbuffer=graph.to_bytes(),
        batch=1,
        inputs=_stated(path, artifact, shape),
        decisions=decisions,
    )


def _stated(path: Path, artifact: Artifact, shape: tuple[int, ...]) -> Statement | None:
    """What the file says of its input; TFLite Metadata speaks of images alone."""
    if artifact.contract is not None:
        return _said(artifact.contract)
    return metadata_statement(path, artifact.info, shape[2]) if kind_of(shape) == "image" else None


def _said(contract: Contract) -> Statement:
    """A contract that was decided at an earlier export, with its origins."""
    left_out = () if contract.input.is_image else IMAGE_PARTS
    parts = {name: getattr(contract.input, name) for name in PARTS if name not in left_out}
    said = statement("the file's own contract", "inferred", **parts)
    return replace(said, origins={name: contract.origins.get(name, "assumed") for name in parts}, settled=True)


_UNPACKING = ("DEQUANTIZE", "DENSIFY")


def _unpack_weights(graph: Graph) -> tuple[str, ...]:
    """Turn weights in half precision or in a sparse form into plain float32 ones, which every later step expects."""
    known: dict[int, str] = {}
    unpacking = []
    for operator in graph.operators:
        source, kind = int(operator.inputs[0]) if len(operator.inputs) else -1, graph.operator_name(operator)
        if kind not in _UNPACKING or source < 0 or not (source in known or graph.is_constant(source)):
            continue
        if graph.dtype(source) in ("float16", "float32"):
            unpacking.append(operator)
            known[int(operator.outputs[0])] = known.get(source, graph.dtype(source))
    if not unpacking:
        return ()
    island = Graph(graph.to_bytes())
    island.subgraph.operators = [island.operators[graph.position(operator)] for operator in unpacking]
    island.subgraph.inputs, island.subgraph.outputs = [], list(known)
    island.model.signatureDefs = []
    drop_unused_tensors(island)
    # XNNPACK refuses a graph that computes nothing from an input.
    plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = litert.Interpreter(model_content=island.to_bytes(), experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    interpreter.invoke()
    values = [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]
    for index, value in zip(known, values, strict=True):
        graph.make_constant(index, value)
    graph.subgraph.operators = [op for op in graph.operators if not any(op is other for other in unpacking)]
    drop_unused_tensors(graph)
    halves = sum(dtype == "float16" for dtype in known.values())
    if not halves:
        return ()
    return (f"{halves} weights are float16 in the file: they were widened, and no step gets back what they lost.",)


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
                f"{path} computes in float16: its tensor {tensor.name!r} is none of its weights. Pass the float32 file "
                "or the Keras model."
            )
        if tensor.dtype not in DTYPES:
            raise ModelLoadError(
                f"{path} has a tensor {tensor.name!r} of {tensor.dtype}, and an encoder computes with none but "
                f"{', '.join(sorted(DTYPES))}. Convert the part of the model without it."
            )


def _fix_batch(path: Path, graph: Graph, source: int) -> None:
    """Batch 1; files with a dynamic batch already have it as their default."""
    batch = graph.shape(source)[0] if graph.shape(source) else 0
    if batch != 1:
        raise ModelShapeError(
            f"{path} takes {graph.shape(source)}; an encoder for a device takes one input at a time, batch 1. "
            "Pass the model that it was made from, or convert that again with a batch of 1."
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
            raise ModelShapeError(
                f"{path} has no tensor {options.layer!r} to end at. Near ones: {near(options.layer, made)}."
            )
        graph.end_at(found)
        return ()
    names = _output_names(graph, outputs)
    if options.output is not None and options.output not in names:
        raise ModelShapeError(
            f"{path} has no output {options.output!r}. Its outputs are: {near(options.output, names)}."
        )
    if options.output is None and len(outputs) > 1:
        raise several_outputs(str(path), names)
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
