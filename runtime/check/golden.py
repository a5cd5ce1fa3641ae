"""Golden vectors: a few inputs and the embeddings that they had when the file was exported.

They travel in the file as ``golden.npz``, so that any device can replay them (:mod:`embedlite.runtime.check.selftest`).
Its arrays:

    pixels      (N, h, w, C) uint8: what an image file holds, RGB order; stretched to the model's size by repetition.
                Of other arrays (N, ...) float32: their values, repeated likewise along each axis
    ready       (256, C) float32: what each pixel value becomes for the float model, by channel; of other arrays
                what the values 0 to 255 become, (256, 1) or for each element of the last axis
    reference   (N, ...) float32: the float encoder's embeddings
    embeddings  (N, ...) float32: this file's, made by the interpreter that ``runtime`` names
    runtime     text, such as "ai-edge-litert 2.3.0"

Small pixels are enough for a large model, because repetition is exact everywhere: 32x32 of them stand for 512x512.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import READ_ERRORS
from ..errors import DamagedModelError
from ..input.preprocess import scaled
from ..model.contract import Contract, InputContract


@dataclass(frozen=True)
class Golden:
    """Golden vectors; see the module's text for the arrays."""

    pixels: NDArray[np.uint8] | NDArray[np.float32]
    ready: NDArray[np.float32]
    reference: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    runtime: str


def golden_frames(
    pixels: NDArray[np.uint8] | NDArray[np.float32], contract: InputContract
) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Stored inputs as the encoder takes them: (N, ...), the contract's size and colour order."""
    frames: NDArray[Any] = pixels
    for axis, size in enumerate(contract.shape, 1):
        stored = pixels.shape[axis]
        if stored != size:
            frames = np.take(frames, np.arange(size) * stored // size, axis)
    return np.ascontiguousarray(frames[..., ::-1] if contract.color_order == "bgr" else frames)


def pixel_table(contract: InputContract) -> NDArray[np.float32]:
    """What each pixel value becomes for the float model: (256, C) float32, row v for value v."""
    count = contract.shape[-1] if contract.is_image else max(len(contract.mean), len(contract.std))
    values = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], count, axis=2)
    return scaled(values, contract)[:, 0]


def pack_golden(golden: Golden) -> bytes:
    """The bytes of ``golden.npz``, uncompressed; always the same for the same input."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.asarray(value) for name, value in vars(golden).items()})
    return buffer.getvalue()


def parse_golden(data: bytes, contract: Contract) -> Golden:
    """Golden vectors from the file's bytes, whose checksum was verified
    (:func:`embedlite.runtime.model.artifact.parse_artifact`).

    Raises:
        DamagedModelError: they do not fit the contract; the file was not written by an export.
    """
    kind, table = (np.uint8, contract.input.shape[-1]) if contract.input.is_image else (np.float32, None)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            golden = Golden(
                arrays["pixels"], arrays["ready"], arrays["reference"], arrays["embeddings"], str(arrays["runtime"])
            )
        count, *size = golden.pixels.shape
        table = table or max(len(contract.input.mean), len(contract.input.std))
        shapes = [golden.ready.shape, golden.reference.shape, golden.embeddings.shape]
        vectors = (count, *contract.output_shape)
        if shapes != [(256, table), vectors, vectors] or count == 0:
            raise ValueError(f"arrays of shape {golden.pixels.shape}, {shapes}")
        # Each element of an image's last axis is a channel, of which none may be made of another.
        fits = len(size) == len(contract.input.shape) and (size[-1] == table or not contract.input.is_image)
        fits = fits and all(0 < mine <= whole for mine, whole in zip(size, contract.input.shape, strict=True))
        if not fits or golden.pixels.dtype != kind:
            raise ValueError(f"inputs of {golden.pixels.dtype} {golden.pixels.shape}")
        floats = (golden.ready, golden.reference, golden.embeddings)
        for values in floats if kind is np.uint8 else (golden.pixels, *floats):
            if values.dtype != np.float32 or not np.isfinite(values).all():
                raise ValueError(f"values of {values.dtype} that are not all finite float32")
    except (*READ_ERRORS, KeyError, TypeError, IndexError) as error:
        raise DamagedModelError(
            f"the golden vectors in the model cannot be read ({type(error).__name__}: {error}). Export the model again."
        ) from error
    return golden
