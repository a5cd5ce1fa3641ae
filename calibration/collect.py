"""Running images through the float graph and observing every tensor on the way."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.flatbuffer import read_flatbuffer
from ..runtime.interpreters import available_threads, find_runtime, open_interpreter
from ..runtime.sources import Source
from .errors import CalibrationDataError
from .ranges import Ranges, observe


def collect_ranges(
    flatbuffer: bytes,
    source: Source,
    *,
    threads: int | None = None,
    by_channel: Collection[str] = (),
    without: Collection[str] = (),
    indices: Iterable[int] | None = None,
) -> Ranges:
    """Exact ranges of the float tensors of a float TFLite graph.

    Args:
        flatbuffer: the float graph, batch 1, one input.
        source: the images; pixels go through its contract.
        threads: processors to use; default all.
        by_channel: names of the activations whose channels are observed one by one too.
        without: names of the activations that need no range; they may hold infinity or NaN.
        indices: which images; default all. A generator may report progress between them.

    Returns:
        Ranges by tensor name, of all other activations.

    Raises:
        CalibrationDataError: there are no images, or a tensor is not finite for one of them.
        InputValueError: an image holds NaN or infinity.
    """
    observer = _Observer(flatbuffer, threads or available_threads(), without)
    ranges = Ranges()
    for index in range(len(source)) if indices is None else indices:
        try:
            ranges = ranges.merge(observe(observer.tensors(source.ready(index)), by_channel))
        except CalibrationDataError as error:
            raise CalibrationDataError(f"{source.name}, image {source.ids[index]!r}: {error}") from error
    if not ranges.samples:
        raise CalibrationDataError("there are no calibration images to take ranges from. Pass at least one.")
    return ranges


class _Observer:
    """An interpreter that keeps every tensor of the graph readable."""

    def __init__(self, flatbuffer: bytes, threads: int, without: Collection[str]) -> None:
        self._interpreter = open_interpreter(find_runtime(), flatbuffer, threads=threads, keep_all_tensors=True)
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._activations = {
            tensor.name: index
            for index, tensor in enumerate(read_flatbuffer(flatbuffer).tensors)
            if tensor.dtype == "float32" and not tensor.constant and tensor.name not in without
        }

    def tensors(self, image: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Views of the activations; they must be gone before the next image is run."""
        self._interpreter.set_tensor(self._input, image[None])
        self._interpreter.invoke()
        # tensor() gives a view; get_tensor() would copy every activation once more.
        return {name: self._interpreter.tensor(index)() for name, index in self._activations.items()}
