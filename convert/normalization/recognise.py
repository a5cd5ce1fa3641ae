"""Finding normalizations in the float graph by what they compute, not by what they were called in Keras.

A match is only a guess until it is proved: the matched operators are cut out as a graph of their own and run against
:func:`embedlite.runtime.input.normalize.normalize` with the guessed specification, on random vectors, on edge cases
(flat, one value that stands out, all negative, huge, tiny), and on what the encoder makes of the user's own images.
What disagrees is left alone. Only where the divisor is exactly zero may they differ: there a graph may answer NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.input.normalize import bare_divisor, guard_divisor, normalize
from ...runtime.model.contract import NormalizationSpec
from ...runtime.model.normalizations import KINDS, Kind
from ..graph.graph import Graph
from ..graph.run import island_runner, tensor_values

L2_OPERATOR_EPSILON = 1e-6
"""TFLite's L2_NORMALIZATION never divides by less than this."""

PROOF_TOLERANCE = 1e-5
"""Largest difference, relative to the largest value, between a matched island and its specification."""


@dataclass(frozen=True)
class Normalization:
    """A normalization that was found and proved.

    Attributes:
        spec: what it computes; ``spec.axes`` are axes of the tensor ``source``.
        source: index of the raw tensor.
        result: index of the normalized tensor; it may have another shape if all of ``source`` is reduced to one value.
        operators: the operators in between, in execution order.
        guarded: whether a zero divisor is already taken care of.
    """

    spec: NormalizationSpec
    source: int
    result: int
    operators: tuple[Any, ...]
    guarded: bool


def find_normalizations(graph: Graph, samples: Iterable[NDArray[np.float32]] = ()) -> list[Normalization]:
    """Every normalization of the table in a float graph, in execution order, each proved.

    Args:
        graph: a float graph.
        samples: a few model-ready (H, W, C) images, on whose raw embeddings the matches are proved, too.
    """
    matches = [_match(graph, operator) for operator in graph.operators]
    guesses = [_with_chosen_zeros(graph, match) for match in matches if match is not None]
    names = list(dict.fromkeys(graph.tensor_name(match.source) for match in guesses))
    seen = list(tensor_values(graph.to_bytes(), names, samples)) if guesses else []
    return [match for match in guesses if _proved(graph, match, [v[graph.tensor_name(match.source)] for v in seen])]


def final_normalization(graph: Graph, found: list[Normalization]) -> Normalization | None:
    """The one that ends the encoder: only reshapes lie between it and the output."""
    index = int(graph.subgraph.outputs[0])
    while True:
        for normalization in found:
            if normalization.result == index:
                return normalization
        operator = graph.producer(index)
        if operator is None or graph.operator_name(operator) not in ("RESHAPE", "SQUEEZE", "EXPAND_DIMS"):
            return None
        index = int(operator.inputs[0])


class _Trail:
    """Walks from a tensor back to its producers and remembers the operators it passed."""

    def __init__(self, graph: Graph, last: Any) -> None:
        self.graph, self.passed = graph, [last]

    def step(self, index: int, *names: str) -> Any | None:
        """The producer of a tensor if it has one of these names, looking through what only shapes its result again."""
        views = []
        while (operator := self.graph.producer(index)) is not None and _is_view(self.graph, operator):
            views.append(operator)
            index = int(operator.inputs[0])
        if operator is None or self.graph.operator_name(operator) not in names:
            return None
        self.passed += [*views, operator]
        return operator

    def split(self, operator: Any) -> tuple[int, float] | None:
        """The tensor and the scalar constant of a two-input operator, whichever comes first."""
        left, right = (int(i) for i in operator.inputs)
        for tensor, scalar in ((left, right), (right, left)):
            value = self.graph.constant(scalar)
            if value is not None and value.size == 1:
                return tensor, float(value.ravel()[0])
        return None

    def guard(self, index: int) -> tuple[int, float, str, bool]:
        """Walk past the guards of a divisor: the bare divisor, epsilon, its mode, and "zero is handled"."""
        epsilon, mode, guarded = 0.0, "none", False
        select = self.step(index, "SELECT_V2", "SELECT")
        if select is not None:
            condition, chosen, other = (int(i) for i in select.inputs)
            equal = self.step(condition, "EQUAL")
            instead = self.graph.constant(chosen)
            compared = self.split(equal) if equal is not None else None
            if compared is None or compared != (other, 0.0) or instead is None or (instead == 0).any():
                return index, epsilon, mode, guarded
            index, guarded = other, True
        if (relu := self.step(index, "RELU")) is not None:
            # The converter's spelling of MAXIMUM(divisor, 0); it guards nothing.
            index = int(relu.inputs[0])
        elif (operator := self.step(index, "MAXIMUM", "ADD")) is not None:
            parts = self.split(operator)
            if parts is not None and parts[1] > 0:
                index, epsilon = parts
                mode = "max" if self.graph.operator_name(operator) == "MAXIMUM" else "add"
                guarded = guarded or mode == "max"
        return index, epsilon, mode, guarded

    def in_order(self) -> tuple[Any, ...]:
        """The operators passed, once each, as the graph executes them."""
        return tuple(op for op in self.graph.operators if any(op is passed for passed in self.passed))


