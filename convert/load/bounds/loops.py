"""Loops of a TensorFlow graph: whether they count, and how often they go round."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, NamedTuple


class Counter(NamedTuple):
    """What ends a loop.

    Attributes:
        place: which of the loop's values counts.
        limit: the number that it stays under; None where it is one of the loop's values.
        limit_place: which one that is; None where it is a number.
    """

    place: int
    limit: int | None
    limit_place: int | None


def steps_of(loop: Any, nodes: Mapping[str, Any]) -> frozenset[int]:
    """Which of a loop's inputs are whole constants of 1 or more, as the step of ``tf.range`` is.

    Args:
        loop: its ``NodeDef``.
        nodes: those of the scope that it is in, by name.
    """
    given = [tensor for tensor in loop.input if not tensor.startswith("^")]
    return frozenset(
        place for place, tensor in enumerate(given) if (number(nodes.get(origin(nodes, tensor))) or 0) >= 1
    )


def counter_of(condition: Any, body: Any, steps: Container[int]) -> Counter | None:
    """What a loop's condition compares, if it demands ``counter < limit`` of a counter that its body makes larger.

    Args:
        condition, body: the loop's functions, as ``FunctionDef``.
        steps: which of the loop's inputs may be what a counter grows by, see :func:`steps_of`.
    """
    arguments = [argument.name for argument in condition.signature.input_arg]
    within = {argument.name: place for place, argument in enumerate(body.signature.input_arg)}
    inside = {node.name: node for node in body.node_def}
    outcomes = [origin(inside, body.ret[argument.name]) for argument in body.signature.output_arg]

    def unchanged(place: int) -> bool:
        return place < len(outcomes) and within.get(outcomes[place]) == place

    def grows(place: int) -> bool:
        node = inside.get(outcomes[place]) if place < len(outcomes) else None
        if node is None or node.op not in ("Add", "AddV2"):
            return False
        ends = [origin(inside, tensor) for tensor in node.input[:2]]
        return any(within.get(a) == place and is_step(b) for a, b in (ends, ends[::-1]))

    def is_step(name: str) -> bool:
        if name in within:
            return within[name] in steps and unchanged(within[name])
        return (number(inside.get(name)) or 0) >= 1

    nodes = {node.name: node for node in condition.node_def}
    open_ends = [origin(nodes, condition.ret[condition.signature.output_arg[0].name])]
    for _ in range(len(nodes) + 1):
        if not open_ends:
            return None
        node = nodes.get(open_ends.pop())
        if node is None:
            continue
        if node.op == "LogicalAnd":
            open_ends += [origin(nodes, tensor) for tensor in node.input[:2]]
        elif node.op == "Less":
            counter, limit = (origin(nodes, tensor) for tensor in node.input[:2])
            if counter not in arguments or not grows(arguments.index(counter)):
                continue
            if limit in nodes and nodes[limit].op == "Const":
                return Counter(arguments.index(counter), number(nodes[limit]), None)
            if limit in arguments and unchanged(arguments.index(limit)):
                return Counter(arguments.index(counter), None, arguments.index(limit))
    return None


def node_name(tensor: str) -> str:
    """The node that a tensor's name, or a control input, is of."""
    return tensor.lstrip("^").partition(":")[0]


def origin(nodes: Mapping[str, Any], tensor: str) -> str:
    """The argument or operator that a tensor comes from, without the identities between.

    Args:
        nodes: ``NodeDef`` of one scope, by name.
    """
    name = node_name(tensor)
    for _ in range(len(nodes) + 1):
        if name not in nodes or nodes[name].op != "Identity":
            break
        name = node_name(nodes[name].input[0])
    return name


def number(node: Any) -> int | None:
    """The value of a constant that is one whole number; None for any other node."""
    from tensorflow.python.framework import tensor_util

    if node is None or node.op != "Const" or node.attr["value"].tensor.tensor_shape.dim:
        return None
    value = tensor_util.MakeNdarray(node.attr["value"].tensor)
    return int(value) if value.dtype.kind in "iu" and value.size == 1 else None
