"""What int8 with given ranges does to the embeddings of held-out images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from ...calibration import Ranges
from ...runtime.drift import Drift
from ...runtime.drift.intervals import drift_of
from ...runtime.drift.metrics import sqnr_db
from ...runtime.images.source import Source
from ...runtime.input.preprocess import model_ready
from ..graph.graph import Graph
from ..graph.masks import masked_tensors
from ..graph.run import float_rows
from ..normalization.prepare import FloatGraph
from .litert import quantize

Values = NDArray[np.float32]


class ReadyImages(Sequence[Values]):
    """Images of a source, made ready whenever they are asked for: pixels take a quarter of the room of floats."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        """Load them."""
        self._loaded, self._contract = [source.load(index) for index in indices], source.contract
        self._names = [f"{source.name}, {source.contract.noun} {source.ids[index]!r}" for index in indices]

    def __len__(self) -> int:
        return len(self._loaded)

    @overload
    def __getitem__(self, place: int) -> Values: ...
    @overload
    def __getitem__(self, place: slice) -> list[Values]: ...
    def __getitem__(self, place: int | slice) -> Values | list[Values]:
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(len(self)))]
        return model_ready(self._loaded[place], self._contract, self._names[place])


class Trial:
    """Some images and the float graph's embeddings of them, to try ranges on.

    Attributes:
        images: as they were given.
        floating: operators that stay float in int8 besides those that do anyway, by the name of what they write.
    """

    floating: tuple[str, ...] = ()

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
        self._known: dict[bytes, NDArray[np.float64]] = {}

    def __len__(self) -> int:
        return len(self.images)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the float graph's embeddings, in hexadecimal."""
        return hashlib.sha256(self._reference.tobytes()).hexdigest()

    @property
    def signal(self) -> float:
        """Sum of the squares of the float graph's embeddings."""
        return float((self._reference.astype(np.float64) ** 2).sum())

    @property
    def spread(self) -> float:
        """Mean square of how far the float graph's embeddings are from their mean."""
        reference = self._reference.astype(np.float64)
        return float(np.square(reference - reference.mean(axis=0)).sum(axis=1).mean())

    def errors(self, flatbuffer: bytes, ranges: Ranges, floating: Sequence[str] = ()) -> NDArray[np.float64]:
        """Errors of each image's embedding by the int8 file with these ranges, (images, 2): squared, and 1 - cosine.

        Args:
            flatbuffer: the float graph, or one that computes the same.
            ranges: of its activations.
            floating: further operators that stay float, likewise.
        """
        return self.errors_of(self.quantized(flatbuffer, ranges, floating))

    def quantized(self, flatbuffer: bytes, ranges: Ranges, floating: Sequence[str] = ()) -> bytes:
        """The int8 graph with these ranges; see :meth:`errors`."""
        # As litert-quantizer leaves it: the repairs are for other runtimes and change no value here.
        return quantize(flatbuffer, "int8", ranges, self._keep_float, floating=(*self.floating, *floating))

    def errors_of(self, quantized: bytes) -> NDArray[np.float64]:
        """The same of a quantized graph with float input and output; of one that was run before as they were."""
        key = hashlib.sha256(quantized).digest()
        if key not in self._known:
            self._known[key] = self.compared(float_rows(quantized, self.images, self._threads))
        return self._known[key]

    def measure(self, quantized: bytes) -> tuple[NDArray[np.float64], Drift]:
        """The same, and the drift of the embeddings, with neighbours where there are images enough."""
        embeddings = float_rows(quantized, self.images, self._threads)
        return self.compared(embeddings), drift_of(embeddings, self._reference)

    def compared(self, embeddings: Values) -> NDArray[np.float64]:
        """The same of embeddings, (images, values)."""
        with np.errstate(over="ignore", invalid="ignore"):
            mine, true = embeddings.astype(np.float64), self._reference.astype(np.float64)
            squared = ((mine - true) ** 2).sum(axis=1)
            lengths = np.sqrt((mine**2).sum(axis=1) * (true**2).sum(axis=1))
            # From the difference of unit vectors, because 1 - cosine of nearly equal ones is mostly rounding.
            angles = np.maximum(squared - (np.sqrt((mine**2).sum(axis=1)) - np.sqrt((true**2).sum(axis=1))) ** 2, 0)
            angles = np.divide(angles, 2 * lengths, out=np.zeros_like(angles), where=lengths > 0)
        # Zeros in place of an embedding are not an embedding, however close to it they are.
        dead = (embeddings == 0).all(axis=1) & (self._reference != 0).any(axis=1)
        usable = np.isfinite(squared) & np.isfinite(angles) & ~dead
        return np.where(usable[:, None], np.stack([squared, angles], axis=1), np.inf)

    def sqnr(self, errors: NDArray[np.float64]) -> float | None:
        """The SQNR of embeddings with these errors; see :func:`embedlite.runtime.drift.metrics.sqnr_db`.

        Args:
            errors: see :meth:`errors`; or the squared ones alone, (images,).
        """
        return sqnr_db(self.signal, _noise(errors))


def _noise(errors: NDArray[np.float64]) -> float:
    return float(errors.reshape(len(errors), -1)[:, 0].sum())


class CrossTrial:
    """Images in folds, each judged with ranges of the other folds.

    Attributes:
        folds: one trial for each.
    """

    def __init__(self, folds: Sequence[Trial]) -> None:
        """Take the folds; at least two."""
        self.folds = tuple(folds)

    def __len__(self) -> int:
        return sum(map(len, self.folds))

    def errors_of_one(
        self, flatbuffer: bytes, ranges: Ranges, floating: Sequence[str] = ()
    ) -> Iterator[NDArray[np.float64]]:
        """Errors of each fold's images with one graph and its ranges, quantized once; see :meth:`Trial.errors`."""
        quantized = self.folds[0].quantized(flatbuffer, ranges, floating)
        return (trial.errors_of(quantized) for trial in self.folds)

    def errors(self, candidates: Iterable[tuple[bytes, Ranges]]) -> Iterator[NDArray[np.float64]]:
        """Errors of each fold's images, made one fold after the other; see :meth:`Trial.errors`.

        Args:
            candidates: for each fold the float graph and its ranges.
        """
        return (trial.errors(*candidate) for trial, candidate in zip(self.folds, candidates, strict=True))

    def sqnr(self, errors: NDArray[np.float64]) -> float | None:
        """See :meth:`Trial.sqnr`."""
        return sqnr_db(sum(trial.signal for trial in self.folds), _noise(errors))


def unmeasured(graph: FloatGraph) -> set[str]:
    """Activations that need no range of the images.

    Those that only operators which stay float write and read, so that they are never quantized: a guarded divisor among
    them is infinite where it was zero, and a quotient may be NaN before zero is chosen instead. The output is not among
    them: an image for which the model itself answers NaN sets no ranges. And those whose range follows from others,
    because a mask is in them.
    """
    operators = Graph(graph.flatbuffer)
    outputs = {int(index) for index in operators.subgraph.outputs}
    staying = set(graph.keep_float)
    _, consumers = operators.links()
    return masked_tensors(operators) | {
        name
        for operator in operators.operators
        if (name := operators.tensor_name(index := int(operator.outputs[0]))) in staying
        and index not in outputs
        and all(operators.tensor_name(int(reader.outputs[0])) in staying for reader in consumers.get(index, []))
    }
