"""What is observed of an image in a float graph, as tasks for an engine."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..runtime.backends.interpreters import find_runtime, open_interpreter
from ..runtime.images.source import Source
from ..runtime.model.flatbuffer import read_flatbuffer
from .bins import MOST_VALUES, Filled, bin_keys, count, filled, with_filled
from .engine import Work
from .errors import CalibrationDataError
from .ranges import Ranges, channel_limits
from .statistics import (
    EXTREMES,
    MODULUS,
    Extreme,
    SparseStatistics,
    Statistics,
    TensorStatistics,
    highest_of,
    image_number,
    lowest_of,
    plain_contract,
)
from .tensors import TensorGroup, model_fingerprint, tensor_groups

Tensors = Mapping[str, NDArray[Any]]

_R = TypeVar("_R")

_PAUSES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)

_describing = threading.Lock()

_OUTPUTS = 256
"""Embeddings that a thread gathers before it hands them on."""


@dataclass(frozen=True)
class StatisticsTask:
    """Statistics of every float tensor; see :func:`embedlite.calibration.collect.collect_statistics`.

    Attributes:
        histograms: whether values are counted by bin.
        without: names of the activations that need none.
        images: see :class:`embedlite.calibration.engine.Task`.
    """

    histograms: bool
    without: tuple[str, ...]
    images: None = None

    def open(self, model: bytes) -> Work[SparseStatistics]:
        """Open the float graph."""
        groups, fingerprint = _described(model, self.without)
        return _Work(model, groups, lambda: _StatisticsObserver(fingerprint, groups, self.histograms))


@dataclass(frozen=True)
class RangesTask:
    """Exact ranges of every float tensor; see :func:`embedlite.calibration.collect.collect_ranges`.

    Attributes:
        without: names of the activations that need none.
        by_channel: of those whose channels are observed one by one.
        images: see :class:`embedlite.calibration.engine.Task`.
    """

    without: tuple[str, ...]
    by_channel: tuple[str, ...]
    images: None = None

    def open(self, model: bytes) -> Work[Ranges]:
        """Open the float graph."""
        groups, _ = _described(model, self.without)
        return _Work(model, groups, lambda: _RangesObserver(groups, self.by_channel))


@dataclass(frozen=True)
class OutputsTask:
    """What the graph answers, flattened: (images, D) float32.

    Attributes:
        images: see :class:`embedlite.calibration.engine.Task`.
    """

    images: int = _OUTPUTS

    def open(self, model: bytes) -> Work[NDArray[np.float32]]:
        """Open the float graph."""
        info = read_flatbuffer(model)
        place = next(place for place, tensor in enumerate(info.tensors) if tensor is info.outputs[0])
        output = TensorGroup(info.outputs[0].name, place, (info.outputs[0].name,), rectified=False)
        return _Work(model, (output,), lambda: _OutputsObserver(output.name))


def _described(model: bytes, without: tuple[str, ...]) -> tuple[tuple[TensorGroup, ...], str]:
    """A graph's tensor groups and fingerprint; the threads that open it ask one after the other, and one reads it."""
    with _describing:
        return _describe(model, without)


@functools.lru_cache(maxsize=2)
def _describe(model: bytes, without: tuple[str, ...]) -> tuple[tuple[TensorGroup, ...], str]:
    return tensor_groups(model, without), model_fingerprint(model)


class _Work(Generic[_R]):
    """An interpreter, and what observes its tensors."""

    def __init__(self, model: bytes, groups: Collection[TensorGroup], start: Callable[[], Any]) -> None:
        self._run, self._start = _interpreter(model, groups), start
        self._observer = start()

    def add(self, source: Source, index: int) -> None:
        try:
            self._observer.observe(source, index, self._run(source.ready(index)))
        except CalibrationDataError as error:
            raise CalibrationDataError(f"{source.name}, image {source.ids[index]!r}: {error}") from error

    def finish(self) -> _R:
        result: _R = self._observer.result()
        self._observer = self._start()
        return result


class _OutputsObserver:
    """Outputs, row by row."""

    def __init__(self, name: str) -> None:
        self._rows: list[NDArray[np.float32]] = []
        self._name = name

    def observe(self, source: Source, index: int, tensors: Tensors) -> None:
        self._rows.append(tensors[self._name].ravel().copy())

    def result(self) -> NDArray[np.float32]:
        return np.stack(self._rows)


