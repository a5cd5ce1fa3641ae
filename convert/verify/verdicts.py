"""Every written file is run by every installed interpreter, each in a process of its own; a crash there is a verdict.

What is compared, on images and on edge frames (flat, saturated, one hot pixel, low contrast):

- each runtime with the original: a float file closely, a quantized one loosely, for its drift is measured elsewhere and
  a broken file is far beyond any drift;
- each runtime with the first one: a float file directly; of a quantized one its drift from the original with the drift
  that the first one has. Interpreters round int8 differently (XNNPACK against the reference kernels), and where the
  network amplifies that, two right ones are as far from each other as both are from the original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.check.probe import ProbeResult
from ...runtime.check.selftest import quantized_limit
from ...runtime.drift import measure_drift
from ...runtime.drift.metrics import ranked_db
from ...runtime.drift.wording import decibels
from ..results import Verdict

FLOAT_TOLERANCE = 1e-4
"""Largest difference of two runs in float, relative to the largest value: only the order of additions differs."""

MORE_DRIFT_DB, MOST_MORE_DB = 3.0, 6.0
"""An interpreter may have so much more drift than the first one: twice the noise, or four times where the images do not
agree on it, because one or two of a handful may decide a sum."""

LITTLE_DRIFT_DB = 40.0
"""With less drift than that an interpreter is right, whatever the first one has: 16-bit activations have hardly any."""

BROKEN_SQNR_DB = 3.0
"""A file of rounded weights further than this from the original on ordinary images is not merely drifting."""

ROUNDED_SQNR_DB = 20.0
"""So near a float32 file has to be to an original that rounds itself: bfloat16 leaves 48 dB of each operation."""


@dataclass(frozen=True)
class Frames:
    """What files are verified on.

    Attributes:
        ready: path of a ``.npy`` with model-ready frames, (N, ...) float32.
        reference: the original's embedding of each, (N, ...) float32, finite.
        edge: which of them are edge frames, (N,) bool.
        firm: on which of them the original does not jump when the frame changes by rounding, (N,) bool.
        rounded: whether the original itself computes in half precision, so that its own rounding is in its answers.
    """

    ready: Path
    reference: NDArray[np.float32]
    edge: NDArray[np.bool_]
    firm: NDArray[np.bool_]
    rounded: bool = False

    def part(self, rows: Sequence[int]) -> Frames:
        """Some of the frames, in this order."""
        return Frames(self.ready, self.reference[rows], self.edge[rows], self.firm[rows], self.rounded)


def judge(
    result: ProbeResult,
    mode: str,
    frames: Frames,
    first: NDArray[np.float32] | None,
    half: Mapping[str, Any] | None = None,
) -> Verdict:
    """Whether an interpreter runs a file rightly.

    Args:
        result: what it made of the file.
        mode: the file's quantization mode.
        frames: what it was run on; it may have stopped before the last of them.
        first: what the first interpreter made of them; None if this is the first.
        half: the contract's ``half_precision``: a processor that computes in it need not come closer than that.
    """
    mine = result.embeddings
    if mine is None:
        return Verdict(result.runtime, result.version, False, result.error)
    ran = frames.part(range(len(mine)))
    ok, detail = _sound(mine, ran)
    least_in_half = None if half is None else quantized_limit(half["sqnr_db"])
    if ok:
        least = BROKEN_SQNR_DB if mode != "float32" else ROUNDED_SQNR_DB if ran.rounded else None
        ok, detail = _like(mine, ran.reference, ran, "the original", least, least_in_half)
    if ok and first is not None:
        common = range(min(len(mine), len(first)))
        part = ran.part(common)
        if mode in ("float32", "float16"):
            ok, detail = _like(mine[common], first[common], part, "LiteRT", None, least_in_half)
        else:
            ok, detail = _drifts_alike(mine[common], first[common], part)
    return Verdict(result.runtime, result.version, ok, detail, arena_bytes=result.arena_bytes)


def _sound(mine: NDArray[np.float32], frames: Frames) -> tuple[bool, str]:
    edge = frames.edge
    finite = np.isfinite(mine.reshape(len(mine), -1)).all(axis=1)
    if not finite.all():
        where = "an edge frame" if edge[~finite].all() else "an image"
        return False, f"answers NaN or infinity for {where}"
    images, wanted = mine[~edge], frames.reference[~edge]
    # Images that are alike, or a model that answers the same to all but for rounding, are not the file's fault.
    rounding = FLOAT_TOLERANCE * float(np.abs(wanted).max(initial=0))
    if len(images) > 1 and (np.abs(wanted - wanted[0]) > rounding).any() and (images == images[0]).all():
        return False, "answers the same embedding for every image"
    return True, ""


def _drifts_alike(mine: NDArray[np.float32], first: NDArray[np.float32], frames: Frames) -> tuple[bool, str]:
    """Whether a run of a quantized file is about as near to the original as the first interpreter's."""
    images = ~frames.edge if (~frames.edge).any() else frames.edge
    ours, theirs = (measure_drift(run[images], frames.reference[images], k=None)[0] for run in (mine, first))
    if ours.invalid > theirs.invalid:
        return False, f"{ours.invalid} embedding(s) are zero or constant where LiteRT's are not"
    near, other = (ranked_db(drift.sqnr_db) for drift in (ours, theirs))
    ok = near >= min(other - MORE_DRIFT_DB, LITTLE_DRIFT_DB)
    if not ok and near >= other - MOST_MORE_DB:
        ok = not _is_clear(mine[images], first[images], frames.reference[images])
    return ok, f"{decibels(near)} from the original, LiteRT {decibels(other)}"


def _is_clear(mine: NDArray[np.float32], first: NDArray[np.float32], reference: NDArray[np.float32]) -> bool:
    """Whether one run has more noise than another by more than :data:`MORE_DRIFT_DB`, image by image: two standard
    errors beyond it."""
    ours, theirs = (
        np.square((run - reference).reshape(len(run), -1), dtype=np.float64).sum(axis=1) for run in (mine, first)
    )
    tiny = np.finfo(np.float64).tiny
    more = 10 * np.log10(np.maximum(ours, tiny) / np.maximum(theirs, tiny))
    error = more.std(ddof=1) / np.sqrt(len(more)) if len(more) > 1 else 0.0
    return bool(more.mean() - 2 * error > MORE_DRIFT_DB)


def _like(
    mine: NDArray[np.float32],
    other: NDArray[np.float32],
    frames: Frames,
    name: str,
    least_db: float | None,
    least_in_half: float | None,
) -> tuple[bool, str]:
    """Whether two runs agree: closely where no ``least_db`` is given, else to that many decibels."""
    if least_db is None:
        firm = frames.firm
        distance, reach = float(np.abs(mine - other)[firm].max()), float(np.abs(other).max())
        ok = distance <= FLOAT_TOLERANCE * reach
        if ok or least_in_half is None:
            return ok, f"{'agrees' if ok else 'disagrees'} with {name} to {distance:.1e}"
        least_db = least_in_half
    # Quantized files saturate on edge frames, and some runtimes sooner than others: only images are compared.
    images = ~frames.edge if (~frames.edge).any() else frames.edge
    drift, _ = measure_drift(mine[images], other[images], k=None)
    if drift.invalid:
        return False, f"{drift.invalid} embedding(s) are zero or constant where {name}'s are not"
    ok = ranked_db(drift.sqnr_db) >= least_db
    return ok, f"{'agrees' if ok else 'disagrees'} with {name}: {decibels(drift.sqnr_db)}"
