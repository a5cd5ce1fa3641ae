"""An encoder that takes no images: train on windows of a motion sensor, export, embed, report, in less than a minute.

    python examples/windows.py OUT [SEED]

The windows are made up: 128 samples of three accelerations and three rates of turn, 50 a second, of somebody who walks,
runs, climbs stairs, cycles, shakes the thing or lies still, each time with another gait, phase and wearing angle.

Writes into OUT: model.keras, calibration/ and test/ (one .npy a window), labels.csv, the .tflite files with
export.json, the vectors of the test windows, and the drift report as a page. Every step after the training is one of
embedlite's own commands.
"""

import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np

from embedlite.runtime.commands.options import quiet_libraries

with quiet_libraries():
    import keras

SAMPLES, CHANNELS, RATE = 128, 6, 50
# Steps a second, size of the acceleration in m/s², share that turns.
ACTIVITIES = {
    "walk": (1.8, 3.0, 0.3),
    "run": (2.7, 9.0, 0.4),
    "stairs": (1.5, 4.0, 0.8),
    "cycle": (1.2, 1.0, 1.5),
    "shake": (5.0, 12.0, 0.1),
    "still": (0.0, 0.05, 0.2),
}
EPOCHS, BATCH = 12, 32
TRAINING, CALIBRATION, TEST = 960, 120, 240

MEAN, STD = (0.0,), (6.0, 6.0, 6.0, 2.0, 2.0, 2.0)
"""What training takes off the values and divides them by: accelerations and rates of turn have other units."""

_SCALING = ("--mean", ",".join(f"{value:g}" for value in MEAN), "--std", ",".join(f"{value:g}" for value in STD))
_DATA = ("--calibration-data", "calibration", "--test-data", "test")
_SIDES = ("model.int8.tflite", "--reference", "model.float32.tflite", "--data", "test")
COMMANDS = (
    ("export-tflite", "model.keras", "-q", "float32", "-q", "int8", *_SCALING, *_DATA),
    ("embed-tflite", "model.int8.tflite", "test", "-o", "vectors.npz"),
    ("drift-report", *_SIDES, "--labels", "labels.csv", "--html", "drift.html"),
)
"""What is run in OUT once the model is there."""


def make_windows(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Windows (count, 128, 6) float32 in m/s² and rad/s, and which activity each is, (count,)."""
    labels = rng.integers(0, len(ACTIVITIES), count)
    steps, sizes, turns = np.array(list(ACTIVITIES.values()))[labels].T[:, :, None, None]
    time = np.arange(SAMPLES)[:, None] / RATE
    pace = steps * rng.uniform(0.85, 1.15, (count, 1, 1))
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 3)) + 2 * np.pi * pace * time
    wave = sizes * rng.uniform(0.7, 1.3, (count, 1, 3)) * (np.sin(phase) + 0.4 * np.sin(2 * phase + 1))
    turning = turns * rng.uniform(0.7, 1.3, (count, 1, 3)) * np.cos(phase) + rng.normal(0, 0.05, (count, SAMPLES, 3))
    down = rng.normal(0, 1, (count, 1, 3)) + np.array([0.0, 0.0, 4.0])
    gravity = 9.81 * down / np.linalg.norm(down, axis=2, keepdims=True)
    acceleration = gravity + wave + rng.normal(0, 0.3, (count, SAMPLES, 3))
    return np.concatenate([acceleration, turning], axis=2).astype(np.float32), labels


def build() -> keras.Model:
    """Three convolutions over time; the embedding is a vector of length one."""
    window = keras.Input((SAMPLES, CHANNELS))
    x = window
    for filters in (16, 32, 64):
        x = keras.layers.Conv1D(filters, 5, strides=2, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.8)(x))
    x = keras.layers.Dense(32)(keras.layers.GlobalAveragePooling1D()(x))
    return keras.Model(window, keras.layers.UnitNormalization(name="embedding")(x))


def train(windows: np.ndarray, labels: np.ndarray) -> keras.Model:
    """Train the encoder under a linear classifier, which is thrown away afterwards."""
    encoder = build()
    scores = keras.layers.Dense(len(ACTIVITIES))(keras.layers.Rescaling(8.0)(encoder.outputs[0]))
    classifier = keras.Model(encoder.inputs, scores)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    ready = (windows - np.float32(MEAN)) / np.float32(STD)
    classifier.fit(ready, labels, BATCH, EPOCHS, verbose=2)
    return encoder


def prepare(out: Path, seed: int = 0) -> None:
    """Everything that the commands need, in OUT."""
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    windows, labels = make_windows(TRAINING, rng)
    train(windows, labels).save(out / "model.keras")
    save(windows[:CALIBRATION], out / "calibration")
    test, test_labels = make_windows(TEST, rng)
    names = save(test, out / "test")
    rows = zip(names, test_labels, strict=True)
    (out / "labels.csv").write_text("".join(f"{name},{list(ACTIVITIES)[label]}\n" for name, label in rows))


def save(windows: np.ndarray, folder: Path) -> list[str]:
    """One ``.npy`` a window; returns the names."""
    folder.mkdir(exist_ok=True)
    names = [f"{index:04d}.npy" for index in range(len(windows))]
    for name, window in zip(names, windows, strict=True):
        np.save(folder / name, window)
    return names


def main() -> None:
    """Train, export, embed, report."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/windows")
    with quiet_libraries():
        prepare(out, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    for command in COMMANDS:
        forced = (*command, "--force") if command[0] != "drift-report" else command
        print(f"\n$ {shlex.join(forced)}", flush=True)
        program = Path(sysconfig.get_path("scripts"), command[0])
        done = subprocess.run([program, *forced[1:]], cwd=out, check=False)
        # Exit code 1 would be the report's answer "bad", which is worth seeing too.
        if done.returncode not in ((0, 1) if command[0] == "drift-report" else (0,)):
            sys.exit(done.returncode)
    print(f"\neverything is in {out.resolve()}")


if __name__ == "__main__":
    main()
