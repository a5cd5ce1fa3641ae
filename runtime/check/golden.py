"""Golden vectors: a few inputs and the embeddings that they had when the file was exported.

They travel in the file as ``golden.npz``, so that any device can replay them (:mod:`embedlite.runtime.check.selftest`).
Its arrays:

    pixels      (N, h, w, C) uint8: what an image file holds, RGB order; stretched to the model's size by repetition
    ready       (256, C) float32: what each pixel value becomes for the float model, by channel
    reference   (N, ...) float32: the float encoder's embeddings
    embeddings  (N, ...) float32: this file's, made by the interpreter that ``runtime`` names
    runtime     text, such as "ai-edge-litert 2.3.0"

Small pixels are enough for a large model, because repetition is exact everywhere: 32x32 of them stand for 512x512.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..arrays import READ_ERRORS
from ..errors import DamagedModelError
from ..input.preprocess import model_ready
from ..model.contract import Contract, InputContract


@dataclass(frozen=True)
class Golden:
    """Golden vectors; see the module's text for the arrays."""

    pixels: NDArray[np.uint8]
    ready: NDArray[np.float32]
    reference: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    runtime: str


def golden_frames(pixels: NDArray[np.uint8], contract: InputContract) -> NDArray[np.uint8]:
    """Stored pixels as the encoder takes them: (N, H, W, C), the contract's size and colour order."""
    height, width, _ = contract.shape
    stored_height, stored_width = pixels.shape[1:3]
    frames = pixels[:, np.arange(height) * stored_height // height]
    frames = frames[:, :, np.arange(width) * stored_width // width]
    return np.ascontiguousarray(frames[..., ::-1] if contract.color_order == "bgr" else frames)


def pixel_table(contract: InputContract) -> NDArray[np.float32]:
    """What each pixel value becomes for the float model: (256, C) float32, row v for value v."""
    values = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], contract.shape[2], axis=2)
    return model_ready(values, contract)[:, 0]


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
    height, width, channels = contract.input.shape
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            golden = Golden(
                arrays["pixels"], arrays["ready"], arrays["reference"], arrays["embeddings"], str(arrays["runtime"])
            )
        count, *size, depth = golden.pixels.shape
        shapes = [golden.ready.shape, golden.reference.shape, golden.embeddings.shape]
        vectors = (count, *contract.output_shape)
        if shapes != [(256, channels), vectors, vectors] or depth != channels or count == 0:
            raise ValueError(f"arrays of shape {golden.pixels.shape}, {shapes}")
        if not (0 < size[0] <= height and 0 < size[1] <= width) or len(size) != 2 or golden.pixels.dtype != np.uint8:
            raise ValueError(f"pixels of {golden.pixels.dtype} {golden.pixels.shape}")
        for values in (golden.ready, golden.reference, golden.embeddings):
            if values.dtype != np.float32 or not np.isfinite(values).all():
                raise ValueError(f"values of {values.dtype} that are not all finite float32")
    except (*READ_ERRORS, KeyError, TypeError, IndexError) as error:
        raise DamagedModelError(
            f"the golden vectors in the model cannot be read ({type(error).__name__}: {error}). Export the model again."
        ) from error
    return golden
