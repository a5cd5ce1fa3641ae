"""The steps from the original to the shipped file, measured: as data, as JSON and as text. How: :mod:`.ladder`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from .drift.text import fixed
from .files import finite_json


@dataclass(frozen=True)
class Moved:
    """How far embeddings moved; the metrics of :class:`.drift.Drift` by these names, None where they have no value."""

    sqnr_db: float | None
    cosine_p1: float | None
    knn_overlap_cross: float | None


@dataclass(frozen=True)
class LadderStep:
    """One step.

    Attributes:
        step: from what to what.
        detail: what is to be known of it besides.
        moved: against the step before; None if it was not run.
        from_top: against the original, which is the reference of the report.
        on_the_way: whether it lies between the original and the shipped file; else it stands beside the ladder, and the
            drift report's figures do not contain it.
        share: of the noise power of all steps on the way; None for the others, and where there is no noise at all.
        skipped: why it was not run; None if it was.
    """

    step: str
    detail: str = ""
    moved: Moved | None = None
    from_top: Moved | None = None
    on_the_way: bool = False
    share: float | None = None
    skipped: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The step as a JSON object, with the metrics against the step before on its first level."""
        moved = self.moved or Moved(None, None, None)
        return {
            "step": self.step,
            "detail": self.detail,
            **asdict(moved),
            "from_top": None if self.from_top is None else asdict(self.from_top),
            "on_the_way": self.on_the_way,
            "share": self.share,
            "skipped": self.skipped,
        }


@dataclass(frozen=True)
class Ladder:
    """All steps, those on the way first; ``images`` is how many they were measured on."""

    steps: tuple[LadderStep, ...]
    images: int

    @property
    def largest(self) -> LadderStep | None:
        """The step that spent most of the drift; None without any drift."""
        spent = [step for step in self.steps if step.share is not None]
        return max(spent, key=lambda step: step.share or 0, default=None)

    def to_json(self) -> list[dict[str, Any]]:
        """The steps as JSON objects."""
        steps: list[dict[str, Any]] = finite_json([step.to_json() for step in self.steps])
        return steps


def with_shares(steps: Sequence[LadderStep]) -> tuple[LadderStep, ...]:
    """The steps with :attr:`LadderStep.share` filled in.

    A step's noise power, relative to the signal, is 10^(-sqnr_db / 10) against the step before. Errors of independent
    steps add up in power.
    """
    powers = [_noise(step.moved) if step.on_the_way and step.moved is not None else None for step in steps]
    total = sum(power for power in powers if power is not None)
    if not 0 < total < math.inf:
        return tuple(steps)
    return tuple(
        step if power is None else replace(step, share=power / total) for step, power in zip(steps, powers, strict=True)
    )


def _noise(moved: Moved) -> float:
    return 0.0 if moved.sqnr_db is None else 10 ** (-moved.sqnr_db / 10)


def render_ladder(ladder: Ladder) -> str:
    """The steps as text: those on the way, those beside it, those that were not run, and which spent most."""
    run = [step for step in ladder.steps if step.skipped is None]
    way, beside = ([step for step in run if step.on_the_way is side] for side in (True, False))
    width = max([len(step.step) for step in run], default=0)
    heading = f"{'share':>7}{'SQNR dB':>9}{'cosine p1':>11}{'neighbours':>12}{'from the top dB':>17}"
    lines = [f"where the drift comes from, step by step, {ladder.images} images", f"  {'step':<{width}}{heading}"]
    lines += [_row(step, width) for step in way]
    if beside:
        lines += ["beside the ladder, and in no figure above", *(_row(step, width) for step in beside)]
    lines += [f"not run: {step.step}: {step.skipped}" for step in ladder.steps if step.skipped is not None]
    if (largest := ladder.largest) is not None:
        lines.append(f"most of it is spent in: {largest.step} ({largest.share:.1%})")
    return "\n".join(lines)


def _row(step: LadderStep, width: int) -> str:
    moved = step.moved or Moved(None, None, None)
    share = "-" if step.share is None else f"{step.share:.1%}"
    top = "-" if step.from_top is None else fixed(step.from_top.sqnr_db, 2)
    figures = f"{share:>7}{fixed(moved.sqnr_db, 2):>9}{fixed(moved.cosine_p1, 6):>11}"
    row = f"  {step.step:<{width}}{figures}{fixed(moved.knn_overlap_cross, 4):>12}{top:>17}"
    return f"{row}  {step.detail}".rstrip()
