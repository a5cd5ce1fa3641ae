"""What the int8 file is made from: which float graph, with which ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ..calibration import Ranges, collect_ranges
from ..calibration.split import hold_out
from ..runtime.contract import InputContract
from ..runtime.drift import measure_drift
from ..runtime.sources import Source
from ..runtime.terminal import progress
from .equalize import equalizable_pairs, equalize
from .graph import Graph
from .prepare import FloatGraph
from .quantize import quantize
from .repair import repair
from .run import float_runner


@dataclass(frozen=True)
class Int8Plan:
    """The float graph that int8 is made from, the ranges of its activations, and what was decided."""

    flatbuffer: bytes
    ranges: Ranges
    decisions: tuple[str, ...]


def plan_int8(
    graph: FloatGraph,
    calibration: Source,
    contract: InputContract,
    *,
    threads: int | None,
    raw_pixels: bool,
    equalized: bool,
) -> Int8Plan:
    """Collect ranges, and equalize the convolutions if that brings the int8 file closer to the float one.

    Args:
        graph: the prepared float graph.
        calibration: the images that set the ranges.
        contract: mean and std of the input.
        threads: processors; default all.
        raw_pixels: whether the file's input holds pixels, whatever the calibration data are.
        equalized: whether to try equalization.

    Raises:
        CalibrationDataError: the data give no ranges.
    """
    original = Graph(graph.flatbuffer)
    pairs = equalizable_pairs(original) if equalized else []
    between = {original.tensor_name(pair.between) for pair in pairs}
    # Ranges merge exactly, so one pass over the images gives those of a part and those of all. The parts are chosen by
    # content, so that the order of the images does not matter.
    order = sorted(range(len(calibration)), key=calibration.digest)
    fit, held = ([order[i] for i in indices] for indices in hold_out(len(calibration), seed=0))
    shown = progress([*fit, *held], len(calibration), "calibrating")
    collect = partial(
        collect_ranges,
        graph.flatbuffer,
        calibration,
        threads=threads,
        by_channel=between,
        without=_only_float(original, graph.keep_float),
    )
    part = collect(indices=islice(shown, len(fit)))
    decisions, pixels = [], None
    if calibration.pixels or raw_pixels:
        pixels = {graph.input_name: _pixel_range(contract)}
        decisions.append("the int8 input covers all pixels 0-255, so that each keeps a step of its own.")
    if not held:
        return Int8Plan(graph.flatbuffer, _with(part, pixels), tuple(decisions))
    whole = _with(part.merge(collect(indices=shown)), pixels)
    if pairs:
        images = [calibration.ready(index) for index in held]
        before, after = _trial(graph, _with(part, pixels), images, threads)
        if after > before:
            decisions.append(
                f"{len(pairs)} pairs of convolutions were equalized for int8: {before:.1f} -> {after:.1f} dB on "
                f"{len(held)} calibration images held out for that. --no-equalize leaves them as they are."
            )
            return Int8Plan(*equalize(graph.flatbuffer, whole), tuple(decisions))
    return Int8Plan(graph.flatbuffer, whole, tuple(decisions))


def _only_float(graph: Graph, keep_float: Sequence[str]) -> set[str]:
    """Activations that only operators which stay float write and read, so that they are never quantized.

    A guarded divisor among them is infinite where it was zero, and a quotient may be NaN before zero is chosen instead.
    The output is not among them: an image for which the model itself answers NaN sets no ranges.
    """
    outputs = {int(index) for index in graph.subgraph.outputs}
    staying = set(keep_float)
    return {
        name
        for operator in graph.operators
        if (name := graph.tensor_name(index := int(operator.outputs[0]))) in staying
        and index not in outputs
        and all(graph.tensor_name(int(reader.outputs[0])) in staying for reader in graph.consumers(index))
    }


def _trial(
    graph: FloatGraph, ranges: Ranges, images: list[NDArray[np.float32]], threads: int | None
) -> tuple[float, float]:
    """Signal-to-noise ratio of int8 against the float graph, without and with equalization.

    On images that are not in the ranges: those that are show no clipping, which equalization helps with most.
    """

    def embed(flatbuffer: bytes) -> NDArray[np.float32]:
        run = float_runner(flatbuffer, threads)
        return np.stack([run(image).ravel() for image in images])

    reference = embed(graph.flatbuffer)
    plain, other = (
        _sqnr(embed(_int8(flatbuffer, limits, graph)), reference)
        for flatbuffer, limits in ((graph.flatbuffer, ranges), equalize(graph.flatbuffer, ranges))
    )
    return plain, other


def _with(ranges: Ranges, more: Mapping[str, tuple[float, float]] | None) -> Ranges:
    return replace(ranges, limits={**ranges.limits, **(more or {})})


def _pixel_range(contract: InputContract) -> tuple[float, float]:
    mean, std = np.asarray(contract.mean), np.asarray(contract.std)
    return float(((0 - mean) / std).min()), float(((255 - mean) / std).max())


def _int8(flatbuffer: bytes, ranges: Ranges, graph: FloatGraph) -> bytes:
    repaired = Graph(quantize(flatbuffer, "int8", ranges, graph.keep_float))
    repair(repaired)
    return repaired.to_bytes()


def _sqnr(embeddings: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    drift, _ = measure_drift(embeddings, reference, k=None)
    if drift.invalid:
        return -np.inf
    return np.inf if drift.sqnr_db is None else drift.sqnr_db
