"""The inputs of a file's golden vectors, and the float encoder's embeddings of them; see
:mod:`embedlite.runtime.check.golden`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.check.golden import Golden, golden_frames, pack_golden, pixel_table
from ...runtime.errors import RequestError
from ...runtime.images.source import Source
from ...runtime.input.preprocess import as_float32, model_ready, to_pixels
from ...runtime.model.contract import Contract, InputContract
from ..graph.run import float_rows
from .synthetic_inputs import span_of, synthetic_arrays, synthetic_frames

MOST_IMAGES = 4
"""Images that --golden-from puts into every file."""

MOST_BYTES = 1 << 20
"""Of vectors in one file; an embedding of many rows gets fewer inputs, at least one."""


@dataclass(frozen=True)
class GoldenInputs:
    """What every file of an export is replayed on.

    Attributes:
        pixels: (N, h, w, C) uint8, as an image file holds them; of other arrays (N, ...) float32 values.
        reference: the float graph's embeddings, (N, ...) float32.
    """

    pixels: NDArray[Any]
    reference: NDArray[np.float32]


def golden_inputs(
    source: Source | None, flatbuffer: bytes, contract: InputContract, like: Source | None
) -> GoldenInputs:
    """Choose the inputs and run the float graph on them.

    Args:
        source: images to ship with the file, at most :data:`MOST_IMAGES`; None makes synthetic frames, so that nobody's
            photos ship by accident.
        flatbuffer: the float graph.
        contract: the input's.
        like: says where values lie that are made up for an array that is not an image.

    Raises:
        RequestError: the images are model-ready floats, so that preprocessing could not be replayed.
        DataError: an image cannot be read.
    """
    if source is not None:
        pixels = _from_source(source, contract)
    else:
        pixels = synthetic_frames(contract.shape) if contract.is_image else synthetic_arrays(contract, span_of(like))
    frames = golden_frames(pixels, contract)
    # One thread: more may split sums differently, and the same input shall give the same bytes.
    rows = [float_rows(flatbuffer, [model_ready(frame, contract)], threads=1)[0] for frame in frames]
    count = max(1, MOST_BYTES // (2 * rows[0].nbytes))
    return GoldenInputs(pixels[:count], np.stack(rows[:count]))


def pack(inputs: GoldenInputs, embeddings: NDArray[np.float32], runtime: str, contract: Contract) -> bytes | None:
    """One file's ``golden.npz``; None if the file answers NaN or infinity, and there is nothing to hold it to.

    Args:
        inputs: what it was run on.
        embeddings: what it answered.
        runtime: name and version of the interpreter.
        contract: the file's.
    """
    if not np.isfinite(embeddings).all():
        return None
    reference = inputs.reference.reshape(embeddings.shape)
    return pack_golden(Golden(inputs.pixels, pixel_table(contract.input), reference, embeddings, runtime))


def _from_source(source: Source, contract: InputContract) -> NDArray[Any]:
    if not contract.is_image:
        return np.stack([as_float32(values) for values in source])
    if not source.pixels:
        raise RequestError(
            f"{source.name} holds floats, and golden vectors are replayed from pixels. Pass images or integers 0-255 "
            "with --golden-from."
        )
    images = np.stack([_as_pixels(image, source) for image in source])
    return images[..., ::-1] if contract.color_order == "bgr" else images


def _as_pixels(image: NDArray[Any], source: Source) -> NDArray[np.uint8]:
    if image.dtype.kind != "f":
        return to_pixels(image, source.name)
    # A resampler left fractions, which are of no use to a replay.
    pixels = image * np.asarray(source.contract.std, np.float32) + np.asarray(source.contract.mean, np.float32)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def golden_path(folder: Path, inputs: GoldenInputs, contract: InputContract) -> Path:
    """Lay the inputs out for the interpreters' processes: a ``.npy`` of what the encoder takes."""
    path = folder / "golden.npy"
    np.save(path, golden_frames(inputs.pixels, contract))
    return path
