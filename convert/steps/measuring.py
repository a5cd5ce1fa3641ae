"""What running the files gave: golden vectors, drift, latency, every runtime's verdict, the batch, and what follows."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...runtime.check.timing import Timing
from ...runtime.files import sha256
from ...runtime.images.source import Source
from ...runtime.model.contract import InputContract
from ..data import ExportData
from ..load.lower import LoweredModel
from ..make.golden import golden_inputs
from ..make.maker import Made
from ..make.recipe import Recipe
from ..normalization.prepare import FloatGraph
from ..outcome.explain import explain_coupling, explain_frozen
from ..request import Request
from ..results import BatchCoupling, ExportedFile, NormalizationReport
from ..verify.batch_coupling import measure_coupling
from ..verify.frozen_normalization import measure_freezing, with_constants
from ..verify.latency import Stopwatch
from ..verify.measure import Figures, Measured, collect_frames, describe, measure_files, of_untuned
from ..verify.verdicts import Frames
from .quantizing import Files

_LEAST_BATCH, _BATCH_BYTES = 4, 4 << 20
"""Of large images a smaller batch shows whether images depend on each other; TensorFlow keeps some hundred times as
much for its layers."""


@dataclass(frozen=True)
class Ran:
    """What running the files gave.

    Attributes:
        measured: the files as they are now, each with its entry in export.json.
        report: where the normalization was placed, and what freezing it costs.
        coupling: how far the same images move between batches; None if that was not measured.
        golden: SHA-256 of what the golden vectors are made of; None without.
        decisions: what was decided on the user's behalf.
    """

    measured: Measured
    report: NormalizationReport
    coupling: BatchCoupling | None = None
    golden: str | None = None
    decisions: tuple[str, ...] = ()


def not_run(request: Request, graph: FloatGraph, files: Files) -> Ran:
    """The files as they were made, where they are not to be run."""

    def described(item: Made) -> ExportedFile:
        return describe(request, item, Figures(), Timing(None), ())

    entries = tuple(
        replace(described(item), untuned=None if item.untuned is None else of_untuned(described(item.untuned)))
        for item in files.made
    )
    return Ran(Measured(files.made, entries, {}), NormalizationReport(graph.spec.kind, request.normalization))


def run_files(
    request: Request,
    contract: InputContract,
    lowered: LoweredModel,
    data: ExportData,
    graph: FloatGraph,
    files: Files,
    stopwatch: Stopwatch,
    *,
    recipe: Recipe | None,
) -> Ran:
    """Run the original and every file, on every runtime that can run it.

    Args:
        request: where golden vectors come from, the training batch, targets.
        contract: of the input.
        lowered: the original.
        data: what drift is measured on; without test images files are verified on a few synthetic frames.
        graph: the prepared float graph.
        files: what was made.
        stopwatch: of the target that latencies are measured on.
        recipe: made with these golden vectors, or refused.

    Raises:
        RequestError: the recipe was made with other golden vectors.
    """
    ends, test, like = files.made[0].contract.input, data.test, data.calibration or data.test
    inputs = golden_inputs(data.golden, graph.flatbuffer, ends, like)
    golden = sha256(inputs.pixels.tobytes())
    if recipe is not None:
        recipe.check_golden(golden, str(request.recipe))
    with tempfile.TemporaryDirectory(prefix="embedlite-") as folder:
        rounded = any(name != "float64" for name in lowered.precisions)
        frames, broken = collect_frames(contract, test, lowered.reference, Path(folder), rounded=rounded)
        judged, report, frozen = _frozen(request, graph, test, frames)
        found = list[BatchCoupling | None]()
        measured = measure_files(
            request,
            list(files.made),
            judged,
            inputs,
            stopwatch,
            drift=test is not None,
            folder=Path(folder),
            meanwhile=lambda: found.append(_coupling(lowered, frames, request.training_batch)),
        )
    (coupling,) = found
    return Ran(
        measured,
        report,
        coupling,
        golden,
        (*_explain_broken(broken, len(judged.edge)), *explain_coupling(coupling), *frozen),
    )


def _explain_broken(broken: int, count: int) -> list[str]:
    if not broken:
        return []
    return [
        f"the original answers NaN or infinity for {broken} of {count} frames (a flat embedding); the files give zeros "
        "there, and are compared with zeros."
    ]


def _coupling(lowered: LoweredModel, frames: Frames, training_batch: int) -> BatchCoupling | None:
    """Whether the original's answers depend on the batch."""
    stored = np.load(frames.ready, mmap_mode="r")
    size = min(training_batch, max(_LEAST_BATCH, _BATCH_BYTES // stored[0].nbytes))
    count = min(int((~frames.edge).sum()), size)
    images = [np.array(image) for image in stored[:count]]
    return measure_coupling(lowered, images, frames.reference[:count], size)


def _frozen(
    request: Request, graph: FloatGraph, test: Source | None, frames: Frames
) -> tuple[Frames, NormalizationReport, tuple[str, ...]]:
    """What the files are compared with: of a frozen normalization the float graph with the same constants."""
    report = NormalizationReport(graph.spec.kind, request.normalization)
    if graph.frozen is None:
        return frames, report, ()
    constant = with_constants(graph.frozen, frames)
    if test is None:
        return constant, report, ()
    cost = measure_freezing(graph.frozen, frames, constant)
    report = replace(report, outside=cost.outside, from_original=cost.moved)
    return constant, report, (explain_frozen(cost.outside, cost.moved, cost.lowering),)
