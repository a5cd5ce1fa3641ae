"""Which step between the original and the shipped file spends the drift.

On the way, each step measured against the one before on the same images::

    the original, one image at a time
    the float .tflite                      what the converter changed
    the candidate, on this runtime         what quantization changed
    the candidate with int8 ends           what rounding its input and output changed

and beside the ladder, because the drift report feeds both sides the same inputs, one at a time: the candidate on every
other runtime that is installed (as another candidate, against the float file), the original in batches as in training,
and the float file on the same image files prepared in another way: resized, or their JPEGs decoded.

Where the reference is vectors that the user's own pipeline made, preprocessing and decoder lie on the way:
:mod:`embedlite.report.causes.preprocessing` finds what they are.

Every file runs in a process of its own. What needs TensorFlow is made by :mod:`embedlite.report.causes.ladder_files`;
without it those steps are listed with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.backends.interpreters import find_runtime, installed_runtimes
from ...runtime.check.probe import ProbeResult, probe
from ...runtime.drift import DEFAULT_K, measure_drift
from ...runtime.drift.wording import UNMEASURED, decibels, fixed
from ...runtime.errors import DataError, EmbedliteError
from ...runtime.files import finite_json
from ...runtime.images.open import open_source
from ...runtime.images.source import Source
from ...runtime.machine import available_threads
from ...runtime.model.contract import JPEG_DECODERS, PILLOW_RESAMPLERS, Contract, InputContract
from ...runtime.printable import one_line
from ...runtime.progress import progress
from ...runtime.terminal import Column, fit, table, wrap
from .ladder_files import Parts

LADDER_IMAGES = 256
"""At most so many of the images are used, chosen at random: some ten runs of each are needed."""

TRAINING_BATCH = 32
"""Images in a batch of the original, where batches are tried."""

OTHER_RESAMPLERS = ("nearest", "bilinear", "bicubic", "lanczos")
"""Filters that pipelines use for images; the contract's own is left out."""

_SECONDS = 120.0
_OTHER_SECONDS = 20.0

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class LadderRequest:
    """What to climb.

    Attributes:
        candidate: the ``.tflite`` that is to be shipped.
        reference: the original (a Keras model or SavedModel), or the float ``.tflite``.
        float_file: the float ``.tflite``: the reference itself, or what was made of it.
        data: the images.
        source: the same, opened with the candidate's contract.
        contract: of the candidate.
        top: what the reference makes of every image of ``source``: (N, ...) float32, finite.
        feature: which part of ``data`` holds the images.
        k: neighbours to compare.
        batch_size: of training.
        threads: processors to use; default all.
    """

    candidate: Path
    reference: Path
    float_file: Path
    data: Path | str
    source: Source
    contract: Contract
    top: Rows
    feature: str | None = None
    k: int = DEFAULT_K
    batch_size: int = TRAINING_BATCH
    threads: int | None = None


def climb(request: LadderRequest, parts: Parts, folder: Path) -> Ladder:
    """Run every step that can be run here, and say of the others why not.

    Args:
        request: what to climb.
        parts: what TensorFlow made for it; see :mod:`embedlite.report.causes.ladder_files`.
        folder: where the prepared images go.
    """
    return _Climb(request, parts, folder).ladder()


def has_float_ends(contract: Contract) -> bool:
    """Whether a file's input and output are both float32."""
    return (contract.input.dtype, contract.output_dtype) == ("float32", "float32")


