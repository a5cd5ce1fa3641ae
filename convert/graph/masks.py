"""Masks of an attention: -1e9 where nothing may be seen, which would take all steps of the scores for itself.

A softmax makes zero of whatever is far enough below the largest of its row: of -1e9, of float16's -65504, of -inf, and
as well of a value a little below the scores. So in a quantized file the mask puts values there, and the scores keep
their steps. The scores of that file cannot leave their range, which makes it a proof: with n values in a row

    low = min(scores) - ln(n / half a step of the softmax' output)

all that are masked weigh less than half a step together, and each rounds to zero. A row in which all are masked is
uniform, as it is where -1e9 swallows the scores; where it would not be, the softmax and its mask stay float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .graph import HEAVY, Graph

Limits = tuple[float, float]
Values = NDArray[np.float64]

_MOVING = frozenset(
    {"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "TILE", "BROADCAST_TO"}
)
_SUMS, _SELECTS = ("ADD", "SUB"), ("SELECT", "SELECT_V2")
_LEAST = 20.0
"""A constant has to be so far below the others to be taken for a mask: e**-20 is beyond what 24 bits can tell apart."""

_WIDEST = 2000.0
"""Scores of no softmax are so far apart; with a step for each eight nothing could be told apart."""

_HALF_STEP = {8: 2.0**-9, 16: 2.0**-16}
"""Of a softmax' output, by its bits."""

_SWALLOWED = 2.0**-24
"""Of a float32 number what is lost when it is added to that."""


@dataclass(frozen=True)
class _Mask:
    """One operator that masks.

    Attributes:
        operator: a sum, or a choice between scores and a constant.
        scores: what it masks.
        values: everything that it adds, or the constant that is chosen.
        known: the tensors that hold these values, from the operator's own input back to the constant's reader.
        clamp: replaces the constant by one none of whose values is below a bound.
    """

    operator: Any
    scores: int
    values: Values
    known: tuple[int, ...]
    clamp: Callable[[float], None]

    @property
    def result(self) -> int:
        """The masked scores."""
        return int(self.operator.outputs[0])


@dataclass(frozen=True)
class _Chain:
    """What masks the input of one softmax, in the order of execution.

    Attributes:
        softmax: the operator.
        factor: what the masked scores are multiplied with before it.
        masks: one or more.
        moved: tensors between the last mask and the softmax.
    """

    softmax: Any
    factor: float
    masks: tuple[_Mask, ...]
    moved: tuple[int, ...]


@dataclass
class Clamped:
    """What came of the masks of a graph.

    Attributes:
        limits: the ranges, with those of masked tensors.
        floating: operators that have to stay float, by the name of what they write.
        changed: whether the graph was.
        floors: of masked tensors, the lowest of all that read them.
    """

    limits: dict[str, Limits]
    floating: list[str] = field(default_factory=list)
    changed: bool = False
    floors: dict[str, float] = field(default_factory=dict)


def masked_tensors(graph: Graph) -> set[str]:
    """Names of the tensors whose range is not what images show, because a mask is in it."""
    found = set[str]()
    for chain in _chains(graph):
        for mask in chain.masks:
            found |= {graph.tensor_name(index) for index in (mask.result, *mask.known)}
        found |= {graph.tensor_name(index) for index in chain.moved}
    return found


def clamp_masks(graph: Graph, limits: Mapping[str, Limits], bits: Callable[[str], int | None]) -> Clamped:
    """Bring what masks scores near to them.

    Args:
        graph: the float graph, which is changed.
        limits: (minimum, maximum) of its activations, by name.
        bits: of an activation by the name of the tensor, 8 or 16; None where it stays float.
    """
    done = Clamped(dict(limits))
    for chain in list(_chains(graph)):
        sizes = [bits(graph.tensor_name(index)) for index in (chain.masks[-1].result, int(chain.softmax.outputs[0]))]
        name = graph.tensor_name(chain.masks[0].scores)
        if None in sizes or name not in limits:
            continue
        size = min(size for size in sizes if size is not None)
        depth = np.log(graph.shape(int(chain.softmax.inputs[0]))[-1] / _HALF_STEP[size]) / chain.factor
        if _clamp(graph, chain, limits[name], depth, done):
            done.changed = True
        else:
            ends = [mask.result for mask in chain.masks] + [*chain.moved, int(chain.softmax.outputs[0])]
            ends += [index for mask in chain.masks for index in mask.known]
            done.floating += [graph.tensor_name(index) for index in ends]
    done.floating += _beyond_steps(graph, done.limits)
    return done


