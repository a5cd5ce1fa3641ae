"""Loading a SavedModel folder, of TensorFlow 2 or of TensorFlow 1, through one of its signatures.

What the folder says is read from its protocol buffer before TensorFlow loads (and thereby runs) anything of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ModelLoadError, ModelShapeError
from .bounds.variables import check_checkpoint
from .edit.graph_def import DEFAULT_SIGNATURE
from .edit.one_image import OPEN_BATCH, for_one_image
from .edit.resizing import Sized, with_own_size
from .foreign import reason, told, versions
from .options import LoadOptions
from .original import Original, check_input_shape, has_open_size, joined, near, pixels_as_integers, several_outputs
from .saved_graph import check_folder, needed

SAVED_MODEL_NAME = "saved_model.pb"
TAG = "serve"

LARGEST_PROTO = (2 << 30) - 1
"""Bytes; a protocol buffer cannot be larger."""

_BOOKKEEPING = ("__saved_model_init_op", "__saved_model_train_op")


def is_saved_model(path: Path) -> bool:
    """Whether a path is a SavedModel's folder."""
    return path.is_dir() and (path / SAVED_MODEL_NAME).is_file()


def load_saved_model(path: Path, options: LoadOptions) -> Original:
    """Load a SavedModel.

    Raises:
        ModelLoadError: it is damaged, has no usable signature, or needs operators that TensorFlow does not have.
        ModelShapeError: its signature is not one image in and one embedding out.
        ModelLimitError: it asks for tensors, operators or steps of a number that no encoder has.
    """
    check_folder(path)
    check_checkpoint(path)
    meta_graph, signatures = _read(path)
    key = _choose_signature(path, signatures, options.signature)
    signature = signatures[key]
    input_name, spec = _image(path, key, signature, options.input)
    known = _shape_of(spec)
    batch = (known or (None,))[0]
    open_size = has_open_size(known) and batch in (None, 1)
    shape = None if open_size else check_input_shape(str(path), known, options.input_shape)
    output, decisions = _choose_output(path, signature, options.output)
    output_tensor = signature.outputs[output].name
    small, left_out = needed(path, meta_graph, key, output_tensor)
    # TensorFlow 2 describes its objects beside the graph; TensorFlow 1 has the graph alone.
    if meta_graph.object_graph_def.nodes:
        call = _load_objects(path, small, key, signature, input_name, output, options.layer)
    else:
        call = _load_graph(path, small, spec.name, output_tensor, options.layer)
    decisions += left_out
    framework = versions("SavedModel", "tensorflow")
    if batch is not None and batch > 1 and shape is not None:
        failed = f"cannot be called on {batch} inputs of shape {shape}"
        with told(ModelLoadError, str(path), framework, failed, OPEN_BATCH):
            call, said = for_one_image(call, str(path), batch, shape)
        batch, decisions = 1, (*decisions, *said)
    sized = Sized(shape, call) if shape is not None else with_own_size(str(path), call, known, options.input_shape)
    return Original(
        str(path),
        sized.shape,
        sized.call,
        batch=batch,
        inputs=joined(pixels_as_integers(_dtype_of(spec), known), sized.inputs),
        resizes_to=sized.resizes_to,
        decisions=(*decisions, *sized.decisions),
        framework=framework,
    )


def _load_objects(
    path: Path, meta_graph: Any, key: str, signature: Any, input_name: str, output: str, layer: str | None
) -> Any:
    """A SavedModel of TensorFlow 2, through its signature."""
    if layer is not None:
        raise ModelShapeError(
            f"--layer cannot cut {path}: a TensorFlow 2 SavedModel does not keep its layers' names. Cut the Keras "
            "model and save that: keras.Model(model.inputs, model.get_layer(name).output)."
        )
    import tensorflow as tf

    try:
        with _copy_of(path, meta_graph) as copy:
            loaded = tf.saved_model.load(copy, tags=[TAG])
        function = loaded.signatures[key]
    except Exception as error:
        raise _load_error(path, error) from error

    specs = {name: spec for name, spec in signature.inputs.items() if name != input_name}
    if specs and _needs(function, specs, output):
        raise ModelShapeError(
            f"the output {output!r} of {path} needs other inputs than {input_name!r}: {', '.join(sorted(specs))}. Save "
            "the part that takes one image by itself, with a signature of its own, and name that with --signature."
        )

    def call(image: Any) -> Any:
        others = {
            name: tf.zeros([1 if size is None else size for size in _shape_of(spec) or ()], spec.dtype)
            for name, spec in specs.items()
        }
        return function(**{input_name: tf.cast(image, signature.inputs[input_name].dtype)}, **others)[output]

    # The function alone does not keep the loaded object alive, and its variables go with that.
    call.loaded = loaded  # type: ignore[attr-defined]
    return call


