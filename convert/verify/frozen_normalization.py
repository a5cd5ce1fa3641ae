"""A frozen normalization: what its files are compared with, and what freezing itself costs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...runtime.drift import Drift
from ...runtime.drift.intervals import drift_of
from ..graph.run import float_runner
from ..normalization.freeze import share_outside
from ..normalization.prepare import Frozen
from .verdicts import Frames


@dataclass(frozen=True)
class FreezingCost:
    """What freezing does to images that gave no constants.

    Attributes:
        outside: share of their raw values beyond the constants.
        moved: drift of the frozen float graph from the original.
        lowering: drift of the float graph before freezing from the original.
    """

    outside: float
    moved: Drift
    lowering: Drift


def with_constants(frozen: Frozen, frames: Frames) -> Frames:
    """The frames with the answers of the float graph that has the constants: what the files are compared with."""
    run, ready, answers = float_runner(frozen.reference), np.load(frames.ready, mmap_mode="r"), frames.reference.copy()
    for index in range(len(answers)):
        answers[index] = run(np.array(ready[index]))
    return replace(frames, reference=answers)


def measure_freezing(frozen: Frozen, original: Frames, constant: Frames) -> FreezingCost:
    """What freezing costs on the images among the frames.

    Args:
        frozen: the constants, and the graph that they were taken from.
        original: the frames with the original's answers.
        constant: the same from :func:`with_constants`.
    """
    images, ready = np.flatnonzero(~original.edge), np.load(original.ready, mmap_mode="r")
    run, held = float_runner(frozen.unfrozen), [np.array(ready[index]) for index in images]
    return FreezingCost(
        share_outside(frozen.unfrozen, frozen.constants, held),
        drift_of(constant.reference[images], original.reference[images]),
        drift_of(np.stack([run(image) for image in held]), original.reference[images]),
    )
