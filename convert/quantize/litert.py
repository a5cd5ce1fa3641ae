"""The modes: litert-quantizer on the float graph, with what must stay float left alone."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ...calibration import Ranges
from ...runtime.backends.interpreters import package_version
from ..errors import ConversionError
from ..graph.clamps import drop_idle_clamps
from ..graph.graph import HEAVY, Graph
from ..graph.masks import clamp_masks
from ..load.foreign import told
from ..modes import CALIBRATED, DYNAMIC, FLOAT, INT16, WEIGHTS
from .biases import fit_biases
from .flat_tensors import fill_flat
from .integer import in_integers
from .known_ranges import carry_back

_DENSE = "FULLY_CONNECTED"
_DYNAMIC = ("CONV_2D", "DEPTHWISE_CONV_2D", _DENSE)


_LEFT_FLOAT = ("DIV", "GELU")
"""tflite-runtime 2.14 refuses a quantized DIV, and LiteRT rounds small divisors to zero; GELU in 8 bits costs more than
its time is worth, and tflite-runtime refuses it in 16."""

NO_KERNEL = frozenset({*_LEFT_FLOAT, "EXP", "LOG", "POW", "SQRT"})
"""Operators that are never quantized, and what is often between two of them."""
MISSING_IN_OLDER = {DYNAMIC: ("TRANSPOSE_CONV",), INT16: ("RSQRT", "SUM")}
"""What tflite-runtime 2.14 has no kernel for, by mode or precision; where it is a target, that stays float."""
_PAIRS = ("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE")
_CHOOSING = ("SELECT", "SELECT_V2")
_MOST_LEADING = 40
"""Operators in a spelled-out quotient at most; GELU has 31."""
_ONE_BY_ONE = frozenset({"ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "NEG", "ABS", "RESHAPE"})
_REDUCING = frozenset({"MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "AVERAGE_POOL_2D", "MAX_POOL_2D"})
_BETWEEN = _ONE_BY_ONE | _REDUCING


def quantize(
    flatbuffer: bytes,
    mode: str,
    ranges: Ranges | None,
    keep_float: Sequence[str],
    *,
    precision: Mapping[str, str] | None = None,
    older: bool = False,
    floating: Sequence[str] = (),
) -> bytes:
    """One mode's flatbuffer from the float one; inputs and outputs stay float32.

    Args:
        flatbuffer: the float graph.
        mode: one of :data:`MODES`.
        ranges: for ``int8`` and ``int16x8``: the range of every activation.
        keep_float: operators that stay float, by the name of their first output tensor.
        precision: for ``int8``: operators that are something else, by the name of their first output tensor; values of
            :data:`PRECISIONS`. Operators without weights are float where ``dynamic`` is asked for.
        older: for tflite-runtime 2.14: one scale for all weights of a dense layer in ``dynamic``, file or operator, and
            in float what it cannot compute there or in 16 bits.
        floating: for ``int8``: operators that stay float, likewise; a layer among them has 8-bit weights.

    Raises:
        ConversionError: litert-quantizer refused.
    """
    if mode == "float32":
        return flatbuffer
    if mode == DYNAMIC:
        keep_float = [*keep_float, *_not_worth_it(flatbuffer)]
    if mode == "float16":
        keep_float = [*keep_float, *_beyond_half(flatbuffer)]
    # Read once, and what comes out below once: in a trial of ranges the reading takes as long as the quantizing.
    original = Graph(flatbuffer) if mode in CALIBRATED else None
    precision = dict(precision or {})
    if original is not None:
        precision |= {name: WEIGHTS for name in floating if _is_large(original, name)}
        keep_float = [*keep_float, *(name for name in floating if name not in precision)]
    if older:
        keep_float = [*keep_float, *_not_in_older(original or Graph(flatbuffer), mode, precision)]
    if original is not None:
        keep_float = [*keep_float, *_unbounded(original)]
        keep_float = [*keep_float, *_between_float(original, [*keep_float, *floating])]
    limits = {} if ranges is None or original is None else fill_flat(original, ranges.limits)
    if original is not None and limits:
        clamped = clamp_masks(original, limits, functools.partial(_bits, mode, keep_float, precision))
        limits, keep_float = clamped.limits, [*keep_float, *clamped.floating]
        if clamped.changed:
            flatbuffer = original.to_bytes()
    engine = _engine(flatbuffer)
    engine.load_quantization_recipe(_recipe(mode, keep_float, precision, older))
    if mode == "int8" and original is not None:
        limits = carry_back(original, limits)
    statistics = _statistics(original, limits) if limits and original is not None else None
    way_out = "Other files do not need it."
    with (
        told(ConversionError, "litert-quantizer", _version(), f"cannot make the {mode} file", way_out),
        warnings.catch_warnings(),
    ):
        # It opens an interpreter that keeps its tensors, and LiteRT warns about that.
        warnings.simplefilter("ignore")
        # It shows a bar of its own for part of its work, whatever it is told.
        with contextlib.redirect_stderr(io.StringIO()):
            result = engine.quantize(statistics, enable_progress_bar=False, enable_progress_report=False)
    quantized = bytes(result.quantized_model)
    # It unpacked the whole float graph for itself.
    del engine, result
    if original is not None:
        graph = Graph(quantized)
        changed = [_unread_alike(graph), fit_biases(graph, original)]
        if mode == "int8":
            changed.append(in_integers(graph, limits, {*keep_float, *precision}))
        changed.append(drop_idle_clamps(graph))
        return graph.to_bytes() if any(changed) else quantized
    return _asymmetric(quantized) if mode == DYNAMIC else quantized


def _not_in_older(graph: Graph, mode: str, precision: Mapping[str, str]) -> list[str]:
    """What tflite-runtime 2.14 has no kernel for, by the name of what it writes.

    Its SUM of 16 bits wants the input's scale for the result, and where tensors of five axes are spread over each other
    in 16 bits it ends the process.
    """
    found = []
    for operator in graph.operators:
        name = graph.tensor_name(int(operator.outputs[0]))
        kind = precision.get(name, INT16 if mode == "int16x8" else mode)
        shapes = {tuple(graph.shape(int(index))) for index in operator.inputs if index >= 0}
        spread = kind == INT16 and graph.operator_name(operator) in _PAIRS and len(shapes) > 1
        if graph.operator_name(operator) in MISSING_IN_OLDER.get(kind, ()) or (spread and max(map(len, shapes)) > 4):
            found.append(name)
    return found


def _bits(mode: str, keep_float: Sequence[str], precision: Mapping[str, str], name: str) -> int | None:
    """Of the integers that an operator writes, by its name; None where it computes in float."""
    kind = FLOAT if name in keep_float else precision.get(name, INT16 if mode == "int16x8" else mode)
    return {"int8": 8, INT16: 16}.get(kind)


@functools.cache
def _version() -> str:
    return package_version("litert-quantizer") or "of unknown version"


@functools.lru_cache(maxsize=1)
def _engine(flatbuffer: bytes) -> Any:
    """litert-quantizer with a float graph, which it does not change; many sets of ranges are tried on one graph."""
    from litert_quantizer import quantizer

    class Quantizer(quantizer.Quantizer):  # type: ignore[misc]  # it has no types
        """litert-quantizer, without the interpreter that it opens each time to find statistics that are empty."""

        def _ensure_model_qsv_sufficient(self, calibration_result: Any) -> None: ...

    return Quantizer(flatbuffer)


def _between_float(graph: Graph, keep_float: Collection[str]) -> list[str]:
    """Operators that only float ones lead to and read, by the name of what they write.

    Between the exponential and the logarithm of a softplus, say, integers save nothing, and all small values are lost.
    """
    staying, found = set(keep_float), list[str]()

    def in_float(operator: Any) -> bool:
        return graph.operator_name(operator) in NO_KERNEL or graph.tensor_name(int(operator.outputs[0])) in staying

    producers, consumers = graph.links()
    for operator in graph.operators:
        name = graph.tensor_name(int(operator.outputs[0]))
        before = [producers.get(index) for index in graph.inputs(operator)]
        after = consumers.get(int(operator.outputs[0]), [])
        if graph.operator_name(operator) not in _BETWEEN or name in staying or not before or not after:
            continue
        if all(item is not None and in_float(item) for item in before) and all(map(in_float, after)):
            found.append(name)
            staying.add(name)
    return found


def _unbounded(graph: Graph) -> list[str]:
    """Operators whose result is far larger or smaller than what comes of it, by the name of what they write.

    Of an exponential that a SELECT reads, as in SELU, the large values are those that it drops. Of a function that is a
    quotient of two polynomials, as the converter writes the error function in GELU, every power has a range of its own.
    """
    found = list[str]()
    for operator in graph.operators:
        kind = graph.operator_name(operator)
        if kind == "DIV" and len(graph.inputs(operator)) > 1:
            found += _leading(graph, operator) or ()
        if kind in _CHOOSING:
            dropped = [item for index in graph.inputs(operator)[1:] for item in _after_exponential(graph, index)]
            found += [*dropped, graph.tensor_name(int(operator.outputs[0]))] if dropped else []
    return found


def _after_exponential(graph: Graph, index: int) -> list[str]:
    """What leads from an exponential to a tensor, one operator to the next, by name; none where nothing does."""
    found = list[str]()
    while (before := graph.producer(index)) is not None:
        found.append(graph.tensor_name(index))
        if graph.operator_name(before) == "EXP":
            return found
        if graph.operator_name(before) not in _ONE_BY_ONE or len(graph.inputs(before)) != 1:
            break
        index = graph.inputs(before)[0]
    return []


def _leading(graph: Graph, last: Any) -> list[str] | None:
    """What leads to an operator from a single activation, by the name of what it writes; None where several do."""
    whole: list[str] | None = None
    open_ends, found = set(graph.inputs(last)), list[str]()
    while len(found) <= _MOST_LEADING:
        if len(open_ends) == 1:
            whole = list(found)
        producers = {index: before for index in open_ends if (before := graph.producer(index)) is not None}
        if not producers:
            break
        # The one that runs last cannot be what the others depend on.
        index = max(producers, key=lambda item: graph.position(producers[item]))
        before = producers[index]
        if graph.operator_name(before) not in _ONE_BY_ONE or graph.shape(index) != graph.shape(int(last.outputs[0])):
            break
        found.append(graph.tensor_name(index))
        open_ends.remove(index)
        open_ends.update(graph.inputs(before))
    return whole


def _unread_alike(graph: Graph) -> bool:
    """Make what an operator gives and nobody reads as its other outputs are: interpreters insist on one type.

    litert-quantizer leaves it float, for instance a part of a split in the first step of an unrolled layer. Returns
    whether anything was changed.
    """
    changed = False
    _, read = graph.links()
    for operator in graph.operators:
        others = [graph.tensor(int(index)) for index in operator.outputs if int(index) in read]
        for index in map(int, operator.outputs):
            tensor = graph.tensor(index)
            # Not the places that TOPK_V2 gives beside its values.
            floating = tensor.type == schema.TensorType.FLOAT32
            if floating and others and index not in read and index not in list(graph.subgraph.outputs):
                changed = changed or tensor.type != others[0].type
                tensor.type, tensor.quantization = others[0].type, others[0].quantization
    return changed


LEAST_WEIGHTS = 1024
"""Smaller weights stay float in a dynamic file, as TensorFlow has it: what 8 bits save there is hardly seen,
and rounding the input of small layers again and again costs 9 to 12 dB on depthwise networks."""


def _number_of_weights(graph: Graph, operator: Any) -> int | None:
    """Of a layer that may have 8-bit weights and compute in float; None of anything else."""
    weights = graph.constant(int(operator.inputs[1])) if graph.operator_name(operator) in _DYNAMIC else None
    return None if weights is None else weights.size


def _is_large(graph: Graph, name: str) -> bool:
    """Whether what writes a tensor has weights that are worth 8 bits where it computes in float."""
    operator = graph.producer(graph.index_of(name))
    return operator is not None and (_number_of_weights(graph, operator) or 0) >= LEAST_WEIGHTS


def _not_worth_it(flatbuffer: bytes) -> list[str]:
    """Layers that stay float in a dynamic file, by the name of what they write.

    Small weights, and depthwise convolutions: they hold a twentieth of a network's weights, and their 8-bit kernel for
    float activations is slower than the float one and costs another decibel.
    """
    graph, found = Graph(flatbuffer), []
    for operator in graph.operators:
        number = _number_of_weights(graph, operator)
        if number is not None and (number < LEAST_WEIGHTS or graph.operator_name(operator) == "DEPTHWISE_CONV_2D"):
            found.append(graph.tensor_name(int(operator.outputs[0])))
    return found


_LOST_IN_HALF = 1e-3
"""Relative error from which on a constant stays float32: twice what rounding costs where float16 has all its bits."""


def _beyond_half(flatbuffer: bytes) -> list[str]:
    """Operators with constants that float16 makes infinite or cuts bits off, by the name of what they write.

    Below 6e-5 it has ever fewer bits. That does not count in a bias, to which larger values are added.
    """
    graph, found = Graph(flatbuffer), []
    for operator in graph.operators:
        for place, index in enumerate(map(int, operator.inputs)):
            values = graph.constant(index) if index >= 0 and graph.dtype(index) == "float32" else None
            if values is None or not np.isfinite(values).all():
                continue
            with np.errstate(over="ignore"):
                error = np.linalg.norm(values.astype(np.float64) - values.astype(np.float16))
            small = np.isfinite(error) and graph.operator_name(operator) in HEAVY and place > 1
            if not small and error > _LOST_IN_HALF * np.linalg.norm(values.astype(np.float64)):
                found.append(graph.tensor_name(int(operator.outputs[0])))
                break
    return found


def _asymmetric(quantized: bytes) -> bytes:
    """Dense layers round their input over its own range, not over twice the larger side of it; it takes no longer."""
    graph = Graph(quantized)
    for operator in graph.operators:
        weights = int(operator.inputs[1]) if len(operator.inputs) > 1 else -1
        if graph.operator_name(operator) == _DENSE and weights >= 0 and graph.dtype(weights) == "int8":
            operator.builtinOptions.asymmetricQuantizeInputs = True
    return graph.to_bytes()


def _recipe(mode: str, keep_float: Sequence[str], precision: Mapping[str, str], older: bool) -> Any:
    from litert_quantizer import qtyping, recipe_manager
    from litert_quantizer.algorithm_manager import AlgorithmName

    every = qtyping.TFLOperationName.ALL_SUPPORTED
    recipe = recipe_manager.RecipeManager()
    if mode in CALIBRATED:
        recipe.add_static_config(".*", every, activation_num_bits=8 if mode == "int8" else 16, weight_num_bits=8)
        for boundary in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
            recipe.add_quantization_config(".*", boundary, algorithm_key=AlgorithmName.NO_QUANTIZE)
        for operation in _LEFT_FLOAT:
            recipe.add_quantization_config(
                ".*", qtyping.TFLOperationName(operation), algorithm_key=AlgorithmName.NO_QUANTIZE
            )
        for name, kind in {**precision, **dict.fromkeys(keep_float, FLOAT)}.items():
            scope = f"^{re.escape(name)}(;|$)"
            if kind == INT16:
                recipe.add_static_config(scope, every, activation_num_bits=16, weight_num_bits=8)
                continue
            recipe.add_quantization_config(scope, every, algorithm_key=AlgorithmName.NO_QUANTIZE)
            _in_float(recipe, scope, kind, older)
    elif mode == DYNAMIC:
        recipe.add_dynamic_config(".*", every, num_bits=8)
        if older:
            dense = qtyping.TFLOperationName.FULLY_CONNECTED
            recipe.add_dynamic_config(".*", dense, num_bits=8, granularity=qtyping.QuantGranularity.TENSORWISE)
        for name in keep_float:
            scope = f"^{re.escape(name)}(;|$)"
            recipe.add_quantization_config(scope, every, algorithm_key=AlgorithmName.NO_QUANTIZE)
    else:
        half = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
        config = qtyping.OpQuantizationConfig(
            weight_tensor_config=half,
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        )
        recipe.add_quantization_config(".*", every, config, AlgorithmName.FLOAT_CASTING)
        for name in keep_float:
            scope = f"^{re.escape(name)}(;|$)"
            recipe.add_quantization_config(scope, every, algorithm_key=AlgorithmName.NO_QUANTIZE)
    return recipe.get_quantization_recipe()


def _in_float(recipe: Any, scope: str, kind: str, older: bool) -> None:
    """Let the layer of that name have 8-bit weights between float activations, if its precision is one of those."""
    from litert_quantizer import qtyping

    sizes = qtyping.QuantGranularity
    for name in _DYNAMIC:
        operation = qtyping.TFLOperationName(name)
        if kind == WEIGHTS:
            # DEQUANTIZE has one scale: TFLite Micro takes the first of several without a word.
            recipe.add_weight_only_config(scope, operation, num_bits=8, granularity=sizes.TENSORWISE)
        elif kind == DYNAMIC:
            size = sizes.TENSORWISE if older and name == _DENSE else sizes.CHANNELWISE
            recipe.add_dynamic_config(scope, operation, num_bits=8, granularity=size)


def _statistics(graph: Graph, limits: Mapping[str, tuple[float, float]]) -> dict[str, dict[str, Any]]:
    """Ranges in litert-quantizer's form: arrays with as many axes as the tensor, each of length one."""
    ranks = {graph.tensor_name(index): len(graph.shape(index)) for index in range(len(graph.subgraph.tensors))}
    return {
        name: {
            "min": np.full((1,) * ranks[name], low, np.float32),
            "max": np.full((1,) * ranks[name], high, np.float32),
        }
        for name, (low, high) in limits.items()
    }
