"""One export from the opened model to the written files; see :mod:`.export` for the steps."""

from __future__ import annotations

import importlib.metadata
import tempfile
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.artifact import sidecar
from ..runtime.contract import Contract, InputContract
from ..runtime.engine import Engine, open_engine
from ..runtime.files import json_bytes, write_files
from ..runtime.progress import stage
from ..runtime.sources import Source
from ..runtime.version import __version__
from .c_source import c_source
from .corrections import Corrector
from .coupling import BatchCoupling, measure_coupling
from .data import ExportData, open_data
from .errors import ConversionError
from .explain import explain_coupling, explain_frozen, explain_placement
from .freeze import share_outside
from .golden import golden_inputs
from .lower import LoweredModel, lower
from .measure import Made, Measured, collect_frames, describe, drift_of, measure_files
from .original import Original
from .outputs import REJECTED, c_mode, npu_paths, rejected_path
from .package import package
from .placement import Ends, choose_ends
from .plan import CalibrationOptions, Int8Plan, plan_from_statistics, plan_int8
from .prepare import FloatGraph, prepare
from .quantize import CALIBRATED, quantize
from .request import Request
from .results import ExportedFile, ExportResult, NormalizationReport
from .run import float_runner
from .select_images import select_images
from .ship import recommend
from .targets import TARGETS, missing_runtimes
from .verify import Frames

_PROOF_IMAGES = 4
"""Calibration images whose raw embeddings a recognised normalization is proved on, besides random and edge vectors."""


