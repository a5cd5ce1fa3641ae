"""Loops of a frozen graph whose number of steps is known beforehand, as their steps one after the other.

Keras lays out its own recurrent layers when they are traced; a SavedModel has its loops for good, and so has what maps
or scans. Here a loop becomes as many calls of its body. How many, its condition says: it is run with the numbers
that it counts on, as long as those follow from constants.
"""

from __future__ import annotations

from typing import Any

from ...graph.loops import UNROLLED
from ..saved_operators import LOOPS
from .graph_def import as_function
from .spell import value_of

_DEEPEST = 4
"""Loops within loops."""


def lay_out(frozen: Any) -> Any:
    """A frozen function without the loops that end after :data:`UNROLLED` steps or fewer; itself if it has none."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    for _ in range(_DEEPEST):
        graph = frozen.graph.as_graph_def()
        functions = {item.signature.name: item for item in graph.library.function}
        counted = {
            node.name: count
            for node in graph.node
            if node.op in LOOPS and (count := _steps(frozen.graph, node.name, functions)) is not None
        }
        if not counted:
            return frozen
        for node in list(graph.node):
            if node.name in counted:
                _replace(graph, node, counted[node.name])
        # Freezing puts the bodies in the places of their calls, loops within loops with them.
        frozen = convert_variables_to_constants_v2(as_function(graph, frozen), lower_control_flow=False)
    return frozen


def _steps(graph: Any, name: str, functions: dict[str, Any]) -> int | None:
    """How many steps a loop takes; None if that is more than are laid out, or depends on the input."""
    import tensorflow as tf
    from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

    loop = graph.get_operation_by_name(name)
    shapes = [tensor.shape for tensor in loop.inputs]
    with graph.as_default():  # which has the functions that these call
        condition, body = (
            function_def_to_graph(_free(functions[loop.get_attr(part).name]), input_shapes=shapes)
            for part in ("cond", "body")
        )
    counters = _places(condition, condition.outputs[0])
    while True:
        found = counters.union(*(_places(body, body.outputs[place]) for place in counters))
        if found == counters:
            break
        counters = found
    values = {place: value_of(loop.inputs[place]) for place in counters}
    if any(value is None for value in values.values()):
        return None
    with tf.compat.v1.Session(graph=condition) as asked, tf.compat.v1.Session(graph=body) as taken:
        for count in range(UNROLLED + 1):
            if not asked.run(condition.outputs[0], {condition.inputs[place].name: values[place] for place in values}):
                return count
            fed = {body.inputs[place].name: values[place] for place in values}
            values = {place: taken.run(body.outputs[place], fed) for place in values}
    return None


def _free(function: Any) -> Any:
    """A copy of a function whose numbers do not wait for its variables."""
    free = type(function)()
    free.CopyFrom(function)
    free.control_ret.clear()
    del free.signature.control_output[:]
    for node in free.node_def:
        data = [name for name in node.input if not name.startswith("^")]
        del node.input[:]
        node.input.extend(data)
    return free


def _places(function: Any, tensor: Any) -> set[int]:
    """Which inputs of a function a tensor in it depends on."""
    inputs = {item.op: place for place, item in enumerate(function.inputs)}
    left, seen = [tensor.op], {tensor.op}
    while left:
        sources = {item.op for item in left.pop().inputs} - seen
        seen |= sources
        left += sources
    return {place for operation, place in inputs.items() if operation in seen}


def _replace(graph: Any, loop: Any, count: int) -> None:
    """Calls of a loop's body in the place of a loop; the last one has its name."""
    types, body = list(loop.attr["T"].list.type), loop.attr["body"].func.name
    given = list(loop.input)
    name = loop.name
    graph.node.remove(loop)
    for step in range(count):
        node = graph.node.add()
        node.op = "StatefulPartitionedCall"
        node.name = name if step == count - 1 else f"{name}/step_{step}"
        node.input.extend(given)
        for attribute in ("Tin", "Tout"):
            node.attr[attribute].list.type.extend(types)
        node.attr["f"].func.name = body
        given = [f"{node.name}:{place}" for place in range(len(types))]
    if not count:
        node = graph.node.add(op="IdentityN", name=name)
        node.input.extend(given)
        node.attr["T"].list.type.extend(types)