def _needs(function: Any, names: Iterable[str], output: str) -> bool:
    """Whether an output of a signature depends on any of these inputs."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    graph = convert_variables_to_constants_v2(function).graph
    # The frozen function has the signature's inputs in the order of their names, and so its outputs.
    wanted = dict(zip(sorted(function.structured_outputs), graph.outputs, strict=True))[output]
    asked = {operation.name for operation in graph.get_operations() if operation.type == "Placeholder"} & set(names)
    left, seen = [wanted.op], set()
    while left:
        operation = left.pop()
        if operation.name not in seen:
            seen.add(operation.name)
            left += [tensor.op for tensor in operation.inputs]
    return bool(asked & seen)


def _load_graph(path: Path, meta_graph: Any, input_tensor: str, output_tensor: str, layer: str | None) -> Any:
    """A SavedModel of TensorFlow 1: its variables are frozen in a session, as reference variables have to be."""
    import tensorflow as tf

    v1 = tf.compat.v1
    try:
        with (
            _copy_of(path, meta_graph) as copy,
            v1.Graph().as_default() as graph,
            v1.Session(graph=graph) as session,
        ):
            v1.saved_model.load(session, [TAG], copy)
            if layer is not None:
                output_tensor = _find_layer(path, graph, input_tensor, output_tensor, layer)
            frozen = v1.graph_util.convert_variables_to_constants(
                session, graph.as_graph_def(), [output_tensor.partition(":")[0]]
            )
    except ModelShapeError:
        raise
    except Exception as error:
        raise _load_error(path, error) from error
    for function in frozen.library.function:
        # Freezing marks what it rewrote, and TFLite's converter refuses the mark.
        function.attr.pop("_GrapplerSpecializedFunc", None)
    imported = v1.wrap_function(lambda: tf.import_graph_def(frozen, name=""), [])
    try:
        pruned = imported.prune(input_tensor, output_tensor)
        return lambda image: pruned(tf.cast(image, pruned.inputs[0].dtype))
    except (KeyError, ValueError) as error:
        raise ModelShapeError(
            f"in {path}, {output_tensor!r} does not depend on the input {input_tensor!r} ({reason(error)}). "
            "Name another layer or output."
        ) from error


@contextmanager
def _copy_of(path: Path, meta_graph: Any) -> Iterator[str]:
    """A SavedModel of this meta graph alone, beside the same variables and assets."""
    from tensorflow.core.protobuf import saved_model_pb2

    del meta_graph.meta_info_def.tags[:]
    meta_graph.meta_info_def.tags.append(TAG)
    with tempfile.TemporaryDirectory(prefix="embedlite-") as folder:
        model = saved_model_pb2.SavedModel(saved_model_schema_version=1, meta_graphs=[meta_graph])
        (Path(folder) / SAVED_MODEL_NAME).write_bytes(model.SerializeToString())
        for name in ("variables", "assets"):
            if (path / name).is_dir():
                (Path(folder) / name).symlink_to((path / name).resolve(), target_is_directory=True)
        yield folder


def _load_error(path: Path, error: Exception) -> ModelLoadError:
    """tf.errors, OSError, KeyError, ValueError: which it is depends on what is missing."""
    import tensorflow as tf

    return ModelLoadError(
        f"{path} cannot be loaded by TensorFlow {tf.__version__}: {reason(error)}. Save it again, or copy the "
        "whole folder with its variables."
    )


def _read(path: Path) -> tuple[Any, dict[str, Any]]:
    """The meta graph that is for serving, and its signatures."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    size = (path / SAVED_MODEL_NAME).stat().st_size
    if size > LARGEST_PROTO:
        raise ModelLoadError(
            f"{path / SAVED_MODEL_NAME} has {size:,} bytes; TensorFlow reads at most {LARGEST_PROTO:,}. Save it again."
        )
    try:
        model.ParseFromString((path / SAVED_MODEL_NAME).read_bytes())
    except (DecodeError, OSError) as error:
        raise ModelLoadError(
            f"{path / SAVED_MODEL_NAME} cannot be read ({reason(error)}): it was cut short or is something else. "
            "Copy the folder again."
        ) from error
    graphs = [graph for graph in model.meta_graphs if TAG in graph.meta_info_def.tags]
    if not graphs:
        tags = sorted({tag for graph in model.meta_graphs for tag in graph.meta_info_def.tags})
        raise ModelLoadError(
            f"{path} has no graph for serving (tag {TAG!r}); its tags are: {', '.join(tags) or 'none'}. "
            "Save it with tf.saved_model.save, or with tag_constants.SERVING in TensorFlow 1."
        )
    signatures = {key: value for key, value in graphs[0].signature_def.items() if key not in _BOOKKEEPING}
    return graphs[0], signatures


