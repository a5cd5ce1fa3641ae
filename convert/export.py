"""The export, from a Keras model to measured files; each step is a module of its own.

load      the Keras model, no foreign code                       load.py
lower     once through TensorFlow: the float graph               lower.py
find      the normalization, proved and guarded                  recognise.py
collect   activation ranges from the calibration images          ../calibration
quantize  each mode from the float graph                         quantize.py
package   repair, names, types, contract                         repair.py, package.py
verify    every installed interpreter, drift, latency            verify.py
write     all files, or none
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..calibration.split import hold_out
from ..runtime.contract import Contract, InputContract, InputOptions
from ..runtime.drift import DEFAULT_K, Drift, measure_drift
from ..runtime.errors import RequestError
from ..runtime.files import json_bytes, sha256, write_files
from ..runtime.interpreters import available_threads
from ..runtime.preprocess import model_ready
from ..runtime.sources import Source, open_source
from ..runtime.terminal import progress, stage
from ..runtime.version import __version__
from .load import LoadedModel, load_model, resolve_input_shape
from .lower import LoweredModel, lower
from .package import package
from .plan import Int8Plan, plan_int8
from .prepare import FloatGraph, prepare
from .quantize import quantize
from .request import Data, Request, check_outputs, check_seed, check_types, choose_modes
from .results import ExportedFile, ExportResult, Verdict
from .ship import recommend
from .verify import installed_runtimes, judge, probe

_AGREEMENT_IMAGES = 4
"""Images on which the second interpreter is compared with the first; it may be slow."""

_SYNTHETIC_FRAMES = 4

_MOST_TEST_IMAGES = 512
"""Drift is measured on no more; drift-report measures any number."""


def export(
    model: Any,
    output_dir: str | Path | None = None,
    *,
    quantize: Sequence[str] = (),
    calibration_data: Data | None = None,
    test_data: Data | None = None,
    input_shape: tuple[int, int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    color_order: str | None = None,
    resampler: str | None = None,
    input_type: str = "float32",
    output_type: str = "float32",
    num_samples: int | None = None,
    seed: int = 0,
    equalize: bool = True,
    threads: int | None = None,
    measure: bool = True,
    force: bool = False,
) -> ExportResult:
    """Export a Keras encoder, normalization included, to TFLite files that carry their contract.

    Args:
        model: path of a ``.keras`` file, or a ``keras.Model`` in memory.
        output_dir: where the files go; default beside the model file.
        quantize: modes: ``float32``, ``float16``, ``dynamic``, ``int8``, ``all``. Default float32, and int8 too
            when there is calibration data.
        calibration_data: images that set the ranges for int8: a folder, ``.npy``, ``.npz`` or an array (N, H, W, C).
            Integers are pixels, floats are model-ready.
        test_data: images that the drift is measured on; default a seeded fifth of the calibration data (at most 64),
            which then sets no ranges.
        input_shape: (height, width, channels), for a model whose fixed shape is lost.
        mean: subtracted from pixels, one value or one a channel; default 0.
        std: divides pixels, likewise; default 255.
        color_order: ``rgb``, ``bgr``, ``gray`` or ``rgba``; default by the number of channels.
        resampler: how image files are stretched to the model's size; default ``bilinear`` (Pillow's).
        input_type: ``float32``, ``uint8`` (raw pixels) or ``int8``, of the int8 file.
        output_type: likewise; with an integer type the file ends at the raw embedding, and ``Encoder`` normalizes.
        num_samples: use a seeded random part of the calibration data.
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
    check_seed(seed)
    request = Request(
        stem=path.stem,
        output_dir=Path(output_dir) if output_dir is not None else path.parent,
        modes=modes,
        calibration_data=calibration_data,
        test_data=test_data,
        input_type=input_type,
        output_type=output_type,
        num_samples=num_samples,
        seed=seed,
        equalize=equalize,
        threads=threads,
        measure=measure,
    )
    with stage("loading the model"):
        loaded = (
            LoadedModel(model, resolve_input_shape(model, model.name, input_shape))
            if in_memory
            else load_model(path, input_shape)
        )
    contract = InputOptions(mean, std, color_order, resampler).for_shape(loaded.input_shape)
    source = {"path": str(path), "sha256": None if in_memory else sha256(path.read_bytes())}
    made = not request.output_dir.exists()
    check_outputs(request, force=force)
    try:
        return _Export(request, contract, source).run(loaded)
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                request.output_dir.rmdir()
        raise