class Pipeline:
    """One run; holds what the steps share."""

    def __init__(self, request: Request, contract: InputContract, source: dict[str, Any]) -> None:
        self.request, self.contract, self.source = request, contract, source
        self.decisions: list[str] = []

    def run(self, original: Original) -> ExportResult:
        """Make, measure and write everything."""
        # A cluster that does not answer should say so before the model is converted.
        with open_engine(self.request.engine, self.request.threads) as engine:
            return self._run(original, engine)

    def _run(self, original: Original, engine: Engine) -> ExportResult:
        request = self.request
        self.decisions += original.decisions
        data = open_data(request, self.contract)
        self.decisions += data.decisions
        with stage("converting"):
            lowered = lower(original)
        if request.select == "coverage":
            data, chosen = select_images(lowered, data, request, engine)
            self.decisions += chosen
        graph = self._prepare(lowered, data)
        plan = self._plan(graph, data, engine)
        corrector = self._corrector(plan)
        made = [self._make(mode, graph, plan, corrector) for mode in request.modes]
        self.decisions += [] if corrector is None else corrector.decisions
        self.decisions += explain_placement(request, graph, made)
        report, coupling = NormalizationReport(graph.spec.kind, request.normalization), None
        measured = Measured(tuple(made), tuple(describe(request, item, None, None, ()) for item in made), {})
        if request.measure:
            inputs = golden_inputs(
                request.golden_from, request.feature, request.seed, graph.flatbuffer, made[0].contract.input
            )
            with tempfile.TemporaryDirectory(prefix="embedlite-") as folder:
                frames, coupling = self._reference(lowered, data.test, Path(folder))
                report = self._judge_frozen(report, graph, data.test, frames)
                measured = measure_files(
                    request, made, frames, inputs, drift=data.test is not None, folder=Path(folder)
                )
        files, failed = self._reject(measured.files)
        result = ExportResult(
            source=self.source,
            normalization=report,
            batch_coupling=coupling,
            calibration=None if plan is None else plan.assessment,
            not_checked=missing_runtimes(),
            failed_targets=failed,
            skipped=data.skipped,
            files=files,
            decisions=tuple(self.decisions),
            ship=recommend(tuple(file for file in files if file.path.suffix != REJECTED)),
        )
        contents = {file.path: item.data for file, item in zip(files, measured.made, strict=True)}
        contents |= self._extras(measured, files)
        write_files({**contents, request.result_path: json_bytes(result.to_json())})
        # With --force an earlier export may have left the other name of a file; it would contradict export.json.
        for path in map(request.path, request.modes):
            for name in {path, rejected_path(path)} - contents.keys():
                name.unlink(missing_ok=True)
        return result

    def _prepare(self, lowered: LoweredModel, data: ExportData) -> FloatGraph:
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
        if not set(CALIBRATED).intersection(request.modes):
            return None
        options = CalibrationOptions(
            request.calibrate_method, request.calibration_cache, request.equalize, request.threads, engine
        )
        raw_pixels = request.input_type == "uint8"
        if data.calibration is not None:
            plan = plan_int8(graph, data.calibration, self.contract, options, raw_pixels=raw_pixels)
        elif data.statistics is not None:
            plan = plan_from_statistics(graph, data.statistics, self.contract, options, raw_pixels=raw_pixels)
        else:
            return None
        self.decisions += plan.decisions
        return plan

    def _corrector(self, plan: Int8Plan | None) -> Corrector | None:
        if plan is None or plan.fitting is None or plan.trial is None:
            return None
        return Corrector(plan.flatbuffer, plan.fitting, plan.trial, self.request.corrections, self.request.threads)

    def _make(self, mode: str, graph: FloatGraph, plan: Int8Plan | None, corrector: Corrector | None) -> Made:
        """One mode's file and its contract."""
        ends = choose_ends(self.request, mode, graph)
        contract = Contract(
            input=replace(self.contract, dtype=ends.input_type),
            output_shape=graph.output_shape,
            output_dtype=ends.output_type,
            normalization=replace(graph.spec, placement=ends.placement),
            mode=mode,
            calibration=None,
            tools=_tools(),
        )
        if mode not in CALIBRATED or plan is None:
            per_tensor = mode == "dynamic" and "tflite-runtime" in self.request.targets
            flatbuffer = quantize(graph.flatbuffer, mode, None, (), dense_per_tensor=per_tensor)
            return Made(mode, *package(flatbuffer, contract, graph.raw_name))
        facts: dict[str, Any] = {
            "method": plan.method,
            "samples": plan.ranges.samples,
            "fingerprint": plan.fingerprint,
        }
        if plan.channel_means:
            facts["channel_means"] = list(plan.channel_means)
        contract = replace(contract, calibration=facts)
        flatbuffer = quantize(plan.flatbuffer, mode, plan.ranges, graph.keep_float)
        if corrector is not None:
            flatbuffer = corrector.correct(flatbuffer, mode)
        return self._package(mode, flatbuffer, contract, ends, graph)

    def _package(self, mode: str, flatbuffer: bytes, contract: Contract, ends: Ends, graph: FloatGraph) -> Made:
        try:
            return Made(mode, *package(flatbuffer, contract, graph.raw_name))
        except ConversionError:
            if ends.output_chosen or ends.output_type == "float32":
                raise
        self.decisions.append("the encoder ends in float operators, so the output of the int8 file stays float32.")
        return Made(mode, *package(flatbuffer, replace(contract, output_dtype="float32"), graph.raw_name))

    def _reference(
        self, lowered: LoweredModel, test: Source | None, folder: Path
    ) -> tuple[Frames, BatchCoupling | None]:
        """The original's answers, and whether they depend on the batch."""
        frames, broken = collect_frames(self.contract, test, lowered.reference, folder)
        if broken:
            self.decisions.append(
                f"the original answers NaN or infinity for {broken} of {len(frames.edge)} frames (a flat embedding); "
                "the files give zeros there, and are compared with zeros."
            )
        count = min(int((~frames.edge).sum()), self.request.batch_size)
        images = [np.array(image) for image in np.load(frames.ready, mmap_mode="r")[:count]]
        coupling = measure_coupling(lowered, images, frames.reference[:count], self.request.batch_size)
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

    def _reject(self, files: tuple[ExportedFile, ...]) -> tuple[tuple[ExportedFile, ...], tuple[str, ...]]:
        """Files that a required target does not run get a name that no tool takes for a model's."""
        kept, failed = [], []
        for file in files:
            reasons = [
                f"{name} does not run the {file.mode} file: {verdict.detail}"
                for name in self.request.targets
                for verdict in file.verified
                if verdict.runtime == TARGETS[name].package and not verdict.ok
            ]
            failed += reasons
            kept.append(replace(file, path=rejected_path(file.path)) if reasons else file)
        return tuple(kept), tuple(failed)

    def _extras(self, measured: Measured, files: tuple[ExportedFile, ...]) -> dict[Path, bytes]:
        """C source, and what the NPU's compiler made."""
        request, extras = self.request, dict[Path, bytes]()
        for item, file in zip(measured.made, files, strict=True):
            if file.path.suffix == REJECTED:
                continue
            if request.c_array and item.mode == c_mode(request):
                flatbuffer = item.data[: item.contract.flatbuffer_bytes]
                arena = next((v.arena_bytes for v in file.verified if v.arena_bytes is not None), None)
                sources = c_source(f"{request.stem}.{item.mode}", flatbuffer, item.contract, arena)
                extras |= {request.output_dir / name: content for name, content in sources.items()}
            compiled = measured.compiled.get(item.mode)
            if "ethos-u" in request.targets and compiled is not None and compiled.flatbuffer is not None:
                target, beside = npu_paths(request, item.mode)
                extras |= {target: compiled.flatbuffer, beside: sidecar(compiled.flatbuffer, item.contract)}
        return extras


def _tools() -> dict[str, str]:
    others = ("tensorflow", "keras", "litert-quantizer")
    return {"embedlite": __version__, **{name: importlib.metadata.version(name) for name in others}}
