"""A model that takes a fixed number of images at a time, as the same model for one.

The number stands in shapes that were computed when the model was saved. They are rewritten in the frozen graph, and the
outcome is held against the original; where that fails, every image goes through as often as the original demands.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...errors import ModelShapeError
from ..bounds.keras_config import LARGEST_INPUT
from .graph_def import nodes_of, scopes, store, values_of

_SHAPES: dict[str, tuple[int, ...]] = {
    "BroadcastTo": (1,),
    "ConcatV2": (0,),
    "EmptyTensorList": (0,),
    "Fill": (0,),
    "Pack": (0,),
    "Reshape": (1,),
    "Slice": (2,),
    "StridedSlice": (0, 2),
    "TensorListFromTensor": (1,),
    "TensorListGetItem": (2,),
    "TensorListReserve": (0,),
    "TensorListStack": (1,),
}
"""Which inputs of an operator may be a shape that begins with the number of images, or part of one."""

OPEN_BATCH = "Save it with an open batch (None) or a batch of 1."

_SAME = 1e-4
"""Of the largest value: what other orders of additions may leave between both."""

_SCALES = (1, 255)
"""Of the inputs on which both are held against each other; values up to 1 are all zero to a model of integers."""


def for_one_image(
    call: Callable[[Any], Any], name: str, batch: int, shape: tuple[int, ...]
) -> tuple[Callable[[Any], Any], tuple[str, ...]]:
    """A function of one image that gives what the original gives for a batch of this image alone, and what to say.

    Args:
        call: the original, a function of (batch, ...) float32.
        name: the model, for messages.
        batch: how many images it takes.
        shape: of one image.

    Returns:
        A function of (1, ...) float32 to one result.

    Raises:
        ModelShapeError: what it gives for a batch is not one embedding an image, or a batch is more than fits.
    """
    import tensorflow as tf

    if batch * math.prod(shape) > LARGEST_INPUT:
        raise ModelShapeError(
            f"{name} takes {batch} images at a time, more than {LARGEST_INPUT:,} values, no more and no fewer, and a "
            f"device takes one. {OPEN_BATCH}"
        )

    def whole(images: Any) -> Any:
        (result,) = tf.nest.flatten(call(images))
        return result

    spec = tf.TensorSpec((batch, *shape), tf.float32, name="image")
    traced = tf.function(whole, autograph=False).get_concrete_function(spec)
    rows = traced.structured_outputs.shape
    if rows.rank is None or rows.rank < 2 or (rows[0] or 0) % batch:
        raise _not_for_each(name, batch, rows)
    rng = np.random.default_rng(0)
    images = [scale * rng.random((1, *shape), np.float32) for scale in _SCALES]
    results = [np.asarray(traced(tf.repeat(tf.constant(image), batch, axis=0))) for image in images]
    each = len(results[0]) // batch
    if not each or any(len(result) != each * batch for result in results):
        raise _not_for_each(name, batch, results[0].shape)

    def repeated(image: Any) -> Any:
        return traced(tf.repeat(image, batch, axis=0))[:each]

    wanted = [result[:each] for result in results]
    said = f"the model takes {batch} images at a time; the files take one, and give what it gives for that one alone"
    for rewritten in _rewritten(traced, batch):
        if _is_same(rewritten, images, wanted):
            return rewritten, (f"{said}.",)
        # Of one and the same image so many times, each has the length 1 / sqrt(batch) after an L2 normalization of all.
        if _is_same(rewritten, images, [math.sqrt(batch) * rows for rows in wanted]):
            return rewritten, (
                f"the model takes {batch} images at a time and normalizes the embeddings of all together (L2); the "
                "files take one, and normalize that alone.",
            )
    # The function alone does not keep the original's variables alive.
    repeated.original = call  # type: ignore[attr-defined]
    return repeated, (
        f"{said}, at the cost of {batch}: the number stands where it cannot be changed. Save the model with an open "
        "batch (None), and the files take a fraction of the time.",
    )


def _not_for_each(name: str, batch: int, rows: object) -> ModelShapeError:
    return ModelShapeError(
        f"{name} takes {batch} images at a time and gives {rows} for them, which is not an embedding for each. "
        f"{OPEN_BATCH}"
    )


def _is_same(function: Callable[[Any], Any], images: list[Any], wanted: list[Any]) -> bool:
    import tensorflow as tf

    for image, value in zip(images, wanted, strict=True):
        try:
            found = np.asarray(function(tf.constant(image)))
        except (tf.errors.OpError, ValueError):
            return False  # a shape that was left contradicts one that was rewritten
        if found.shape != value.shape or not np.allclose(found, value, rtol=0, atol=_SAME * np.abs(value).max()):
            return False
    return True


def _rewritten(traced: Any, batch: int) -> Iterator[Callable[[Any], Any]]:
    """Functions of one image: with the input changed alone, then shapes as well, then constants that are repeated."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    try:
        frozen = convert_variables_to_constants_v2(traced)
    except ValueError:
        return  # what writes to a variable; it is told when the model is converted
    graph = frozen.graph.as_graph_def()
    _open_input(graph, batch)
    names = [[tensor.name for tensor in tensors] for tensors in (frozen.inputs, frozen.outputs)]
    for change in (None, _close_shapes, _close_constants):
        if change is not None:
            change(graph, batch)
        try:
            wrapped = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])
            pruned = wrapped.prune(*names)
        except (ValueError, KeyError):
            continue
        yield functools.partial(_first, pruned)


def _first(function: Any, image: Any) -> Any:
    return function(image)[0]


def _open_input(graph: Any, batch: int) -> None:
    """Let the input, and what insists on its shape, be one image; forget the shapes of everything else."""
    for node in nodes_of(graph):
        node.attr.pop("_output_shapes", None)
        dims = node.attr["shape"].shape.dim if node.op in ("Placeholder", "EnsureShape") else ()
        if dims and dims[0].size == batch:
            dims[0].size = 1
    for function in graph.library.function:
        for attributes in (function.attr, *(value.attr for value in function.arg_attr.values())):
            attributes.pop("_output_shapes", None)


def _close_shapes(graph: Any, batch: int) -> None:
    """Write 1 where a constant shape, or what one is computed of, begins with the batch."""
    for nodes in scopes(graph):
        known = {node.name: node for node in nodes}
        for node in nodes:
            for place in _SHAPES.get(node.op, ()):
                source = _constant(known, node, place)
                values = np.zeros(0) if source is None else values_of(source)
                if values.size and values.dtype.kind == "i" and values.ndim <= 1 and values.flat[0] == batch:
                    values.flat[0] = 1
                    store(source, values)


def _close_constants(graph: Any, batch: int) -> None:
    """Keep one row of a constant that is the same for every image of the batch, such as where a loop starts from."""
    for node in nodes_of(graph):
        values = values_of(node) if node.op == "Const" else np.zeros(0)
        if values.ndim > 1 and len(values) == batch and values.dtype.kind == "f" and (values == values[:1]).all():
            store(node, values[:1])


def _constant(known: dict[str, Any], node: Any, place: int) -> Any:
    """The constant that is an input of a node, maybe through identities; None if it is computed."""
    while place < len(node.input):
        source = known.get(node.input[place].partition(":")[0])
        if source is None or source.op != "Identity":
            return source if source is not None and source.op == "Const" else None
        node, place = source, 0
    return None
