"""How large a TensorFlow graph's tensors are, and how much runs when it does, before any of it does."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any

from ....runtime.child_limits import LARGEST_TENSOR
from ....runtime.errors import ModelLimitError
from .loops import counter_of, number, origin, steps_of

MOST_NODES = 1_000_000
"""Operators, those of a function as often as it is called. The largest published image networks have ten thousand."""

MOST_STEPS = 1_000_000
"""Rounds of all loops, those within others multiplied. A second of sound has 16,000 to 48,000 values."""

MOST_CONSTANTS = 1 << 29
"""Values of all constants of a graph: 2 GiB of float32, all that a .tflite file holds."""

SIZING = {
    **dict.fromkeys(("Fill", "RandomUniform", "RandomStandardNormal", "TruncatedNormal"), 0),
    **dict.fromkeys(("StatelessRandomNormalV2", "StatelessRandomUniformV2", "StatelessRandomUniformFullIntV2"), 0),
    **dict.fromkeys(("BroadcastTo", "Tile", "OneHot", "Bincount", "DenseBincount", "EmptyTensorList"), 1),
    **dict.fromkeys(("ResizeArea", "ResizeBicubic", "ResizeBilinear", "ResizeNearestNeighbor", "Pad", "PadV2"), 1),
    **dict.fromkeys(("MirrorPad", "TensorListReserve", "TensorListResize", "Range", "ScaleAndTranslate"), 1),
    **dict.fromkeys(("LinSpace", "UnsortedSegmentMax", "UnsortedSegmentMin", "UnsortedSegmentProd"), 2),
    **dict.fromkeys(("UnsortedSegmentSum", "ScatterNd", "ImageProjectiveTransformV2", "ImageProjectiveTransformV3"), 2),
    **dict.fromkeys(("Conv2DBackpropInput", "Conv3DBackpropInputV2"), 0),
    "CropAndResize": 3,
}
"""Which input of an operator says how large its result is, or how many times larger than another input.

TensorFlow works out shapes while it loads a function, and runs for that whatever they come from.
"""

_PADDING = ("Pad", "PadV2", "MirrorPad")
_GET_AGAIN = "Get it again from where it was made; if you made it, save the encoder alone."
_Nodes = Mapping[str, Any]


def check_nodes(path: object, door: str, nodes: _Nodes) -> None:
    """Refuse operators of one scope whose result is too large, as far as constants say so.

    Args:
        path: the model, for messages.
        door: where they stand, for messages.
        nodes: ``NodeDef`` by name.

    Raises:
        ModelLimitError: one is.
    """
    for node in nodes.values():
        for shape in _declared(node):
            _check(path, door, node, shape)
        place = SIZING.get(node.op)
        data = [tensor for tensor in node.input if not tensor.startswith("^")]
        if place is not None and place < len(data):
            sizes = _values(nodes.get(origin(nodes, data[place])))
            if node.op in _PADDING:
                sizes = [sum(sizes[axis : axis + 2]) for axis in range(0, len(sizes), 2)]
            _check(path, door, node, [max(1, size) for size in sizes])


def check_whole(name: str, graph: Any) -> None:
    """Refuse a graph that takes more memory or time than any encoder, as far as it says so.

    Args:
        name: the model, for messages.
        graph: a ``GraphDef``, with ``_output_shapes`` where they are known.

    Raises:
        ModelLimitError: it does.
    """
    functions = {function.signature.name: function for function in graph.library.function}
    scopes = {"": graph.node, **{key: function.node_def for key, function in functions.items()}}
    constants = 0
    for key, nodes in scopes.items():
        door = f"its function {key!r}" if key else "its graph"
        for node in nodes:
            for shape in _declared(node):
                _check(name, door, node, shape)
            constants += math.prod(_dims(node.attr["value"].tensor.tensor_shape)) if node.op == "Const" else 0
    if constants > MOST_CONSTANTS:
        raise ModelLimitError(
            f"{name} was refused: its constants have {constants:,} values, and at most {MOST_CONSTANTS:,} fit into a "
            f".tflite file. {_GET_AGAIN}"
        )

    def operators(key: str, nodes: Iterable[Any], below: Callable[[str], int]) -> int:
        return sum(1 + sum(map(below, called(node, functions))) for node in nodes)

    def rounds(key: str, nodes: Any, below: Callable[[str], int]) -> int:
        named = {node.name: node for node in nodes}
        return sum(
            _times(node, named, functions) * (1 + below(node.attr["body"].func.name))
            if node.op in ("While", "StatelessWhile") and node.attr["body"].func.name in functions
            else sum(map(below, called(node, functions)))
            for node in nodes
        )

    for count, most, what in ((operators, MOST_NODES, "operators"), (rounds, MOST_STEPS, "rounds of loops")):
        found = max(_through(scopes, count).values())
        if found > most:
            raise ModelLimitError(
                f"{name} was refused: it runs {found:,} {what} for one input (those within others multiplied), and at "
                f"most {most:,} are run here. {_GET_AGAIN}"
            )


def functions_of(node: Any) -> Iterator[Any]:
    """The functions that a node's attributes name, as ``NameAttrList``."""
    for value in node.attr.values():
        kind = value.WhichOneof("value")
        yield from [value.func] if kind == "func" else value.list.func if kind == "list" else ()


