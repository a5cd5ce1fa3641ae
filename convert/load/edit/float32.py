"""A model that computes in half or double precision, as the same graph in float32: TFLite has few other kernels.

It works on the frozen graph, so that it does not matter how the model was written or saved: a Keras policy, casts by
hand, a SavedModel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np


def other_precisions(graph: Any) -> tuple[str, ...]:
    """The floating-point types of a GraphDef besides float32, by TensorFlow's names, in the order of their numbers."""
    import tensorflow as tf

    found = {number for node in _nodes(graph) for number in _types(node)} & set(_rewritten())
    return tuple(tf.dtypes.as_dtype(number).name for number in sorted(found))


def in_float32(graph: Any) -> Any:
    """A copy of a GraphDef in which every half, bfloat16 and double is a float32; casts between them become identities.

    Values beyond the largest float16 that a float16 model would have turned into infinity stay finite.
    """
    import tensorflow as tf

    changed = type(graph)()
    changed.CopyFrom(graph)
    numbers, single = set(_rewritten()), tf.float32.as_datatype_enum
    for node in _nodes(changed):
        for attribute in node.attr.values():
            if attribute.type in numbers:
                attribute.type = single
            for place, number in enumerate(attribute.list.type):
                if number in numbers:
                    attribute.list.type[place] = single
            if attribute.HasField("tensor") and attribute.tensor.dtype in numbers:
                values = tf.make_ndarray(attribute.tensor).astype(np.float32)
                attribute.tensor.CopyFrom(tf.make_tensor_proto(values))
    for function in changed.library.function:
        for argument in (*function.signature.input_arg, *function.signature.output_arg):
            if argument.type in numbers:
                argument.type = single
    return changed


def _rewritten() -> tuple[int, ...]:
    import tensorflow as tf

    return tuple(kind.as_datatype_enum for kind in (tf.float16, tf.bfloat16, tf.float64))


def _nodes(graph: Any) -> Iterator[Any]:
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def _types(node: Any) -> Iterable[int]:
    for attribute in node.attr.values():
        yield attribute.type
        yield from attribute.list.type
        yield attribute.tensor.dtype
