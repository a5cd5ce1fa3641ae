"""Latencies of several files on one interpreter, measured in turns: ``python -m embedlite.runtime.check.timing``.

Files that are to be compared are timed in one process, a short burst of each in every round, so that whatever slows the
machine down for a while slows all of them. What else runs on the machine only adds time, so low quantiles are taken,
not medians; and rounds are repeated until three parts of them, taken in turns, agree. The process is one of its own
because an interpreter may crash (:mod:`embedlite.runtime.child`).
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..child import ask, serve
from ..encoder import Encoder
from ..errors import EmbedliteError, InterpreterFailedError

_PROCESS_SECONDS = 900.0
_LEAST_ROUNDS, _MOST_RUNS = 3, 50
"""A slow file has fewer turns, a fast one no more inferences than this in each."""

_AGREEING = 1.05
_MOST_PASSES = 3
_PARTS = 3
_LOW = 0.2
"""Quantile of the inferences of a burst, and of the rounds."""


@dataclass(frozen=True)
class Timing:
    """How long one file takes for one image.

    Attributes:
        latency_us: microseconds per inference, as low as nothing else slows it down: a low quantile of the rounds.
        low_us: the same of that third of the rounds that gives least.
        high_us: of that which gives most; far from ``low_us`` on a busy machine only.
        relative: its latency by that of the first file, the median of the rounds' ratios: what slows down a whole round
            does not change it.
        arena_bytes: memory that TFLite Micro needs; None for the others.
        error: why the file could not be run; empty if it could.
    """

    latency_us: float | None
    low_us: float | None = None
    high_us: float | None = None
    relative: float | None = None
    arena_bytes: int | None = None
    error: str = ""


def time_files(
    models: Sequence[Path],
    runtime: str,
    *,
    threads: int,
    delegate: str | None = None,
    delegate_options: Mapping[str, str] | None = None,
    rounds: int = 15,
    seconds: float = 0.4,
) -> list[Timing]:
    """Time files in turns, on noise, in a process of its own.

    Args:
        models: ``.tflite`` files with a contract.
        runtime: ``ai-edge-litert``, ``tflite-runtime`` or ``tflite-micro``.
        threads: processors that one inference may use.
        delegate: path of a delegate's shared library; each file is opened with one of its own.
        delegate_options: for the delegate.
        rounds: how many times each file has its turn.
        seconds: for each file, all rounds together; a slow file has fewer rounds, but three at least.

    Returns:
        A timing for each file, in their order.

    Raises:
        InterpreterFailedError: the interpreter crashed, or did not answer.
    """
    request = {
        "models": [str(path) for path in models],
        "runtime": runtime,
        "threads": threads,
        "delegate": delegate,
        "delegate_options": dict(delegate_options or {}),
        "rounds": rounds,
        "seconds": seconds,
    }
    answer, failure = ask("check.timing", request, _PROCESS_SECONDS)
    if failure:
        raise InterpreterFailedError(
            f"{runtime} {importlib.metadata.version(runtime)} {failure}, timing "
            + (
                f"{models[0].name}. Update the interpreter, or export the model in another mode."
                if len(models) == 1
                else f"{len(models)} files. Time them one by one to see which of them it was."
            )
        )
    return [Timing(**item) for item in answer]


def main() -> None:
    """Serve one request."""
    serve(_answer)


def _answer(
    models: Sequence[str],
    runtime: str,
    threads: int,
    delegate: str | None,
    delegate_options: Mapping[str, str],
    rounds: int,
    seconds: float,
) -> list[dict[str, Any]]:
    encoders: dict[int, Encoder] = {}
    timings = [Timing(None)] * len(models)
    for place, path in enumerate(models):
        try:
            encoder = Encoder(path, threads, delegate, delegate_options=delegate_options, runtime=runtime)
            encoder.embed_one(noise_frame(encoder))
            encoders[place] = encoder
        except EmbedliteError as error:
            timings[place] = Timing(None, error=str(error))
    found: dict[int, list[float]] = {place: [] for place in encoders}
    for _ in range(_MOST_PASSES):
        spent = dict.fromkeys(encoders, 0.0)
        for round_ in range(rounds):
            for place, encoder in encoders.items():
                if round_ < _LEAST_ROUNDS or spent[place] < seconds:
                    start = time.perf_counter()
                    found[place].append(_burst(encoder, seconds / rounds))
                    spent[place] += time.perf_counter() - start
        if all(high <= low * _AGREEING for low, _, high in map(summarize, found.values())):
            break
    for place, encoder in encoders.items():
        low, latency, high = summarize(found[place])
        ratios = [mine / first for mine, first in zip(found[place], found.get(0, []), strict=False)]
        relative = float(np.median(ratios)) if ratios else None
        timings[place] = Timing(latency, low, high, relative, encoder.arena_bytes)
        encoder.close()
    return [asdict(timing) for timing in timings]


def summarize(rounds: Sequence[float]) -> tuple[float, float, float]:
    """The lowest estimate of three parts of the rounds, that of all of them, and the highest.

    Args:
        rounds: what each gave, in their order; at least three.
    """
    parts = [float(np.quantile(rounds[part::_PARTS], _LOW)) for part in range(_PARTS)]
    low, high = min(parts), max(parts)
    return low, min(max(float(np.quantile(rounds, _LOW)), low), high), high


def noise_frame(encoder: Encoder) -> NDArray[Any]:
    """An input of noise, always the same: of an image (H, W, C) as pixels, of another array around its mean."""
    contract = encoder.contract.input
    if contract.is_image:
        return np.random.default_rng(0).integers(0, 256, contract.shape).astype(np.uint8)
    noise = np.random.default_rng(0).standard_normal(contract.shape)
    return (noise * contract.std + contract.mean).astype(np.float32)


def _burst(encoder: Encoder, seconds: float) -> float:
    """A low quantile of some inferences without a pause, in µs; the first one warms the caches and does not count."""
    frame = noise_frame(encoder)
    encoder.embed_one(frame)
    durations: list[float] = []
    end = time.perf_counter() + seconds
    while not durations or (time.perf_counter() < end and len(durations) < _MOST_RUNS):
        start = time.perf_counter()
        encoder.embed_one(frame)
        durations.append(time.perf_counter() - start)
    return float(np.quantile(durations, _LOW) * 1e6)


if __name__ == "__main__":
    main()
