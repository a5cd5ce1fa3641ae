"""Int8 on many networks against what people have: TensorFlow's converter, and litert-quantizer with min/max.

    python3 run.py bench zoo [DRAWS [NAME ...]]    draws of 64 calibration images, default 1; a network, or `trained`

Every way gets the same calibration images, and at least 256 test images judge it by the Keras model. Networks with
random weights amplify any noise, so they are held to "never worse" and stay out of the medians. The network where the
int8 file falls furthest behind the better of TensorFlow's int8 and min/max comes first. `tail` is the mean of the worst
twentieth of 1 - cosine; CPU is the processor time of one inference in one thread.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from zoo_networks import networks

from embedlite.runtime import Encoder
from embedlite.runtime.backends.interpreters import find_runtime, open_interpreter
from embedlite.runtime.commands.options import quiet_libraries
from embedlite.runtime.drift import measure_drift
from embedlite.runtime.model.artifact import read_artifact

with quiet_libraries():
    import keras
    import tensorflow as tf
    from int8 import converter_int8, run

    from embedlite.convert import ExportOptions, export

IMAGES, RUNS = 64, 20
MODES = ("dynamic", "int8", "int16x8")
TF, TF_DYNAMIC, MINMAX = "TF int8", "TF dynamic", "min/max"


@dataclass(frozen=True)
class Row:
    """One way on one network."""

    sqnr: float
    p1: float
    tail: float
    lost: float
    size: int
    cpu_us: float


def row(found: np.ndarray, reference: np.ndarray, file: bytes, image: np.ndarray) -> Row:
    """Compare embeddings with the Keras model's."""
    found, reference = (values.reshape(len(values), -1).astype(np.float64) for values in (found, reference))
    drift, _ = measure_drift(found.astype(np.float32), reference.astype(np.float32))
    cosines = (found * reference).sum(1) / np.maximum(
        np.linalg.norm(found, axis=1) * np.linalg.norm(reference, axis=1), 1e-30
    )
    tail = np.sort(1 - cosines)[-max(1, len(cosines) // 20) :].mean()
    sqnr = np.inf if drift.sqnr_db is None else drift.sqnr_db
    return Row(
        sqnr, drift.cosine_p1 or 0.0, tail, 1 - (drift.knn_overlap_cross or 0.0), len(file), processor_time(file, image)
    )


def processor_time(file: bytes, image: np.ndarray) -> float:
    """Microseconds of the process's time for one inference in one thread, a low quantile."""
    interpreter = open_interpreter(find_runtime(), file, threads=1)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
    spent = []
    for _ in range(RUNS):
        start = time.process_time_ns()
        interpreter.invoke()
        spent.append((time.process_time_ns() - start) / 1e3)
    return float(np.quantile(spent, 0.2))


def measured(model: keras.Model, calibration: np.ndarray, test: np.ndarray) -> dict[str, Row]:
    """Every way on one network."""
    ready, tested = (images.astype(np.float32) / 255 for images in (calibration, test))
    reference = np.concatenate([np.asarray(model(image[None], training=False)) for image in tested])
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    files = {TF: converter_int8(model, ready), TF_DYNAMIC: converter.convert()}
    rows = {name: row(run(file, tested), reference, file, tested[0]) for name, file in files.items()}
    plain = ExportOptions(measure=False, calibrate_method="minmax", equalize=False, correct=("none",))
    for modes, options in ((("int8",), plain), (MODES, ExportOptions(measure=False))):
        with tempfile.TemporaryDirectory() as folder:
            result = export(
                model, folder, quantize=modes, calibration_data=calibration, test_data=test, options=options
            )
            for file in result.files:
                with Encoder(file.path) as encoder:
                    found = encoder.embed(test)
                name = MINMAX if options is plain else file.mode
                rows[name] = row(found, reference, read_artifact(Path(file.path)).flatbuffer, tested[0])
    return rows


def main() -> None:
    """Measure and print."""
    draws, wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 1, sys.argv[2:]
    found: list[tuple[float, bool, str, dict[str, Row]]] = []
    with quiet_libraries():
        for name, is_trained, model, pool, test in networks(wanted):
            for draw in range(draws):
                chosen = np.random.default_rng(draw).permutation(len(pool))[:IMAGES]
                rows = measured(model, pool[chosen], test)
                behind = rows["int8"].sqnr - max(rows[TF].sqnr, rows[MINMAX].sqnr)
                found.append((behind, is_trained, f"{name}, draw {draw}", rows))
    for behind, _, name, rows in sorted(found, key=lambda item: item[0]):
        print(
            f"\n{name}: int8 {behind:+.1f} dB\n"
            f"{'':<12}{'SQNR dB':>8}{'p1':>9}{'tail':>10}{'lost':>7}{'bytes':>11}{'CPU':>9}"
        )
        for way, item in rows.items():
            print(
                f"{way:<12}{item.sqnr:>8.1f}{item.p1:>9.5f}{item.tail:>10.2e}{item.lost:>7.3f}{item.size:>11,}"
                f"{item.cpu_us:>7,.0f}us"
            )
    gains = [behind for behind, is_trained, *_ in found if is_trained]
    if gains:
        print(f"\nmedian over trained networks: {np.median(gains):+.1f} dB on the better of {TF} and {MINMAX}")


if __name__ == "__main__":
    main()
