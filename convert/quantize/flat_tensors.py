"""Tensors that hold one value in all calibration images: a step size all the same, and why they do.

Real networks have them: ``x - |x|`` after a ReLU, channels filled up with zeros, a layer that died in training. Where
the value is zero there is no range, and a step size of almost nothing is refused by one runtime and overflows in
another. So such a tensor gets the width of what it is computed from, which fits its neighbours whatever they are; but
where it is added to something it gets no more than the sum has, for interpreters abort where a step of a term is half a
million steps of the sum. A sum in which large terms cancel that far gets a width for the same reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ...calibration import Statistics, TensorGroup
from ...calibration.errors import CalibrationDataError
from ...calibration.tensors import short_name
from ...runtime.model.contract import InputContract
from ..graph.graph import Graph
from ..graph.run import float_rows, tensor_values
from ..normalization.prepare import FloatGraph

Limits = tuple[float, float]

LEAST_WIDTH = 1e-9
"""litert-quantizer widens a narrower range to this, whatever lies beside it."""

_SUMS = ("ADD", "SUB")
_MOST_STEPS = 2.0**17
"""Steps of a sum that a step of a term may be: TFLite's kernels abort at 2**19, because they shift by 20 bits."""

_RANDOM_IMAGES = 8


def fill_flat(graph: Graph, limits: Mapping[str, Limits]) -> dict[str, Limits]:
    """The ranges of all tensors, with a width where there was none.

    Args:
        graph: the float graph.
        limits: (minimum, maximum) of its activations, by name.
    """
    filled = dict(limits)
    _, consumers = graph.links()
    for operator in graph.operators:
        widths = _widths(graph, graph.inputs(operator), filled)
        for index in map(int, operator.outputs):
            name = graph.tensor_name(index)
            if name not in filled:
                continue
            low, high = filled[name]
            if 0 < _width(low, high) < LEAST_WIDTH:
                # It says something, which the width of its sources would drown: as narrow as can be.
                wider = LEAST_WIDTH / _width(low, high)
                filled[name] = (low * wider, high * wider)
            elif not _width(low, high):
                sums = [reader for reader in consumers.get(index, []) if graph.operator_name(reader) in _SUMS]
                most = [_widths(graph, reader.outputs, filled) for reader in sums]
                reached = min([max([*widths, LEAST_WIDTH]), *(width for found in most for width in found)])
                filled[name] = (0.0, max(reached, LEAST_WIDTH))
            elif graph.operator_name(operator) in _SUMS:
                least = max(widths, default=0.0) / _MOST_STEPS
                filled[name] = (low, max(high, min(low, 0.0) + least))
    return filled


def _widths(graph: Graph, indices: Iterable[int], limits: Mapping[str, Limits]) -> list[float]:
    names = (graph.tensor_name(int(index)) for index in indices)
    return [_width(*limits[name]) for name in names if name in limits]


def explain_flat(
    graph: FloatGraph,
    statistics: Statistics,
    groups: Sequence[TensorGroup],
    contract: InputContract,
    images: Sequence[NDArray[np.float32]] = (),
) -> list[str]:
    """One line that names flat tensors and says why they are flat; none where there are none.

    Args:
        graph: the prepared float graph.
        statistics: of the calibration images.
        groups: of the float graph that int8 is made from.
        contract: of the input.
        images: a few calibration images, model-ready; whether their embeddings differ is looked at.

    Raises:
        CalibrationDataError: all images give the same embedding, or are of one value; with the reason.
    """
    flat = [group for group in groups if statistics.tensors[group.name].low == statistics.tensors[group.name].high]
    if not flat:
        return []
    first, count = flat[0], statistics.samples
    value = f"{statistics.tensors[first.name].high:g} throughout all {count} calibration images"
    if graph.input_name in first.members:
        raise CalibrationDataError(
            f"every {'pixel' if contract.is_image else 'value'} is {value}, so these images say nothing about the "
            "encoder. Pass images like those that it will see."
        )
    cause, advice = _cause(graph, first, contract)
    operators = Graph(graph.flatbuffer)
    same = graph.raw_name or operators.tensor_name(int(operators.subgraph.outputs[0]))
    ends_flat = any(same in group.members for group in flat)
    if ends_flat or (len(images) > 1 and _all_alike(graph, images)):
        raise CalibrationDataError(
            f"the encoder gives the same embedding for all calibration images: {short_name(first.name)!r} is {value}. "
            f"{cause[0].upper()}{cause[1:]}. {advice}"
        )
    others = f", and {len(flat) - 1} more likewise" if len(flat) > 1 else ""
    return [f"the tensor {short_name(first.name)!r} is {value}{others}: {cause}. It gets a step size all the same."]


def _cause(graph: FloatGraph, group: TensorGroup, contract: InputContract) -> tuple[str, str]:
    """Why a tensor is flat, and what can be done: whether it is on random images too tells the model from the data."""
    operators = Graph(graph.flatbuffer)
    shape = operators.shape(operators.index_of(graph.input_name))[1:]
    rng = np.random.default_rng(0)
    noise = [_random(shape, contract, rng) for _ in range(_RANDOM_IMAGES)]
    values = [found[group.name] for found in tensor_values(graph.flatbuffer, [group.name], noise)]
    if min(map(np.min, values)) < max(map(np.max, values)):
        return (
            "on random images it is not, so it is these images (or --mean and --std) that never reach it",
            "Pass images like those that it was trained on, in the same scale.",
        )
    if group.rectified:
        return (
            "its ReLU lets nothing through, on random images neither, so that layer is dead",
            "Train it again, or export without int8 and int16x8.",
        )
    return (
        "on random images too, so it is part of the network's structure (channels filled up with zeros, x - |x| after "
        "a ReLU) or follows a layer that is dead",
        "Export without int8 and int16x8.",
    )


def _random(shape: tuple[int, ...], contract: InputContract, rng: np.random.Generator) -> NDArray[np.float32]:
    if not contract.is_image:
        return rng.standard_normal(shape).astype(np.float32)
    mean, std = np.asarray(contract.mean), np.asarray(contract.std)
    noise: NDArray[np.float32] = ((rng.integers(0, 256, shape) - mean) / std).astype(np.float32)
    return noise


def _all_alike(graph: FloatGraph, images: Sequence[NDArray[np.float32]]) -> bool:
    embeddings = float_rows(graph.flatbuffer, images)
    return bool((embeddings == embeddings[:1]).all())


def _width(low: float, high: float) -> float:
    return max(high, 0.0) - min(low, 0.0)
