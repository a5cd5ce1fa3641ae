"""Errors of calibration, under the tree of :mod:`embedlite.runtime.errors`::

EmbedliteError
  DataError
    CalibrationDataError        the data cannot give ranges
      StatisticsMismatchError   statistics or a cache of another model, of other images or other settings
"""

from __future__ import annotations

from ..runtime.errors import DataError


class CalibrationDataError(DataError):
    """The calibration data cannot give ranges for this model."""


class StatisticsMismatchError(CalibrationDataError):
    """Statistics or a cache that do not belong to this model, these images or these settings."""
