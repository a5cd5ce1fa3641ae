"""What Encoder costs over the bare interpreter: for one image, for many, at import, when a file is opened, over time.

    python3 run.py bench runtime

Each figure is taken from both sides in turn, so that other work on the machine meets both; medians, and the ratio or
the difference that has a goal. ai-edge-litert; processes of their own, without TensorFlow, for what a process costs.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from embedlite.runtime import Encoder
from embedlite.runtime.backends.interpreters import find_runtime
from embedlite.runtime.machine import available_threads

BATCH, MANY, FEW = 64, 100_000, 1_000


class Bare:
    """The interpreter without this project."""

    def __init__(self, path: Path, threads: int) -> None:
        self.interpreter = find_runtime("ai-edge-litert").module.Interpreter(model_path=str(path), num_threads=threads)
        self.interpreter.allocate_tensors()
        self.source = self.interpreter.get_input_details()[0]["index"]
        self.target = self.interpreter.get_output_details()[0]["index"]

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Embed a batch of one."""
        self.interpreter.set_tensor(self.source, batch)
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self.target)


def in_turn(rounds: int, *sides: Callable[[], object]) -> list[float]:
    """Median seconds of each side."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, taken in zip(sides, times, strict=True):
            start = time.perf_counter()
            side()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def row(name: str, bare: str, ours: str, result: str, goal: str) -> None:
    """Print a line of the table."""
    print(f"{name:<44}{bare:>12}{ours:>12}{result:>12}   {goal}", flush=True)


def one_image(folder: Path) -> None:
    """Model-ready floats, and uint8 pixels, for models of two sizes whose own work is small."""
    for name, title, rounds in (("small", "32x32x1", 3000), ("quick", "512x512x3", 800)):
        path = folder / f"{name}.float32.tflite"
        bare = Bare(path, 1)
        with Encoder(path, threads=1) as encoder:
            shape = encoder.contract.input.shape
            mean, std = (np.float32(value[0]) for value in (encoder.contract.input.mean, encoder.contract.input.std))
            pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
            ready = (pixels.astype(np.float32) - mean) / std
            batch = ready[None]
            plain, floats, integers, arithmetic = in_turn(
                rounds,
                lambda: bare(batch),  # noqa: B023 -- called within this turn of the loop
                lambda: encoder.embed_one(ready),  # noqa: B023
                lambda: encoder.embed_one(pixels),  # noqa: B023
                lambda: (pixels.astype(np.float32) - mean) / std,  # noqa: B023
            )
        over = (floats - plain) * 1e6
        row(f"embed_one, floats, {title}", us(plain), us(floats), f"{over:+.1f} µs", "<= 20 µs more")
        cost = integers - plain
        row(f"embed_one, pixels, {title}: arithmetic", us(arithmetic), us(cost), f"{cost / arithmetic:.2f}x", "<= 1.5x")


def many_images(folder: Path) -> None:
    """A batch on one core, on all, and by the interpreter's own threads."""
    path, threads = folder / "large.int8.tflite", available_threads()
    images = np.random.default_rng(0).random((BATCH, 512, 512, 3), np.float32)
    bare = Bare(path, threads)
    with Encoder(path, threads=1) as single, Encoder(path, threads=threads) as spread:
        own, one, all_of_them = in_turn(
            5,
            lambda: [bare(image[None]) for image in images],
            lambda: single.embed(images),
            lambda: spread.embed(images),
        )
    title = f"{BATCH} images of 512x512, {threads} cores"
    row(f"{title}: one core", ms(one), ms(all_of_them), f"{one / all_of_them:.2f}x", ">= 1.8x faster (two cores)")
    row(f"{title}: own threads", ms(own), ms(all_of_them), f"{own / all_of_them:.2f}x", ">= 1x faster")


def opening(folder: Path) -> None:
    """The 4.7 MB int8 file, checksum included."""
    path, threads = folder / "large.int8.tflite", available_threads()
    bare, ours = in_turn(25, lambda: Bare(path, threads), lambda: Encoder(path))
    row(f"open {path.stat().st_size / 2**20:.1f} MiB of int8", ms(bare), ms(ours), f"{ours / bare:.2f}x", "<= 1.3x")


# Resident memory is read from the kernel; pages shared with other processes count, as they do on a device.
RESIDENT = "int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20"
IMPORT = f"""
import os, time, numpy, ai_edge_litert.interpreter
before, start = {RESIDENT}, time.perf_counter()
import embedlite.runtime
print(time.perf_counter() - start, {RESIDENT} - before)
"""
CALLS = f"""
import os, sys, numpy as np
from embedlite.runtime import Encoder
pixels = np.arange(1024, dtype=np.uint16).astype(np.uint8).reshape(32, 32, 1)
ready = pixels / np.float32(255)
with Encoder(sys.argv[1], threads=1) as encoder:
    for count in range(1, {MANY} + 1):
        encoder.embed_one(ready if count % 2 else pixels)
        if count in ({FEW}, {MANY}):
            print({RESIDENT})
"""


def processes(folder: Path) -> None:
    """What an import costs, and what a hundred thousand calls leave behind."""
    # As installed: with byte code, which some environments are told not to write.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "byte code")

    def run(code: str, *arguments: str) -> list[float]:
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return [float(word) for word in done.stdout.split()]

    run(IMPORT)
    taken, grown = (statistics.median(values) for values in zip(*(run(IMPORT) for _ in range(9)), strict=True))
    row("import embedlite.runtime: time", "", ms(taken), "", "<= 30 ms over numpy and the interpreter")
    row("import embedlite.runtime: memory", "", f"{grown:.1f} MB", "", "<= 5 MB, likewise")
    few, many = run(CALLS, str(folder / "small.float32.tflite"))
    row(
        f"memory after {FEW:,} and {MANY:,} calls",
        f"{few:.1f} MB",
        f"{many:.1f} MB",
        f"{many - few:+.1f} MB",
        "<= 2 MB",
    )


def us(seconds: float) -> str:
    """Microseconds."""
    return f"{seconds * 1e6:.1f} µs"


def ms(seconds: float) -> str:
    """Milliseconds."""
    return f"{seconds * 1e3:.1f} ms"


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        builder = Path(__file__).with_name("runtime_models.py")
        subprocess.run([sys.executable, builder, folder], check=True)
        row("", "bare", "embedlite", "", "goal")
        for part in (one_image, many_images, opening, processes):
            part(folder)


if __name__ == "__main__":
    main()