def _reduction(graph: Graph, operator: Any | None, source: int) -> tuple[int, ...] | None:
    """Axes of a reduction over ``source``, None if it is something else.

    A reduction over everything may be taken before a reshape: it is the same number.
    """
    if operator is None:
        return None
    axes = graph.constant(int(operator.inputs[1]))
    if axes is None:
        return None
    index, rank = int(operator.inputs[0]), len(graph.shape(source))
    if index == source:
        return tuple(sorted(int(axis) % rank for axis in axes.ravel()))
    reduced = {int(axis) % max(1, len(graph.shape(index))) for axis in axes.ravel()}
    kept = [size for axis, size in enumerate(graph.shape(index)) if axis not in reduced and size != 1]
    return tuple(range(rank)) if not kept and _unshaped(graph, index) == _unshaped(graph, source) else None


def _is_view(graph: Graph, operator: Any) -> bool:
    """Whether an operator only gives its input another shape; ``x[:, None]`` is a STRIDED_SLICE of everything."""
    name = graph.operator_name(operator)
    if name in ("RESHAPE", "SQUEEZE", "EXPAND_DIMS"):
        return True
    return name == "STRIDED_SLICE" and _size(graph, int(operator.inputs[0])) == _size(graph, int(operator.outputs[0]))


def _size(graph: Graph, index: int) -> int:
    return int(np.prod(graph.shape(index), dtype=np.int64))


def _unshaped(graph: Graph, index: int) -> int:
    """The tensor in front of all reshapes."""
    while (operator := graph.producer(index)) is not None and graph.operator_name(operator) == "RESHAPE":
        index = int(operator.inputs[0])
    return index


def _alike(graph: Graph, source: int, first: tuple[int, ...] | None, second: tuple[int, ...] | None) -> bool:
    """Whether two reductions are over the same axes of ``source``, but for those of length one."""
    if first is None or second is None:
        return False
    return not any(graph.shape(source)[axis] > 1 for axis in set(first) ^ set(second))


def _reduces_all(graph: Graph, match: Normalization) -> bool:
    return _alike(graph, match.source, match.spec.axes, tuple(range(len(graph.shape(match.source)))))


def _match(graph: Graph, last: Any) -> Normalization | None:
    """The first kind of the table that an operator ends; a guess."""
    if graph.operator_name(last) == "L2_NORMALIZATION":
        source = int(last.inputs[0])
        axes = (len(graph.shape(source)) - 1,)
        spec = NormalizationSpec("l2", axes, "shifted", L2_OPERATOR_EPSILON, "max")
        return Normalization(spec, source, int(last.outputs[0]), (last,), True)
    for kind in KINDS.values():
        match = _match_norm(graph, last, kind) if kind.measure == "norm" else _match_max(graph, last, kind)
        if match is not None:
            return match
    return None


def _match_max(graph: Graph, last: Any, kind: Kind) -> Normalization | None:
    """``values / guard(max)``."""
    if graph.operator_name(last) != "DIV":
        return None
    trail = _Trail(graph, last)
    numerator, divisor = (int(i) for i in last.inputs)
    source, shifted, axes = numerator, numerator, None
    if kind.shifts:
        shift = trail.step(numerator, "SUB")
        if shift is None:
            return None
        source, shifted = int(shift.inputs[0]), int(shift.outputs[0])
        axes = _reduction(graph, trail.step(int(shift.inputs[1]), "REDUCE_MIN"), source)
    divisor, epsilon, mode, guarded = trail.guard(divisor)
    if kind.shifts and (width := trail.step(divisor, "SUB")) is not None:
        # max x - min x is max(x - min x), rounding included: the largest x gives the largest difference.
        highest = trail.step(int(width.inputs[0]), "REDUCE_MAX")
        again = _reduction(graph, trail.step(int(width.inputs[1]), "REDUCE_MIN"), source)
        measured = [("shifted", source)] if _alike(graph, source, axes, again) else []
    else:
        highest = trail.step(divisor, "REDUCE_MAX")
        measured = [("shifted", shifted), ("input", source)]
    for of, tensor in measured:
        reduced = _reduction(graph, highest, tensor)
        if of in kind.divisors and (_alike(graph, source, axes, reduced) if kind.shifts else reduced is not None):
            spec = NormalizationSpec(kind.name, (axes if kind.shifts else reduced) or (), of, epsilon, mode)
            guarded = guarded and (mode == "none" or not kind.signed(of))
            return Normalization(spec, source, int(last.outputs[0]), trail.in_order(), guarded)
    return None