class _Export:
    """One run; holds what the steps share."""

    def __init__(self, request: Request, contract: InputContract, source: dict[str, Any]) -> None:
        self.request, self.contract, self.source = request, contract, source
        self.decisions: list[str] = []
        if request.input_type == "uint8":
            _check_raw_pixels(contract)

    def run(self, loaded: LoadedModel) -> ExportResult:
        calibration, test = self._open_data()
        with stage("converting"):
            lowered = lower(loaded)
        graph = prepare(lowered.flatbuffer)
        self.decisions += graph.decisions
        plan = self._plan(graph, calibration)
        contents = {mode: self._make(mode, graph, plan, calibration) for mode in self.request.modes}
        files = self._measure(contents, lowered, test) if self.request.measure else _unmeasured(self.request, contents)
        result = ExportResult(self.source, files, tuple(self.decisions), recommend(files))
        written = {self.request.path(mode): data for mode, (data, _) in contents.items()}
        write_files({**written, self.request.result_path: json_bytes(result.to_json())})
        return result

    def _open_data(self) -> tuple[Source | None, Source | None]:
        """The images that set the ranges, and those that judge the result."""
        request = self.request
        test = None
        if request.test_data is not None:
            given = open_source(request.test_data, self.contract)
            test = given.sample(_MOST_TEST_IMAGES, request.seed)
            if len(test) < len(given):
                self.decisions.append(
                    f"drift is measured on {len(test)} of the {len(given)} test images; drift-report measures all."
                )
        if request.calibration_data is None:
            return None, test
        calibration = open_source(request.calibration_data, self.contract).sample(request.num_samples, request.seed)
        if test is None:
            kept, held = hold_out(len(calibration), request.seed)
            if held:
                calibration, test = calibration.subset(kept), calibration.subset(held)
                self.decisions.append(
                    f"{len(held)} of the {len(kept) + len(held)} calibration images set no ranges: drift is measured "
                    "on them. Pass --test-data to use all for calibration."
                )
            else:
                self.decisions.append(
                    f"no drift was measured: {len(calibration)} calibration image(s) are too few to set some aside."
                )
        return calibration, test

    def _plan(self, graph: FloatGraph, calibration: Source | None) -> Int8Plan | None:
        if "int8" not in self.request.modes or calibration is None:
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

    def _make(
        self, mode: str, graph: FloatGraph, plan: Int8Plan | None, calibration: Source | None
    ) -> tuple[bytes, Contract]:
        """One mode's file and its contract."""
        contract = Contract(
            input=self.contract,
            output_shape=graph.output_shape,
            output_dtype="float32",
            normalization=graph.spec,
            mode=mode,
            calibration=None,
            tools=_tools(),
        )
        if mode != "int8" or plan is None or calibration is None:
            return package(quantize(graph.flatbuffer, mode, None, ()), contract)
        spec = graph.spec
        if self.request.output_type != "float32" and graph.raw_name is not None:
            spec = replace(spec, placement="runtime")
            self.decisions.append(
                f"the {self.request.output_type} output of the int8 file is the raw embedding; Encoder normalizes it, "
                "exactly, after the file has run."
            )
        contract = replace(
            contract,
            input=replace(self.contract, dtype=self.request.input_type),
            output_dtype=self.request.output_type,
            normalization=spec,
            calibration={
                "method": "minmax",
                "samples": plan.ranges.samples,
                "fingerprint": calibration.fingerprint(),
            },
        )
        return package(quantize(plan.flatbuffer, mode, plan.ranges, graph.keep_float), contract, graph.raw_name)

    def _measure(
        self, contents: dict[str, tuple[bytes, Contract]], lowered: LoweredModel, test: Source | None
    ) -> tuple[ExportedFile, ...]:
        """Run every file on every interpreter, and compare with Keras on the test images."""
        request = self.request
        files = []
        with tempfile.TemporaryDirectory(prefix="embedlite-") as folder:
            images = _synthetic(self.contract) if test is None else (test.ready(i) for i in range(len(test)))
            count = _SYNTHETIC_FRAMES if test is None else len(test)
            inputs = Path(folder, "inputs.npy")
            # On disk, because every interpreter's process reads them and they may not fit in memory.
            open_memmap: Any = np.lib.format.open_memmap
            stored = open_memmap(inputs, "w+", np.float32, (count, *self.contract.shape))
            reference = []
            for index, image in enumerate(progress(images, count, "Keras reference")):
                stored[index] = image
                if test is not None:
                    reference.append(lowered.reference(image))
            stored.flush()
            # Images that are alike, or a model that answers the same to all, are not the file's fault.
            few = reference[:_AGREEMENT_IMAGES]
            varied = not few or any((row != few[0]).any() for row in few[1:])
            for mode, (data, contract) in progress(contents.items(), len(contents), "verifying"):
                path = Path(folder, request.path(mode).name)
                path.write_bytes(data)
                latency, embeddings, verdicts = self._run_everywhere(path, mode, inputs, count, varied)
                drift = _drift(embeddings, np.stack(reference)) if reference and embeddings is not None else None
                files.append(_describe(request, mode, data, contract, drift, latency, verdicts))
        return tuple(files)

    def _run_everywhere(
        self, path: Path, mode: str, inputs: Path, count: int, varied: bool
    ) -> tuple[float | None, NDArray[np.float32] | None, tuple[Verdict, ...]]:
        threads = self.request.threads or available_threads()
        first, *others = installed_runtimes()
        result = probe(path, first, inputs, count, threads=threads, timed=True)
        verdicts = [judge(result, None, mode, varied)]
        few = min(count, _AGREEMENT_IMAGES)
        agreed = None if result.embeddings is None else result.embeddings[:few]
        for runtime in others:
            again = probe(path, runtime, inputs, few, threads=threads, timed=False)
            verdicts.append(judge(again, agreed, mode, varied))
        return result.latency_us, result.embeddings, tuple(verdicts)


