"""Errors of calibration, under the tree of :mod:`embedlite.runtime.errors`::

EmbedliteError
  DataError
    CalibrationDataError      the data cannot give ranges
"""

from __future__ import annotations

from ..runtime.errors import DataError


class CalibrationDataError(DataError):
    """The calibration data cannot give ranges for this model."""
