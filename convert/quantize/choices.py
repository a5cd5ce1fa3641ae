"""What the plan of int8 is asked for, and what it chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...calibration.engine import Engine
from ..modes import CALIBRATED

NO_EQUALIZATION, FORWARDS, BACKWARDS = "none", "forwards", "backwards"


@dataclass(frozen=True)
class CalibrationOptions:
    """How calibration is to be done.

    Attributes:
        method: ``auto``, or see :func:`embedlite.calibration.parse_method`.
        cache: where statistics are kept; None keeps none.
        equalize: whether to try equalization.
        threads: processors; default all.
        engine: what runs the calibration images; default these processors.
        modes: those that are to be made.
        may_float: whether the int8 file may have float operators where that is free on a CPU.
        integer_input: whether the int8 file takes integers, so that no operator that reads the image may be float.
    """

    method: str
    cache: Path | None
    equalize: bool
    threads: int | None
    engine: Engine | None = None
    modes: tuple[str, ...] = CALIBRATED
    may_float: bool = False
    integer_input: bool = False


@dataclass(frozen=True)
class PlanChoices:
    """What was found by trying, so that it can be done again without.

    Attributes:
        equalization: ``none``, ``forwards`` or ``backwards``.
        absorbed: whether offsets were moved into the biases of the layers that read them.
        method: of the ranges, as text.
        only: the method of those tensor groups that have another one, by name.
        float_end: operators at the end that stay float, by the name of what they write.
        wide_equalized: whether int16x8 is made from an equalized graph, too.
        islands: operators in between that stay float in int8, likewise.
    """

    equalization: str
    absorbed: bool
    method: str
    only: Mapping[str, str]
    float_end: tuple[str, ...] = ()
    wide_equalized: bool = False
    islands: tuple[str, ...] = ()

    @property
    def floating(self) -> tuple[str, ...]:
        """All operators that stay float in int8 because that is free, by the name of what they write."""
        return (*self.islands, *(name for name in self.float_end if name not in self.islands))
