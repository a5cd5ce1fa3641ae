"""Running a file on one interpreter in a process of its own; a crash there is an answer. The process: :mod:`.probe`."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .child import ask
from .interpreters import MICRO_RUNTIME, RUNTIMES
from .probe import ProbeRequest

PROBE_SECONDS = 300


@dataclass(frozen=True)
class ProbeResult:
    """What one interpreter made of one file.

    Attributes:
        runtime: its package.
        version: its version.
        embeddings: of the first frames, as many as there was time for; None if it failed.
        arena_bytes: memory that TFLite Micro needs; None for the others.
        golden: of the golden inputs; None if they were not asked for.
        error: how it failed.
    """

    runtime: str
    version: str
    embeddings: NDArray[np.float32] | None = None
    arena_bytes: int | None = None
    golden: NDArray[np.float32] | None = None
    error: str = ""


def installed_runtimes() -> list[str]:
    """The interpreter packages that are installed, in the order of preference."""
    return [name for name in (*RUNTIMES, MICRO_RUNTIME) if installed(name)]


def installed(name: str) -> bool:
    """Whether a package is installed, by the name pip knows it by."""
    return package_version(name) is not None


def package_version(name: str) -> str | None:
    """A package's version, by the name pip knows it by; None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def probe(
    model: Path,
    runtime: str,
    inputs: Path,
    rows: Sequence[int],
    *,
    threads: int,
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
            seconds,
            None if golden is None else str(golden),
            str(golden_result),
        )
        answer, failure = ask("probe", asdict(request), PROBE_SECONDS)
        if failure:
            return ProbeResult(runtime, version, error=failure)
        if "error" in answer:
            return ProbeResult(runtime, version, error=answer["error"])
        replayed = None if golden is None else np.load(golden_result)
        return ProbeResult(runtime, version, np.load(result), answer["arena_bytes"], replayed)
