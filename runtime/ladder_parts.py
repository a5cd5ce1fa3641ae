"""The files that a drift ladder compares, made by TensorFlow in a process of its own where that is installed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .contract import InputContract
from .keras_reference import ask_tensorflow, has_tensorflow
from .model_options import ModelOptions

NO_TENSORFLOW = "TensorFlow is not installed: pip install 'embedlite[convert]'"


@dataclass(frozen=True)
class PartsRequest:
    """What to make, and of what.

    Attributes:
        folder: where the files go.
        model: the Keras model or SavedModel, for ``float.tflite`` and ``batched.npy``; None for none of the two.
        opening: what the user says of the model file.
        candidate: the int8 file, for ``ends.tflite``; None for none.
        data: the images.
        feature: which part of ``data`` holds them.
        ids: which of them, in this order.
        contract: how they are preprocessed.
        batch_size: of training, for ``batched.npy``; None for none.
        resize: whether to make ``resized.npy``: the images as ``tf.image.resize`` prepares them.
    """

    folder: Path
    model: Path | None
    opening: ModelOptions
    candidate: Path | None
    data: Path | str
    feature: str | None
    ids: Sequence[str]
    contract: InputContract
    batch_size: int | None
    resize: bool


class Parts:
    """The files that were made, and the reasons why others were not."""

    def __init__(self, folder: Path, reasons: dict[str, str], otherwise: str) -> None:
        self._folder, self._reasons, self._otherwise = folder, reasons, otherwise

    def path(self, name: str) -> Path:
        """The path of a file that cannot be missing."""
        return self._folder / name

    def get(self, name: str) -> Path | str:
        """The path of a file, or in a sentence why there is none."""
        path = self._folder / name
        return path if path.exists() else self._reasons.get(name, self._otherwise).rstrip(".")


def make_parts(request: PartsRequest) -> Parts:
    """Make what was asked for, as far as the environment allows.

    Raises:
        KerasReferenceError: the model could not be loaded or converted.
    """
    if not has_tensorflow():
        return Parts(request.folder, {}, NO_TENSORFLOW)
    paths = {
        name: None if path is None else str(path.absolute() if isinstance(path, Path) else path)
        for name, path in (
            ("folder", request.folder),
            ("model", request.model),
            ("candidate", request.candidate),
            ("data", request.data),
        )
    }
    values = {"opening": request.opening.to_json(), "contract": asdict(request.contract), "ids": list(request.ids)}
    rest = {"feature": request.feature, "batch_size": request.batch_size, "resize": request.resize}
    ask_tensorflow("embedlite.convert.ladder_files", {**paths, **values, **rest})
    return Parts(request.folder, json.loads((request.folder / "answer.json").read_text()), "it was not asked for")
