"""What the drift monitor costs: the 256x256x3 six-block int8 encoder with and without it, side by side.

    python3 run.py bench monitor

One thread embeds images one after the other without a pause, the worst case. Both sides take turns, a few images each,
so that a machine that slows down slows both; the monitor's clock, and with it its budget, stands still in the other
side's turns. Time is what the caller waits for; processor time is that of the whole process, the monitor's own thread
and its saved states included.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from embedlite.runtime.commands.options import quiet_libraries

with quiet_libraries():
    from embedlite.convert import ExportOptions, export
    from embedlite.runtime import DriftMonitor, Encoder

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

SIZE, TURN, TURNS = 256, 25, 16
CALLS = 20_000
SETTINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("every=100 (default)", {}),
    ("every=10", {"every": 10}),
    ("every=1", {"every": 1}),
    ("every=10, budget=None", {"every": 10, "budget": None}),
    ("every=1, budget=None", {"every": 1, "budget": None}),
)


def measure(work: Callable[[Any], object], images: np.ndarray) -> tuple[list[float], float]:
    """Seconds of each call, and processor seconds of all."""
    taken, processor = [], time.process_time()
    for image in images:
        start = time.perf_counter()
        work(image)
        taken.append(time.perf_counter() - start)
    return taken, time.process_time() - processor


def compare(encoder: Encoder, reference: Path, images: np.ndarray, folder: Path) -> None:
    """Print a line for each setting."""
    print(f"{SIZE}x{SIZE}x3 int8 against float32, {TURN * TURNS} images a side, ratios to the encoder alone\n")
    print(f"{'':<24}{'ms':>7}{'time':>8}{'99th':>8}{'processor':>11}{'compared':>10}{'skipped':>9}")
    for number, (name, options) in enumerate(SETTINGS):
        state = folder / f"{number}.json"
        stopped = 0.0
        clock = lambda: time.monotonic() - stopped  # noqa: B023, E731
        with DriftMonitor(encoder, reference, state=state, save_seconds=1.0, seed=0, clock=clock, **options) as monitor:
            sides: dict[str, Callable[[Any], object]] = {"bare": encoder.embed_one, "monitor": monitor.embed_one}
            taken: dict[str, list[float]] = {side: [] for side in sides}
            processor = dict.fromkeys(sides, 0.0)
            for turn in range(TURNS):
                for side in sides if turn % 2 else reversed(sides):
                    calls, used = measure(sides[side], images)
                    taken[side] += calls
                    if side == "monitor":
                        # What its thread has not done yet belongs to it.
                        began = time.process_time()
                        monitor.save()
                        used += time.process_time() - began
                    else:
                        stopped += sum(calls)
                    processor[side] += used
            counters = monitor.counters
        means = {side: float(np.mean(values)) for side, values in taken.items()}
        tails = {side: float(np.percentile(values, 99)) for side, values in taken.items()}
        print(
            f"{name:<24}{1000 * means['monitor']:>7.2f}{means['monitor'] / means['bare']:>8.3f}"
            f"{tails['monitor'] / tails['bare']:>8.3f}{processor['monitor'] / processor['bare']:>11.3f}"
            f"{counters['compared']:>10}{counters['skipped']:>9}"
        )


def not_chosen(encoder: Encoder, reference: Path) -> None:
    """Print what the monitor adds to a call whose input is not chosen."""
    image = np.zeros(encoder.contract.input.shape, np.uint8)
    with DriftMonitor(encoder, reference, every=1 << 40) as monitor:
        embedding = encoder.embed_one(image)
        start = time.perf_counter()
        for _ in range(CALLS):
            monitor._observe(image, embedding)
        each = (time.perf_counter() - start) / CALLS
    print(f"\nan input that is not chosen: {1e6 * each:.2f} us more")


def main() -> None:
    """Export, measure and print."""
    from six_blocks import six_blocks

    images = np.random.default_rng(0).integers(0, 256, (TURN, SIZE, SIZE, 3), np.uint8)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with quiet_libraries():
            export(
                six_blocks((SIZE, SIZE, 3)),
                folder,
                quantize=("float32", "int8"),
                calibration_data=images,
                options=ExportOptions(measure=False),
            )
        (int8,), (float32,) = folder.glob("*.int8.tflite"), folder.glob("*.float32.tflite")
        with quiet_libraries(), Encoder(int8, threads=1) as encoder:
            compare(encoder, float32, images, folder)
            not_chosen(encoder, float32)


if __name__ == "__main__":
    main()