def called(node: Any, functions: Container[str]) -> Iterator[str]:
    """Names of the functions that a node calls: as its operator, or as an attribute."""
    if node.op in functions:
        yield node.op
    yield from (function.name for function in functions_of(node) if function.name in functions)


def _through(scopes: Mapping[str, Any], count: Callable[[str, Any, Callable[[str], int]], int]) -> dict[str, int]:
    """What a count gives for each scope with what it calls; what calls itself is refused elsewhere, and counts once."""
    known: dict[str, int] = {}

    def of(key: str) -> int:
        if key not in known:
            known[key] = 0
            known[key] = count(key, scopes[key], of)
        return known[key]

    for key in scopes:
        of(key)
    return known


def _times(node: Any, nodes: _Nodes, functions: Mapping[str, Any]) -> int:
    """How often a loop goes round, as far as constants say; else once."""
    condition, body = (functions.get(node.attr[name].func.name) for name in ("cond", "body"))
    counter = None if condition is None or body is None else counter_of(condition, body, steps_of(node, nodes))
    if counter is None:
        return 1

    def given(place: int) -> int | None:
        return number(nodes.get(origin(nodes, node.input[place]))) if place < len(node.input) else None

    limit = counter.limit if counter.limit_place is None else given(counter.limit_place)
    return 1 if limit is None else max(1, limit - (given(counter.place) or 0))


def _declared(node: Any) -> Iterator[list[int]]:
    """The shapes that a node's attributes state, of constants as well."""
    for value in node.attr.values():
        kind = value.WhichOneof("value")
        if kind == "shape":
            yield _dims(value.shape)
        elif kind == "tensor":
            yield _dims(value.tensor.tensor_shape)
        elif kind == "list":
            yield from (_dims(shape) for shape in value.list.shape)
            yield from (_dims(tensor.tensor_shape) for tensor in value.list.tensor)


def _dims(shape: Any) -> list[int]:
    return [max(1, dim.size) for dim in shape.dim]


def _values(node: Any) -> list[int]:
    """What a constant of whole numbers says of a size; nothing for any other node."""
    from tensorflow.python.framework import tensor_util

    if node is None or node.op != "Const" or math.prod(_dims(node.attr["value"].tensor.tensor_shape)) > 64:
        return []
    values = tensor_util.MakeNdarray(node.attr["value"].tensor)
    return [abs(int(value)) for value in values.ravel()] if values.dtype.kind in "iu" else []


def _check(name: object, door: str, node: Any, shape: list[int]) -> None:
    if math.prod(shape) > LARGEST_TENSOR:
        raise ModelLimitError(
            f"{name} was refused: its operator {node.op} ({node.name!r}, in {door}) is of size "
            f"{' x '.join(map(str, shape))}, "
            f"and at most {LARGEST_TENSOR:,} values may stand in one tensor. {_GET_AGAIN}"
        )
