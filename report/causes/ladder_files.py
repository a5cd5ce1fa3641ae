"""The files that a drift ladder compares, made by TensorFlow: ``python -m embedlite.report.causes.ladder_files``.

The request comes as JSON on stdin, and every part of the answer is a file in the folder that it names. A part that
cannot be made has its reason in ``answer.json`` instead; an error that ends everything goes to stdout with a non-zero
exit code. See :mod:`embedlite.report.reference` for why this is a process of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...convert.errors import ConversionError
from ...convert.load.options import LoadOptions
from ...runtime.child_limits import bounded
from ...runtime.commands.options import quiet_libraries
from ...runtime.errors import DataError, EmbedliteError
from ...runtime.images.decode import load_image
from ...runtime.images.formats import IMAGE_SUFFIXES
from ...runtime.images.open import open_source
from ...runtime.images.source import Source
from ...runtime.model.artifact import Artifact, read_artifact
from ...runtime.model.contract import Contract, InputContract
from ...runtime.progress import progress
from ..reference import ask_tensorflow, has_tensorflow

if TYPE_CHECKING:
    from ...convert.load.lower import LoweredModel


def main() -> None:
    """Serve one request."""
    try:
        with quiet_libraries():
            _Parts(json.load(sys.stdin)).make()
    except EmbedliteError as error:
        sys.stdout.write(str(error))
        sys.exit(error.exit_code)


class _Parts:
    """One request; see :class:`embedlite.report.causes.ladder_files.PartsRequest` for its keys."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request
        self._folder = Path(request["folder"])
        self._contract = InputContract.from_json(request["contract"])
        self._reasons: dict[str, str] = {}

    def make(self) -> None:
        """Make every part that was asked for."""
        from ...convert.load import load_original
        from ...convert.load.lower import lower

        request = self._request
        if request["model"] is not None:
            opening = replace(LoadOptions.from_json(request["opening"]), input_shape=self._contract.shape)
            path = Path(request["model"])
            with bounded(f"loading the reference {path.name}", path, opening.time_limit):
                lowered = lower(load_original(path, opening))
            (self._folder / "float.tflite").write_bytes(_float_file(lowered, self._contract))
            if request["batch_size"] is not None:
                self._part("batched.npy", lambda: self._batched(lowered))
        if request["candidate"] is not None:
            self._part("ends.tflite", lambda: with_integer_ends(read_artifact(request["candidate"])))
        if request["resize"]:
            self._part("resized.npy", self._resized)
        (self._folder / "answer.json").write_text(json.dumps(self._reasons))

    def _part(self, name: str, make: Callable[[], bytes | NDArray[np.float32]]) -> None:
        try:
            made = make()
        except (ConversionError, DataError) as error:
            self._reasons[name] = str(error)
            return
        if isinstance(made, bytes):
            (self._folder / name).write_bytes(made)
        else:
            np.save(self._folder / name, made)

    def _source(self) -> tuple[Source, list[int]]:
        source = open_source(self._request["data"], self._contract, self._request["feature"])
        place = {name: index for index, name in enumerate(source.ids)}
        return source, [place[name] for name in self._request["ids"]]

    def _batched(self, lowered: LoweredModel) -> NDArray[np.float32]:
        size = self._request["batch_size"]
        run = None if lowered.in_batches is None else lowered.in_batches(size)
        if run is None:
            raise ConversionError("the original takes one image at a time.")
        source, places = self._source()
        rows: list[NDArray[np.float32]] = []
        # The last batch is filled up with the first images, as a repeated dataset does it.
        starts = range(0, len(places), size)
        for start in progress(starts, len(starts), "original in batches"):
            batch = [places[index % len(places)] for index in range(start, start + size)]
            rows += list(run(np.stack([source.ready(index) for index in batch])))
        return np.stack(rows[: len(places)])

    def _resized(self) -> NDArray[np.float32]:
        """The images as ``tf.image.resize`` prepares them: bilinear, no antialiasing, no rounding to 8 bits."""
        import tensorflow as tf

        height, width, _ = self._contract.shape
        mean, std = (np.asarray(values, np.float32) for values in (self._contract.mean, self._contract.std))
        images = []
        for path in self._image_files():
            own = replace(self._contract, shape=_own_shape(path, self._contract), fit="stretch")
            pixels = load_image(path, own)
            resized = tf.image.resize(pixels.astype(np.float32), (height, width), method="bilinear", antialias=False)
            images.append((resized.numpy() - mean) / std)
        return np.stack(images)

    def _image_files(self) -> list[Path]:
        data, ids = Path(self._request["data"]), self._request["ids"]
        paths = [data] if data.is_file() else [data / name for name in ids]
        if not all(path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() for path in paths):
            raise DataError("the data are not image files.")
        return paths


def with_integer_ends(artifact: Artifact) -> bytes:
    """An int8 file with float input and output, as the same graph with int8 input and output.

    A normalization at its end is left to ``Encoder``, which computes it on the integers.

    Raises:
        ConversionError: the graph cannot have these ends.
    """
    from ...convert.graph.graph import Graph
    from ...convert.make.package import package
    from ...convert.normalization.recognise import final_normalization, find_normalizations

    contract = artifact.contract
    if contract is None or contract.mode != "int8":
        raise ConversionError("the candidate is not an int8 file with a contract.")
    graph = Graph(artifact.flatbuffer)
    last = final_normalization(graph, find_normalizations(graph))
    placement = contract.normalization.placement if last is None else "runtime"
    changed = replace(
        contract,
        input=replace(contract.input, dtype="int8"),
        output_dtype="int8",
        normalization=replace(contract.normalization, placement=placement),
    )
    return package(artifact.flatbuffer, changed, None if last is None else graph.tensor_name(last.source))[0]


def _float_file(lowered: LoweredModel, inputs: InputContract) -> bytes:
    """The float file that an export would write."""
    from ...convert.make.package import package
    from ...convert.normalization.prepare import prepare

    graph = prepare(lowered.flatbuffer)
    contract = Contract(
        input=replace(inputs, dtype="float32"),
        output_shape=graph.output_shape,
        output_dtype="float32",
        normalization=graph.spec,
        mode="float32",
        calibration=None,
    )
    return package(graph.flatbuffer, contract)[0]


def _own_shape(path: Path, contract: InputContract) -> tuple[int, int, int]:
    """The size that an image file has by itself, upright unless the contract ignores how it is turned."""
    from PIL import Image, ImageOps

    with Image.open(path) as opened:
        width, height = (ImageOps.exif_transpose(opened) if contract.exif == "apply" else opened).size
    return height, width, contract.shape[2]


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
    opening: LoadOptions
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
    ask_tensorflow("embedlite.report.causes.ladder_files", {**paths, **values, **rest})
    return Parts(request.folder, json.loads((request.folder / "answer.json").read_text()), "it was not asked for")


if __name__ == "__main__":
    main()
