"""Running one file on one interpreter in a process of its own: ``python -m embedlite.runtime.check.probe``.

A crash there is an answer.

Request and answer are JSON (:mod:`embedlite.runtime.child`), the embeddings a ``.npy``. The answer's keys are
``version``, ``arena_bytes`` (null but on TFLite Micro), or ``error`` alone.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..child import ask, serve
from ..encoder import Encoder
from ..errors import EmbedliteError

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


def probe(
    model: Path,
    runtime: str,
    inputs: Path,
    rows: Sequence[int],
    *,
    threads: int,
    seconds: float,
    golden: Path | None = None,
    limit: float = PROBE_SECONDS,
) -> ProbeResult:
    """Run a file on one interpreter, in a process of its own.

    Args:
        model: the ``.tflite``.
        runtime: ``ai-edge-litert``, ``tflite-runtime`` or ``tflite-micro``.
        inputs: a ``.npy`` of model-ready images, (N, H, W, C) float32.
        rows: which of them to embed, in this order.
        threads: processors that one inference may use.
        seconds: after this time no further image is begun, once there are two.
        golden: a ``.npy`` of frames that golden vectors are made of, as an encoder takes them.
        limit: seconds after which the process is ended without an answer.
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
        answer, failure = ask("check.probe", asdict(request), limit)
        if failure:
            return ProbeResult(runtime, version, error=failure)
        if "error" in answer:
            return ProbeResult(runtime, version, error=answer["error"])
        replayed = None if golden is None else np.load(golden_result)
        return ProbeResult(runtime, version, np.load(result), answer["arena_bytes"], replayed)


LEAST_ROWS = 2


@dataclass(frozen=True)
class ProbeRequest:
    """What to run.

    Attributes:
        model: path of the ``.tflite``.
        runtime: ``ai-edge-litert``, ``tflite-runtime`` or ``tflite-micro``.
        threads: processors that one inference may use.
        inputs: path of a ``.npy`` with model-ready images (N, H, W, C) float32.
        rows: which of them to embed, in this order.
        result: path for the embeddings; fewer than ``rows`` if time ran out.
        seconds: after this time no further image is begun, once there are two.
        golden: path of a ``.npy`` with frames that golden vectors are made of, as an encoder takes them, or None.
        golden_result: path for their embeddings.
    """

    model: str
    runtime: str
    threads: int
    inputs: str
    rows: list[int]
    result: str
    seconds: float
    golden: str | None = None
    golden_result: str = ""


def main() -> None:
    """Serve one request."""
    serve(_answer)


def _answer(**request: Any) -> dict[str, Any]:
    try:
        return _run(ProbeRequest(**request))
    except EmbedliteError as error:
        return {"error": str(error)}


def _run(request: ProbeRequest) -> dict[str, Any]:
    inputs = np.load(request.inputs, mmap_mode="r")
    with Encoder(request.model, request.threads, runtime=request.runtime) as encoder:
        np.save(Path(request.result), np.stack(list(_embed(encoder, inputs, request))))
        facts = {"version": encoder.runtime.version, "arena_bytes": encoder.arena_bytes}
    if request.golden is not None:
        # One thread: more may split sums differently, and the same export shall give the same bytes.
        with Encoder(request.model, 1, runtime=request.runtime) as encoder:
            np.save(Path(request.golden_result), encoder.embed(np.load(request.golden)))
    return facts


def _embed(encoder: Encoder, inputs: Any, request: ProbeRequest) -> Iterator[NDArray[np.float32]]:
    end = time.monotonic() + request.seconds
    for done, row in enumerate(request.rows):
        if done >= LEAST_ROWS and time.monotonic() > end:
            return
        yield encoder.embed_ready(np.array(inputs[row]))


if __name__ == "__main__":
    main()
