"""Time of calibration for each image, against plain float inference of the same graph on the same processors.

Every way of it takes the same uint8 images through the same preprocessing. Plain inference is one bare interpreter with
as many threads as there are processors to use; its time and embedlite's include opening interpreters. The others are
timed without what comes before their first image: litert-quantizer's calibrators, which are handed prepared images in a
list, from an open interpreter that has run one; TensorFlow's converter, which has no number of threads, from when it
asks for its second image to when it is done with the last. The ways take turns, so that other work on the machine
meets all of them, and each round's times are compared with plain inference in that round; medians.
"""

import contextlib
import io
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
from calibration_graph import SHAPE, encoder, float_graph

from embedlite.calibration import collect_statistics
from embedlite.runtime import InputContract
from embedlite.runtime.backends.interpreters import find_runtime, open_interpreter
from embedlite.runtime.commands.options import quiet_libraries
from embedlite.runtime.images.open import open_source
from embedlite.runtime.images.source import Source
from embedlite.runtime.machine import available_threads

with quiet_libraries():
    import keras
    import tensorflow as tf
    from litert_quantizer.calibrator import CalibrationMode, Calibrator
    from litert_quantizer.recipe import static_wi8_ai8
    from litert_quantizer.recipe_manager import RecipeManager

IMAGES, FEW = 100, 6
ROUNDS, CONVERSIONS = 5, 3
PLAIN, CONVERTER = "plain float inference", "TF converter"


def plain(flatbuffer: bytes, source: Source, threads: int) -> float:
    """Seconds an image of the bare interpreter."""
    start = time.perf_counter()
    interpreter = open_interpreter(find_runtime(), flatbuffer, threads=threads)
    place, result = (
        details()[0]["index"] for details in (interpreter.get_input_details, interpreter.get_output_details)
    )
    for index in range(len(source)):
        interpreter.set_tensor(place, source.ready(index)[None])
        interpreter.invoke()
        interpreter.get_tensor(result)
    return (time.perf_counter() - start) / len(source)


def ours(flatbuffer: bytes, without: set[str], source: Source, threads: int, histograms: bool) -> float:
    """Seconds an image of embedlite."""
    start = time.perf_counter()
    collect_statistics(flatbuffer, source, histograms=histograms, threads=threads, without=without)
    return (time.perf_counter() - start) / len(source)


def litert(flatbuffer: bytes, source: Source, threads: int, mode: CalibrationMode) -> float:
    """Seconds an image of a calibrator of litert-quantizer."""
    calibrator = Calibrator(flatbuffer, num_threads=threads, mode=mode)
    (signature,) = calibrator.get_signature_list()
    recipe = RecipeManager()
    recipe.load_quantization_recipe(static_wi8_ai8())

    def run(indices: range) -> None:
        images = [{"image": source.ready(index)[None]} for index in indices]
        calibrator.calibrate({signature: images}, recipe)

    run(range(1))
    start = time.perf_counter()
    run(range(1, FEW))
    return (time.perf_counter() - start) / (FEW - 1)


def converter(model: keras.Model, source: Source) -> float:
    """Seconds an image of TensorFlow's converter while it calibrates."""
    asked: list[float] = []

    def images() -> Iterator[list[np.ndarray]]:
        for index in range(FEW):
            asked.append(time.perf_counter())
            yield [source.ready(index)[None]]
        asked.append(time.perf_counter())

    converting = tf.lite.TFLiteConverter.from_keras_model(model)
    converting.optimizations = [tf.lite.Optimize.DEFAULT]
    converting.representative_dataset = images
    converting.convert()
    return (asked[-1] - asked[1]) / (len(asked) - 2)


def measure_throughput() -> None:
    """Measure and print."""
    model = encoder()
    flatbuffer, without = float_graph(model)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (IMAGES, *SHAPE), np.uint8)
    source = open_source(pixels, InputContract(SHAPE))
    few = source.subset(range(FEW))
    print(f"{SHAPE[0]}x{SHAPE[1]}x{SHAPE[2]}, {ROUNDS} rounds of {IMAGES} images, of {FEW - 1} with litert-quantizer;")
    print(f"{CONVERSIONS} rounds of {FEW - 1} images with TensorFlow's converter; medians\n")
    print(f"{'':<38}{'threads':>8}{'ms an image':>13}{'x plain speed':>15}")
    for threads in sorted({1, available_threads()}):
        ways: dict[str, Callable[[int], float]] = {
            PLAIN: lambda n: plain(flatbuffer, source, n),
            "embedlite, minimum and maximum": lambda n: ours(flatbuffer, without, source, n, histograms=False),
            "embedlite, histograms": lambda n: ours(flatbuffer, without, source, n, histograms=True),
            "litert-quantizer, tensors preserved": lambda n: litert(
                flatbuffer, few, n, CalibrationMode.CALIBRATION_PRESERVE_ALL_TENSORS
            ),
            "litert-quantizer, profiler": lambda n: litert(
                flatbuffer, few, n, CalibrationMode.CALIBRATION_PROFILER_BASED
            ),
        }
        if threads == 1:
            ways[CONVERTER] = lambda n: converter(model, few)
        times: dict[str, list[float]] = {name: [] for name in ways}
        # In turn and in changing order, so that a machine that slows down slows all of them.
        for turn in range(ROUNDS):
            for name in generator.permutation(list(ways)):
                if name == CONVERTER and turn >= CONVERSIONS:
                    continue
                # Progress bars, warnings and what Keras says of every export.
                with (
                    quiet_libraries(),
                    contextlib.redirect_stdout(io.StringIO()),
                    contextlib.redirect_stderr(sys.stdout),
                ):
                    times[name].append(ways[name](threads))
        for name, seconds in times.items():
            speed = statistics.median(base / took for base, took in zip(times[PLAIN], seconds, strict=False))
            print(f"{name:<38}{threads:>8}{1000 * statistics.median(seconds):>13.1f}{speed:>15.2f}", flush=True)
