"""Every written file is run by every installed interpreter, each in a process of its own.

What is compared: a file on one interpreter with the float32 file on the first interpreter, for the same images.
Interpreters round int8 differently (XNNPACK against the reference kernels), so quantized files are held to the
drift between two interpreters, not to equality.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..runtime.drift import measure_drift
from ..runtime.interpreters import RUNTIMES
from ..runtime.probe import ProbeRequest
from .results import Verdict

PROBE_SECONDS = 300
FLOAT_TOLERANCE = 1e-4
"""Largest difference between two interpreters on one float file, relative to the largest value."""

QUANTIZED_SQNR_DB = 15.0
"""Two interpreters on one quantized file must agree at least this well."""


@dataclass(frozen=True)
class ProbeResult:
    """What one interpreter made of one file; ``embeddings`` is None if it failed, ``error`` then says how."""

    runtime: str
    version: str
    embeddings: NDArray[np.float32] | None
    latency_us: float | None
    error: str


def installed_runtimes() -> list[str]:
    """The interpreter packages that are installed, in the order of preference."""
    return [name for name in RUNTIMES if _installed(name)]


def probe(model: Path, runtime: str, inputs: Path, count: int, *, threads: int, timed: bool) -> ProbeResult:
    """Run a file on one interpreter, in a process of its own.

    Args:
        model: the ``.tflite``.
        runtime: ``ai-edge-litert`` or ``tflite-runtime``.
        inputs: a ``.npy`` of model-ready images, (N, H, W, C) float32.
        count: how many of them to embed.
        threads: processors that one inference may use.
        timed: whether to measure the latency too.
    """
    with tempfile.TemporaryDirectory(prefix="embedlite-") as folder:
        result = Path(folder, "embeddings.npy")
        request = ProbeRequest(str(model), runtime, threads, str(inputs), count, str(result), timed)
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
            return ProbeResult(runtime, "", None, None, f"no answer within {PROBE_SECONDS} s")
        if process.returncode != 0 or not process.stdout:
            return ProbeResult(runtime, "", None, None, _death(process))
        answer = json.loads(process.stdout)
        if "error" in answer:
            return ProbeResult(runtime, importlib.metadata.version(runtime), None, None, answer["error"])
        return ProbeResult(runtime, answer["version"], np.load(result), answer["latency_us"], "")


def judge(result: ProbeResult, agreed: NDArray[np.float32] | None, mode: str, varied: bool) -> Verdict:
    """Whether an interpreter runs a file rightly.

    Args:
        result: what it made of the file.
        agreed: what the first interpreter made of the same file; None if this is the first.
        mode: the file's quantization mode.
        varied: whether the Keras model gives these images different embeddings.
    """
    ok, detail = True, "runs"
    if result.embeddings is None:
        ok, detail = False, result.error
    elif not np.isfinite(result.embeddings).all():
        ok, detail = False, "answers NaN or infinity"
    elif varied and len(result.embeddings) > 1 and (result.embeddings == result.embeddings[0]).all():
        ok, detail = False, "answers the same embedding for every image"
    elif agreed is not None:
        ok, detail = _agreement(result.embeddings, agreed, mode)
    return Verdict(result.runtime, result.version, ok, detail)


def _agreement(mine: NDArray[np.float32], other: NDArray[np.float32], mode: str) -> tuple[bool, str]:
    drift, _ = measure_drift(mine, other, k=None)
    if mode in ("float32", "float16"):
        tolerance = FLOAT_TOLERANCE * float(np.abs(other).max())
        within = drift.invalid == 0 and drift.max_abs is not None and drift.max_abs <= tolerance
        return within, f"{'agrees' if within else 'disagrees'} with LiteRT to {drift.max_abs or 0:.1e}"
    within = drift.invalid == 0 and (drift.sqnr_db is None or drift.sqnr_db >= QUANTIZED_SQNR_DB)
    figure = "exactly" if drift.sqnr_db is None else f"to {drift.sqnr_db:.1f} dB"
    return within, f"{'agrees' if within else 'disagrees'} with LiteRT {figure}"


def _death(process: subprocess.CompletedProcess[str]) -> str:
    if process.returncode < 0:
        return f"crashed with signal {-process.returncode}"
    lines = process.stderr.strip().splitlines()
    return f"ended with code {process.returncode}: {lines[-1] if lines else 'no message'}"


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