def _choose_signature(path: Path, signatures: dict[str, Any], wanted: str | None) -> str:
    usable = [key for key, signature in signatures.items() if signature.inputs and signature.outputs]
    if not usable:
        raise ModelLoadError(
            f"{path} has no signature, so nothing says what its input and output are. Save it with one: "
            "model.export('folder') in Keras, tf.saved_model.save(module, 'folder', signatures=function), or in "
            "TensorFlow 1 tf.compat.v1.saved_model.simple_save(session, 'folder', {'image': x}, {'embedding': z})."
        )
    if wanted is not None and wanted not in usable:
        raise ModelLoadError(f"{path} has no signature {wanted!r}. Its signatures are: {near(wanted, sorted(usable))}.")
    if wanted is not None:
        return wanted
    if DEFAULT_SIGNATURE in usable:
        return DEFAULT_SIGNATURE
    if len(usable) > 1:
        raise ModelLoadError(
            f"{path} has several signatures, and none is called {DEFAULT_SIGNATURE}. Choose one: "
            f"{' or '.join(f'--signature {name}' for name in sorted(usable))}."
        )
    return usable[0]


def _image(path: Path, key: str, signature: Any, wanted: str | None) -> tuple[str, Any]:
    """Name and TensorInfo of a signature's only input, or the one that is wanted."""
    import tensorflow as tf

    names = sorted(signature.inputs)
    if wanted is not None and wanted not in names:
        raise ModelShapeError(
            f"the signature {key!r} of {path} has no input {wanted!r}. Its inputs are: {near(wanted, names)}."
        )
    if wanted is None and len(names) != 1:
        raise ModelShapeError(
            f"the signature {key!r} of {path} has {len(names)} inputs; an encoder takes one. Choose one, if the "
            f"output needs no other: {' or '.join(f'--input {name}' for name in names)}."
        )
    name = wanted or names[0]
    spec = signature.inputs[name]
    dtype = tf.dtypes.as_dtype(spec.dtype)
    if dtype == tf.string:
        raise ModelShapeError(
            f"the signature {key!r} of {path} takes text or encoded bytes (a string input); an encoder takes numbers. "
            "Save it with a signature that takes the decoded floats."
        )
    if not (dtype.is_floating or (dtype.is_integer and len(_shape_of(spec) or ()) == 4)):
        raise ModelShapeError(
            f"the signature {key!r} of {path} takes {dtype.name}; an encoder here takes floats, or pixels as integers. "
            "Save it with a float32 input."
        )
    return name, spec


def _shape_of(spec: Any) -> tuple[int | None, ...] | None:
    if spec.tensor_shape.unknown_rank:
        return None
    return tuple(None if dim.size < 0 else int(dim.size) for dim in spec.tensor_shape.dim)


def _dtype_of(spec: Any) -> str:
    import tensorflow as tf

    return str(tf.dtypes.as_dtype(spec.dtype).name)


def _choose_output(path: Path, signature: Any, wanted: str | None) -> tuple[str, tuple[str, ...]]:
    names = sorted(signature.outputs)
    if wanted is not None and wanted not in names:
        raise ModelShapeError(f"{path} has no output {wanted!r}. Its outputs are: {near(wanted, names)}.")
    if wanted is None and len(names) > 1:
        raise several_outputs(str(path), names)
    chosen = wanted or names[0]
    return chosen, (f"the embedding is the output {chosen!r} of {len(names)}.",) if len(names) > 1 else ()


def _find_layer(path: Path, graph: Any, input_tensor: str, output_tensor: str, layer: str) -> str:
    """Name of the tensor that an operation, or the last one in a scope, of that name gives on the way to the output."""
    between = _operations_between(graph, input_tensor, output_tensor)
    exact = [operation for operation in between if operation.name == layer]
    inside = [operation for operation in between if f"/{layer}/" in f"/{operation.name}/"]
    if not (exact or inside):
        scopes = dict.fromkeys(scope for operation in between for scope in operation.name.split("/"))
        raise ModelShapeError(f"{path} has no operation {layer!r} to end at. Near ones: {near(layer, scopes)}.")
    name: str = (exact or inside)[-1].outputs[0].name
    return name


def _operations_between(graph: Any, input_tensor: str, output_tensor: str) -> list[Any]:
    """The operations that depend on the input and lead to the output, in the graph's order."""
    leading, open_ends = set(), [graph.get_tensor_by_name(output_tensor).op]
    while open_ends:
        operation = open_ends.pop()
        if operation not in leading:
            leading.add(operation)
            open_ends += [tensor.op for tensor in operation.inputs]
    depending = {graph.get_tensor_by_name(input_tensor).op}
    between = []
    for operation in graph.get_operations():  # TensorFlow 1 adds an operation after those it reads
        if operation in leading and any(tensor.op in depending for tensor in operation.inputs):
            depending.add(operation)
            between.append(operation)
    return between
