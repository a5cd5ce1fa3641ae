"""The modes: litert-quantizer on the float graph, with what must stay float left alone."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..calibration import Ranges
from ..runtime.flatbuffer import read_flatbuffer
from .errors import ConversionError
from .graph import Graph

MODES = ("float32", "float16", "dynamic", "int8", "int16x8")
"""Quantization modes, in the order of the table."""

CALIBRATED = ("int8", "int16x8")
"""The modes that need ranges: 8-bit weights with 8-bit or 16-bit activations."""

MIXED = "mixed"
"""How an int8 file is called some layers of which are something else; with a number where there are several files."""

FLOAT, DYNAMIC, INT16 = "float", "dynamic", "int16"
PRECISIONS = (FLOAT, DYNAMIC, INT16)
"""What an operator of the int8 file may be instead: float, 8-bit weights between float activations, or 16-bit
activations."""

HEAVY = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL"})
_DENSE = "FULLY_CONNECTED"
_DYNAMIC = ("CONV_2D", "DEPTHWISE_CONV_2D", _DENSE)
_RESHAPING = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})


def quantize(
    flatbuffer: bytes,
    mode: str,
    ranges: Ranges | None,
    keep_float: Sequence[str],
    *,
    precision: Mapping[str, str] | None = None,
    dense_per_tensor: bool = False,
) -> bytes:
    """One mode's flatbuffer from the float one; inputs and outputs stay float32.

    Args:
        flatbuffer: the float graph.
        mode: one of :data:`MODES`.
        ranges: for ``int8`` and ``int16x8``: the range of every activation.
        keep_float: operators that stay float, by the name of their first output tensor.
        precision: for ``int8``: operators that are something else, by the name of their first output tensor; values of
            :data:`PRECISIONS`. Operators without weights are float where ``dynamic`` is asked for.
        dense_per_tensor: for ``dynamic``, file or operator: one scale for all weights of a dense layer, as
            tflite-runtime 2.14 needs it.

    Raises:
        ConversionError: litert-quantizer refused.
    """
    if mode == "float32":
        return flatbuffer
    from litert_quantizer import quantizer

    engine = quantizer.Quantizer(flatbuffer, _recipe(mode, keep_float, precision or {}, dense_per_tensor))
    statistics = _statistics(flatbuffer, ranges) if ranges is not None and mode in CALIBRATED else None
    try:
        with warnings.catch_warnings():
            # It opens an interpreter that keeps its tensors, and LiteRT warns about that.
            warnings.simplefilter("ignore")
            result = engine.quantize(statistics, enable_progress_bar=False, enable_progress_report=False)
    except (ValueError, RuntimeError, KeyError) as error:
        raise ConversionError(
            f"litert-quantizer cannot make the {mode} file: {str(error).strip().splitlines()[0]}. "
            "Leave that mode out, or simplify the operation it names."
        ) from error
    return bytes(result.quantized_model)


def is_mixed(mode: str) -> bool:
    """Whether a file is called like one some layers of which are not int8."""
    return mode.startswith(MIXED)


def takes_ranges(mode: str) -> bool:
    """Whether a file of this mode needs ranges, because it has integer activations."""
    return mode in CALIBRATED or is_mixed(mode)


def float_tail(graph: Graph) -> list[Any]:
    """The operators behind the raw embedding, if they do arithmetic: they are cheap and int8 would hurt them.

    Walks back from the output as long as the operators have no weights of their own to speak of and their inputs
    are no larger than the embedding. Covers LayerNormalization and whatever else no pattern knows by name.
    """
    size = int(np.prod(graph.shape(int(graph.subgraph.outputs[0])), dtype=np.int64))
    tail: list[Any] = []
    for operator in reversed(graph.operators):
        readers = graph.consumers(int(operator.outputs[0]))
        small = all(int(np.prod(graph.shape(i), dtype=np.int64)) <= size for i in graph.inputs(operator))
        if graph.operator_name(operator) in HEAVY or not small:
            continue
        if all(any(reader is member for member in tail) for reader in readers):
            tail.insert(0, operator)
    # Reshapes in front of the arithmetic are as exact in int8, and the raw embedding is then an int8 tensor.
    arithmetic: list[Any] = []
    for operator in tail:
        producers = [graph.producer(index) for index in graph.inputs(operator)]
        behind = any(producer is member for producer in producers for member in arithmetic)
        if behind or graph.operator_name(operator) not in _RESHAPING:
            arithmetic.append(operator)
    return arithmetic


def _recipe(mode: str, keep_float: Sequence[str], precision: Mapping[str, str], dense_per_tensor: bool) -> Any:
    from litert_quantizer import qtyping, recipe_manager
    from litert_quantizer.algorithm_manager import AlgorithmName

    every = qtyping.TFLOperationName.ALL_SUPPORTED
    recipe = recipe_manager.RecipeManager()
    if mode in CALIBRATED:
        recipe.add_static_config(".*", every, activation_num_bits=8 if mode == "int8" else 16, weight_num_bits=8)
        for boundary in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
            recipe.add_quantization_config(".*", boundary, algorithm_key=AlgorithmName.NO_QUANTIZE)
        # tflite-runtime 2.14 refuses a quantized DIV, and LiteRT rounds small divisors to zero.
        recipe.add_quantization_config(".*", qtyping.TFLOperationName.DIV, algorithm_key=AlgorithmName.NO_QUANTIZE)
        for name, kind in {**precision, **dict.fromkeys(keep_float, FLOAT)}.items():
            scope = f"^{re.escape(name)}(;|$)"
            if kind == INT16:
                recipe.add_static_config(scope, every, activation_num_bits=16, weight_num_bits=8)
                continue
            recipe.add_quantization_config(scope, every, algorithm_key=AlgorithmName.NO_QUANTIZE)
            if kind == DYNAMIC:
                sizes = qtyping.QuantGranularity
                for operation in _DYNAMIC:
                    size = sizes.TENSORWISE if dense_per_tensor and operation == _DENSE else sizes.CHANNELWISE
                    recipe.add_dynamic_config(scope, qtyping.TFLOperationName(operation), num_bits=8, granularity=size)
    elif mode == "dynamic":
        recipe.add_dynamic_config(".*", every, num_bits=8)
        if dense_per_tensor:
            dense = qtyping.TFLOperationName.FULLY_CONNECTED
            recipe.add_dynamic_config(".*", dense, num_bits=8, granularity=qtyping.QuantGranularity.TENSORWISE)
    else:
        half = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
        config = qtyping.OpQuantizationConfig(
            weight_tensor_config=half,
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        )
        recipe.add_quantization_config(".*", every, config, AlgorithmName.FLOAT_CASTING)
    return recipe.get_quantization_recipe()


def _statistics(flatbuffer: bytes, ranges: Ranges) -> dict[str, dict[str, Any]]:
    """Ranges in litert-quantizer's form: arrays with as many axes as the tensor, each of length one."""
    ranks = {tensor.name: len(tensor.shape) for tensor in read_flatbuffer(flatbuffer).tensors}
    return {
        name: {
            "min": np.full((1,) * ranks[name], low, np.float32),
            "max": np.full((1,) * ranks[name], high, np.float32),
        }
        for name, (low, high) in ranges.limits.items()
    }
