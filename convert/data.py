"""The images of an export: those that set ranges and constants, and those that judge the result."""

from __future__ import annotations

from dataclasses import dataclass

from ..calibration.split import hold_out
from ..runtime.contract import InputContract
from ..runtime.sources import Source, open_source
from .request import Request

MOST_TEST_IMAGES = 512
"""Drift is measured on no more; drift-report measures any number."""


@dataclass(frozen=True)
class ExportData:
    """Images by their use; None where there are none.

    Attributes:
        calibration: what sets ranges and constants.
        test: what drift is measured on; none of it is in ``calibration``.
        decisions: what was decided on the user's behalf.
    """

    calibration: Source | None
    test: Source | None
    decisions: tuple[str, ...]


def open_data(request: Request, contract: InputContract) -> ExportData:
    """Open what was given, and hold a part of the calibration images out if no test images were.

    Raises:
        DataError: see :func:`embedlite.runtime.sources.open_source`.
    """
    test, decisions = None, []
    if request.test_data is not None:
        given = open_source(request.test_data, contract)
        test = given.sample(MOST_TEST_IMAGES, request.seed)
        if len(test) < len(given):
            decisions.append(
                f"drift is measured on {len(test)} of the {len(given)} test images; drift-report measures all."
            )
    if request.calibration_data is None:
        return ExportData(None, test, tuple(decisions))
    calibration = open_source(request.calibration_data, contract)
    if request.select == "random":
        calibration = calibration.sample(request.num_samples, request.seed)
    if test is None:
        kept, held = hold_out(len(calibration), request.seed)
        if held:
            calibration, test = calibration.subset(kept), calibration.subset(held)
            decisions.append(
                f"{len(held)} of the {len(kept) + len(held)} calibration images set no ranges: drift is measured "
                "on them. Pass --test-data to use all for calibration."
            )
        else:
            decisions.append(
                f"no drift was measured: {len(calibration)} calibration image(s) are too few to set some aside."
            )
    return ExportData(calibration, test, tuple(decisions))
