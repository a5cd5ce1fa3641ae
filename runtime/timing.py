"""Latencies of several files on one interpreter, measured in turns: ``python -m embedlite.runtime.timing``.

Files that are to be compared are timed in one process, a short burst of each in every round, so that whatever slows the
machine down for a while slows all of them. The process is one of its own because an interpreter may crash. The request
comes as JSON on stdin, the answer is one JSON line on stdout.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .encoder import Encoder
from .errors import EmbedliteError, InterpreterFailedError

_PROCESS_SECONDS = 900.0
_LEAST_RUNS, _MOST_RUNS = 3, 50
"""Inferences of one file in a round."""


@dataclass(frozen=True)
class Timing:
    """How long one file takes for one image.

    Attributes:
        latency_us: median microseconds per inference: of the rounds' medians.
        low_us: their lower quartile.
        high_us: their upper quartile.
        arena_bytes: memory that TFLite Micro needs; None for the others.
        error: why the file could not be run; empty if it could.
    """

    latency_us: float | None
    low_us: float | None = None
    high_us: float | None = None
    arena_bytes: int | None = None
    error: str = ""


def time_files(
    models: Sequence[Path], runtime: str, *, threads: int, rounds: int = 15, seconds: float = 0.4
) -> list[Timing]:
    """Time files in turns, on noise, in a process of its own.

    Args:
        models: ``.tflite`` files with a contract.
        runtime: ``ai-edge-litert``, ``tflite-runtime`` or ``tflite-micro``.
        threads: processors that one inference may use.
        rounds: how many times each file has its turn.
        seconds: for each file, all rounds together; a slow file takes longer, because every round runs it three times.

    Returns:
        A timing for each file, in their order.

    Raises:
        InterpreterFailedError: the interpreter crashed, or did not answer.
    """
    request = {"models": [str(path) for path in models], "runtime": runtime, "threads": threads, "rounds": rounds}
    try:
        process = subprocess.run(
            [sys.executable, "-m", "embedlite.runtime.timing"],
            input=json.dumps({**request, "seconds": seconds}),
            capture_output=True,
            text=True,
            timeout=_PROCESS_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InterpreterFailedError(
            f"{runtime} did not finish timing {len(models)} files within {_PROCESS_SECONDS:.0f} s. Time fewer files."
        ) from error
    if process.returncode != 0 or not process.stdout:
        version = importlib.metadata.version(runtime)
        raise InterpreterFailedError(
            f"{runtime} {version} crashed (code {process.returncode}) while files were timed. Run embed-tflite "
            "--selftest on each of them to see which one it was."
        )
    return [Timing(**item) for item in json.loads(process.stdout)]


def main() -> None:
    """Serve one request."""
    request = json.load(sys.stdin)
    # The answer's channel is kept for the answer: libraries print to stdout as well.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    json.dump([asdict(timing) for timing in _time(**request)], answer)
    answer.close()


def _time(models: Sequence[str], runtime: str, threads: int, rounds: int, seconds: float) -> list[Timing]:
    encoders: dict[int, Encoder] = {}
    timings = [Timing(None)] * len(models)
    for place, path in enumerate(models):
        try:
            encoders[place] = Encoder(path, threads, runtime=runtime)
            encoders[place].embed_one(_frame(encoders[place]))
        except EmbedliteError as error:
            timings[place] = Timing(None, error=str(error))
            encoders.pop(place, None)
    medians: dict[int, list[float]] = {place: [] for place in encoders}
    for _ in range(rounds):
        for place, encoder in encoders.items():
            medians[place].append(_burst(encoder, seconds / rounds))
    for place, encoder in encoders.items():
        low, middle, high = (float(value) for value in np.quantile(medians[place], (0.25, 0.5, 0.75)))
        timings[place] = Timing(middle, low, high, encoder.arena_bytes)
        encoder.close()
    return timings


def _frame(encoder: Encoder) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, encoder.contract.input.shape).astype(np.uint8)


def _burst(encoder: Encoder, seconds: float) -> float:
    """Median microseconds of some inferences without a pause; the first one warms the caches and does not count."""
    frame = _frame(encoder)
    encoder.embed_one(frame)
    durations: list[float] = []
    end = time.perf_counter() + seconds
    while len(durations) < _LEAST_RUNS or (time.perf_counter() < end and len(durations) < _MOST_RUNS):
        start = time.perf_counter()
        encoder.embed_one(frame)
        durations.append(time.perf_counter() - start)
    return float(np.median(durations) * 1e6)


if __name__ == "__main__":
    main()
