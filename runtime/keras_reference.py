"""A Keras model's embeddings, and whatever else needs TensorFlow, computed in a process of their own.

TensorFlow and tflite-runtime cannot live in one process (the interpreter dies with ``vector::reserve``), and a
drift report must not depend on which of them was imported first.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contract import InputContract
from .errors import EmbedliteError, MissingPackageError
from .model_options import ModelOptions

KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")


class KerasReferenceError(EmbedliteError):
    """The Keras side failed; the message is its own."""


def is_keras_model(path: Path) -> bool:
    """Whether a reference has to be run by TensorFlow: a Keras file or a SavedModel's folder."""
    return path.suffix.lower() in KERAS_SUFFIXES or path.is_dir()


def has_tensorflow() -> bool:
    """Whether TensorFlow is installed; it is not imported for that."""
    return importlib.util.find_spec("tensorflow") is not None


def ask_tensorflow(module: str, request: dict[str, Any]) -> None:
    """Run a module of :mod:`embedlite.convert` in a process of its own; its results are files that the request names.

    Args:
        module: what to run; it reads the request as JSON on stdin, and writes a message to stdout if it fails.
        request: a JSON object.

    Raises:
        KerasReferenceError: it failed.
    """
    process = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(request),
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        text=True,
        check=False,
    )
    if process.returncode != 0:
        raise KerasReferenceError(
            process.stdout.strip() or f"the Keras process ended with code {process.returncode}; run again with -v."
        )


def embed_with_keras(
    model: Path,
    data: Path | str,
    ids: Sequence[str],
    contract: InputContract,
    opening: ModelOptions,
    feature: str | None = None,
) -> NDArray[np.float32]:
    """Embed images with a Keras model, one at a time (batch 1, as on the device).

    Args:
        model: a ``.keras`` or ``.h5`` file, or a SavedModel's folder.
        data: where the images are; see :func:`embedlite.runtime.sources.open_source`.
        ids: which of them, in this order.
        contract: how they are preprocessed: the candidate's.
        opening: what the user says of the model file.
        feature: which part of ``data`` holds the images.

    Returns:
        (N, D) float32.

    Raises:
        MissingPackageError: TensorFlow is not installed.
        KerasReferenceError: the model could not be loaded or run.
    """
    if not has_tensorflow():
        raise MissingPackageError(
            f"the reference {model} needs TensorFlow, which is not installed. Run: pip install 'embedlite[convert]'. "
            "On a device, compare with the float32 .tflite, or with embeddings that were stored where TensorFlow is."
        )
    with tempfile.TemporaryDirectory(prefix="embedlite-") as folder:
        result = Path(folder, "embeddings.npy")
        request = {
            "model": str(model.absolute()),
            "data": str(data.absolute() if isinstance(data, Path) else data),
            "feature": feature,
            "ids": list(ids),
            "contract": asdict(contract),
            "opening": opening.to_json(),
            "result": str(result),
        }
        ask_tensorflow("embedlite.convert.reference", request)
        # Mapped: the file lives on until the array is gone.
        embeddings: NDArray[np.float32] = np.load(result, mmap_mode="r")
    return embeddings
