"""Running what was made: drift from the original, latency, and every runtime's verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.backends.interpreters import installed, installed_runtimes
from ...runtime.backends.registry import BACKENDS, BY_PACKAGE
from ...runtime.check.probe import PROBE_SECONDS, ProbeResult, probe
from ...runtime.check.timing import Timing
from ...runtime.drift import Drift
from ...runtime.drift.intervals import Interval, drift_and_intervals
from ...runtime.drift.silent import Silent, count_silent
from ...runtime.files import sha256
from ...runtime.images.source import Source
from ...runtime.machine import available_threads
from ...runtime.model.contract import InputContract
from ...runtime.progress import progress, stage
from ..graph.graph import Graph
from ..graph.loops import has_loops
from ..graph.run import give_back
from ..make.golden import GoldenInputs, golden_path, pack
from ..make.maker import Made
from ..make.names import OutputNames
from ..make.package import seal
from ..make.synthetic_inputs import edge_frames, plain_frames, span_of
from ..modes import OLDER, takes_ranges
from ..request import Request
from ..results import ExportedFile, Untuned, Verdict
from .latency import Stopwatch
from .vela import NpuCompilation, compile_for_npu
from .verdicts import Frames, judge

_AGREEMENT_IMAGES = 4
"""Images on which further runtimes are compared with the first one; they may be slow."""

_DRIFT_SECONDS = 60.0
_AGREEMENT_SECONDS = 6.0
_LOOPS_SECONDS = 30.0

_ROUNDING = 1e-6
_FIRM = 1e-3

Reference = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Measured:
    """What running the files gave.

    Attributes:
        made: the files with their golden vectors, in the order of the modes.
        files: one entry a file, in the order of the modes.
        compiled: what the NPU's compiler made of each file, by mode, where it could be tried.
    """

    made: tuple[Made, ...]
    files: tuple[ExportedFile, ...]
    compiled: Mapping[str, NpuCompilation]


@dataclass(frozen=True)
class Figures:
    """How far a file's embeddings are from the original's, on test images."""

    drift: Drift | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    silent: Silent | None = None


def collect_frames(
    contract: InputContract, test: Source | None, reference: Reference, folder: Path, *, rounded: bool = False
) -> tuple[Frames, int]:
    """Lay out what every file is run on, with the original's answers: images first, edge frames after them.

    On disk, because every interpreter's process reads them and they may not fit in memory.

    Args:
        contract: the input's.
        test: the images; None makes a few synthetic frames instead.
        reference: the original at batch 1.
        folder: where the frames go.
        rounded: whether the original computes in half precision.

    Returns:
        The frames, and for how many of them the original answered NaN or infinity; zeros stand there instead.
    """
    span = span_of(test)
    images = list(plain_frames(contract, span)) if test is None else None
    count = len(images) if images is not None else len(test or ())
    ready = folder / "frames.npy"
    edges = list(edge_frames(contract, span))
    open_memmap: Any = np.lib.format.open_memmap
    stored = open_memmap(ready, "w+", np.float32, (count + len(edges), *contract.shape))
    rows = []
    source: Any = images if images is not None else (test.ready(index) for index in range(count) if test is not None)
    for index, image in enumerate(progress(_chain(source, edges), len(stored), "reference")):
        stored[index] = image
        rows.append(reference(image))
    stored.flush()
    answers = np.stack(rows)
    firm = np.array(
        [True] * count + [_is_firm(reference, frame, row) for frame, row in zip(edges, rows[count:], strict=True)]
    )
    broken = ~np.isfinite(answers.reshape(len(answers), -1)).all(axis=1)
    answers[broken] = 0
    return Frames(ready, answers, np.arange(len(answers)) >= count, firm, rounded), int(broken.sum())


def _with_way_out(request: Request, mode: str, answer: ProbeResult) -> ProbeResult:
    """What the older interpreter lacks is left out of files that it is a target of."""
    if not answer.error or answer.runtime != OLDER or mode not in ("dynamic", "int16x8") or OLDER in request.targets:
        return answer
    return replace(answer, error=f"{answer.error.rstrip('.')}. --target {OLDER} makes the file without what it lacks.")


def _is_firm(reference: Reference, frame: NDArray[np.float32], answer: NDArray[np.float32]) -> bool:
    """Whether the original gives nearly the same embedding when a frame is changed by as little as rounding would.

    On a flat frame it need not: a normalization may divide by a maximum that is zero but for rounding.
    """
    rng = np.random.default_rng(0)
    noise = rng.normal(0, _ROUNDING * max(1.0, float(np.abs(frame).max())), (2, *frame.shape)).astype(np.float32)
    moved = max(float(np.abs(reference(frame + item) - answer).max()) for item in noise)
    return bool(moved <= _FIRM * float(np.abs(answer).max()))


def _chain(*parts: Any) -> Iterator[NDArray[np.float32]]:
    for part in parts:
        yield from part


def measure_files(
    request: Request,
    made: list[Made],
    frames: Frames,
    inputs: GoldenInputs,
    stopwatch: Stopwatch,
    *,
    drift: bool,
    folder: Path,
    meanwhile: Callable[[], None],
) -> Measured:
    """Run every file on every runtime that can run its mode.

    Args:
        request: paths and threads.
        made: the files.
        frames: from :func:`collect_frames`.
        inputs: what the files' golden vectors are made of.
        stopwatch: of the target that latencies are measured on.
        drift: whether the frames are images that drift can be measured on.
        folder: where the files are written to be run.
        meanwhile: what else is to be done, once nothing is timed any more.
    """
    # What a fine-tuned file would be without is measured beside it, and goes no further than the figures.
    every = [*made, *(item.untuned for item in made if item.untuned is not None)]
    rounds = _Rounds(frames, request.threads or available_threads(), list(_written(request, every, folder)))
    firsts = rounds.on_first_runtime(golden_path(folder, inputs, made[0].contract.input))
    with stage("timing"):
        runnable = [place for place, item in enumerate(every) if _runs(stopwatch.package, item)]
        found = stopwatch.time([every[place].data for place in runnable])
    timings = dict(zip(runnable, found, strict=True))
    # Nothing is timed from here on, so the runtimes may share the processors.
    others = rounds.on_other_runtimes(meanwhile)
    give_back()
    replayable = [_with_golden(item, first, inputs) for item, first in zip(every, firsts, strict=True)]
    files = []
    for place, (item, first, answers) in enumerate(zip(replayable, firsts, others, strict=True)):
        verdicts = rounds.verdicts(request, item, first, answers)
        figures = rounds.figures(first) if drift else Figures()
        files.append(describe(request, item, figures, timings.get(place, Timing(None)), verdicts))
    untuned = {file.mode: of_untuned(file) for file in files[len(made) :]}
    compiled = [(item.mode, answer) for item, answers in zip(made, others, strict=False) for answer in answers]
    return Measured(
        tuple(replayable[: len(made)]),
        tuple(replace(file, untuned=untuned.get(file.mode)) for file in files[: len(made)]),
        {mode: answer for mode, answer in compiled if isinstance(answer, NpuCompilation)},
    )


def _written(request: Request, every: list[Made], folder: Path) -> Iterator[tuple[Path, Made]]:
    """Each file in a folder of its own, because a file and what it would be without fine-tuning have one name."""
    names = OutputNames(request)
    for place, item in enumerate(every):
        path = folder / str(place) / names.file(item.mode).name
        path.parent.mkdir()
        path.write_bytes(item.data)
        yield path, item


@dataclass(frozen=True)
class _Rounds:
    """Every file on every runtime that runs its mode."""

    frames: Frames
    threads: int
    written: list[tuple[Path, Made]]

    @cached_property
    def order(self) -> _Order:
        """In which the frames are run."""
        return _Order(self.frames.edge)

    @cached_property
    def runtimes(self) -> tuple[str, ...]:
        """The reference runtime first."""
        return tuple(installed_runtimes())

    def on_first_runtime(self, golden: Path) -> list[ProbeResult]:
        """One file after the other, on all frames."""
        return [
            probe(
                path,
                self.runtimes[0],
                self.frames.ready,
                self.order.all,
                threads=self.threads,
                seconds=_DRIFT_SECONDS,
                golden=golden,
            )
            for path, _ in progress(self.written, len(self.written), "measuring")
        ]

    def on_other_runtimes(self, meanwhile: Callable[[], None]) -> list[list[ProbeResult | NpuCompilation]]:
        """All at once, on a few frames; what they said of each file, interpreters first, then the NPU's compiler."""
        compilers = [item.package for item in BACKENDS.values() if not item.module and installed(item.package)]
        jobs = [
            (place, name)
            for names in (self.runtimes[1:], compilers)
            for place, (_, item) in enumerate(self.written)
            for name in names
            if _runs(name, item)
        ]
        with ThreadPoolExecutor(self.threads) as pool:
            running = pool.map(self._run, jobs)
            meanwhile()
            answers = list(progress(running, len(jobs), "verifying"))
        found: list[list[ProbeResult | NpuCompilation]] = [[] for _ in self.written]
        for (place, _), answer in zip(jobs, answers, strict=True):
            found[place].append(answer)
        return found

    def _run(self, job: tuple[int, str]) -> ProbeResult | NpuCompilation:
        place, runtime = job
        path, item = self.written[place]
        if not BY_PACKAGE[runtime].module:
            working = path.with_suffix(".npu")
            working.mkdir()
            return compile_for_npu(path, working)
        # TFLite Micro may stay in a loop for minutes, or for good.
        limit = _LOOPS_SECONDS if has_loops(Graph(item.data)) else PROBE_SECONDS
        few = self.order.few
        return probe(path, runtime, self.frames.ready, few, threads=1, seconds=_AGREEMENT_SECONDS, limit=limit)

    def verdicts(
        self, request: Request, item: Made, first: ProbeResult, answers: list[ProbeResult | NpuCompilation]
    ) -> tuple[Verdict, ...]:
        """Of every runtime, the first one's first."""
        half = item.contract.half_precision
        verdicts = [judge(first, item.mode, self.frames.part(self.order.all), None, half)]
        for answer in answers:
            if isinstance(answer, NpuCompilation):
                verdicts.append(npu_verdict(answer))
            else:
                told = _with_way_out(request, item.mode, answer)
                few = self.frames.part(self.order.few)
                verdicts.append(judge(told, item.mode, few, first.embeddings, half))
        return tuple(verdicts)

    def figures(self, first: ProbeResult) -> Figures:
        """From what the first runtime answered to images; none where it failed."""
        if first.embeddings is None:
            return Figures()
        rows, images = self.order.images(len(first.embeddings))
        moved, sure = drift_and_intervals(first.embeddings[rows], self.frames.reference[images])
        return Figures(moved, sure, count_silent(first.embeddings[rows]))


