"""How far embeddings drifted, what that does to decisions, and whether it passes.

rows, moments, neighbours: what is computed over paired rows. metrics: the figures. intervals: how sure they are.
decisions, advice: thresholds, flips, and what to do. gates, report, text, wording: the answer. stored: on disk.
"""

from .metrics import DEFAULT_K, Drift, Measurement, measure, measure_drift

__all__ = ["DEFAULT_K", "Drift", "Measurement", "measure", "measure_drift"]
