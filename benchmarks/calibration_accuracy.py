"""Int8 with embedlite's ranges, by `minmax` and by `auto`, against TensorFlow's converter with the same images.

Two encoders, both trained here on scikit-learn's digits. The first is made hard for int8: depthwise-separable, with
channels of very different size, and two of its 200 calibration images are none that it will ever see; either by itself
and both together. The second is that of `examples/digits.py`, with digits alone. Each is calibrated on several draws of
training images and judged on the test split, which sets nothing, by the Keras model. TensorFlow's converter is shown as
it comes and with the normalization cut off and done in float; the gain is that of `auto` over the better of the two.
"""

import contextlib
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from embedlite.runtime import Encoder
from embedlite.runtime.commands.options import quiet_libraries
from embedlite.runtime.drift import Drift, measure_drift
from embedlite.runtime.input.normalize import normalize
from embedlite.runtime.model.contract import NormalizationSpec

with quiet_libraries():
    import keras
    from int8 import converter_int8, run
    from keras import layers

    from embedlite.convert import ExportOptions, export
    from embedlite.convert.layers import MinMaxNormalization

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

SEED, DRAWS = 0, (0, 1, 2)
CALIBRATION_IMAGES = 200
EPOCHS, BATCH, CLASSES = 12, 64, 10
WIDTHS = (16, 32, 32, 64, 64)
LARGEST = 4
"""Channels are multiplied by powers of two up to this one and down to its inverse."""


def separable(shape: tuple[int, int, int], dimensions: int = 64) -> keras.Sequential:
    """Depthwise-separable convolutions with BatchNormalization, every second of them strided."""
    model = keras.Sequential([keras.Input(shape, name="image")], name="separable")
    convolutions: list[keras.layers.Layer] = [layers.Conv2D(WIDTHS[0], 3, padding="same", use_bias=False)]
    for place, width in enumerate(WIDTHS):
        convolutions.append(layers.DepthwiseConv2D(3, strides=1 + place % 2, padding="same", use_bias=False))
        convolutions.append(layers.Conv2D(width, 1, use_bias=False))
    for convolution in convolutions:
        model.add(convolution)
        model.add(layers.BatchNormalization(momentum=0.9))
        model.add(layers.ReLU())
    model.add(layers.Conv2D(dimensions, 1, name="embedding"))
    model.add(layers.GlobalAveragePooling2D())
    model.add(MinMaxNormalization(name="normalization"))
    return model