def _drift(embeddings: NDArray[np.float32], reference: NDArray[np.float32]) -> Drift:
    return measure_drift(embeddings, reference, k=DEFAULT_K if len(reference) > DEFAULT_K else None)[0]


def _unmeasured(request: Request, contents: dict[str, tuple[bytes, Contract]]) -> tuple[ExportedFile, ...]:
    return tuple(
        _describe(request, mode, data, contract, None, None, ()) for mode, (data, contract) in contents.items()
    )


def _describe(
    request: Request,
    mode: str,
    data: bytes,
    contract: Contract,
    drift: Drift | None,
    latency: float | None,
    verdicts: tuple[Verdict, ...],
) -> ExportedFile:
    return ExportedFile(mode, request.path(mode), len(data), sha256(data), asdict(contract), drift, latency, verdicts)


def _check_raw_pixels(contract: InputContract) -> None:
    """uint8 input holds pixels as they are, which only one step size and one whole zero point can say."""
    mean, std = set(contract.mean), set(contract.std)
    if len(mean) > 1 or len(std) > 1 or not next(iter(mean)).is_integer() or not 0 <= next(iter(mean)) <= 255:
        raise RequestError(
            f"--input-type uint8 needs one std and one whole mean between 0 and 255 for all channels, but mean is "
            f"{list(contract.mean)} and std {list(contract.std)}. Use --input-type float32 or int8."
        )


def _synthetic(contract: InputContract) -> Iterator[NDArray[np.float32]]:
    """A few frames for files that have no images to be verified on: noise, a ramp, and flat gray."""
    height, width, channels = contract.shape
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, height, width, channels))
    ramp = np.broadcast_to(np.linspace(0, 255, width)[:, None], contract.shape)
    gray = np.full(contract.shape, 128)
    for frame in (*noise, ramp, gray):
        yield model_ready(frame.astype(np.uint8), contract)


def _tools() -> dict[str, str]:
    others = ("tensorflow", "keras", "litert-quantizer")
    return {"embedlite": __version__, **{name: importlib.metadata.version(name) for name in others}}
