"""Running images through the float graph and observing every tensor on the way.

Images are spread over the processors, one interpreter each: that is as fast as spreading each inference, leaves room
for looking at the tensors, and what one image gives does not depend on the number of threads.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.flatbuffer import read_flatbuffer
from ..runtime.interpreters import available_threads, find_runtime, open_interpreter
from ..runtime.sources import Source
from .activations import TensorGroup, model_fingerprint, tensor_groups
from .errors import CalibrationDataError
from .histogram import MOST_VALUES, bin_keys, count
from .ranges import Ranges, channel_limits
from .statistics import (
    EXTREMES,
    MODULUS,
    Extreme,
    Statistics,
    TensorStatistics,
    highest_of,
    lowest_of,
    merge,
    plain_contract,
)

Tensors = Mapping[str, NDArray[Any]]


def collect_statistics(
    flatbuffer: bytes,
    source: Source,
    *,
    histograms: bool = True,
    threads: int | None = None,
    without: Collection[str] = (),
    indices: Iterable[int] | None = None,
) -> Statistics:
    """Statistics of the float tensors of a float TFLite graph.

    Args:
        flatbuffer: the float graph, batch 1, one input.
        source: the images; pixels go through its contract.
        histograms: whether values are counted by bin; minima, maxima and extreme images are always kept.
        threads: processors to use; default all.
        without: names of the activations that need no range; they may hold infinity or NaN.
        indices: which images; default all. A generator may report progress between them.

    Raises:
        CalibrationDataError: there are no images, or a tensor is not finite for one of them.
        InputValueError: an image holds NaN or infinity.
    """
    groups = tensor_groups(flatbuffer, without)
    model, contract = model_fingerprint(flatbuffer), plain_contract(source.contract)

    def start() -> _StatisticsObserver:
        return _StatisticsObserver(groups, histograms)

    observers = _run(flatbuffer, groups, source, indices, threads, start)
    return merge(item.statistics(model, contract) for item in observers if item.samples)


def collect_ranges(
    flatbuffer: bytes,
    source: Source,
    *,
    by_channel: Collection[str] = (),
    threads: int | None = None,
    without: Collection[str] = (),
    indices: Iterable[int] | None = None,
) -> Ranges:
    """Exact ranges of a float graph's tensors, of some of them by channel.

    Args:
        by_channel: names of the activations whose channels are observed one by one.

    The others, and the errors: see :func:`collect_statistics`.
    """
    groups = tensor_groups(flatbuffer, without)
    observers = _run(flatbuffer, groups, source, indices, threads, lambda: _RangesObserver(groups, by_channel))
    ranges = Ranges()
    for observer in observers:
        ranges = ranges.merge(observer.ranges)
    return ranges


def collect_outputs(
    flatbuffer: bytes, source: Source, indices: Iterable[int], *, threads: int | None = None
) -> NDArray[np.float32]:
    """What a float graph answers for images, flattened: (images, D) float32, in the order of ``indices``."""
    model = read_flatbuffer(flatbuffer)
    place = next(place for place, tensor in enumerate(model.tensors) if tensor is model.outputs[0])
    output = TensorGroup(model.outputs[0].name, place, (model.outputs[0].name,), rectified=False)
    order: list[int] = []

    def noted() -> Iterator[int]:
        for index in indices:
            order.append(index)
            yield index

    observers = _run(flatbuffer, (output,), source, noted(), threads, lambda: _OutputsObserver(output.name))
    rows = {index: row for observer in observers for index, row in observer.rows}
    return np.stack([rows[index] for index in order])


class _OutputsObserver:
    """One thread's outputs, as (index, row)."""

    def __init__(self, name: str) -> None:
        self.rows: list[tuple[int, NDArray[np.float32]]] = []
        self._name = name

    def observe(self, source: Source, index: int, tensors: Tensors) -> None:
        self.rows.append((index, tensors[self._name].ravel().copy()))


class _Growing:
    """One tensor's statistics while they grow."""

    def __init__(self, group: TensorGroup, histograms: bool) -> None:
        self._group = group
        self._lowest: list[Extreme] = []
        self._highest: list[Extreme] = []
        self._keys: list[NDArray[np.uint16]] = []
        self._waiting = 0
        self._counts = count(np.empty(0, np.uint16)) if histograms else None

    def observe(self, image: str, values: NDArray[Any]) -> None:
        # Reading a large tensor once more is the cost of calibration, so the minimum of what cannot be negative, which
        # decides nothing, is not looked for.
        low = (0.0, "") if self._group.rectified else (float(values.min()), image)
        high = (float(values.max()), image)
        _check_finite(self._group.name, low[0], high[0])
        _keep(self._lowest, low, lowest_of)
        _keep(self._highest, high, highest_of)
        if self._counts is not None:
            self._keys.append(bin_keys(values).copy())
            self._waiting += len(self._keys[-1])
            # Counting has a cost for each bin, so small tensors of several images are counted together.
            if self._waiting >= MOST_VALUES:
                self._count()

    def statistics(self) -> TensorStatistics:
        self._count()
        return TensorStatistics(lowest_of(self._lowest), highest_of(self._highest), self._counts)

    def _count(self) -> None:
        if self._counts is not None and self._keys:
            self._counts += count(np.concatenate(self._keys))
            self._keys, self._waiting = [], 0


