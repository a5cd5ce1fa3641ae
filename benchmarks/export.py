"""Time to four files of the 512x512x3 six-block encoder: one embedlite run against four TensorFlow conversions.

    python3 run.py bench export [IMAGES]      number of calibration images, default 32

TensorFlow's import is left out of both sides. embedlite is timed twice: writing the files, and the whole export with
drift, latency and every interpreter's verdict, which the other side does not give; both without corrections of the int8
file, which the other side does not know either. Each side is repeated; medians.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from embedlite.runtime.commands.options import quiet_libraries

with quiet_libraries():
    import keras
    import tensorflow as tf

    from embedlite.convert import ExportOptions, export

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

SIZE, ROUNDS = 512, 3
MODES = ("float32", "float16", "dynamic", "int8")


def four_conversions(model: keras.Model, images: np.ndarray, folder: Path) -> None:
    """What a user does today."""
    for mode in MODES:
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        if mode != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if mode == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if mode == "int8":
            converter.representative_dataset = lambda: ([image[None]] for image in images)
        (folder / f"{mode}.tflite").write_bytes(converter.convert())


def seconds(work: Callable[[Path], object]) -> float:
    """Wall-clock time of one run in an empty folder."""
    with tempfile.TemporaryDirectory() as folder, quiet_libraries():
        start = time.perf_counter()
        work(Path(folder))
        return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    from six_blocks import six_blocks

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 32
    images = np.random.default_rng(0).random((count, SIZE, SIZE, 3), np.float32)
    with quiet_libraries():
        model = six_blocks((SIZE, SIZE, 3))
        model(images[:1])
    sides: dict[str, Callable[[Path], object]] = {
        "four TF conversions": lambda folder: four_conversions(model, images, folder),
        "embedlite, four files": lambda folder: export(
            model,
            folder,
            quantize=MODES,
            calibration_data=images,
            test_data=images[:1],
            options=ExportOptions(measure=False, correct=["none"]),
        ),
        "embedlite, measured too": lambda folder: export(
            model,
            folder,
            quantize=MODES,
            calibration_data=images,
            test_data=images[:16],
            options=ExportOptions(correct=["none"]),
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    # In turn, so that a machine that slows down slows all of them.
    for _ in range(ROUNDS):
        for name, work in sides.items():
            times[name].append(seconds(work))
    base = statistics.median(times["four TF conversions"])
    print(f"{SIZE}x{SIZE}x3, {count} calibration images, {ROUNDS} rounds, medians\n")
    print(f"{'':<26}{'seconds':>9}{'times faster':>14}")
    for name, values in times.items():
        print(f"{name:<26}{statistics.median(values):>9.1f}{base / statistics.median(values):>14.1f}")


if __name__ == "__main__":
    main()
