"""embedlite.calibration: the ranges that decide most of an int8 file's drift.

>>> from embedlite.calibration import collect_ranges
>>> ranges = collect_ranges(float_graph, source)      # doctest: +SKIP
"""

from .collect import collect_ranges
from .errors import CalibrationDataError
from .ranges import Ranges

__all__ = ["CalibrationDataError", "Ranges", "collect_ranges"]
