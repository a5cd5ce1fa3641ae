"""How far embeddings drifted, what that does to decisions, and whether it passes.

rows, moments, neighbours, compare: what is computed over paired rows. metrics: the table of figures. intervals: how
sure they are.
decisions, advice: thresholds, flips, and what to do. gates, report, text, wording: the answer. stored: on disk.
"""

from .compare import DEFAULT_K, Measurement, measure, measure_drift
from .metrics import Drift

__all__ = ["DEFAULT_K", "Drift", "Measurement", "measure", "measure_drift"]