class _Climb:
    """One run; holds what the steps share."""

    def __init__(self, request: LadderRequest, parts: Parts, folder: Path) -> None:
        self._request, self._parts, self._folder = request, parts, folder
        self._count = len(request.source)
        self._noun = request.contract.input.noun
        self._top = request.top.reshape(self._count, -1)
        self._threads = request.threads or available_threads()
        self._first = find_runtime().name
        self._inputs = self._store("inputs.npy", request.source)

    def ladder(self) -> Ladder:
        """All steps."""
        way, beside = [], []
        float_file = self._request.float_file
        floats = self._run(float_file, self._first, self._inputs, _SECONDS)
        name = "original → float .tflite"
        if float_file != self._request.reference:
            way.append(self._step(name, self._top, floats))
            beside.append(self._in_batches())
        else:
            reason = "the reference is a .tflite; name the original to see what its conversion changes"
            way.append(LadderStep(name, skipped=reason))
        before = self._top if floats.embeddings is None else floats.embeddings
        steps, mine = self._on_runtimes(before)
        way.append(steps[0])
        beside += steps[1:]
        way.append(self._with_integer_ends(mine))
        beside += self._preprocessing(float_file, before)
        steps = [replace(step, on_the_way=True) for step in way] + beside
        return Ladder(with_shares(steps), self._count)

    def _on_runtimes(self, before: Rows) -> tuple[list[LadderStep], Rows | None]:
        """The candidate on this runtime, then on the others, and the embeddings of the first."""
        names = [self._first, *(name for name in installed_runtimes() if name != self._first)]
        mode = self._request.contract.mode if self._request.contract.mode != "unknown" else "candidate"
        steps, mine = [], None
        for name in progress(names, len(names), "runtimes"):
            seconds = _SECONDS if name == self._first else _OTHER_SECONDS
            result = self._run(self._request.candidate, name, self._inputs, seconds)
            step = self._step(f"float .tflite → {mode} on {name} {result.version}", before, result)
            if name == self._first:
                mine = result.embeddings
                if self._request.contract.normalization.placement == "frozen":
                    step = replace(step, detail=f"{step.detail} with the frozen normalization".strip())
            steps.append(step)
        return steps, mine

    def _with_integer_ends(self, mine: Rows | None) -> LadderStep:
        name = "its float input and output → int8"
        if not has_float_ends(self._request.contract):
            return LadderStep(name, skipped="the candidate's input or output is an integer already")
        path = self._parts.get("ends.tflite")
        if isinstance(path, str):
            return LadderStep(name, skipped=path)
        if mine is None:
            return LadderStep(name, skipped="the candidate did not run")
        return self._step(name, mine, self._run(path, self._first, self._inputs, _SECONDS))

    def _in_batches(self) -> LadderStep:
        name = f"original, one {self._noun} at a time → in batches of {self._request.batch_size}"
        path = self._parts.get("batched.npy")
        if isinstance(path, str):
            return LadderStep(name, skipped=path)
        embeddings = np.load(path)
        if embeddings.size != self._top.size:
            return LadderStep(name, skipped=f"its answer to a batch is not one embedding an {self._noun}")
        return self._compare(name, self._top, embeddings.reshape(self._count, -1), "")

    def _preprocessing(self, float_file: Path, before: Rows) -> Iterator[LadderStep]:
        """The float file on the same images, prepared by other means."""
        if not self._request.contract.input.is_image:
            return
        own = self._request.contract.input.resampler
        usual = f"Pillow's {own}" if own in PILLOW_RESAMPLERS else own
        stored = np.load(self._inputs, mmap_mode="r")
        unchanged = 0
        others = [name for name in OTHER_RESAMPLERS if name != own]
        for name in others:
            source = self._reopened(replace(self._request.contract.input, resampler=name))
            inputs = self._store(f"{name}.npy", source)
            if np.array_equal(np.load(inputs, mmap_mode="r"), stored):
                unchanged += 1
                continue
            result = self._run(float_file, self._first, inputs, _SECONDS)
            yield self._step(f"preprocessing: {usual} → {name}", before, result)
        if unchanged == len(others):
            reason = "no image is resized on its way into the model, so that no resampler changes anything"
            yield LadderStep("preprocessing by other means", skipped=reason)
        elif own != "tf-bilinear":
            yield self._resized(usual, float_file, before)
        yield self._decoded(float_file, before, stored)

    def _resized(self, usual: str, float_file: Path, before: Rows) -> LadderStep:
        step = f"preprocessing: {usual} → tf.image.resize"
        path = self._parts.get("resized.npy")
        if isinstance(path, str):
            return LadderStep(step, skipped=path)
        return self._step(step, before, self._run(float_file, self._first, path, _SECONDS))

    def _decoded(self, float_file: Path, before: Rows, stored: Rows) -> LadderStep:
        """The float file on the same image files, their JPEGs decoded as the contract does not say."""
        own = self._request.contract.input
        (other,) = (name for name in JPEG_DECODERS if name != own.jpeg_decoder)
        step = f"JPEG decoder: {own.jpeg_decoder} → {other}"
        try:
            inputs = self._store("decoded.npy", self._reopened(replace(own, jpeg_decoder=other)))
        except EmbedliteError as error:
            # Such as a decoder that is not installed.
            return LadderStep(step, skipped=str(error).rstrip("."))
        if np.array_equal(np.load(inputs, mmap_mode="r"), stored):
            return LadderStep(step, skipped="no image is a JPEG that it decodes otherwise")
        return self._step(step, before, self._run(float_file, self._first, inputs, _SECONDS))

    def _reopened(self, contract: InputContract) -> Source:
        source = open_source(self._request.data, contract, self._request.feature)
        place = {name: index for index, name in enumerate(source.ids)}
        return source.subset([place[name] for name in self._request.source.ids])

    def _store(self, name: str, source: Source) -> Path:
        """The images as the float model takes them, on disk: the processes read them there."""
        path = self._folder / name
        open_memmap: Any = np.lib.format.open_memmap
        stored = open_memmap(path, "w+", np.float32, (self._count, *source.contract.shape))
        for index in range(self._count):
            stored[index] = source.ready(index)
        stored.flush()
        return path

    def _run(self, model: Path, runtime: str, inputs: Path, seconds: float) -> ProbeResult:
        rows: Sequence[int] = range(self._count)
        result = probe(model, runtime, inputs, rows, threads=self._threads, seconds=seconds)
        if result.embeddings is None:
            return result
        return replace(result, embeddings=result.embeddings.reshape(len(result.embeddings), -1))

    def _step(self, name: str, before: Rows, result: ProbeResult) -> LadderStep:
        if result.embeddings is None:
            return LadderStep(name, skipped=result.error)
        detail = "" if len(result.embeddings) == self._count else f"on the first {len(result.embeddings)} {self._noun}s"
        return self._compare(name, before, result.embeddings, detail)

    def _compare(self, name: str, before: Rows, after: Rows, detail: str) -> LadderStep:
        return replace(step_between(name, before, after, self._top, self._request.k), detail=detail)


