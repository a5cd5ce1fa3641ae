"""The three networks of `accuracy.py`, fine-tuned without any layer in float, against TensorFlow's int8.

    python3 run.py bench fine_tune [SECONDS [DRAWS]]      seconds to train each, default 600; draws, default 1

The same draws of 200 calibration images, and the 450 test images, which set nothing. Every file of embedlite ends in
int8; `Encoder` adds the copies of a wide output up as integers, and normalizes. TensorFlow's converter is shown as it
comes, and with the normalization cut off and done in float, which is the like of what `Encoder` does.
"""

import contextlib
import io
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from accuracy import CALIBRATION_IMAGES, TF, TF_FLOAT, Way
from accuracy_networks import trained

from embedlite.runtime import Encoder
from embedlite.runtime.commands.options import quiet_libraries
from embedlite.runtime.drift import measure_drift
from embedlite.runtime.input.normalize import normalize

with quiet_libraries():
    import keras
    from int8 import converter_int8

    from embedlite.convert import ExportOptions, ExportResult, export

PLAIN, TUNED, BOTH = "int8", "fine-tuned", "  with a wide output"


def exported(model: keras.Model, folder: Path, images: np.ndarray, test: np.ndarray, **options: object) -> ExportResult:
    """An int8 file that ends in int8."""
    asked = ExportOptions(measure=False, output_type="int8", **options)
    return export(model, folder, quantize=["int8"], calibration_data=images, test_data=test, options=asked)


def measure(model: keras.Model, pool: np.ndarray, test: np.ndarray, seconds: float, draws: int) -> None:
    """One network."""
    reference = np.asarray(model.predict(test / np.float32(255), verbose=0))
    ways = {
        PLAIN: {},
        TUNED: {"fine_tune": True, "fine_tune_time": seconds},
        BOTH: {"fine_tune": True, "fine_tune_time": seconds, "wide_output": True},
    }
    found: dict[str, list[float]] = {}
    for draw in range(draws):
        images = pool[np.random.default_rng(draw).choice(len(pool), CALIBRATION_IMAGES, replace=False)]
        ready = images / np.float32(255)
        with quiet_libraries(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            vectors = dict[str, np.ndarray]()
            # The division of a normalization in integers may be by zero.
            with contextlib.suppress(RuntimeError):
                vectors[TF] = Way(converter_int8(model, ready)).embed(test / np.float32(255))
            raw = keras.Model(model.inputs, model.layers[-1].input)
            for name, options in ways.items():
                with tempfile.TemporaryDirectory() as folder:
                    result = exported(model, Path(folder), images, test, **options)
                    with Encoder(result.files[0].path) as encoder:
                        vectors[name] = encoder.embed(test)
                        spec = encoder.contract.normalization
            float_end = Way(converter_int8(raw, ready), partial(normalize, spec=spec))
            vectors[TF_FLOAT] = float_end.embed(test / np.float32(255))
        for name, values in vectors.items():
            found.setdefault(name, []).append(measure_drift(values, reference, k=None)[0].sqnr_db)
    for name in (TF, TF_FLOAT, *ways):
        each = found.get(name, [])
        if len(each) < draws:
            print(f"{name:<26}  ends in an error, {draws - len(each)} of {draws} times")
            continue
        over = np.mean(np.subtract(each, found[TF_FLOAT]))
        print(f"{name:<26}{np.mean(each):>8.2f} dB {over:>+8.2f}    {' '.join(f'{value:.2f}' for value in each)}")
    print(flush=True)


def main() -> None:
    """Train, measure and print."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    draws = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    print(
        f"{CALIBRATION_IMAGES} calibration images, {draws} draw(s), {seconds:.0f} s each; over TensorFlow's int8 "
        "with a float normalization\n"
    )
    for name, model, pool, test in trained():
        print(name, flush=True)
        measure(model, pool, test, seconds, draws)


if __name__ == "__main__":
    main()
