"""TensorFlow's GraphDef: its nodes, wherever they stand, and the values of its constants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np


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
