"""A Keras model's embeddings, and whatever else needs TensorFlow, computed in a process of their own.

TensorFlow and tflite-runtime cannot live in one process (the interpreter dies with ``vector::reserve``), and a
drift report must not depend on which of them was imported first.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..convert.load import FORMATS
from ..convert.load.options import LoadOptions
from ..runtime.child_limits import bounded, end_with_parent, own_folder, why_it_ended
from ..runtime.commands.options import quiet_libraries
from ..runtime.commands.start import ENDING
from ..runtime.errors import EmbedliteError, MissingPackageError
from ..runtime.images.open import open_source
from ..runtime.model.contract import InputContract
from ..runtime.progress import progress


class KerasReferenceError(EmbedliteError):
    """The Keras side failed; the message is its own."""


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
    with _signals_held():
        process = subprocess.Popen(
            [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True
        )
    with process:
        try:
            said, _ = process.communicate(json.dumps(request))
        except BaseException:
            process.kill()
            raise
    if process.returncode < 0:
        raise KerasReferenceError(why_it_ended(-process.returncode, process.pid, own_folder()))
    if process.returncode != 0:
        raise KerasReferenceError(
            said.strip() or f"the Keras process ended with code {process.returncode}; run again with -vv."
        )


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Signals that end a command come to it alone; what is started inside never gets them, and is ended by it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, *ENDING))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def check_keras(model: Path) -> None:
    """See that a Keras reference can be opened, before there is work that would be lost.

    Raises:
        MissingPackageError: TensorFlow is not installed.
        KerasReferenceError: there is no such file.
    """
    if not has_tensorflow():
        raise MissingPackageError(
            f"the reference {model} needs TensorFlow, which is not installed. Run: pip install 'embedlite[convert]'. "
            "On a device, compare with the float32 .tflite, or with embeddings that were stored where TensorFlow is."
        )
    if not model.exists():
        raise KerasReferenceError(f"there is no {model}. Pass the path of a model: {FORMATS}.")


def embed_with_keras(
    model: Path,
    data: Path | str,
    ids: Sequence[str],
    contract: InputContract,
    opening: LoadOptions,
    feature: str | None = None,
) -> NDArray[np.float32]:
    """Embed images with a Keras model, one at a time (batch 1, as on the device).

    Args:
        model: a ``.keras`` or ``.h5`` file, or a SavedModel's folder.
        data: where the images are; see :func:`embedlite.runtime.images.open.open_source`.
        ids: which of them, in this order.
        contract: how they are preprocessed: the candidate's.
        opening: what the user says of the model file.
        feature: which part of ``data`` holds the images.

    Returns:
        (N, D) float32.

    Raises:
        KerasReferenceError: the model could not be loaded or run.
    """
    with tempfile.TemporaryDirectory(prefix="embedlite-") as folder:
        result = Path(folder, "embeddings.npy")
        request = {
            "model": str(model.absolute()),
            "data": str(data.absolute() if isinstance(data, Path) else data),
            "feature": feature,
            "ids": list(ids),
            "contract": contract.to_json(),
            "opening": opening.to_json(),
            "result": str(result),
        }
        ask_tensorflow("embedlite.report.reference", request)
        # Mapped: the file lives on until the array is gone.
        embeddings: NDArray[np.float32] = np.load(result, mmap_mode="r")
    return embeddings


def main() -> None:
    """Serve one request; an error goes to stdout with a non-zero exit code."""
    end_with_parent()
    try:
        with quiet_libraries():
            _embed(json.load(sys.stdin))
    except EmbedliteError as error:
        sys.stdout.write(str(error))
        sys.exit(error.exit_code)


def _embed(request: dict[str, Any]) -> None:
    from ..convert.load import load_original
    from ..convert.load.lower import keras_reference, trace

    contract = InputContract.from_json(request["contract"])
    opening = replace(LoadOptions.from_json(request["opening"]), input_shape=contract.shape)
    path = Path(request["model"])
    with bounded(f"loading the reference {path.name}", path, opening.time_limit):
        original = load_original(path, opening)
        traced, _ = trace(original)
        embed = keras_reference(original, traced)
        embed(np.zeros(original.input_shape, np.float32))
    source = open_source(request["data"], contract, request["feature"])
    place = {name: index for index, name in enumerate(source.ids)}
    images = (source.ready(place[name]) for name in request["ids"])
    total = len(request["ids"])
    open_memmap: Any = np.lib.format.open_memmap
    rows = None
    for index, image in enumerate(progress(images, total, "Keras reference")):
        row = embed(image)
        if rows is None:
            rows = open_memmap(request["result"], "w+", np.float32, (total, *row.shape))
        rows[index] = row


if __name__ == "__main__":
    main()
