"""embedlite.calibration: the ranges that decide most of an int8 file's drift.

>>> from embedlite.calibration import choose_ranges, collect_statistics, merge, parse_method, tensor_groups
>>> parts = [collect_statistics(float_graph, source) for source in sources]              # doctest: +SKIP
>>> ranges = choose_ranges(merge(parts), tensor_groups(float_graph), parse_method("mse"))  # doctest: +SKIP

See docs/calibration.md for the whole of it.
"""

from .assess import Assessment, GroupAssessment, assess
from .collect import collect_ranges, collect_statistics
from .coverage import select_coverage
from .errors import CalibrationDataError, StatisticsMismatchError
from .methods import METHODS, Method, choose_ranges, parse_method
from .ranges import Ranges
from .statistics import Statistics, TensorStatistics, merge
from .statistics_cache import CalibrationCache
from .statistics_file import load_statistics, save_statistics
from .tensors import TensorGroup, tensor_groups

__all__ = [
    "METHODS",
    "Assessment",
    "CalibrationCache",
    "CalibrationDataError",
    "GroupAssessment",
    "Method",
    "Ranges",
    "Statistics",
    "StatisticsMismatchError",
    "TensorGroup",
    "TensorStatistics",
    "assess",
    "choose_ranges",
    "collect_ranges",
    "collect_statistics",
    "load_statistics",
    "merge",
    "parse_method",
    "save_statistics",
    "select_coverage",
    "tensor_groups",
]
