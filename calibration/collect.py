"""Running images through the float graph and observing every tensor on the way.

What is observed is a task for an engine, see :mod:`embedlite.calibration.engine`: threads of this machine, or a
cluster. Each thread's or shard's part merges with the others, and what they give together does not depend on how many
they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..runtime.images.source import Source
from .engine import Engine, LocalEngine
from .errors import CalibrationDataError
from .observe import OutputsTask, RangesTask, StatisticsTask
from .ranges import Ranges
from .statistics import Statistics, merge

_NO_IMAGES = "there are no calibration images to take ranges from. Pass at least one."


def collect_statistics(
    flatbuffer: bytes,
    source: Source,
    *,
    histograms: bool = True,
    threads: int | None = None,
    without: Collection[str] = (),
    indices: Iterable[int] | None = None,
    engine: Engine | None = None,
) -> Statistics:
    """Statistics of the float tensors of a float TFLite graph.

    Args:
        flatbuffer: the float graph, batch 1, one input.
        source: the images; pixels go through its contract.
        histograms: whether values are counted by bin; minima, maxima and extreme images are always kept.
        threads: processors to use; default all.
        without: names of the activations that need no range; they may hold infinity or NaN.
        indices: which images; default all. A generator may report progress between them.
        engine: what runs them; default so many threads of this machine.

    Raises:
        CalibrationDataError: there are no images, or a tensor is not finite for one of them.
        InputValueError: an image holds NaN or infinity.
        EngineError: see :meth:`embedlite.calibration.engine.Engine.run`.
    """
    engine = engine or LocalEngine(threads)
    task = StatisticsTask(histograms, tuple(sorted(without)))
    parts = engine.run(task, flatbuffer, source, indices)
    return merge((part.result for part in parts), _NO_IMAGES)


def collect_ranges(
    flatbuffer: bytes,
    source: Source,
    *,
    by_channel: Collection[str] = (),
    threads: int | None = None,
    without: Collection[str] = (),
    indices: Iterable[int] | None = None,
    engine: Engine | None = None,
) -> Ranges:
    """Exact ranges of a float graph's tensors, of some of them by channel.

    Args:
        by_channel: names of the activations whose channels are observed one by one.

    The others, and the errors: see :func:`collect_statistics`.
    """
    task = RangesTask(tuple(sorted(without)), tuple(sorted(by_channel)))
    ranges = Ranges()
    for part in (engine or LocalEngine(threads)).run(task, flatbuffer, source, indices):
        ranges = ranges.merge(part.result)
    if not ranges.samples:
        raise CalibrationDataError(_NO_IMAGES)
    return ranges


def collect_outputs(
    flatbuffer: bytes,
    source: Source,
    indices: Iterable[int],
    *,
    threads: int | None = None,
    engine: Engine | None = None,
) -> NDArray[np.float32]:
    """What a float graph answers for images, flattened: (images, D) float32, in the order of ``indices``."""
    order: list[int] = []

    def noted() -> Iterator[int]:
        for index in indices:
            order.append(index)
            yield index

    rows: dict[int, NDArray[np.float32]] = {}
    for part in (engine or LocalEngine(threads)).run(OutputsTask(), flatbuffer, source, noted()):
        rows |= zip(part.indices, part.result, strict=True)
    if not order:
        raise CalibrationDataError(_NO_IMAGES)
    return np.stack([rows[index] for index in order])