def _match_norm(graph: Graph, last: Any, kind: Kind) -> Normalization | None:
    """``x / guard(sqrt(sum x^2))``, or times the reciprocal root."""
    name, trail = graph.operator_name(last), _Trail(graph, last)
    if name not in ("DIV", "MUL") or len(last.inputs) != 2:
        return None
    source, index, epsilon, mode = int(last.inputs[0]), int(last.inputs[1]), 0.0, "none"
    if name == "DIV":
        index, epsilon, mode, _ = trail.guard(index)
        root = trail.step(index, "SQRT")
    else:
        if (capped := trail.step(index, "MINIMUM")) is not None:
            parts = trail.split(capped)
            if parts is None or parts[1] <= 0:
                return None
            index, epsilon, mode = parts[0], 1 / parts[1], "max"
        root = trail.step(index, "RSQRT")
    if root is None:
        return None
    index = int(root.inputs[0])
    if mode == "none":
        inner, floor, inner_mode, _ = trail.guard(index)
        if inner_mode == "add":
            return None  # sqrt(sum + epsilon) is always positive and needs no help
        index, epsilon, mode = inner, float(np.sqrt(floor)), inner_mode
    total = trail.step(index, "SUM")
    if total is None:
        return None
    square = trail.step(int(total.inputs[0]), "SQUARE", "MUL")
    if square is None or any(int(i) != source for i in square.inputs):
        return None
    reduced = _reduction(graph, total, int(square.outputs[0]))
    if reduced is None:
        return None
    spec = NormalizationSpec(kind.name, reduced, next(iter(kind.divisors)), epsilon, mode)
    return Normalization(spec, source, int(last.outputs[0]), trail.in_order(), name == "DIV" and mode == "max")


def _with_chosen_zeros(graph: Graph, match: Normalization) -> Normalization:
    """With the end of ``tf.math.divide_no_nan``: after the division, zeros are chosen where the divisor is zero."""
    readers = graph.consumers(match.result)
    if len(readers) != 1 or graph.operator_name(readers[0]) not in ("SELECT_V2", "SELECT"):
        return match
    trail = _Trail(graph, readers[0])
    condition, chosen, quotient = (int(i) for i in readers[0].inputs)
    equal, zeros = trail.step(condition, "EQUAL"), graph.constant(chosen)
    compared = None if equal is None else trail.split(equal)
    divisor = int(match.operators[-1].inputs[-1])
    if quotient != match.result or compared != (divisor, 0.0) or zeros is None or zeros.any():
        return match
    trail.passed += match.operators
    return replace(match, result=int(readers[0].outputs[0]), operators=trail.in_order(), guarded=True)


def _proved(graph: Graph, match: Normalization, seen: list[NDArray[np.float32]]) -> bool:
    """Whether the operators compute what the specification says, on vectors that the encoder may produce."""
    shape = graph.shape(match.source)
    outsiders = {int(i) for op in match.operators for i in graph.inputs(op)}
    outsiders -= {int(i) for op in match.operators for i in op.outputs}
    # A reduction may read the raw tensor from before a reshape; cut out, it has to read it from after it.
    before = {index for index in outsiders if _unshaped(graph, index) == _unshaped(graph, match.source)}
    if outsiders != before or (graph.shape(match.result) != shape and not _reduces_all(graph, match)):
        return False
    run = island_runner(_reading_behind(graph, match, before), match.source, match.result, _positions(graph, match))
    for raw in (*_trial_vectors(shape), *seen):
        wanted, got = normalize(raw, match.spec), run(raw).reshape(shape)
        close = np.isclose(got, wanted, rtol=PROOF_TOLERANCE, atol=PROOF_TOLERANCE * float(np.abs(wanted).max()))
        if not (close | _divided_by_zero(raw, match.spec)).all():
            return False
    return True


def _trial_vectors(shape: tuple[int, ...]) -> Iterator[NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    hot = np.zeros(shape)
    hot.flat[hot.size // 2] = 3
    for values in (
        rng.normal(0, 1, shape),
        rng.normal(5, 0.01, shape),
        rng.uniform(-9, -1, shape),
        rng.normal(0, 1e3, shape),
        rng.uniform(0, 1e-3, shape),
        np.maximum(rng.normal(0, 1, shape), 0),
        hot,
        -hot,
        np.zeros(shape),
        np.full(shape, -2.5),
    ):
        yield values.astype(np.float32)


def _divided_by_zero(raw: NDArray[np.float32], spec: NormalizationSpec) -> NDArray[np.bool_]:
    """Where the divisor is exactly zero but for its guard: zeros by specification, and a graph may answer NaN."""
    divisor = bare_divisor(raw.astype(np.float64), spec)
    # A norm is guarded by what may vanish in float32, such as the square of epsilon.
    divisor = divisor if KINDS[spec.kind].measure == "norm" else guard_divisor(divisor, spec)
    return np.broadcast_to(divisor == 0, raw.shape)


def _reading_behind(graph: Graph, match: Normalization, before: set[int]) -> Graph:
    """A copy of the graph in which the matched operators read the raw tensor itself."""
    copy = Graph(graph.to_bytes())
    for position in _positions(graph, match):
        operator = copy.operators[position]
        if before.intersection(int(i) for i in operator.inputs) - {match.source}:
            axes = np.arange(len(graph.shape(match.source)), dtype=np.int32)
            operator.inputs = [match.source, copy.add_constant("every axis", axes)]
    return copy


def _positions(graph: Graph, match: Normalization) -> list[int]:
    return [graph.position(operator) for operator in match.operators]
