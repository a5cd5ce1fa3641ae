"""What the way of reading images means for the files: fractions that a uint8 input cannot hold."""

from __future__ import annotations

import numpy as np

from ...runtime.drift.intervals import drift_of
from ...runtime.drift.wording import decibels
from ...runtime.images.source import Source
from ...runtime.input.preprocess import scaled
from ...runtime.input.tf_resample import leaves_fractions
from ...runtime.model.contract import InputContract
from ..graph.run import float_rows
from ..normalization.prepare import FloatGraph
from ..request import Request

_MOST = 32
"""So many test images say what rounding costs."""


def explain_reading(request: Request, contract: InputContract, graph: FloatGraph, test: Source | None) -> list[str]:
    """What it costs to round pixels whose resampler leaves fractions, where a file or its C source rounds them."""
    if not leaves_fractions(contract.resampler) or not (request.input_type == "uint8" or request.c_array):
        return []
    what = "a uint8 input" if request.input_type == "uint8" else "C source, which takes uint8_t pixels,"
    said = f"{what} rounds the fractions that {contract.resampler} leaves"
    if test is None or not test.pixels:
        return [f"{said}; no test images say what that costs. Pass --test-data with image files."]
    images = [test.ready(index) for index in range(min(_MOST, len(test)))]
    mean, std = np.asarray(contract.mean, np.float32), np.asarray(contract.std, np.float32)
    rounded = [scaled(np.clip(np.rint(image * std + mean), 0, 255).astype(np.uint8), contract) for image in images]
    drift = drift_of(
        float_rows(graph.flatbuffer, rounded, request.threads), float_rows(graph.flatbuffer, images, request.threads)
    )
    if drift.sqnr_db is None:
        return []
    return [f"{said}: that alone costs {decibels(drift.sqnr_db)} on {len(images)} test images. Other inputs keep them."]
