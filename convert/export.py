"""The export, from the user's model to measured files; each step is a module of its own.

load      the user's model, no foreign code                      load.py, load_*.py
lower     once through TensorFlow: the float graph               lower.py
find      the normalization, proved, guarded or frozen           recognise.py, guard.py, freeze.py, prepare.py
collect   activation ranges from the calibration images          ../calibration, plan.py
quantize  each mode from the float graph                         quantize.py
place     the normalization, and the types at the file's ends    placement.py
package   repair, names, types, contract                         repair.py, package.py
measure   every installed runtime, drift, latency, the batch     measure.py, verify.py, vela.py, coupling.py
write     all files, or none
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.artifact import sidecar
from ..runtime.contract import Contract, InputContract, InputOptions
from ..runtime.errors import RequestError
from ..runtime.files import json_bytes, sha256, write_files
from ..runtime.flatbuffer import read_flatbuffer
from ..runtime.sources import Source
from ..runtime.terminal import stage
from ..runtime.version import __version__
from .c_source import c_names, c_source
from .coupling import BatchCoupling, measure_coupling
from .data import ExportData, open_data
from .errors import ConversionError
from .freeze import share_outside
from .load import load_original
from .load_keras import from_keras
from .lower import LoweredModel, lower
from .measure import Made, Measured, collect_frames, describe, drift_of, measure_files
from .original import LoadOptions, Original
from .package import package
from .placement import Ends, choose_ends
from .plan import Int8Plan, plan_int8
from .prepare import FloatGraph, prepare
from .quantize import CALIBRATED, quantize
from .request import (
    Data,
    Request,
    check_normalization,
    check_numbers,
    check_outputs,
    check_raw_pixels,
    check_types,
    choose_modes,
)
from .results import ExportedFile, ExportResult, NormalizationReport
from .run import float_runner
from .ship import recommend
from .targets import TARGETS, check_targets, missing_runtimes
from .verify import Frames

_PROOF_IMAGES = 4
"""Calibration images whose raw embeddings a recognised normalization is proved on, besides random and edge vectors."""

REJECTED = ".rejected"
"""Added to the name of a file that a required target does not run."""


def export(
    model: Any,
    output_dir: str | Path | None = None,
    *,
    quantize: Sequence[str] = (),
    calibration_data: Data | None = None,
    test_data: Data | None = None,
    input_shape: tuple[int, int, int] | None = None,
    layer: str | None = None,
    output: str | None = None,
    custom_objects: str | Path | None = None,
    replace_lambda: Sequence[str] = (),
    normalization: str = "auto",
    targets: Sequence[str] = (),
    c_array: bool = False,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    color_order: str | None = None,
    resampler: str | None = None,
    input_type: str | None = None,
    output_type: str | None = None,
    num_samples: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    equalize: bool = True,
    threads: int | None = None,
    measure: bool = True,
    force: bool = False,
) -> ExportResult:
    """Export an encoder, normalization included, to TFLite files that carry their contract.

    Args:
        model: path of a ``.keras``, ``.h5`` or ``.hdf5`` file, of a SavedModel's folder or of a float ``.tflite``; or a
            ``keras.Model`` in memory.
        output_dir: where the files go; default beside the model file.
        quantize: modes: ``float32``, ``float16``, ``dynamic``, ``int8``, ``int16x8``, ``all``. Default float32, and
            int8 too when there is calibration data.
        calibration_data: images that set the ranges for int8: a folder, ``.npy``, ``.npz`` or an array (N, H, W, C).
            Integers are pixels, floats are model-ready.
        test_data: images that the drift is measured on; default a seeded fifth of the calibration data (at most 64),
            which then sets no ranges.
        input_shape: (height, width, channels), for a model whose fixed shape is lost.
        layer: the encoder ends at this layer (in a SavedModel of TensorFlow 1 an operation, in a ``.tflite`` a
            tensor).
        output: which of several outputs is the embedding.
        custom_objects: a Python file that defines what a Keras file needs; it is executed.
        replace_lambda: ``LAYER=KIND``, a known layer in a Lambda's place; see
            :data:`embedlite.convert.custom_code.REPLACEMENTS`.
        normalization: where it is computed: ``graph`` (float operators in the file), ``runtime`` (``Encoder`` applies
            it), ``frozen`` (min-max with constants from the calibration data), or ``auto``: ``graph``, except
            ``runtime`` where the output is an integer or a target computes with integers only.
        targets: runtimes that must run the files: ``litert``, ``tflite-runtime``, ``micro``, ``ethos-u``.
        c_array: write the smallest file that a microcontroller can run as C, too.
        mean: subtracted from pixels, one value or one a channel; default 0.
        std: divides pixels, likewise; default 255.
        color_order: ``rgb``, ``bgr``, ``gray`` or ``rgba``; default by the number of channels.
        resampler: how image files are stretched to the model's size; default ``bilinear`` (Pillow's).
        input_type: ``float32``, ``uint8`` (raw pixels) or ``int8``, of the int8 file; default float32, or int8 for a
            target that computes with integers only.
        output_type: likewise; with an integer type the file ends at the raw embedding, and ``Encoder`` normalizes.
        num_samples: use a seeded random part of the calibration data.
        batch_size: of training; how far an image's embedding moves between batches of one and of this size is measured.
        seed: of every random choice.
        equalize: whether the int8 file may be made from equalized convolutions, where that lowers its drift.
        threads: processors; default all.
        measure: whether to run the files (drift, latency, verdicts); False only writes them.
        force: replace existing files.

    Returns:
        What was written and measured; the same as ``STEM.export.json``.

    Raises:
        EmbedliteError: see the trees in :mod:`embedlite.runtime.errors` and :mod:`embedlite.convert.errors`; nothing
            was written then.
    """
    in_memory = not isinstance(model, (str, Path))
    if in_memory and output_dir is None:
        raise RequestError("a model in memory has no folder of its own. Pass output_dir.")
    path = Path(f"{model.name}.keras" if in_memory else model)
    modes = choose_modes(quantize, calibrated=calibration_data is not None)
    check_types(modes, input_type, output_type)
    check_normalization(normalization, calibrated=calibration_data is not None)
    check_numbers(seed=seed, batch_size=batch_size)
    required = check_targets(targets, modes)
    if required and not measure:
        raise RequestError("targets are checked by running the files, and measure is False. Leave one of them out.")
    request = Request(
        stem=path.resolve().name if path.is_dir() else path.stem,
        output_dir=Path(output_dir) if output_dir is not None else path.resolve().parent,
        modes=modes,
        calibration_data=calibration_data,
        test_data=test_data,
        normalization=normalization,
        input_type=input_type,
        output_type=output_type,
        targets=required,
        c_array=c_array,
        num_samples=num_samples,
        batch_size=batch_size,
        seed=seed,
        equalize=equalize,
        threads=threads,
        measure=measure,
    )
    options = LoadOptions(
        input_shape, layer, output, None if custom_objects is None else Path(custom_objects), tuple(replace_lambda)
    )
    with stage("loading the model"):
        original = from_keras(model, model.name, options) if in_memory else load_original(path, options)
    contract = _input_contract(original, InputOptions(mean, std, color_order, resampler))
    if input_type == "uint8":
        check_raw_pixels(contract)
    source = {"path": str(path), "sha256": None if in_memory else _digest(path)}
    made = not request.output_dir.exists()
    check_outputs(request, _extra_paths(request), force=force)
    try:
        return _Export(request, contract, source).run(original)
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                request.output_dir.rmdir()
        raise


def _input_contract(original: Original, given: InputOptions) -> InputContract:
    """What the caller says of the input, filled up with what the file itself says."""
    said = {key: value for key, value in vars(given).items() if value is not None}
    known = {} if original.inputs is None else vars(original.inputs)
    return InputOptions(**{**known, **said}).for_shape(original.input_shape)


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files with their names."""
    if path.is_file():
        return sha256(path.read_bytes())
    files = sorted(item for item in path.rglob("*") if item.is_file())
    return sha256("\n".join(f"{item.relative_to(path)} {sha256(item.read_bytes())}" for item in files).encode())