def _runs(package: str, item: Made) -> bool:
    return BY_PACKAGE[package].runs(item.mode, item.precision)


def of_untuned(entry: ExportedFile) -> Untuned:
    """What is told of a file that is not written, from the entry that it would have."""
    return Untuned(**{part.name: getattr(entry, part.name) for part in fields(Untuned)})


def _with_golden(item: Made, first: ProbeResult, inputs: GoldenInputs) -> Made:
    """The file with the golden vectors that the first runtime made of it; as it is if that failed."""
    if first.golden is None:
        return item
    golden = pack(inputs, first.golden, f"{first.runtime} {first.version}", item.contract)
    data, contract = seal(item.data[: item.contract.flatbuffer_bytes], item.contract, golden)
    return replace(item, data=data, contract=contract)


class _Order:
    """The order in which frames are run: two images, the edge frames, the other images; slow runtimes stop early."""

    def __init__(self, edge: NDArray[np.bool_]) -> None:
        images, edges = np.flatnonzero(~edge).tolist(), np.flatnonzero(edge).tolist()
        self.all: list[int] = [*images[:2], *edges, *images[2:]]
        self.few = self.all[: len(edges) + min(_AGREEMENT_IMAGES, len(images))]
        self._edge = edge

    def images(self, count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Of the first ``count`` rows that were run, those of images: their places among them, and which they are.

        In the order of the images, because neighbours leave out the row itself by its place.
        """
        ran = np.array(self.all[:count])
        places = np.flatnonzero(~self._edge[ran])
        places = places[np.argsort(ran[places])]
        return places, ran[places]


def npu_verdict(compiled: NpuCompilation) -> Verdict:
    """The NPU compiler's answer as a verdict: it compiles, and the NPU has something to do."""
    placed, left = sum(compiled.npu.values()), sum(compiled.cpu.values())
    detail = compiled.error or f"{placed} of {placed + left} operators on the NPU"
    if left:
        detail += f"; on the CPU: {', '.join(f'{count} {name}' for name, count in sorted(compiled.cpu.items()))}"
    ok = compiled.flatbuffer is not None and placed > 0
    return Verdict(
        BACKENDS["ethos-u"].package,
        compiled.version,
        ok,
        detail,
        npu_operators=placed,
        cpu_operators=dict(compiled.cpu),
    )


def describe(
    request: Request, item: Made, figures: Figures, timing: Timing, verdicts: tuple[Verdict, ...]
) -> ExportedFile:
    """The file's entry in export.json."""
    return ExportedFile(
        item.mode,
        OutputNames(request).file(item.mode),
        len(item.data),
        sha256(item.data),
        item.contract.to_json(),
        _float_operators(item),
        figures.drift,
        figures.intervals,
        timing.latency_us,
        timing.low_us,
        timing.high_us,
        None,
        verdicts,
        figures.silent,
    )


def _float_operators(item: Made) -> tuple[str, ...]:
    if not takes_ranges(item.mode):
        return ()
    graph = Graph(item.data[: item.contract.flatbuffer_bytes])
    names = (
        graph.operator_name(operator)
        for operator in graph.operators
        if graph.dtype(int(operator.outputs[0])) == "float32" and graph.operator_name(operator) != "DEQUANTIZE"
    )
    return tuple(dict.fromkeys(names))