def _clamp(graph: Graph, chain: _Chain, scores: Limits, depth: float, done: Clamped) -> bool:
    """Whether all masks of a chain can be brought near; if so, they were."""
    low, high = min(scores[0], 0.0), max(scores[1], 0.0)
    steps, spread = list[tuple[_Mask, float, float, float]](), 0.0
    for mask in chain.masks:
        before = high
        if graph.operator_name(mask.operator) in _SUMS:
            ordinary = _ordinary(mask.values, high - low + depth)
            masking = mask.values[mask.values < ordinary[0]]
            swallowing = not masking.size or -masking.max() * _SWALLOWED >= max(high, -low)
            if not swallowing and not _every_row_sees(graph, mask, ordinary[0]):
                return False
            low, high, spread = low + ordinary[0], high + ordinary[1], spread + ordinary[1] - ordinary[0]
        elif mask.values.max() > low - depth:
            # What is chosen in place of scores counts as they do.
            low, high = min(low, float(mask.values.min())), max(high, float(mask.values.max()))
        steps.append((mask, low, high, before))
    for mask, least, most, before in steps:
        floor = least - depth - spread
        name = graph.tensor_name(mask.result)
        floor = done.floors[name] = min(floor, done.floors.get(name, floor))
        result = done.limits[name] = floor, most
        if graph.operator_name(mask.operator) in _SUMS:
            # What is computed from true and false may mask several attentions: the lowest of their floors does for all.
            shared = graph.tensor_name(mask.known[-1]) if mask.known else f"{name}/added"
            bound = done.floors[shared] = min(floor - before, done.floors.get(shared, 0.0))
            mask.clamp(bound)
            added = np.maximum(mask.values, bound)
            known = float(min(added.min(), 0.0)), float(max(added.max(), 0.0))
            done.limits.update(dict.fromkeys((graph.tensor_name(index) for index in mask.known), known))
        else:
            mask.clamp(floor)
            # A choice compares nothing and converts nothing: its inputs have its output's steps.
            done.limits.update(dict.fromkeys(_same(graph, mask.scores), result))
    moved = done.limits[graph.tensor_name(chain.masks[-1].result)]
    for index in chain.moved:
        producer = graph.producer(index)
        if producer is not None and graph.operator_name(producer) == "MUL":
            moved = moved[0] * chain.factor, moved[1] * chain.factor
        done.limits[graph.tensor_name(index)] = moved
    return True


def _beyond_steps(graph: Graph, limits: Mapping[str, Limits]) -> list[str]:
    """Softmaxes whose input has masks in a way that is not known here, and what leads there, by what they write."""
    found = list[str]()
    for operator in graph.operators:
        if graph.operator_name(operator) != "SOFTMAX":
            continue
        wide = [int(index) for index in operator.inputs]
        names = list[str]()
        while wide:
            index = wide.pop()
            low, high = limits.get(name := graph.tensor_name(index), (0.0, 0.0))
            producer = graph.producer(index)
            if high - low < _WIDEST or name in names or producer is None or graph.operator_name(producer) in HEAVY:
                continue
            names.append(name)
            wide += graph.inputs(producer)
        if names:
            found += [*names, graph.tensor_name(int(operator.outputs[0]))]
    return found


def _ordinary(values: Values, reach: float) -> Limits:
    """The smallest and the largest of what is added without masking.

    Args:
        values: all that is added.
        reach: how far below the others a value masks.
    """
    low = high = float(values.max())
    while (near := float(values[values > low - reach].min())) < low:
        low = near
    return low, high


def _every_row_sees(graph: Graph, mask: _Mask, ordinary: float) -> bool:
    """Whether a constant mask leaves something in every row."""
    if mask.known or not mask.values.ndim:
        return False
    whole = mask.values.shape[-1] == graph.shape(mask.result)[-1]
    return whole and bool((mask.values >= ordinary).any(axis=-1).all())


def _same(graph: Graph, index: int) -> Iterator[str]:
    """Names of the tensors that hold the same values, back to where they are computed."""
    while (producer := graph.producer(index)) is not None:
        yield graph.tensor_name(index)
        if graph.operator_name(producer) not in _MOVING:
            return
        index = int(producer.inputs[0])


def _chains(graph: Graph) -> Iterator[_Chain]:
    for operator in list(graph.operators):
        if graph.operator_name(operator) != "SOFTMAX" or graph.is_constant(int(operator.inputs[0])):
            continue
        index, factor, moved = int(operator.inputs[0]), float(operator.builtinOptions.beta), list[int]()
        while (producer := graph.producer(index)) is not None:
            times = _factor(graph, producer)
            if times is None:
                break
            moved.insert(0, index)
            index, factor = int(producer.inputs[0]), factor * times
        masks, unseen = list[_Mask](), list[_Mask]()
        # Operators between a mask and another mask's result are not looked through, but sums of other constants are.
        while (producer := graph.producer(index)) is not None and (mask := _mask(graph, producer)) is not None:
            unseen.insert(0, mask)
            if mask.values.min() <= -_LEAST:
                masks, unseen = [*unseen, *masks], []
            index = mask.scores
        if any(_masks(graph, mask) for mask in masks):
            yield _Chain(operator, factor, tuple(masks), tuple(moved))


def _masks(graph: Graph, mask: _Mask) -> bool:
    if graph.operator_name(mask.operator) in _SUMS:
        return float(mask.values.max() - mask.values.min()) >= _LEAST
    return float(mask.values.max()) <= -_LEAST