def train(encoder: keras.Model, images: np.ndarray, labels: np.ndarray) -> float:
    """Train under a linear classifier, as the example does; the accuracy on the last epoch's images."""
    classifier = keras.Model(encoder.inputs, layers.Dense(CLASSES)(encoder.outputs[0]))
    classifier.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(4e-3, EPOCHS * (len(images) // BATCH + 1))),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return classifier.fit(images, labels, BATCH, EPOCHS, verbose=0).history["accuracy"][-1]


def make_unequal(encoder: keras.Model, images: np.ndarray) -> None:
    """Multiply channels by very different powers of two, and divide what reads them: the same float function.

    Through a ReLU a positive factor passes: relu(f x) = f relu(x). Powers of two are exact in floating point.
    """
    before = np.asarray(encoder.predict(images, verbose=0))
    generator = np.random.default_rng(SEED)
    found = encoder.layers
    for place, layer in enumerate(found):
        if not isinstance(layer, layers.BatchNormalization):
            continue
        reader = found[place + 2]
        factor = 2.0 ** generator.integers(-LARGEST, LARGEST + 1, layer.gamma.shape[0])
        layer.gamma.assign(layer.gamma * factor)
        layer.beta.assign(layer.beta * factor)
        # Input channels are the axis before the last, of a depthwise kernel too.
        reader.kernel.assign(reader.kernel / factor[:, None])
    after = np.asarray(encoder.predict(images, verbose=0))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6)


def outliers(shape: tuple[int, int, int]) -> np.ndarray:
    """Two images that are not digits: saturated noise, and a checkerboard of black and white."""
    noise = np.random.default_rng(SEED).integers(0, 2, shape) * 255
    board = np.indices(shape[:2]).sum(axis=0) % 2 * 255
    return np.stack([noise, np.broadcast_to(board[..., None], shape)]).astype(np.uint8)


def ours(model: keras.Model, images: np.ndarray, test: np.ndarray, method: str) -> tuple[np.ndarray, NormalizationSpec]:
    """Embeddings by embedlite's int8 file."""
    with tempfile.TemporaryDirectory() as folder:
        result = export(
            model,
            folder,
            quantize=["int8"],
            calibration_data=images,
            test_data=test,
            options=ExportOptions(measure=False, calibrate_method=method, correct=["none"]),
        )
        with Encoder(result.files[0].path) as encoder:
            return encoder.embed(test), encoder.contract.normalization


def compare(model: keras.Model, images: np.ndarray, test: np.ndarray) -> dict[str, Drift]:
    """The drift of each way on the test images; all are given uint8 pixels or the same as floats."""
    reference = np.asarray(model.predict(test / np.float32(255), verbose=0))
    calibration, ready = images / np.float32(255), test / np.float32(255)
    raw = keras.Model(model.inputs, model.layers[-1].input)
    minmax, spec = ours(model, images, test, "minmax")
    embeddings = {
        "TF": run(converter_int8(model, calibration), ready),
        "TF float": normalize(run(converter_int8(raw, calibration), ready), spec),
        "minmax": minmax,
        "auto": ours(model, images, test, "auto")[0],
    }
    return {name: measure_drift(values, reference)[0] for name, values in embeddings.items()}


def table(model: keras.Model, pool: np.ndarray, test: np.ndarray, strange: np.ndarray) -> None:
    """Calibrate on each draw from the pool with the strange images among them, and print."""
    names = ("TF", "TF float", "minmax", "auto")
    print(f"{'':<8}{'SQNR dB':<38}{'gain':>8}  cross@10")
    print(f"{'draw':<8}{''.join(f'{name:>9}' for name in names)}{'':>10}{''.join(f'{name:>9}' for name in names)}")
    rows = []
    for draw in DRAWS:
        generator = np.random.default_rng(draw)
        chosen = pool[generator.choice(len(pool), CALIBRATION_IMAGES - len(strange), replace=False)]
        images = generator.permutation(np.concatenate([chosen, strange]))
        with quiet_libraries(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(sys.stdout):
            drift = compare(model, images, test)
        figures = [drift[name].sqnr_db for name in names]
        rows.append([*figures, figures[3] - max(figures[:2]), *(drift[name].knn_overlap_cross for name in names)])
        show(str(draw), rows[-1])
    show("mean", np.mean(rows, axis=0).tolist())


def show(name: str, row: list[float]) -> None:
    """One row of the table."""
    decibels, gain, overlap = row[:4], row[4], row[5:]
    cells = [*(f"{value:>9.2f}" for value in decibels), f"{gain:>+10.2f}", *(f"{value:>9.4f}" for value in overlap)]
    print(f"{name:<8}{''.join(cells)}", flush=True)


def measure_accuracy() -> None:
    """Train, measure and print."""
    import digits

    images, labels = digits.load_images()
    pool, test, pool_labels, test_labels = train_test_split(
        images, labels, test_size=0.25, stratify=labels, random_state=SEED
    )
    shape = images.shape[1:]
    keras.utils.set_random_seed(SEED)
    with quiet_libraries():
        hard = separable(shape)
        accuracy = train(hard, pool / np.float32(255), pool_labels)
    strange = outliers(shape)
    print(f"{len(test)} test images, {CALIBRATION_IMAGES} calibration images\n")
    print(f"depthwise-separable (training accuracy {accuracy:.3f}), {len(strange)} calibration images no digits\n")
    table(hard, pool, test, strange)
    with quiet_libraries():
        make_unequal(hard, test / np.float32(255))
    print("\nthe same with unequal channels, all calibration images digits\n")
    table(hard, pool, test, strange[:0])
    print(f"\nthe same with unequal channels, {len(strange)} calibration images no digits\n")
    table(hard, pool, test, strange)
    with quiet_libraries(), contextlib.redirect_stdout(io.StringIO()):
        example = digits.train(pool, pool_labels, test, test_labels, SEED)
    print("\nthe encoder of examples/digits.py, all calibration images digits\n")
    table(example, pool, test, strange[:0])
