"""From nothing to a measured encoder: train on scikit-learn's 1,797 handwritten digits, export, embed, report.

    python examples/digits.py OUT [SEED]

SEED decides the split and the first weights; it is 0 if none is given.

Writes into OUT: model.keras, the images (calibration/, test/), the four .tflite files with export.json, the test
split's vectors, and the drift report as JSON and as a page. Every step after the training is one of embedlite's own
commands.
"""

import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from embedlite.runtime.commands.options import quiet_libraries

with quiet_libraries():
    import keras

    from six_blocks import six_blocks

SIZE, CLASSES = 32, 10
EPOCHS, BATCH = 12, 64
CALIBRATION_IMAGES = 200


def load_images() -> tuple[np.ndarray, np.ndarray]:
    """The digits as uint8 pixels (1797, 32, 32, 1) and their labels; 8x8 images with 17 gray levels, enlarged."""
    digits = load_digits()
    small = (digits.images * (255 / 16)).round().astype(np.uint8)
    large = [Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR) for image in small]
    return np.stack([np.asarray(image) for image in large])[..., None], digits.target


def save_images(images: np.ndarray, labels: np.ndarray, folder: Path) -> None:
    """One PNG an image, named by its number and its digit."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image[..., 0]).save(folder / f"{index:04d}_{label}.png")


def train(images: np.ndarray, labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, seed: int) -> keras.Model:
    """Train the encoder under a linear classifier, which is thrown away afterwards."""
    keras.utils.set_random_seed(seed)
    encoder = six_blocks((SIZE, SIZE, 1))
    head = keras.layers.Dense(CLASSES)(encoder.outputs[0])
    classifier = keras.Model(encoder.inputs, head)
    classifier.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, EPOCHS * (len(images) // BATCH + 1))),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    classifier.fit(
        images / np.float32(255),
        labels,
        BATCH,
        EPOCHS,
        validation_data=(test / np.float32(255), test_labels),
        verbose=2,
    )
    return encoder


def run(*command: str | Path, allowed: tuple[int, ...] = (0,)) -> None:
    """Run one of embedlite's commands and show it as one would type it."""
    print(f"\n$ {shlex.join(str(part) for part in command)}", flush=True)
    program = Path(sysconfig.get_path("scripts"), str(command[0]))
    done = subprocess.run([program, *command[1:]], check=False)
    if done.returncode not in allowed:
        sys.exit(done.returncode)


def main() -> None:
    """Train, export, embed, report."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    out.mkdir(parents=True, exist_ok=True)
    images, labels = load_images()
    training, test, training_labels, test_labels = train_test_split(
        images, labels, test_size=0.25, stratify=labels, random_state=seed
    )
    print(f"training on {len(training)} digits, testing on {len(test)}", flush=True)
    with quiet_libraries():
        encoder = train(training, training_labels, test, test_labels, seed)
    encoder.save(out / "model.keras")
    save_images(training[:CALIBRATION_IMAGES], training_labels[:CALIBRATION_IMAGES], out / "calibration")
    save_images(test, test_labels, out / "test")

    data = ("--calibration-data", out / "calibration", "--test-data", out / "test")
    run("export-tflite", out / "model.keras", "-q", "all", *data, "--force")
    run("embed-tflite", out / "model.int8.tflite", out / "test", "-o", out / "vectors.npz", "--force")
    report = ("--data", out / "test", "--json", out / "drift.json", "--html", out / "drift.html")
    # Exit code 1 would be the report's answer "bad", which is worth seeing too.
    run("drift-report", out / "model.int8.tflite", "--reference", out / "model.keras", *report, allowed=(0, 1))
    print(f"\neverything is in {out.resolve()}")


if __name__ == "__main__":
    main()
