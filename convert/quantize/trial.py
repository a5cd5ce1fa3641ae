"""What int8 with given ranges does to the embeddings of held-out images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...calibration import Ranges
from ...runtime.drift import Drift
from ...runtime.drift.intervals import drift_of
from ..graph.graph import Graph
from ..graph.run import float_rows
from ..normalization.prepare import FloatGraph
from .litert import quantize

Values = NDArray[np.float32]


class Trial:
    """Some images and the float graph's embeddings of them, to try ranges on.

    Attributes:
        images: as they were given.
    """

    def __init__(self, graph: FloatGraph, images: Sequence[Values], threads: int | None) -> None:
        """Embed the images with the float graph.

        Args:
            graph: the prepared float graph.
            images: model-ready, (H, W, C) float32; at least one.
            threads: processors; default all.
        """
        self.images = images
        self._threads, self._keep_float = threads, graph.keep_float
        self._reference = float_rows(graph.flatbuffer, images, threads)

    def __len__(self) -> int:
        return len(self.images)

    def errors(self, flatbuffer: bytes, ranges: Ranges) -> NDArray[np.float64]:
        """Squared error of each image's embedding by the int8 file with these ranges, (images,).

        Args:
            flatbuffer: the float graph, or one that computes the same.
            ranges: of its activations.
        """
        # As litert-quantizer leaves it: the repairs are for other runtimes and change no value here.
        return self.errors_of(quantize(flatbuffer, "int8", ranges, self._keep_float))

    def errors_of(self, quantized: bytes) -> NDArray[np.float64]:
        """Squared error of each image's embedding by a quantized graph with float input and output, (images,)."""
        return self._errors(float_rows(quantized, self.images, self._threads))

    def measure(self, quantized: bytes) -> tuple[NDArray[np.float64], Drift]:
        """The same, and the drift of the embeddings, with neighbours where there are images enough."""
        embeddings = float_rows(quantized, self.images, self._threads)
        return self._errors(embeddings), drift_of(embeddings, self._reference)

    def _errors(self, embeddings: Values) -> NDArray[np.float64]:
        with np.errstate(over="ignore", invalid="ignore"):
            errors = ((embeddings.astype(np.float64) - self._reference) ** 2).sum(axis=1)
        # Zeros in place of an embedding are no embedding, however close to it they are.
        dead = (embeddings == 0).all(axis=1) & (self._reference != 0).any(axis=1)
        return np.where(np.isfinite(errors) & ~dead, errors, np.inf)

    def sqnr(self, errors: NDArray[np.float64]) -> float:
        """Signal-to-noise ratio in dB of embeddings with these squared errors; infinite without any."""
        signal, noise = float((self._reference.astype(np.float64) ** 2).sum()), float(errors.sum())
        if noise == 0:
            return math.inf
        return 10 * math.log10(signal / noise) if signal and math.isfinite(noise) else -math.inf


def only_float(graph: FloatGraph) -> set[str]:
    """Activations that only operators which stay float write and read, so that they are never quantized.

    A guarded divisor among them is infinite where it was zero, and a quotient may be NaN before zero is chosen instead.
    The output is not among them: an image for which the model itself answers NaN sets no ranges.
    """
    operators = Graph(graph.flatbuffer)
    outputs = {int(index) for index in operators.subgraph.outputs}
    staying = set(graph.keep_float)
    return {
        name
        for operator in operators.operators
        if (name := operators.tensor_name(index := int(operator.outputs[0]))) in staying
        and index not in outputs
        and all(operators.tensor_name(int(reader.outputs[0])) in staying for reader in operators.consumers(index))
    }