def _factor(graph: Graph, operator: Any) -> float | None:
    """By what an operator that only moves or scales values multiplies them."""
    kind = graph.operator_name(operator)
    if kind in _MOVING:
        return 1.0
    if (
        kind != "MUL"
        or not graph.is_constant(int(operator.inputs[1]))
        or operator.builtinOptions.fusedActivationFunction
    ):
        return None
    values = graph.constant(int(operator.inputs[1]))
    assert values is not None
    return float(values.flat[0]) if values.size == 1 and values.flat[0] > 0 else None


def _mask(graph: Graph, operator: Any) -> _Mask | None:
    kind, inputs = graph.operator_name(operator), [int(index) for index in operator.inputs]
    if kind in _SELECTS:
        chosen = [place for place in (1, 2) if graph.is_constant(inputs[place])]
        if len(chosen) != 1 or graph.dtype(inputs[chosen[0]]) != "float32":
            return None
        place = chosen[0]
        return _Mask(
            operator, inputs[3 - place], _constant(graph, inputs[place]), (), _clamped(graph, operator, place, 1)
        )
    if kind not in _SUMS or operator.builtinOptions.fusedActivationFunction:
        return None
    for place in (1, 0) if kind == "ADD" else (1,):
        sign = -1 if kind == "SUB" else 1
        if graph.is_constant(inputs[place]):
            values = sign * _constant(graph, inputs[place])
            return _Mask(operator, inputs[1 - place], values, (), _clamped(graph, operator, place, sign))
        found = _computed(graph, inputs[place], sign)
        if found is not None:
            values, known, clamp = found
            return _Mask(operator, inputs[1 - place], values, known, clamp)
    return None


_Term = tuple[Values, tuple[int, ...], Callable[[float], None]]


def _computed(graph: Graph, index: int, sign: int) -> _Term | None:
    """The values of what is added, if it is computed from true and false and a constant."""
    known = [index]
    producer = graph.producer(index)
    while producer is not None and graph.operator_name(producer) in _MOVING:
        index = int(producer.inputs[0])
        known.append(index)
        producer = graph.producer(index)
    if producer is None:
        return None
    kind, inputs = graph.operator_name(producer), [int(item) for item in producer.inputs]
    if kind in _SELECTS and all(graph.is_constant(item) for item in inputs[1:]):
        values = np.concatenate([sign * _constant(graph, item).ravel() for item in inputs[1:]])
        clamps = [_clamped(graph, producer, place, sign) for place in (1, 2)]

        def clamp(bound: float) -> None:
            for one in clamps:
                one(bound)

        return values, tuple(known), clamp
    if kind != "MUL" or producer.builtinOptions.fusedActivationFunction:
        return None
    place = 1 if graph.is_constant(inputs[1]) else 0
    flags = _flags(graph, inputs[1 - place])
    if flags is None or not graph.is_constant(inputs[place]):
        return None
    factor = _constant(graph, inputs[place])
    # Flags of 0 and 1, or of 0 and -1.
    other = sign * int(min(flags, key=lambda flag: flag == 0))
    if not flags <= {0.0, 1.0} and not flags <= {0.0, -1.0}:
        return None
    return np.append(other * factor.ravel(), 0.0), tuple(known), _clamped(graph, producer, place, other)


def _flags(graph: Graph, index: int) -> frozenset[float] | None:
    """The values that a tensor can have, if it is computed from true and false alone."""
    producer = graph.producer(index)
    if producer is None:
        return None
    kind, inputs = graph.operator_name(producer), [int(item) for item in producer.inputs]
    if kind == "CAST" and graph.dtype(inputs[0]) == "bool":
        return frozenset({0.0, 1.0})
    if kind in _MOVING:
        return _flags(graph, inputs[0])
    if kind not in ("SUB", "ADD", "MUL") or producer.builtinOptions.fusedActivationFunction:
        return None
    parts = []
    for item in inputs:
        values = _constant(graph, item) if graph.is_constant(item) else None
        part = _flags(graph, item) if values is None else frozenset(values.ravel().tolist()[:3])
        if part is None or (values is not None and len(np.unique(values)) > 1):
            return None
        parts.append(part)
    combine: Callable[[float, float], float] = {
        "SUB": lambda one, other: one - other,
        "ADD": lambda one, other: one + other,
        "MUL": lambda one, other: one * other,
    }[kind]
    return frozenset(combine(one, other) for one in parts[0] for other in parts[1])


def _constant(graph: Graph, index: int) -> Values:
    values = graph.constant(index)
    assert values is not None
    return values.astype(np.float64)


def _clamped(graph: Graph, operator: Any, place: int, sign: int) -> Callable[[float], None]:
    """Replaces an operator's constant by one that keeps a bound from below (times the sign)."""

    before = sign * _constant(graph, int(operator.inputs[place]))

    def clamp(bound: float) -> None:
        values = sign * np.maximum(before, bound)
        name = f"{graph.tensor_name(int(operator.outputs[0]))}/mask{place}"
        inputs = [int(item) for item in operator.inputs]
        if graph.tensor_name(inputs[place]).startswith(name):
            # Another attention's, and lower now; names stay unique.

            name = f"{name}/{len(graph.subgraph.tensors)}"
        # A copy: the converter shares equal constants.
        inputs[place] = graph.add_constant(name, values.astype(np.float32))
        operator.inputs = inputs

    return clamp
