"""What a drift ladder needs of TensorFlow and the converter: ``python -m embedlite.convert.ladder_files``.

The request comes as JSON on stdin, and every part of the answer is a file in the folder that it names. A part that
cannot be made has its reason in ``answer.json`` instead; an error that ends everything goes to stdout with a non-zero
exit code. See :mod:`embedlite.runtime.keras_reference` for why this is a process of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.artifact import Artifact, read_artifact
from ..runtime.contract import Contract, InputContract
from ..runtime.errors import DataError, EmbedliteError
from ..runtime.images import IMAGE_SUFFIXES, load_image
from ..runtime.model_options import ModelOptions
from ..runtime.progress import progress
from ..runtime.sources import Source, open_source
from ..runtime.terminal import quiet_libraries
from .errors import ConversionError
from .graph import Graph
from .load import load_original
from .lower import LoweredModel, lower
from .original import LoadOptions
from .package import package
from .prepare import prepare
from .recognise import final_normalization, find_normalizations


def main() -> None:
    """Serve one request."""
    try:
        with quiet_libraries():
            _Parts(json.load(sys.stdin)).make()
    except EmbedliteError as error:
        sys.stdout.write(str(error))
        sys.exit(error.exit_code)


class _Parts:
    """One request; see :class:`embedlite.runtime.ladder_parts.PartsRequest` for its keys."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request
        self._folder = Path(request["folder"])
        self._contract = InputContract.from_json(request["contract"])
        self._reasons: dict[str, str] = {}

    def make(self) -> None:
        """Make every part that was asked for."""
        request = self._request
        if request["model"] is not None:
            opening = vars(ModelOptions.from_json(request["opening"]))
            lowered = lower(load_original(Path(request["model"]), LoadOptions(self._contract.shape, **opening)))
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
            pixels = load_image(path, replace(self._contract, shape=_own_shape(path, self._contract)))
            resized = tf.image.resize(pixels.astype(np.float32), (height, width), method="bilinear", antialias=False)
            images.append((resized.numpy() - mean) / std)
        return np.stack(images)

    def _image_files(self) -> list[Path]:
        data, ids = Path(self._request["data"]), self._request["ids"]
        paths = [data] if data.is_file() else [data / name for name in ids]
        if not all(path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() for path in paths):
            raise DataError("the data are no image files.")
        return paths


def with_integer_ends(artifact: Artifact) -> bytes:
    """An int8 file with float input and output, as the same graph with int8 input and output.

    A normalization at its end is left to ``Encoder``, which computes it on the integers.

    Raises:
        ConversionError: the graph cannot have these ends.
    """
    contract = artifact.contract
    if contract is None or contract.mode != "int8":
        raise ConversionError("the candidate is no int8 file of export-tflite.")
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
    """The size that an image file has by itself, upright."""
    from PIL import Image, ImageOps

    with Image.open(path) as opened:
        width, height = ImageOps.exif_transpose(opened).size
    return height, width, contract.shape[2]


if __name__ == "__main__":
    main()