@dataclass(frozen=True)
class Moved:
    """How far embeddings moved; the metrics of :class:`embedlite.runtime.drift.Drift` by these names, None where they
    have no value."""

    sqnr_db: float | None
    cosine_p1: float | None
    knn_overlap_cross: float | None


@dataclass(frozen=True)
class LadderStep:
    """One step.

    Attributes:
        step: from what to what.
        detail: what is to be known of it besides.
        moved: against the step before; None if it was not run.
        from_top: against the original, which is the reference of the report.
        on_the_way: whether it lies between the original and the shipped file; else it stands beside the ladder, and the
            drift report's figures do not contain it.
        share: of the noise power of all steps on the way; None for the others, and where there is no noise at all.
        skipped: why it was not run; None if it was.
    """

    step: str
    detail: str = ""
    moved: Moved | None = None
    from_top: Moved | None = None
    on_the_way: bool = False
    share: float | None = None
    skipped: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The step as a JSON object, with the metrics against the step before on its first level."""
        moved = self.moved or Moved(None, None, None)
        return {
            "step": self.step,
            "detail": self.detail,
            **asdict(moved),
            "from_top": None if self.from_top is None else asdict(self.from_top),
            "on_the_way": self.on_the_way,
            "share": self.share,
            "skipped": self.skipped,
        }


@dataclass(frozen=True)
class Ladder:
    """All steps, those on the way first; ``images`` is how many they were measured on."""

    steps: tuple[LadderStep, ...]
    images: int

    @property
    def largest(self) -> LadderStep | None:
        """The step that spent most of the drift; None without any drift."""
        spent = [step for step in self.steps if step.share is not None]
        return max(spent, key=lambda step: step.share or 0, default=None)

    def to_json(self) -> list[dict[str, Any]]:
        """The steps as JSON objects."""
        steps: list[dict[str, Any]] = finite_json([step.to_json() for step in self.steps])
        return steps


def step_between(
    name: str, before: NDArray[Any], after: NDArray[Any], top: NDArray[Any], k: int = DEFAULT_K
) -> LadderStep:
    """A step from embeddings to others of the same images, (N, D) each; of images that one side lacks nothing is said.

    Args:
        name: of the step.
        before: of the step before.
        after: of this one.
        top: of the first of all.
        k: neighbours to compare.
    """
    try:
        return LadderStep(name, moved=_moved(after, before, k), from_top=_moved(after, top, k))
    except DataError as error:
        return LadderStep(name, skipped=str(error))


def _moved(after: NDArray[Any], before: NDArray[Any], k: int) -> Moved:
    count = min(len(after), len(before))
    k = min(k, count - 1)
    drift, _ = measure_drift(after[:count], before[:count], k=k if k > 0 else None)
    return Moved(drift.sqnr_db, drift.cosine_p1, drift.knn_overlap_cross)


def with_shares(steps: Sequence[LadderStep]) -> tuple[LadderStep, ...]:
    """The steps with :attr:`LadderStep.share` filled in.

    A step's noise power, relative to the signal, is 10^(-sqnr_db / 10) against the step before. Errors of independent
    steps add up in power.
    """
    powers = [_noise(step.moved) if step.on_the_way and step.moved is not None else None for step in steps]
    total = sum(power for power in powers if power is not None)
    if not 0 < total < math.inf:
        return tuple(steps)
    return tuple(
        step if power is None else replace(step, share=power / total) for step, power in zip(steps, powers, strict=True)
    )


def _noise(moved: Moved) -> float:
    return 0.0 if moved.sqnr_db is None else 10 ** (-moved.sqnr_db / 10)


def render_ladder(ladder: Ladder, width: int, noun: str = "image") -> str:
    """The steps as text: those on the way, those beside it, those that were not run, and which spent most."""
    run = [step for step in ladder.steps if step.skipped is None]
    way, beside = ([step for step in run if step.on_the_way is side] for side in (True, False))
    columns = [
        Column("step", left=True),
        Column("share"),
        Column("SQNR dB"),
        Column("cosine p1", 3),
        Column("neighbours", 1),
        Column("from the top dB", 2),
    ]
    lines = wrap(f"where the drift comes from, step by step, {ladder.images} {noun}s", width)
    rows = [_row(step) for step in (*way, *beside)]
    steps = table(columns, rows, width, "  ")
    if beside and len(steps) == len(rows) + 1:
        steps.insert(len(way) + 1, _BESIDE)
    elif beside:
        # They are stacked: without a heading that both share.
        steps = [
            *table(columns, rows[: len(way)], width, "  "),
            _BESIDE,
            *table(columns, rows[len(way) :], width, "  "),
        ]
    lines += steps
    notes = [f"{step.step}: {step.detail}" for step in run if step.detail]
    notes += [f"not run: {step.step}: {step.skipped}" for step in ladder.steps if step.skipped is not None]
    if (largest := ladder.largest) is not None:
        notes.append(f"most of it is spent in: {largest.step} ({largest.share:.1%})")
    lines += fit(map(one_line, notes), width)
    return "\n".join(lines)


_BESIDE = "beside the ladder, and in no figure above"


def _row(step: LadderStep) -> list[str]:
    moved = step.moved or Moved(None, None, None)
    share = UNMEASURED if step.share is None else f"{step.share:.1%}"
    sqnr, top = (UNMEASURED if one is None else decibels(one.sqnr_db, 2, "") for one in (step.moved, step.from_top))
    return [
        one_line(step.step),
        share,
        sqnr,
        fixed(moved.cosine_p1, 6),
        fixed(moved.knn_overlap_cross, 4),
        top,
    ]