def _c_mode(request: Request) -> str:
    """The mode that is written as C: the smallest that a microcontroller runs."""
    return next(mode for mode in ("int8", "int16x8", "float32") if mode in request.modes)


def _npu_paths(request: Request, mode: str) -> tuple[Path, Path]:
    """The file that the NPU's compiler made, and the contract beside it."""
    compiled = request.output_dir / f"{request.stem}.{mode}.vela.tflite"
    return compiled, compiled.with_name(f"{compiled.name}.embedlite.json")


def _extra_paths(request: Request) -> list[Path]:
    paths = []
    if request.c_array:
        if not set(request.modes).intersection(TARGETS["micro"].modes):
            raise RequestError(
                f"--c-array is for microcontrollers, which run {', '.join(TARGETS['micro'].modes)} files, but "
                f"{', '.join(request.modes)} was asked for. Add -q int8."
            )
        paths += [request.output_dir / name for name in c_names(f"{request.stem}.{_c_mode(request)}")]
    if "ethos-u" in request.targets:
        modes = [mode for mode in request.modes if mode in TARGETS["ethos-u"].modes]
        paths += [path for mode in modes for path in _npu_paths(request, mode)]
    return paths


class _Export:
    """One run; holds what the steps share."""

    def __init__(self, request: Request, contract: InputContract, source: dict[str, Any]) -> None:
        self.request, self.contract, self.source = request, contract, source
        self.decisions: list[str] = []

    def run(self, original: Original) -> ExportResult:
        """Make, measure and write everything."""
        request = self.request
        self.decisions += original.decisions
        data = open_data(request, self.contract)
        self.decisions += data.decisions
        with stage("converting"):
            lowered = lower(original)
        graph = self._prepare(lowered, data)
        plan = self._plan(graph, data.calibration)
        made = [self._make(mode, graph, plan, data.calibration) for mode in request.modes]
        self._explain(graph, made)
        report, coupling = NormalizationReport(graph.spec.kind, request.normalization), None
        measured = Measured(tuple(describe(request, item, None, None, ()) for item in made), {})
        if request.measure:
            with tempfile.TemporaryDirectory(prefix="embedlite-") as folder:
                frames, coupling = self._reference(lowered, graph, data.test, Path(folder))
                report = self._judge_frozen(report, graph, lowered, data.test, frames)
                measured = measure_files(request, made, frames, drift=data.test is not None, folder=Path(folder))
        files, failed = self._reject(measured.files)
        result = ExportResult(
            source=self.source,
            normalization=report,
            batch_coupling=coupling,
            not_checked=missing_runtimes(),
            failed_targets=failed,
            files=files,
            decisions=tuple(self.decisions),
            ship=recommend(tuple(file for file in files if file.path.suffix != REJECTED)),
        )
        contents = {file.path: item.data for file, item in zip(files, made, strict=True)}
        contents |= self._extras(made, measured, files)
        write_files({**contents, request.result_path: json_bytes(result.to_json())})
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

    def _plan(self, graph: FloatGraph, calibration: Source | None) -> Int8Plan | None:
        if calibration is None or not set(CALIBRATED).intersection(self.request.modes):
            return None
        plan = plan_int8(
            graph,
            calibration,
            self.contract,
            threads=self.request.threads,
            raw_pixels=self.request.input_type == "uint8",
            equalized=self.request.equalize,
        )
        self.decisions += plan.decisions
        return plan

    def _make(self, mode: str, graph: FloatGraph, plan: Int8Plan | None, calibration: Source | None) -> Made:
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
        if mode not in CALIBRATED or plan is None or calibration is None:
            per_tensor = mode == "dynamic" and "tflite-runtime" in self.request.targets
            flatbuffer = quantize(graph.flatbuffer, mode, None, (), dense_per_tensor=per_tensor)
            return Made(mode, *package(flatbuffer, contract, graph.raw_name))
        facts = {"method": "minmax", "samples": plan.ranges.samples, "fingerprint": calibration.fingerprint()}
        contract = replace(contract, calibration=facts)
        flatbuffer = quantize(plan.flatbuffer, mode, plan.ranges, graph.keep_float)
        return self._package(mode, flatbuffer, contract, ends, graph)

    def _package(self, mode: str, flatbuffer: bytes, contract: Contract, ends: Ends, graph: FloatGraph) -> Made:
        try:
            return Made(mode, *package(flatbuffer, contract, graph.raw_name))
        except ConversionError:
            if ends.output_chosen or ends.output_type == "float32":
                raise
        self.decisions.append("the encoder ends in float operators, so the output of the int8 file stays float32.")
        return Made(mode, *package(flatbuffer, replace(contract, output_dtype="float32"), graph.raw_name))

    def _explain(self, graph: FloatGraph, made: list[Made]) -> None:
        """Say where the normalization went and what was chosen for a target."""
        spec, decisions = graph.spec, self.decisions
        places = {item.mode: item.contract.normalization.placement for item in made}
        inside = [mode for mode, place in places.items() if place == "graph"]
        left = [mode for mode, place in places.items() if place == "runtime"]
        if spec.kind != "none" and inside:
            decisions.append(
                f"the normalization ({spec.kind}, axes {list(spec.axes)}) stays in the file as float operators"
                + (f" ({', '.join(inside)})." if left else ".")
            )
        if left:
            decisions.append(
                f"the normalization ({spec.kind}, axes {list(spec.axes)}) is left to Encoder ({', '.join(left)}): the "
                "file ends at the raw embedding, and an integer one is normalized in exact integer arithmetic."
            )
        if "ethos-u" in self.request.targets:
            types = [
                f"{item.contract.input.dtype} in, {item.contract.output_dtype} out"
                for item in made
                if item.mode == "int8"
            ]
            decisions += [f"for ethos-u the int8 file takes and gives integers ({text})." for text in types]
        dense = any(op.name == "FULLY_CONNECTED" for op in read_flatbuffer(graph.flatbuffer).operators)
        if "tflite-runtime" in self.request.targets and "dynamic" in places and dense:
            decisions.append(
                "for tflite-runtime a dense layer's weights share one scale in the dynamic file: its interpreter knows "
                "no other, and the drift is somewhat larger."
            )

    def _reference(
        self, lowered: LoweredModel, graph: FloatGraph, test: Source | None, folder: Path
    ) -> tuple[Frames, BatchCoupling | None]:
        """The original's answers, and whether they depend on the batch."""
        frames, broken = collect_frames(self.contract, test, lowered.reference, folder)
        if broken:
            self.decisions.append(
                f"the original answers NaN or infinity for {broken} of {len(frames.edge)} frames (a flat embedding); "
                "the files give zeros there, and are compared with zeros."
            )
        count = int((~frames.edge).sum())
        images = [
            np.array(image) for image in np.load(frames.ready, mmap_mode="r")[: min(count, self.request.batch_size)]
        ]
        coupling = measure_coupling(lowered, images, frames.reference[: len(images)], self.request.batch_size)
        if coupling is None:
            self.decisions.append("the model takes one image at a time, so batch coupling could not be measured.")
        elif coupling.coupled:
            self.decisions.append(
                f"an image's embedding depends on its batch: in batches of {coupling.batch_size} the same images move "
                f"by up to {coupling.max_abs:.3g} from a batch of one, which is what a device has. Ways out: normalize "
                "each sample in the model and train it so; --normalization frozen; or embed the gallery one image at a "
                "time."
            )
        return frames, coupling

    def _judge_frozen(
        self, report: NormalizationReport, graph: FloatGraph, lowered: LoweredModel, test: Source | None, frames: Frames
    ) -> NormalizationReport:
        """For a frozen normalization: compare files with the frozen float graph, and that with the original."""
        if graph.frozen is None:
            return report
        original = frames.reference.copy()
        run = float_runner(graph.frozen.reference)
        ready = np.load(frames.ready, mmap_mode="r")
        for index in range(len(original)):
            frames.reference[index] = run(np.array(ready[index]))
        images = np.flatnonzero(~frames.edge)
        if test is None:
            return report
        outside = share_outside(
            graph.frozen.unfrozen, graph.frozen.constants, (np.array(ready[index]) for index in images)
        )
        moved = drift_of(frames.reference[images], original[images])
        unfrozen = float_runner(graph.frozen.unfrozen)
        agrees = drift_of(np.stack([unfrozen(np.array(ready[index])) for index in images]), original[images])
        self.decisions.append(
            f"drift of the files is measured against the float graph with the same constants: {outside:.2%} of the "
            f"held-out raw values lie outside them, and freezing alone moves the embeddings from the original's to "
            f"{_db(moved.sqnr_db)} (the float graph before freezing: {_db(agrees.sqnr_db)})."
        )
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
            kept.append(replace(file, path=file.path.with_name(file.path.name + REJECTED)) if reasons else file)
        return tuple(kept), tuple(failed)

    def _extras(self, made: list[Made], measured: Measured, files: tuple[ExportedFile, ...]) -> dict[Path, bytes]:
        """C source, and what the NPU's compiler made."""
        request, extras = self.request, dict[Path, bytes]()
        for item, file in zip(made, files, strict=True):
            if file.path.suffix == REJECTED:
                continue
            if request.c_array and item.mode == _c_mode(request):
                flatbuffer = item.data[: item.contract.flatbuffer_bytes]
                arena = next((v.arena_bytes for v in file.verified if v.arena_bytes is not None), None)
                sources = c_source(f"{request.stem}.{item.mode}", flatbuffer, item.contract, arena)
                extras |= {request.output_dir / name: content for name, content in sources.items()}
            compiled = measured.compiled.get(item.mode)
            if "ethos-u" in request.targets and compiled is not None and compiled.flatbuffer is not None:
                target, beside = _npu_paths(request, item.mode)
                extras |= {target: compiled.flatbuffer, beside: sidecar(compiled.flatbuffer, item.contract)}
        return extras


def _db(value: float | None) -> str:
    return "no difference" if value is None else f"{value:.1f} dB"


def _tools() -> dict[str, str]:
    others = ("tensorflow", "keras", "litert-quantizer")
    return {"embedlite": __version__, **{name: importlib.metadata.version(name) for name in others}}
