"""Bounds of fused activations that are beyond a tensor's integers.

An interpreter divides the 6 of a RELU6 by the output's step size, and refuses the model where the quotient does not fit
32 bits: where values are of the order of 1e-7, as behind ten layers whose normalization was never trained. The clamp
never acts there, because the largest integer stands for less than 6; without it the same integers come out.
"""

from __future__ import annotations

from ai_edge_litert import schema_py_generated as schema

from .graph import Graph

_KIND = schema.ActivationFunctionType
_FUSED = {_KIND.RELU6: (6.0, _KIND.RELU), _KIND.RELU_N1_TO_1: (1.0, _KIND.NONE)}
"""Fused activations with a bound other than zero: that, and what is left where it never acts."""

_ALONE = "RELU6"
_OVERFLOWS = 2.0**31


def drop_idle_clamps(graph: Graph) -> bool:
    """Change a quantized graph so that no bound of an activation overflows.

    Args:
        graph: as litert-quantizer made it; it is changed.

    Returns:
        Whether any did.
    """
    changed = False
    for operator in graph.operators:
        tensor = graph.tensor(int(operator.outputs[0]))
        scales = [] if tensor.quantization is None or tensor.quantization.scale is None else tensor.quantization.scale
        if len(scales) != 1:
            continue
        fused = getattr(operator.builtinOptions, "fusedActivationFunction", _KIND.NONE)
        bound, left = _FUSED.get(fused, (0.0, fused))
        if bound >= _OVERFLOWS * scales[0]:
            operator.builtinOptions.fusedActivationFunction, changed = left, True
        if graph.operator_name(operator) == _ALONE and _FUSED[_KIND.RELU6][0] >= _OVERFLOWS * scales[0]:
            operator.opcodeIndex, changed = graph.operator_code(schema.BuiltinOperator.RELU, 1), True
    return changed
