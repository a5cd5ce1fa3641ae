"""Guarding a normalization that was found against a divisor of zero, on every runtime."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ...runtime.model.normalizations import KINDS
from ..graph.graph import Graph
from .recognise import L2_OPERATOR_EPSILON, Normalization


def guard_normalization(graph: Graph, found: Normalization) -> Normalization:
    """Make sure that a zero divisor gives zeros on every runtime, editing the graph where it does not.

    A maximum that cannot be negative gets ``MAXIMUM(max, epsilon)``; one that may be, such as that of the input,
    ``SELECT_V2(EQUAL(max, 0), infinity, max)``. A norm becomes the float L2_NORMALIZATION operator where that computes
    the same, because XNNPACK answers NaN for the spelled-out reciprocal root of zero; where it does not, over other
    axes than the last, and without an epsilon, the sum of squares gets ``MAXIMUM(sum, 1e-12)``: the same bound.
    """
    kind = KINDS[found.spec.kind]
    if kind.measure == "norm":
        return found if graph.operator_name(found.operators[-1]) == "L2_NORMALIZATION" else _guard_norm(graph, found)
    if found.guarded:
        return found
    last = found.operators[-1]
    divisor = int(last.inputs[1])
    shape, name = graph.shape(divisor), graph.tensor_name(found.result)
    guarded = graph.add_tensor(f"{name}/guarded", shape)
    if not kind.signed(found.spec.divisor):
        floor = graph.add_constant(f"{name}/floor", np.array(np.finfo(np.float32).tiny, np.float32))
        added = [graph.make_operator("MAXIMUM", [divisor, floor], [guarded], schema.MaximumMinimumOptionsT())]
    else:
        zero = graph.add_constant(f"{name}/zero", np.array(0, np.float32))
        infinity = graph.add_constant(f"{name}/infinity", np.array(np.inf, np.float32))
        is_zero = graph.add_tensor(f"{name}/is_zero", shape, np.bool_)
        added = [
            graph.make_operator("EQUAL", [divisor, zero], [is_zero], schema.EqualOptionsT()),
            graph.make_operator("SELECT_V2", [is_zero, infinity, divisor], [guarded], schema.SelectV2OptionsT()),
        ]
    last.inputs = [int(last.inputs[0]), guarded]
    position = graph.position(last)
    graph.operators[position:position] = added
    operators = (*found.operators[:-1], *added, last)
    return Normalization(found.spec, found.source, found.result, operators, True)


def _guard_norm(graph: Graph, found: Normalization) -> Normalization:
    shape, spec = graph.shape(found.source), found.spec
    last_axis = all(shape[axis] == 1 for axis in spec.axes if axis != len(shape) - 1) and len(shape) - 1 in spec.axes
    if last_axis and spec.epsilon <= L2_OPERATOR_EPSILON:
        return _fuse_norm(graph, found)
    capped = any(graph.operator_name(op) == "MINIMUM" for op in found.operators)
    if (spec.epsilon_mode != "none" and not capped) or found.guarded:
        return found
    # A bound of the reciprocal comes after it, where it may be NaN already: the same bound goes before.
    epsilon = spec.epsilon if capped else L2_OPERATOR_EPSILON
    root = next(op for op in found.operators if graph.operator_name(op) in ("SQRT", "RSQRT"))
    total, name = int(root.inputs[0]), graph.tensor_name(found.result)
    guarded = graph.add_tensor(f"{name}/guarded", graph.shape(total))
    floor = graph.add_constant(f"{name}/floor", np.array(max(epsilon**2, np.finfo(np.float32).tiny), np.float32))
    maximum = graph.make_operator("MAXIMUM", [total, floor], [guarded], schema.MaximumMinimumOptionsT())
    graph.operators.insert(graph.position(root), maximum)
    root.inputs = [guarded]
    operators = tuple(op for op in graph.operators if op is maximum or any(op is old for old in found.operators))
    spec = replace(spec, epsilon=epsilon, epsilon_mode="max")
    return Normalization(spec, found.source, found.result, operators, True)


def _fuse_norm(graph: Graph, found: Normalization) -> Normalization:
    operator = graph.make_operator("L2_NORMALIZATION", [found.source], [found.result], schema.L2NormOptionsT())
    last = found.operators[-1]
    graph.operators[graph.position(last)] = operator
    # The steps before it are only dropped where nothing else reads them.
    for dead in reversed(found.operators[:-1]):
        if not graph.consumers(int(dead.outputs[0])):
            del graph.operators[graph.position(dead)]
    spec = replace(found.spec, epsilon=L2_OPERATOR_EPSILON, epsilon_mode="max")
    return Normalization(spec, found.source, found.result, (operator,), True)
