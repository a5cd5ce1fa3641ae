"""One export from the opened model to the written files; see :mod:`embedlite.convert.exporting` for the steps."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..calibration.engine import Engine, open_engine
from ..runtime.backends.interpreters import package_version
from ..runtime.backends.table import BACKENDS
from ..runtime.check.figures import another_model, read_device_figures
from ..runtime.check.timing import Timing
from ..runtime.drift.intervals import drift_of
from ..runtime.errors import InterpreterFailedError
from ..runtime.files import json_bytes, sha256
from ..runtime.images.source import Source
from ..runtime.limits import bounded
from ..runtime.machine import describe_environment
from ..runtime.model.artifact import sidecar
from ..runtime.model.contract import InputContract, InputOptions
from ..runtime.options import given, part
from ..runtime.progress import Stages, stage
from .data import ExportData, calibration_fingerprint, check_searchable, open_data, select_images
from .decide import decide_contract
from .errors import ConversionError
from .graph.graph import Graph
from .graph.loops import has_loops
from .graph.run import float_rows, float_runner
from .load.lower import LoweredModel, lower
from .load.original import Original
from .load.preprocess import Proof
from .make.c_header import c_headers
from .make.c_source import c_source
from .make.ends import choose_ends
from .make.golden import GoldenInputs, golden_inputs
from .make.maker import Made, Maker, tool_versions
from .make.outputs import REJECTED, c_mode, npu_paths, write_outputs
from .make.recipe import Recipe, deciding_options
from .modes import Precision, is_mixed, missing_runtimes, takes_ranges
from .normalization.conditioning import measure_conditioning
from .normalization.freeze import share_outside
from .normalization.prepare import FloatGraph, prepare
from .outcome.card import render_card
from .outcome.explain import (
    explain_conditioning,
    explain_contradiction,
    explain_coupling,
    explain_frozen,
    explain_placement,
    explain_silent,
)
from .outcome.reading import explain_reading
from .outcome.recommend import recommend
from .quantize.from_statistics import plan_from_statistics
from .quantize.plan import CalibrationOptions, Int8Plan, plan_int8
from .request import Request, check_raw_pixels
from .results import (
    DEVICE,
    BatchCoupling,
    Conditioning,
    ExportedFile,
    ExportResult,
    MeasuredOn,
    NormalizationReport,
    NotMade,
    Verdict,
)
from .search.cache import SearchCache
from .search.choose import choose_files, mark_dominated, reject_failing
from .search.mixed import MixedFiles
from .verify.coupling import measure_coupling
from .verify.doubt import doubt_contract
from .verify.judge import Frames
from .verify.latency import Stopwatch
from .verify.measure import Measured, collect_frames, describe, measure_files

_PROOF_IMAGES = 4
"""Calibration images whose raw embeddings a recognised normalization is proved on, besides random and edge vectors."""

_CONDITIONING_IMAGES = 32
"""Calibration images on which normalizations are asked how well they stand rounding."""


class Pipeline:
    """One run; holds what the steps share."""

    def __init__(
        self, request: Request, source: dict[str, Any], recipe: Recipe | None, proof: Proof | None = None
    ) -> None:
        self.request, self.source, self.recipe, self.proof = request, source, recipe, proof
        self.device = None if request.measured is None else read_device_figures(Path(request.measured))
        # Read now, so that a damaged one is told before there is work that would be lost.
        SearchCache(request.search_cache, "")
        self.decisions: list[str] = []
        self.conditioning: tuple[Conditioning, ...] = ()
        self.stages = Stages()

    def run(self, original: Original) -> ExportResult:
        """Make, measure and write everything."""
        # A cluster that does not answer should say so before the model is converted.
        with open_engine(self.request.engine, self.request.threads) as engine:
            return self._run(original, engine)

    def _run(self, original: Original, engine: Engine) -> ExportResult:
        request = self.request
        self.decisions += original.decisions
        with stage("converting"), self.stages.time("converting"):
            lowered = self._lower(original)
        self.contract = self._decide_contract(original, lowered)
        data = open_data(request, self.contract)
        self.decisions += [*self._doubts(original.name, lowered, data), *data.decisions, *lowered.decisions]
        if request.select == "coverage":
            data, chosen = select_images(lowered, data, request, engine)
            self.decisions += chosen
        if request.searching:
            check_searchable(data)
        graph = self._prepare(lowered, data)
        if self.recipe is not None and request.recipe is not None:
            self.recipe.check_graph(sha256(graph.flatbuffer), request.recipe)
            self.decisions += self.recipe.explain_tools(tool_versions())
        with self.stages.time("calibrating"):
            plan = self._plan(graph, data, engine)
        maker = Maker(request, self.contract, self.origins, graph, plan, self.recipe, data.judging)
        precisions = {} if self.recipe is None else {mode: file.precision for mode, file in self.recipe.files.items()}
        with self.stages.time("quantizing"):
            made, not_made = self._make(maker, precisions)
            search = self._search(graph, plan, maker, made)
        self.decisions += [
            *maker.decisions,
            *([] if search is None else search.decisions),
            *explain_placement(request, graph, made),
            *explain_reading(request, self.contract, graph, data.test),
        ]
        report, coupling = NormalizationReport(graph.spec.kind, request.normalization), None
        nothing, golden = Timing(None), None
        measured = Measured(tuple(made), tuple(describe(request, item, None, {}, nothing, ()) for item in made), {})
        stopwatch = Stopwatch(request.timed_on, request.threads)
        if request.measure:
            inputs, golden = self._golden(graph, made[0].contract.input)
            with self.stages.time("measuring"), tempfile.TemporaryDirectory(prefix="embedlite-") as folder:
                frames, coupling = self._reference(lowered, data.test, Path(folder))
                report = self._judge_frozen(report, graph, data.test, frames)
                measured = measure_files(
                    request, made, frames, inputs, stopwatch, drift=data.test is not None, folder=Path(folder)
                )
        said, cause = explain_conditioning(self.conditioning, measured.files)
        said += explain_silent(measured.files)
        self.decisions += [*explain_contradiction(request, graph, plan, maker, measured.files, data.test), *said]
        files, measured_on = self._on_device(measured.files, stopwatch)
        files = mark_dominated(files) if request.pareto else files
        judged = {} if search is None else search.judged
        files, missed, kept = choose_files(request, files, judged)
        files, failed = reject_failing(request, files)
        shipped, written_as_c = self._shipped(files)
        result = ExportResult(
            source=self.source,
            options=given(request),
            normalization=report,
            conditioning=self.conditioning,
            batch_coupling=coupling,
            calibration=None if plan is None else plan.assessment,
            measured_on=measured_on if request.measure else None,
            search=None if search is None else search.report,
            limits=None if request.budget is None else request.budget.limits,
            missed=missed,
            recipe=self._recipe_of(graph, plan, maker, files, golden).to_json(),
            not_checked=missing_runtimes(),
            failed_targets=failed,
            not_made=not_made,
            seconds=self.stages.seconds,
            failed_modes=self._failed_modes(files, not_made),
            skipped=data.skipped,
            files=files,
            decisions=tuple(self.decisions),
            ship=(
                *kept,
                *recommend(
                    shipped,
                    measured_on.runtime,
                    missed=bool(missed),
                    chosen=request.chooses_one,
                    budget=request.budget,
                    cause=cause,
                ),
            ),
        )
        data_of = {item.mode: item.data for item in measured.made}
        contents = {file.path: data_of[file.mode] for file in files}
        contents |= self._extras(measured, shipped, written_as_c)
        if request.card:
            contents[request.card_path] = render_card(result, request.stem)
        write_outputs(request, {**contents, request.result_path: json_bytes(result.to_json())})
        return result

    def _lower(self, original: Original) -> LoweredModel:
        """The float graph, and a first answer of the original: after both a model is known to end."""
        with bounded("converting the model", Path(self.source["path"]), self.request.time_limit):
            lowered = lower(original)
            if original.call is not None:
                lowered.reference(np.zeros(original.input_shape, np.float32))
        return lowered

    def _decide_contract(self, original: Original, lowered: LoweredModel) -> InputContract:
        """What the file will say of its input, held against what the model itself does to it."""
        request = self.request
        if self.proof is not None:
            contract, self.origins = self.proof.contract, self.proof.origins
        else:
            decided = decide_contract(
                original.name,
                original.input_shape,
                part(request, InputOptions),
                original.inputs,
                lowered.scaling,
                accept=request.accept_contract,
            )
            contract, self.origins = decided.contract, decided.origins
            self.decisions += decided.decisions
        if request.input_type == "uint8":
            check_raw_pixels(contract)
        if self.recipe is not None and request.recipe is not None:
            self.recipe.check_options(deciding_options(request, contract), request.recipe)
        return contract

    def _doubts(self, name: str, lowered: LoweredModel, data: ExportData) -> list[str]:
        images = None if self.proof is not None and self.proof.holds else data.judging
        return doubt_contract(name, lowered, images, self.contract, accept=self.request.accept_contract)

    def _prepare(self, lowered: LoweredModel, data: ExportData) -> FloatGraph:
        if self.proof is not None:
            embed = functools.partial(float_rows, lowered.flatbuffer, threads=self.request.threads)
            self.decisions += self.proof.judge(embed, accept=self.request.accept_contract)
        calibration = data.calibration
        if calibration is None:
            return prepare(lowered.flatbuffer)
        images = (calibration.ready(index) for index in range(len(calibration)))
        if self.request.normalization == "frozen":
            graph = prepare(lowered.flatbuffer, freeze_with=images)
        else:
            graph = prepare(lowered.flatbuffer, islice(images, _PROOF_IMAGES))
        self.decisions += graph.decisions
        return graph

    def _plan(self, graph: FloatGraph, data: ExportData, engine: Engine) -> Int8Plan | None:
        request = self.request
        if not any(map(takes_ranges, request.modes)) or has_loops(Graph(graph.flatbuffer)):
            return None
        if self.recipe is not None and request.recipe is not None:
            self.recipe.check_images(calibration_fingerprint(data), request.recipe)
        cache = None if request.calibration_cache is None else Path(request.calibration_cache)
        ends = choose_ends(request, "int8", graph)
        options = CalibrationOptions(
            request.calibrate_method,
            cache,
            request.equalize,
            request.threads,
            engine,
            request.modes,
            ends.may_end_float,
        )
        raw_pixels = request.input_type == "uint8"
        if data.calibration is not None:
            choices = None if self.recipe is None else self.recipe.choices
            plan = plan_int8(graph, data.calibration, self.contract, options, raw_pixels=raw_pixels, choices=choices)
        elif data.statistics is not None:
            plan = plan_from_statistics(graph, data.statistics, self.contract, options, raw_pixels=raw_pixels)
        else:
            return None
        if data.calibration is not None:
            images = (data.calibration.ready(index) for index in range(len(data.calibration)))
            some = islice(images, _CONDITIONING_IMAGES)
            self.conditioning = measure_conditioning(graph, plan.minmax.limits, some)
        self.decisions += plan.decisions
        return plan

    def _search(self, graph: FloatGraph, plan: Int8Plan | None, maker: Maker, made: list[Made]) -> MixedFiles | None:
        """Search for layers that should not be int8, and add the files that are worth it; None if there is none."""
        if not self.request.searching or plan is None or all(item.mode != "int8" for item in made):
            return None
        search = MixedFiles(self.request, graph, plan, maker)
        try:
            made += search.find(made)
        except (ConversionError, InterpreterFailedError) as error:
            self.decisions.append(f"the search for layers that should not be int8 ended early: {error}")
        return search

    def _make(self, maker: Maker, precisions: Mapping[str, Precision]) -> tuple[list[Made], tuple[NotMade, ...]]:
        """The files of all modes that can be made, and why the others cannot; one mode costs the others nothing."""
        made, not_made, first = list[Made](), list[NotMade](), None
        for mode in self.request.modes:
            try:
                made.append(maker.make(mode, precisions.get(mode)))
            except (ConversionError, InterpreterFailedError) as error:
                first = first or error
                not_made.append(NotMade(mode, str(error)))
        if first is not None and not made:
            raise first
        return made, tuple(not_made)

    def _failed_modes(self, files: Sequence[ExportedFile], not_made: Sequence[NotMade]) -> tuple[str, ...]:
        """Why modes that were named have no file that runs."""
        failed = [
            f"there is no {item.mode} file: {item.reason}" for item in not_made if item.mode in self.request.named
        ]
        for file in files:
            verdict = file.verified[0] if file.verified else None
            if file.mode in self.request.named and verdict is not None and not verdict.ok:
                failed.append(f"the {file.mode} file fails on {verdict.runtime}: {verdict.detail}")
        return tuple(failed)

    def _golden(self, graph: FloatGraph, contract: InputContract) -> tuple[GoldenInputs, str]:
        """What the golden vectors are made of, and its SHA-256."""
        request = self.request
        inputs = golden_inputs(request.golden_from, request.feature, request.seed, graph.flatbuffer, contract)
        golden = sha256(inputs.pixels.tobytes())
        if self.recipe is not None and self.request.recipe is not None:
            self.recipe.check_golden(golden, self.request.recipe)
        return inputs, golden

    def _reference(
        self, lowered: LoweredModel, test: Source | None, folder: Path
    ) -> tuple[Frames, BatchCoupling | None]:
        """The original's answers, and whether they depend on the batch."""
        rounded = any(name != "float64" for name in lowered.precisions)
        frames, broken = collect_frames(self.contract, test, lowered.reference, folder, rounded=rounded)
        if broken:
            self.decisions.append(
                f"the original answers NaN or infinity for {broken} of {len(frames.edge)} frames (a flat embedding); "
                "the files give zeros there, and are compared with zeros."
            )
        count = min(int((~frames.edge).sum()), self.request.training_batch)
        images = [np.array(image) for image in np.load(frames.ready, mmap_mode="r")[:count]]
        coupling = measure_coupling(lowered, images, frames.reference[:count], self.request.training_batch)
        self.decisions += explain_coupling(coupling)
        return frames, coupling

    def _judge_frozen(
        self, report: NormalizationReport, graph: FloatGraph, test: Source | None, frames: Frames
    ) -> NormalizationReport:
        """For a frozen normalization: compare files with the frozen float graph, and that with the original."""
        if graph.frozen is None:
            return report
        original = frames.reference.copy()
        ready = np.load(frames.ready, mmap_mode="r")
        run, unfrozen = float_runner(graph.frozen.reference), float_runner(graph.frozen.unfrozen)
        for index in range(len(original)):
            frames.reference[index] = run(np.array(ready[index]))
        if test is None:
            return report
        images = np.flatnonzero(~frames.edge)
        held = [np.array(ready[index]) for index in images]
        outside = share_outside(graph.frozen.unfrozen, graph.frozen.constants, held)
        moved = drift_of(frames.reference[images], original[images])
        lowering = drift_of(np.stack([unfrozen(image) for image in held]), original[images])
        self.decisions.append(explain_frozen(outside, moved, lowering))
        return replace(report, outside=outside, from_original=moved)

    def _on_device(
        self, files: tuple[ExportedFile, ...], stopwatch: Stopwatch
    ) -> tuple[tuple[ExportedFile, ...], MeasuredOn]:
        """The files with the latencies of the device that was measured, if one was; and what they were measured on."""
        figures, path = self.device, self.request.measured
        if figures is None or path is None:
            runtime = {"name": stopwatch.package, "version": package_version(stopwatch.package), "delegate": None}
            return files, MeasuredOn(describe_environment(), runtime, stopwatch.threads)
        timed = []
        for file in files:
            found = figures.of(file.sha256)
            if found is None:
                raise another_model(path, figures, file.path.name, file.sha256)
            reason = found.error or ("" if found.passed else "its golden vectors are computed differently there")
            if reason:
                self.decisions.append(f"{file.path.name} failed on the device, so it is not shipped there: {reason}.")
            verdict = Verdict(DEVICE, str(figures.runtime), found.passed, reason)
            latencies = (found.latency_us, found.low_us, found.high_us) if found.passed else (None, None, None)
            timed.append(
                replace(
                    file,
                    latency_us=latencies[0],
                    latency_low_us=latencies[1],
                    latency_high_us=latencies[2],
                    verified=(*file.verified, verdict),
                )
            )
        return tuple(timed), MeasuredOn(figures.device, asdict(figures.runtime), figures.threads)

    def _recipe_of(
        self,
        graph: FloatGraph,
        plan: Int8Plan | None,
        maker: Maker,
        files: tuple[ExportedFile, ...],
        golden: str | None,
    ) -> Recipe:
        return Recipe(
            sha256(graph.flatbuffer),
            None if plan is None else plan.fingerprint,
            golden,
            deciding_options(self.request, self.contract),
            tool_versions(),
            None if plan is None else plan.choices,
            {file.mode: maker.recipes[file.mode] for file in files},
        )

    def _shipped(self, files: tuple[ExportedFile, ...]) -> tuple[tuple[ExportedFile, ...], str | None]:
        """The files that were not rejected, and the mode of the one that is written as C, if that was asked for."""
        request = self.request
        shipped = tuple(file for file in files if file.path.suffix != REJECTED)
        if not request.c_array or not shipped:
            return shipped, None
        if not request.chooses_one:
            return shipped, c_mode(request)
        (file,) = shipped
        if is_mixed(file.mode) or file.mode in BACKENDS["micro"].modes:
            return shipped, file.mode
        self.decisions.append(
            f"no C source was written: TFLite Micro runs no {file.mode} file, and that one keeps the limits in the "
            "least time. With --target micro the file is chosen among those that TFLite Micro runs."
        )
        return shipped, None

    def _extras(
        self, measured: Measured, files: tuple[ExportedFile, ...], written_as_c: str | None
    ) -> dict[Path, bytes]:
        """C source and headers, and what the NPU's compiler made."""
        request, extras = self.request, dict[Path, bytes]()
        made = {item.mode: item for item in measured.made}
        for file in files:
            item = made[file.mode]
            if item.mode == written_as_c:
                flatbuffer = item.data[: item.contract.flatbuffer_bytes]
                arena = next((v.arena_bytes for v in file.verified if v.arena_bytes is not None), None)
                sources = c_source(f"{request.stem}.{item.mode}", flatbuffer, item.contract, arena)
                extras |= {request.folder / name: content for name, content in sources.items()}
            compiled = measured.compiled.get(item.mode)
            if "ethos-u" in request.targets and compiled is not None and compiled.flatbuffer is not None:
                target, beside = npu_paths(request, item.mode)
                extras |= {target: compiled.flatbuffer, beside: sidecar(compiled.flatbuffer, item.contract)}
        if request.c_header:
            headers, without = c_headers({file.path: made[file.mode].data for file in files})
            extras |= headers
            self.decisions += without
        return extras
