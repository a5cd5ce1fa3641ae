"""Int8 drift on the example's digits: embedlite against TensorFlow's own converter, same calibration images.

    python3 run.py bench int8 [FOLDER]     FOLDER is what `run.py demo` filled (default: out)

Both are compared with the Keras model on the test split, which set no ranges. TensorFlow's converter is shown twice:
as it comes, with the normalization in int8, and with the normalization cut off and done in float by numpy.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from embedlite.runtime import Encoder, InputContract
from embedlite.runtime.backends.interpreters import find_runtime, open_interpreter
from embedlite.runtime.commands.options import quiet_libraries
from embedlite.runtime.drift import Drift, measure_drift
from embedlite.runtime.images.open import open_source
from embedlite.runtime.input.normalize import normalize

with quiet_libraries():
    import keras
    import tensorflow as tf

    import embedlite.convert.layers  # noqa: F401 -- registers the normalization for loading
    from embedlite.convert import ExportOptions, export


def converter_int8(model: keras.Model, images: np.ndarray) -> bytes:
    """TensorFlow's full-integer quantization with float input and output."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in images)
    return converter.convert()


def run(model: bytes, images: np.ndarray) -> np.ndarray:
    """Embeddings by the bare interpreter."""
    interpreter = open_interpreter(find_runtime(), model, threads=1)
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    rows = []
    for image in images:
        interpreter.set_tensor(source, image[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(target)[0])
    return np.stack(rows)


def main() -> None:
    """Measure and print."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
    contract = InputContract((32, 32, 1))
    calibration, test = (
        np.stack([source.ready(index) for index in range(len(source))])
        for source in (open_source(folder / name, contract) for name in ("calibration", "test"))
    )
    rows: list[tuple[str, Drift]] = []
    with quiet_libraries(), tempfile.TemporaryDirectory() as out:
        model = keras.saving.load_model(folder / "model.keras")
        reference = np.asarray(model.predict(test, verbose=0))
        result = export(
            model,
            out,
            quantize=["int8"],
            calibration_data=folder / "calibration",
            test_data=test,
            options=ExportOptions(measure=False),
        )
        with Encoder(result.files[0].path) as encoder:
            rows.append(("embedlite int8", measure_drift(encoder.embed(test), reference)[0]))
            spec = encoder.contract.normalization
        rows.append(("TF converter int8", measure_drift(run(converter_int8(model, calibration), test), reference)[0]))
        raw = keras.Model(model.inputs, model.layers[-1].input)
        embeddings = run(converter_int8(raw, calibration), test)
        rows.append(("  with float normalization", measure_drift(normalize(embeddings, spec), reference)[0]))
    print(f"{len(calibration)} calibration images, {len(test)} test images\n")
    print(f"{'':<28}{'SQNR dB':>9}{'cosine p1':>11}{'self@10':>9}{'cross@10':>10}")
    for name, drift in rows:
        print(
            f"{name:<28}{drift.sqnr_db:>9.2f}{drift.cosine_p1:>11.5f}"
            f"{drift.knn_overlap_self:>9.4f}{drift.knn_overlap_cross:>10.4f}"
        )


if __name__ == "__main__":
    main()
