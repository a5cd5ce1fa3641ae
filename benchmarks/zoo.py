"""Int8 on many networks against what people have: TensorFlow's converter, and litert-quantizer.

    python3 run.py bench zoo out/zoo.jsonl [--draws 5] [--images 256] [--tune 600] [--modes int8 dynamic int16x8]
                             [--only NAME ...] [--table]

Every way gets the same calibration images, drawn anew for each draw, and all test images (260 or more) judge it by the
original. `tuned` is int8 with `--fine-tune`; `--tune 0` leaves it out. What is measured goes to the file line by line,
and what is there is not measured again, so that a run of hours may be ended and started. `--table` prints what the file
has. litert-quantizer is there twice, on the float graph that embedlite makes: with its own calibration, and with the
minimum and maximum of all images; where it refuses a network, that row is left out. A network whose package is not to
be had is left out with a line. TensorFlow's converter gets a `.tflite` as a function that computes the same.

Networks with random weights amplify any noise, so they are held to "never worse" and stay out of the medians. `tail` is
the mean of the worst twentieth of 1 - cosine; CPU is the processor time of one inference in one thread. What is said of
"never worse", and how it is tested, is in `zoo_verdicts.py`.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from zoo_networks import Network, networks
from zoo_packages import UnavailableError
from zoo_verdicts import LITERT, MINMAX, TF, TF_DYNAMIC, TUNED, report

from embedlite.runtime import Encoder
from embedlite.runtime.backends.interpreters import find_runtime, open_interpreter
from embedlite.runtime.commands.options import quiet_libraries
from embedlite.runtime.drift import measure_drift
from embedlite.runtime.model.artifact import read_artifact
from embedlite.runtime.model.flatbuffer import read_flatbuffer

with quiet_libraries():
    import keras
    import tensorflow as tf
    from accuracy import Way, litert_default
    from int8 import run

    from embedlite.convert import ExportOptions, export
    from embedlite.convert.tune.network import Network as Function

RUNS = 20


def figures(found: np.ndarray, reference: np.ndarray, file: bytes, image: np.ndarray) -> dict[str, Any]:
    """One way on one network: embeddings compared with the original's, and the errors of each image."""
    found, reference = (values.reshape(len(values), -1).astype(np.float64) for values in (found, reference))
    drift, _ = measure_drift(found.astype(np.float32), reference.astype(np.float32))
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(reference, axis=1)
    return {
        "sqnr": drift.sqnr_db,
        "p1": drift.cosine_p1,
        "lost": 1 - (drift.knn_overlap_cross or 0.0),
        "bytes": len(file),
        "cpu_us": processor_time(file, image),
        "squared": ((found - reference) ** 2).sum(1).tolist(),
        "angles": (1 - (found * reference).sum(1) / np.maximum(lengths, 1e-30)).tolist(),
    }


def processor_time(file: bytes, image: np.ndarray) -> float:
    """Microseconds of the process's time for one inference in one thread, a low quantile."""
    interpreter = open_interpreter(find_runtime(), file, threads=1)
    details = interpreter.get_input_details()[0]
    interpreter.set_tensor(details["index"], image[None].astype(details["dtype"]))
    spent = []
    for _ in range(RUNS):
        start = time.process_time_ns()
        interpreter.invoke()
        spent.append((time.process_time_ns() - start) / 1e3)
    return float(np.quantile(spent, 0.2))


def original(network: Network, folder: Path, settings: dict[str, Any]) -> tuple[Any, Callable[[np.ndarray], Any], Any]:
    """The model, what it answers, and TensorFlow's converter for it."""
    model = network.build()
    if isinstance(model, keras.Model):

        def answer(images: np.ndarray) -> np.ndarray:
            return np.concatenate([np.asarray(model(image[None], training=False)) for image in images])

        return model, answer, lambda: tf.lite.TFLiteConverter.from_keras_model(model)
    options = ExportOptions(measure=False, **settings)
    flatbuffer = read_artifact(export(model, folder, quantize=["float32"], options=options).files[0].path).flatbuffer
    function = Function(flatbuffer)
    shape = read_flatbuffer(flatbuffer).inputs[0].shape

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name="image")])
    def call(image: Any) -> Any:
        return function(image)[function.output]

    concrete = call.get_concrete_function()
    return (
        model,
        lambda images: run(flatbuffer, images),
        lambda: tf.lite.TFLiteConverter.from_concrete_functions([concrete]),
    )