class _Growing:
    """One tensor's statistics while they grow."""

    def __init__(self, group: TensorGroup, histograms: bool) -> None:
        self._group = group
        self._lowest: list[Extreme] = []
        self._highest: list[Extreme] = []
        self._keys: list[NDArray[np.uint16]] = []
        self._waiting = 0
        self._histograms = histograms
        self._filled: Filled | None = None

    def observe(self, image: str, values: NDArray[Any]) -> None:
        # Reading a large tensor once more is the cost of calibration, so the minimum of what cannot be negative, which
        # decides nothing, is not looked for.
        low = (0.0, "") if self._group.rectified else (float(values.min()), image)
        high = (float(values.max()), image)
        _check_finite(self._group.name, low[0], high[0])
        _keep(self._lowest, low, lowest_of)
        _keep(self._highest, high, highest_of)
        if self._histograms:
            self._keys.append(bin_keys(values).copy())
            self._waiting += len(self._keys[-1])
            # Counting has a cost for each bin, so small tensors of several images are counted together.
            if self._waiting >= MOST_VALUES:
                self._count()

    def statistics(self) -> tuple[TensorStatistics, Filled | None]:
        """Without the counts, and these."""
        self._count()
        return TensorStatistics(lowest_of(self._lowest), highest_of(self._highest)), self._filled

    def _count(self) -> None:
        if self._keys:
            counted = count(np.concatenate(self._keys))
            self._filled = filled(counted if self._filled is None else with_filled(counted, self._filled))
            self._keys, self._waiting = [], 0


def _keep(extremes: list[Extreme], item: Extreme, best: Callable[[Iterable[Extreme]], tuple[Extreme, ...]]) -> None:
    extremes.append(item)
    if len(extremes) >= 8 * EXTREMES:
        extremes[:] = best(extremes)


class _StatisticsObserver:
    """Statistics while they grow."""

    def __init__(self, model: str, groups: Collection[TensorGroup], histograms: bool) -> None:
        self._samples = self._images = 0
        self._model, self._contract = model, dict[str, Any]()
        self._tensors = {group.name: _Growing(group, histograms) for group in groups}

    def observe(self, source: Source, index: int, tensors: Tensors) -> None:
        image = source.ids[index]
        for name, growing in self._tensors.items():
            growing.observe(image, tensors[name])
        self._images = (self._images + image_number(image, source.digest(index))) % MODULUS
        self._samples += 1
        self._contract = self._contract or plain_contract(source.contract)

    def result(self) -> SparseStatistics:
        found = {name: growing.statistics() for name, growing in self._tensors.items()}
        tensors = {name: tensor for name, (tensor, _) in found.items()}
        bins = {name: counted for name, (_, counted) in found.items() if counted is not None}
        return SparseStatistics(Statistics(self._model, self._contract, tensors, self._samples, self._images), bins)


class _RangesObserver:
    """Exact ranges while they grow."""

    def __init__(self, groups: Collection[TensorGroup], by_channel: Collection[str]) -> None:
        self._ranges = Ranges()
        self._groups, self._by_channel = groups, by_channel

    def observe(self, source: Source, index: int, tensors: Tensors) -> None:
        limits: dict[str, tuple[float, float]] = {}
        channels: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        for group in self._groups:
            values = tensors[group.name]
            wanted = [name for name in group.members if name in self._by_channel]
            if wanted:
                lows, highs = channel_limits(values)
                low, high = float(lows.min()), float(highs.max())
                channels |= dict.fromkeys(wanted, (lows, highs))
            else:
                low, high = float(values.min()), float(values.max())
            _check_finite(group.name, low, high)
            limits |= dict.fromkeys(group.members, (low, high))
        self._ranges = self._ranges.merge(Ranges(limits, channels, 1))

    def result(self) -> Ranges:
        return self._ranges


def _check_finite(name: str, low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise CalibrationDataError(
            f"the float model's tensor {name!r} is not finite for this image. Check the model on it with Keras."
        )


def _interpreter(flatbuffer: bytes, groups: Collection[TensorGroup]) -> Callable[[NDArray[np.float32]], Tensors]:
    """An interpreter that keeps every tensor readable; its views must be gone before the next image is run."""
    interpreter = open_interpreter(find_runtime(), flatbuffer, threads=1, keep_all_tensors=True)
    place = interpreter.get_input_details()[0]["index"]

    def run(image: NDArray[np.float32]) -> Tensors:
        _without_views(lambda: interpreter.set_tensor(place, image[None]))
        _without_views(interpreter.invoke)
        # tensor() gives a view; get_tensor() would copy every activation once more.
        return {group.name: interpreter.tensor(group.index)() for group in groups}

    return run


def _without_views(call: Callable[[], None]) -> None:
    """Call what the interpreter refuses to do while somebody holds a view of a tensor.

    Nobody here does, but Dask's profiler looks at the frames of a worker's threads a hundred times a second, and while
    it does, what had been in them is still there.
    """
    for pause in _PAUSES:
        try:
            return call()
        except RuntimeError as error:
            if "reference to internal data" not in str(error):
                raise
            time.sleep(pause)
    return call()
