"""TensorFlow's GraphDef: its nodes, wherever they stand, and the values of its constants."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..bounds.graph import functions_of

DEFAULT_SIGNATURE = "serving_default"
"""The signature of a SavedModel that is meant where none is named."""

_numbers = itertools.count()


def scopes(graph: Any) -> Iterator[Any]:
    """The nodes of the graph and those of each function; names hold within one."""
    yield graph.node
    for function in graph.library.function:
        yield function.node_def


def nodes_of(graph: Any) -> Iterator[Any]:
    """All of them."""
    for nodes in scopes(graph):
        yield from nodes


def values_of(constant: Any) -> Any:
    """The array of a constant, to be changed."""
    import tensorflow as tf

    return np.array(tf.make_ndarray(constant.attr["value"].tensor))


def store(constant: Any, values: Any) -> None:
    """Give a constant another array."""
    import tensorflow as tf

    constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values))


def rename_functions(graph: Any) -> None:
    """Give the functions of a graph names that no other has.

    TensorFlow knows the functions of a process by name, and two models may use one name for two of them.
    """
    number = next(_numbers)
    names = {item.signature.name: f"embedlite_{number}_{item.signature.name}" for item in graph.library.function}
    for function in graph.library.function:
        function.signature.name = names[function.signature.name]
    for node in nodes_of(graph):
        node.op = names.get(node.op, node.op)
        for called in functions_of(node):
            called.name = names.get(called.name, called.name)


def as_function(graph: Any, like: Any) -> Any:
    """A graph that was made of a frozen function's, and is the caller's to spend, as such a function again."""
    import tensorflow as tf

    rename_functions(graph)
    wrapped = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])
    # Tables lead to other outputs, see without_tables.
    fed = [item.name for item in like.inputs if item.dtype != tf.resource]
    return wrapped.prune(fed, [item.name for item in like.outputs])


def without_tables(frozen: Any) -> Any | None:
    """A frozen function that takes no table of labels, which a signature may have beside the embedding.

    Reading a table counts as an effect that everything after it waits for; here nothing does.

    Returns:
        The function; None if its outputs come from a table.
    """
    import tensorflow as tf

    graph = frozen.graph.as_graph_def()
    reached = {item.op.name for item in frozen.inputs if item.dtype == tf.resource}
    count = 0
    while count < len(reached):
        count = len(reached)
        for node in graph.node:
            if any(tensor.partition(":")[0] in reached for tensor in node.input):
                reached.add(node.name)
    if any(item.op.name in reached for item in frozen.outputs):
        return None
    for node in graph.node:
        kept = [tensor for tensor in node.input if tensor[:1] != "^" or tensor[1:] not in reached]
        if len(kept) < len(node.input):
            node.input[:] = kept
    return as_function(graph, frozen)


def write_saved_model(frozen: Any, source: str, result: str, folder: Path) -> Any:
    """Write a frozen function of one input and one output as a SavedModel, for TensorFlow's converter alone to read.

    It holds the graph and a signature, which is all that the converter reads. ``tf.saved_model.save`` would trace the
    function into a wrapper, and add objects and a checkpoint to restore.

    Args:
        frozen: of whatever shapes and types.
        source: the signature's name for the input.
        result: and for the output.
        folder: an empty one.

    Returns:
        The GraphDef: a placeholder and a call of the function.
    """
    import tensorflow as tf
    from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

    def described(tensor: Any) -> Any:
        shape = tensor.shape.as_proto()
        return meta_graph_pb2.TensorInfo(name=tensor.name, dtype=tensor.dtype.as_datatype_enum, tensor_shape=shape)

    fed = frozen.inputs[0]
    graph = tf.Graph()
    with graph.as_default():
        image = tf.compat.v1.placeholder(fed.dtype, fed.shape, f"{DEFAULT_SIGNATURE}_{source}")
        output = frozen(image)[0]
    model = saved_model_pb2.SavedModel(saved_model_schema_version=tf.saved_model.SAVED_MODEL_SCHEMA_VERSION)
    saved = model.meta_graphs.add()
    saved.meta_info_def.tags.append(tf.saved_model.SERVING)
    saved.graph_def.CopyFrom(graph.as_graph_def(add_shapes=True))
    signature = saved.signature_def[DEFAULT_SIGNATURE]
    signature.method_name = tf.saved_model.PREDICT_METHOD_NAME
    signature.inputs[source].CopyFrom(described(image))
    signature.outputs[result].CopyFrom(described(output))
    (folder / tf.saved_model.SAVED_MODEL_FILENAME_PB).write_bytes(model.SerializeToString())
    return saved.graph_def
