"""Calibration on a Dask cluster of this machine, against plain processes; and where the limits of a large one lie.

Call it with the float32 file of the example: ``python benchmarks/scale_out.py out/model.float32.tflite``. The pool is a
``.npy`` of random pixels. Whoever runs it is started, and has run the pool once, before a clock runs; the ways take
turns, and each figure is the median of the rounds. The table for 10 to 1,000 workers is a simulation: its assumptions
stand beside it, everything else in it was measured here.
"""

import contextlib
import functools
import multiprocessing
import pickle
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from embedlite.calibration import collect_statistics, merge
from embedlite.calibration.engine import LocalEngine
from embedlite.calibration.engine.dask_engine import DaskEngine, shard_size
from embedlite.calibration.statistics import Statistics, sparse
from embedlite.runtime.images.open import open_source
from embedlite.runtime.images.source import Source
from embedlite.runtime.model.artifact import Artifact, read_artifact

IMAGES, ROUNDS, SHARDS = 2048, 3, 1000
POOL, STORED_BYTES = 10_000_000, 100_000
CLIENT_LINK, BUCKET = 10e9 / 8, 100e9 / 8
"""Assumed, in bytes a second: the network of the machine that merges, and what a bucket gives to all workers."""


def main() -> None:
    """Measure, and print tables."""
    artifact = read_artifact(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        pool = Path(folder, "pool.npy")
        np.save(pool, np.random.default_rng(0).integers(0, 256, (IMAGES, *artifact.contract.input.shape), np.uint8))
        source = open_source(pool, artifact.contract.input)
        rates, overhead = throughput(artifact, source, pool)
        memory(artifact, Path(folder))
        per_merge, size = merging(artifact, source)
    simulate(rates["dask, 1 worker"], overhead, per_merge, size)


def throughput(artifact: Artifact, source: Source, pool: Path) -> tuple[dict[str, float], float]:
    """Images a second of each way, and the seconds that the engine needs for a shard beside the work itself."""
    with contextlib.ExitStack() as stack:
        ways: dict[str, Callable[[], object]] = {
            f"threads, {count}": functools.partial(
                collect_statistics, artifact.flatbuffer, source, engine=LocalEngine(count)
            )
            for count in (1, 2)
        }
        processes = stack.enter_context(ProcessPoolExecutor(2, multiprocessing.get_context("spawn")))
        ways["processes, 2"] = functools.partial(by_processes, processes, sys.argv[1], pool)
        for count in (1, 2, 4):
            engine = stack.enter_context(DaskEngine.on_this_machine(count))
            ways[f"dask, {count} worker{'s' * (count > 1)}"] = functools.partial(
                collect_statistics, artifact.flatbuffer, source, engine=engine
            )
            if count == 1:
                one = engine
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(ROUNDS + 1):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                if turn:
                    taken[name].append(time.perf_counter() - start)
        overhead = engine_overhead(source, one)
    rates = {name: IMAGES / statistics.median(times) for name, times in taken.items()}
    print(f"{IMAGES} images of {artifact.contract.input.shape}, {ROUNDS} rounds\n\n way               images/s   range")
    for name, rate in rates.items():
        low, high = IMAGES / max(taken[name]), IMAGES / min(taken[name])
        print(f" {name:<16} {rate:>9.0f}   {low:.0f} to {high:.0f}")
    ratio = rates["dask, 2 workers"] / rates["processes, 2"]
    print(f"\ntwo Dask workers have {ratio:.1%} of the throughput of two processes (limit: 85%)")
    print(f"the engine takes {overhead / 64 * 1e3:.3f} ms an image in shards of 64 (limit: 0.5)")
    return rates, overhead


def by_processes(processes: ProcessPoolExecutor, model: str, pool: Path) -> Statistics:
    """Two processes, each with half of the images, as one would write it by hand."""
    halves = processes.map(half, (model, model), (pool, pool), (0, 1))
    return merge(pickle.loads(data) for data in halves)


def half(model: str, pool: Path, part: int) -> bytes:
    """Statistics of every other image."""
    artifact = opened(model)
    source = open_source(pool, artifact.contract.input)
    indices = range(part, len(source), 2)
    return pickle.dumps(sparse(collect_statistics(artifact.flatbuffer, source, threads=1, indices=indices)))


@functools.cache
def opened(model: str) -> Artifact:
    """The file, read once in a process."""
    return read_artifact(model)


@dataclass(frozen=True)
class Nothing:
    """A task that does nothing with its images: what is left is the engine."""

    images: None = None

    def open(self, model: bytes) -> "Nothing":
        """Itself."""
        return self

    def add(self, source: Source, index: int) -> None:
        """Nothing."""

    def finish(self) -> bytes:
        """Little."""
        return b"0"


def engine_overhead(source: Source, engine: DaskEngine) -> float:
    """Seconds a shard of 64 images that are not even read."""
    engine, taken = DaskEngine(engine._client, shard_images=64), list[float]()
    for _ in range(ROUNDS):
        start = time.perf_counter()
        shards = len(list(engine.run(Nothing(), b"", source)))
        taken.append((time.perf_counter() - start) / shards)
    return statistics.median(taken)


def memory(artifact: Artifact, folder: Path) -> None:
    """A worker's largest memory after a pool, and after one eight times as large."""
    peaks = []
    for count in (1024, 8192):
        path = folder / f"{count}.npy"
        shape = (count, *artifact.contract.input.shape)
        np.save(path, np.random.default_rng(1).integers(0, 256, shape, np.uint8))
        with DaskEngine.on_this_machine(1) as engine:
            collect_statistics(
                artifact.flatbuffer, open_source(path, artifact.contract.input), histograms=False, engine=engine
            )
            (peak,) = engine._client.run(lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss).values()
            peaks.append(peak / 1024)
    print(f"a worker's largest memory: {peaks[0]:.0f} MB after 1024 images, {peaks[1]:.0f} MB after 8192")


def merging(artifact: Artifact, source: Source) -> tuple[float, int]:
    """Seconds to merge the statistics of a shard, and the bytes that come for it."""
    made = [
        sparse(collect_statistics(artifact.flatbuffer, source, threads=1, indices=range(start, start + 64)))
        for start in range(0, 1024, 64)
    ]
    size = len(pickle.dumps(made[0]))
    # Other images for each, or merging would refuse them as counted twice.
    parts = [
        replace(item, plain=replace(item.plain, images=number))
        for number, item in enumerate(made * (SHARDS // len(made) + 1))
    ][:SHARDS]
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        merge(parts)
        taken.append(time.perf_counter() - start)
    seconds = statistics.median(taken)
    print(f"merging {SHARDS} shard statistics of {size / 1e3:.0f} KB takes {seconds:.2f} s (limit: 1)")
    return seconds / SHARDS, size


def simulate(rate: float, overhead: float, per_merge: float, size: int) -> None:
    """Images a second of large clusters: the least of what each part could do alone."""
    print(
        f"\nsimulated: a pool of {POOL:,} images of {STORED_BYTES / 1e3:.0f} KB; every worker as quick as one here\n"
        f"({rate:.0f} images/s); the merging machine has {CLIENT_LINK * 8 / 1e9:.0f} Gbit/s and this machine's "
        f"processor, the bucket {BUCKET * 8 / 1e9:.0f} Gbit/s\n"
    )
    print(" workers   shard   images/s   limit       hours")
    for workers in (10, 100, 1000):
        images = shard_size(POOL, workers)
        parts = {
            "workers": workers * rate,
            "scheduler": images / overhead,
            "merge": images / per_merge,
            "network": images * CLIENT_LINK / size,
            "storage": BUCKET / STORED_BYTES,
        }
        limit = min(parts, key=parts.__getitem__)
        print(f" {workers:>7}   {images:>5}   {parts[limit]:>8.0f}   {limit:<9} {POOL / parts[limit] / 3600:>7.2f}")


if __name__ == "__main__":
    main()
