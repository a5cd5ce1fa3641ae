"""Every written file is run by every installed interpreter, each in a process of its own; a crash there is a verdict.

What is compared, on images and on edge frames (flat, saturated, one hot pixel, low contrast):

- each runtime with the original: a float file closely, a quantized one loosely, for its drift is measured elsewhere and
  a broken file is far beyond any drift;
- each runtime with the first one. Interpreters round int8 differently (XNNPACK against the reference kernels), so
  quantized files are held to the drift between two interpreters, not to equality.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..runtime.contract import InputContract
from ..runtime.drift import measure_drift
from ..runtime.interpreters import MICRO_RUNTIME, RUNTIMES
from ..runtime.preprocess import model_ready
from ..runtime.probe import ProbeRequest
from .results import Verdict

PROBE_SECONDS = 300
FLOAT_TOLERANCE = 1e-4
"""Largest difference of two runs in float, relative to the largest value: only the order of additions differs."""

QUANTIZED_SQNR_DB = 15.0
"""Two interpreters on one quantized file must agree at least this well."""

BROKEN_SQNR_DB = 3.0
"""A file of rounded weights further than this from the original on ordinary images is not merely drifting."""


@dataclass(frozen=True)
class ProbeResult:
    """What one interpreter made of one file.

    Attributes:
        runtime: its package.
        version: its version.
        embeddings: of the first frames, as many as there was time for; None if it failed.
        latency_us: median microseconds per inference; None if it was not timed.
        arena_bytes: memory that TFLite Micro needs; None for the others.
        golden: of the golden inputs; None if they were not asked for.
        error: how it failed.
    """

    runtime: str
    version: str
    embeddings: NDArray[np.float32] | None = None
    latency_us: float | None = None
    arena_bytes: int | None = None
    golden: NDArray[np.float32] | None = None
    error: str = ""


@dataclass(frozen=True)
class Frames:
    """What files are verified on.

    Attributes:
        ready: path of a ``.npy`` with model-ready frames, (N, H, W, C) float32.
        reference: the original's embedding of each, (N, ...) float32, finite.
        edge: which of them are edge frames, (N,) bool.
        firm: on which of them the original does not jump when the frame changes by rounding, (N,) bool.
    """

    ready: Path
    reference: NDArray[np.float32]
    edge: NDArray[np.bool_]
    firm: NDArray[np.bool_]

    def part(self, rows: Sequence[int]) -> Frames:
        """Some of the frames, in this order."""
        return Frames(self.ready, self.reference[rows], self.edge[rows], self.firm[rows])


def edge_frames(contract: InputContract) -> Iterator[NDArray[np.float32]]:
    """Frames that cameras deliver and calibration images seldom hold, model-ready.

    Flat black, flat white, saturated (half black, half white), one hot pixel, low contrast.
    """
    height, width, channels = contract.shape
    black = np.zeros((height, width, channels), np.uint8)
    white = np.full_like(black, 255)
    saturated = black.copy()
    saturated[:, width // 2 :] = 255
    hot = black.copy()
    hot[height // 2, width // 2] = 255
    low = np.full_like(black, 127)
    low[::2, ::2] = 129
    for frame in (black, white, saturated, hot, low):
        yield model_ready(frame, contract)


def installed_runtimes() -> list[str]:
    """The interpreter packages that are installed, in the order of preference."""
    return [name for name in (*RUNTIMES, MICRO_RUNTIME) if installed(name)]


def probe(
    model: Path,
    runtime: str,
    inputs: Path,
    rows: Sequence[int],
    *,
    threads: int,
    timed: bool,
    seconds: float,
    golden: Path | None = None,
) -> ProbeResult:
    """Run a file on one interpreter, in a process of its own.

    Args:
        model: the ``.tflite``.
        runtime: ``ai-edge-litert``, ``tflite-runtime`` or ``tflite-micro``.
        inputs: a ``.npy`` of model-ready images, (N, H, W, C) float32.
        rows: which of them to embed, in this order.
        threads: processors that one inference may use.
        timed: whether to measure the latency too.
        seconds: after this time no further image is begun, once there are two.
        golden: a ``.npy`` of uint8 frames that golden vectors are made of, (N, H, W, C).
    """
    version = importlib.metadata.version(runtime)
    with tempfile.TemporaryDirectory(prefix="embedlite-") as folder:
        result, golden_result = Path(folder, "embeddings.npy"), Path(folder, "golden.npy")
        request = ProbeRequest(
            str(model),
            runtime,
            threads,
            str(inputs),
            list(rows),
            str(result),
            timed,
            seconds,
            None if golden is None else str(golden),
            str(golden_result),
        )
        try:
            process = subprocess.run(
                [sys.executable, "-m", "embedlite.runtime.probe"],
                input=json.dumps(asdict(request)),
                capture_output=True,
                text=True,
                timeout=PROBE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return ProbeResult(runtime, version, error=f"no answer within {PROBE_SECONDS} s")
        if process.returncode != 0 or not process.stdout:
            return ProbeResult(runtime, version, error=_death(process))
        answer = json.loads(process.stdout)
        if "error" in answer:
            return ProbeResult(runtime, version, error=answer["error"])
        facts = {key: answer[key] for key in ("latency_us", "arena_bytes")}
        replayed = None if golden is None else np.load(golden_result)
        return ProbeResult(runtime, version, np.load(result), golden=replayed, **facts)


def judge(result: ProbeResult, mode: str, frames: Frames, first: NDArray[np.float32] | None) -> Verdict:
    """Whether an interpreter runs a file rightly.

    Args:
        result: what it made of the file.
        mode: the file's quantization mode.
        frames: what it was run on; it may have stopped before the last of them.
        first: what the first interpreter made of them; None if this is the first.
    """
    mine = result.embeddings
    if mine is None:
        return Verdict(result.runtime, result.version, False, result.error)
    ran = frames.part(range(len(mine)))
    ok, detail = _sound(mine, ran)
    if ok:
        least = None if mode == "float32" else BROKEN_SQNR_DB
        ok, detail = _like(mine, ran.reference, ran, "the original", least)
    if ok and first is not None:
        common = range(min(len(mine), len(first)))
        least = None if mode in ("float32", "float16") else QUANTIZED_SQNR_DB
        ok, detail = _like(mine[common], first[common], ran.part(common), "LiteRT", least)
    return Verdict(result.runtime, result.version, ok, detail, arena_bytes=result.arena_bytes)


def _sound(mine: NDArray[np.float32], frames: Frames) -> tuple[bool, str]:
    edge = frames.edge
    finite = np.isfinite(mine.reshape(len(mine), -1)).all(axis=1)
    if not finite.all():
        where = "an edge frame" if edge[~finite].all() else "an image"
        return False, f"answers NaN or infinity for {where}"
    images, wanted = mine[~edge], frames.reference[~edge]
    # Images that are alike, or a model that answers the same to all, are not the file's fault.
    if len(images) > 1 and (wanted != wanted[0]).any() and (images == images[0]).all():
        return False, "answers the same embedding for every image"
    return True, ""


def _like(
    mine: NDArray[np.float32], other: NDArray[np.float32], frames: Frames, name: str, least_db: float | None
) -> tuple[bool, str]:
    """Whether two runs agree: closely where no ``least_db`` is given, else to that many decibels."""
    if least_db is None:
        firm = frames.firm
        distance, reach = float(np.abs(mine - other)[firm].max()), float(np.abs(other).max())
        ok = distance <= FLOAT_TOLERANCE * reach
        return ok, f"{'agrees' if ok else 'disagrees'} with {name} to {distance:.1e}"
    # Quantized files saturate on edge frames, and some runtimes sooner than others: only images are compared.
    images = ~frames.edge if (~frames.edge).any() else frames.edge
    drift, _ = measure_drift(mine[images], other[images], k=None)
    if drift.invalid:
        return False, f"{drift.invalid} embedding(s) are zero or constant where {name}'s are not"
    ok = drift.sqnr_db is None or drift.sqnr_db >= least_db
    figure = "exactly" if drift.sqnr_db is None else f"to {drift.sqnr_db:.1f} dB"
    return ok, f"{'agrees' if ok else 'disagrees'} with {name} {figure}"


def _death(process: subprocess.CompletedProcess[str]) -> str:
    if process.returncode < 0:
        return f"crashed with signal {-process.returncode}"
    lines = process.stderr.strip().splitlines()
    return f"ended with code {process.returncode}: {lines[-1] if lines else 'no message'}"


def installed(name: str) -> bool:
    """Whether a package is installed, by the name pip knows it by."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