def _keep(extremes: list[Extreme], item: Extreme, best: Callable[[Iterable[Extreme]], tuple[Extreme, ...]]) -> None:
    extremes.append(item)
    if len(extremes) >= 8 * EXTREMES:
        extremes[:] = best(extremes)


class _StatisticsObserver:
    """One thread's statistics while they grow."""

    def __init__(self, groups: Collection[TensorGroup], histograms: bool) -> None:
        self.samples = self._images = 0
        self._tensors = {group.name: _Growing(group, histograms) for group in groups}

    def observe(self, source: Source, index: int, tensors: Tensors) -> None:
        image = source.ids[index]
        for name, growing in self._tensors.items():
            growing.observe(image, tensors[name])
        digest = hashlib.sha256(image.encode(errors="surrogateescape") + b"\0" + source.digest(index)).digest()
        self._images = (self._images + int.from_bytes(digest, "little")) % MODULUS
        self.samples += 1

    def statistics(self, model: str, contract: Mapping[str, Any]) -> Statistics:
        tensors = {name: growing.statistics() for name, growing in self._tensors.items()}
        return Statistics(model, contract, tensors, self.samples, self._images)


class _RangesObserver:
    """One thread's exact ranges while they grow."""

    def __init__(self, groups: Collection[TensorGroup], by_channel: Collection[str]) -> None:
        self.ranges = Ranges()
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
        self.ranges = self.ranges.merge(Ranges(limits, channels, 1))


def _check_finite(name: str, low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise CalibrationDataError(
            f"the float model's tensor {name!r} is not finite for this image. Check the model on it with Keras."
        )


def _run(
    flatbuffer: bytes,
    groups: Collection[TensorGroup],
    source: Source,
    indices: Iterable[int] | None,
    threads: int | None,
    start: Callable[[], Any],
) -> list[Any]:
    """Run images on as many interpreters as threads and return each thread's observer.

    If several images fail, the error is that of the first of them, however the threads took turns.
    """
    numbered = enumerate(range(len(source)) if indices is None else indices)
    lock, stop = threading.Lock(), threading.Event()
    failures: list[tuple[int, BaseException]] = []
    observers = [start() for _ in range(threads or available_threads())]
    done = [0] * len(observers)

    def work(place: int) -> None:
        number = -1
        try:
            run = _interpreter(flatbuffer, groups)
            while not stop.is_set():
                with lock:
                    number, index = next(numbered, (-1, -1))
                if number < 0:
                    return
                _observe(observers[place], source, index, run)
                done[place] += 1
        except BaseException as error:  # every kind is handed on to the caller's thread
            failures.append((number, error))
            stop.set()

    workers = [threading.Thread(target=work, args=(place,), daemon=True) for place in range(len(observers))]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
    except BaseException:
        stop.set()
        for worker in workers:
            worker.join()
        raise
    if failures:
        raise min(failures, key=lambda item: item[0])[1]
    if not sum(done):
        raise CalibrationDataError("there are no calibration images to take ranges from. Pass at least one.")
    return observers


def _observe(observer: Any, source: Source, index: int, run: Callable[[NDArray[np.float32]], Tensors]) -> None:
    try:
        observer.observe(source, index, run(source.ready(index)))
    except CalibrationDataError as error:
        raise CalibrationDataError(f"{source.name}, image {source.ids[index]!r}: {error}") from error


def _interpreter(flatbuffer: bytes, groups: Collection[TensorGroup]) -> Callable[[NDArray[np.float32]], Tensors]:
    """An interpreter that keeps every tensor readable; its views must be gone before the next image is run."""
    interpreter = open_interpreter(find_runtime(), flatbuffer, threads=1, keep_all_tensors=True)
    place = interpreter.get_input_details()[0]["index"]

    def run(image: NDArray[np.float32]) -> Tensors:
        interpreter.set_tensor(place, image[None])
        interpreter.invoke()
        # tensor() gives a view; get_tensor() would copy every activation once more.
        return {group.name: interpreter.tensor(group.index)() for group in groups}

    return run