def measured(
    network: Network, model: Any, answer: Any, converter: Any, options: argparse.Namespace, draw: int
) -> dict[str, dict[str, Any]]:
    """Every way on one network with one draw of calibration images."""
    pool, test, _ = network.images()
    calibration = pool[np.random.default_rng(draw).permutation(len(pool))[: options.images]]
    mean, deviation = network.scaling
    ready, tested = ((images.astype(np.float32) - mean) / deviation for images in (calibration, test))
    ready, tested = ready.astype(np.float32), tested.astype(np.float32)
    reference = answer(tested)
    rows: dict[str, dict[str, Any]] = {}
    for name in (TF, TF_DYNAMIC) if "dynamic" in options.modes else (TF,):
        made = converter()
        made.optimizations = [tf.lite.Optimize.DEFAULT]
        if name == TF:
            made.representative_dataset = lambda: ([image[None]] for image in ready)
        file = made.convert()
        rows[name] = figures(run(file, tested), reference, file, tested[0])
    settings = contract(network)
    plain = ExportOptions(measure=False, calibrate_method="minmax", equalize=False, correct=("none",), **settings)
    ways = [
        ({"int8": MINMAX, "float32": LITERT}, plain),
        ({mode: mode for mode in options.modes}, ExportOptions(measure=False, **settings)),
    ]
    if options.tune:
        tuning = ExportOptions(measure=False, fine_tune=True, fine_tune_time=options.tune, **settings)
        ways.append(({"int8": TUNED}, tuning))
    for modes, chosen in ways:
        with tempfile.TemporaryDirectory() as folder:
            result = export(
                model, folder, quantize=list(modes), calibration_data=calibration, test_data=test, options=chosen
            )
            for file in result.files:
                with Encoder(file.path) as encoder:
                    found = encoder.embed(test)
                flatbuffer = read_artifact(Path(file.path)).flatbuffer
                if file.mode == "float32":
                    rows |= litert(flatbuffer, ready, tested, reference)
                    continue
                rows[modes[file.mode]] = figures(found, reference, flatbuffer, tested[0])
            for tuning in result.fine_tuning:
                gained = (tuning.sqnr_after or 0) - (tuning.sqnr_before or 0) if tuning.kept else 0.0
                rows[TUNED] |= {"kept": tuning.kept, "held_out_gain": gained, "steps": tuning.steps}
    return rows


def litert(
    flatbuffer: bytes, ready: np.ndarray, tested: np.ndarray, reference: np.ndarray
) -> dict[str, dict[str, Any]]:
    """litert-quantizer's 8-bit recipe with its own calibration, on the float graph."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            way = Way(litert_default(flatbuffer, ready))
        return {LITERT: figures(way.embed(tested), reference, way.file, tested[0])}
    except (RuntimeError, ValueError) as error:
        print(f"litert-quantizer: {str(error).splitlines()[0]}", flush=True)
        return {}


def contract(network: Network) -> dict[str, Any]:
    """What an export must be told of the network."""
    mean, deviation = network.scaling
    return {"mean": (mean,), "std": (deviation,), "output": network.output, "accept_contract": True}


def main() -> None:
    """Measure what is not there yet, and print."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--tune", type=float, default=600.0)
    parser.add_argument("--modes", nargs="+", default=["int8", "dynamic", "int16x8"])
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    options.file.parent.mkdir(parents=True, exist_ok=True)
    stored = [json.loads(line) for line in options.file.read_text().splitlines()] if options.file.exists() else []
    done = {(line["network"], line["draw"]) for line in stored}
    # All networks once before any is drawn again.
    every = networks()
    if unknown := set(options.only) - {item.name for item in every}:
        parser.error(f"no network is called {', '.join(unknown)}; there are: {', '.join(item.name for item in every)}")
    wanted = [item for item in every if not options.only or item.name in options.only]
    wanted = [] if options.table else wanted
    failed: list[str] = []
    for draw in range(options.draws):
        for network in wanted:
            if (network.name, draw) in done:
                continue
            start = time.monotonic()
            try:
                with quiet_libraries(), tempfile.TemporaryDirectory() as folder:
                    model, answer, converter = original(network, Path(folder), contract(network))
                    rows = measured(network, model, answer, converter, options, draw)
            except UnavailableError as error:
                print(f"{network.name} is left out: {error}", flush=True)
                continue
            except Exception as error:  # of one network, and the rest takes hours
                failed.append(f"{network.name}, draw {draw}: {type(error).__name__}: {error}")
                print(failed[-1], flush=True)
                continue
            line = {
                "network": network.name,
                "trained": network.is_trained,
                "draw": draw,
                "images": options.images,
                "tune": options.tune,
                "seconds": round(time.monotonic() - start),
                "sources": network.images()[2].tolist(),
                "ways": rows,
            }
            with options.file.open("a") as file:
                file.write(json.dumps(line) + "\n")
            stored.append(line)
            keras.backend.clear_session()
    print(report(stored))
    if failed:
        sys.exit("\n".join(["not measured:", *failed]))


if __name__ == "__main__":
    main()
