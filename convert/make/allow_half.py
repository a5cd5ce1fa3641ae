"""Whether devices may compute a float file in half precision, tried on images; see :mod:`..graph.half_precision`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ...runtime.drift import Drift
from ...runtime.drift.gates import DEFAULT_GATES, apply_gates
from ...runtime.drift.intervals import drift_of
from ...runtime.drift.wording import decibels
from ...runtime.images.source import Source
from ..graph.graph import Graph
from ..graph.half_precision import LARGEST, in_half, largest_value
from ..graph.loops import has_loops
from ..graph.run import float_rows
from ..normalization.prepare import FloatGraph
from ..request import Request

MOST_IMAGES = 64
"""Images that it is tried on."""


@dataclass(frozen=True)
class HalfPrecision:
    """What came of the trial.

    Attributes:
        drift: of the float graph computed in half precision from itself; None if that was not tried.
        images: how many images it was tried on.
        reason: why devices may not; empty if they may.
    """

    drift: Drift | None
    images: int
    reason: str = ""

    @property
    def allowed(self) -> bool:
        """Whether devices may."""
        return not self.reason

    def facts(self) -> dict[str, Any] | None:
        """What the contract says of it; None where devices may not."""
        if not self.allowed or self.drift is None:
            return None
        return {"sqnr_db": self.drift.sqnr_db, "images": self.images}


def half_modes(request: Request, graph: FloatGraph) -> tuple[str, ...]:
    """Those of the modes asked for whose files devices may compute in half precision, if that does well.

    Args:
        request: the modes, and whether float32 is among them.
        graph: the prepared float graph; a float32 file that keeps its loops is made of another one.
    """
    allowed = ("float16", "float32") if request.allow_fp16 and graph.looped is None else ("float16",)
    return tuple(mode for mode in request.modes if mode in allowed)


def try_half(flatbuffer: bytes, images: Source | None, threads: int | None) -> HalfPrecision:
    """Compute the float graph in half precision on images, and judge that by the default gates.

    Args:
        flatbuffer: the float graph.
        images: of which the first :data:`MOST_IMAGES` are taken; None if there are none.
        threads: default all processors.

    Raises:
        InterpreterFailedError: the interpreter fails.
    """
    if has_loops(Graph(flatbuffer)):
        return HalfPrecision(None, 0, "the model has a loop (a recurrent layer), in which that cannot be tried")
    if images is None:
        return HalfPrecision(None, 0, "there are no images to try it on (--calibration-data, --test-data)")
    ready = [images.ready(index) for index in range(min(len(images), MOST_IMAGES))]
    largest = largest_value(flatbuffer, ready)
    # Also what is not a number.
    if not largest <= LARGEST:
        reason = f"a value of {largest:.3g} is too large for it (65,504 is the largest, half of that is left to sums)"
        return HalfPrecision(None, len(ready), reason)
    drift = drift_of(float_rows(in_half(flatbuffer), ready, threads), float_rows(flatbuffer, ready, threads))
    missed = [gate for gate in apply_gates(asdict(drift), DEFAULT_GATES) if not gate.passed]
    if missed:
        names = ", ".join(gate.name for gate in missed)
        reason = f"it fails the drift gates there ({names}; {decibels(drift.sqnr_db)} on {len(ready)} images)"
        return HalfPrecision(drift, len(ready), reason)
    return HalfPrecision(drift, len(ready))


def explain_half(half: HalfPrecision, modes: tuple[str, ...]) -> str:
    """What was decided, in a sentence.

    Args:
        half: what came of the trial.
        modes: the files that it is about.
    """
    files = " and ".join(modes)
    if not half.allowed:
        return f"{files}: processors with half-precision arithmetic compute it in float32 all the same: {half.reason}."
    assert half.drift is not None
    return (
        f"{files}: processors with half-precision arithmetic (ARMv8.2 and later: Raspberry Pi 5, phones) compute it in "
        f"that, {decibels(half.drift.sqnr_db)} from the float model on {half.images} images, simulated; others in "
        "float32."
    )
