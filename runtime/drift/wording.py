"""What the report's figures are called on the page, and how they are written."""

from __future__ import annotations

import math

METRICS = {
    "count": ("Rows", "compared"),
    "invalid": ("Invalid rows", "non-finite, or zero, constant or repeated where the reference's are not"),
    "cosine_mean": ("Mean cosine", "hides what happens to single rows"),
    "cosine_p1": ("1st percentile of the cosine", "one row in a hundred is worse"),
    "cosine_min": ("Smallest cosine", "the worst row"),
    "sqnr_db": ("Signal to noise", "power of the embeddings to power of the drift, dB"),
    "max_abs": ("Largest difference", "of any value"),
    "bias_max_sigma": ("Largest shift", "of a dimension, in its standard deviations"),
    "gain_error_max": ("Largest gain error", "of a dimension"),
    "dead_dimensions": ("Dead dimensions", "that the candidate no longer uses"),
    "norm_ratio_mean": ("Mean ratio of norms", "candidate to reference"),
    "knn_overlap_self": ("Neighbours kept, self", "the gallery is embedded anew"),
    "knn_overlap_cross": ("Neighbours kept, cross", "the gallery keeps its float vectors"),
    "rank_correlation": ("Rank correlation", "of distances between different things"),
    "cka": ("CKA", "for information: a rotation leaves it alone"),
    "procrustes": ("Procrustes residual", "for information: left after the best rotation"),
    "far_ratio": ("Ratio of false accept rates", "at the float threshold, candidate to reference"),
    "tar_loss": ("Loss of true accept rate", "at the float threshold"),
    "false_reject_flips": ("Genuine pairs lost", "at the float threshold, upper bound of the share"),
    "false_accept_flips": ("Impostor pairs gained", "at the float threshold, upper bound of the share"),
    "recall_at_1_drop": (
        "Loss of recall at 1",
        "queries whose nearest image in the float gallery shows the same thing",
    ),
    "recall_at_5_drop": ("Loss of recall at 5", "the same among the five nearest"),
    "recall_at_10_drop": ("Loss of recall at 10", "the same among the ten nearest"),
    "map_drop": ("Loss of mean average precision", "over the whole ranking of the float gallery"),
    "knn_accuracy_drop": ("Loss of k-NN accuracy", "the ten nearest in the float gallery vote"),
    "eer_rise": ("Rise of the equal error rate", "of verification against the float gallery"),
}
"""Title and explanation by metric."""

ACTIONS = {
    "ship": "Ship as is",
    "ship-with-threshold": "Ship with another threshold",
    "re-embed-gallery": "Re-embed the gallery",
    "do-not-ship": "Do not ship",
    "cannot-tell": "Cannot tell",
}

RETRIEVAL = {
    **{f"recall_at_{count}": f"recall@{count}" for count in (1, 5, 10)},
    "map": "mAP",
    "knn_accuracy": "k-NN accuracy",
    "eer": "EER",
}
"""What figures of retrieval are called."""

PARTS = {
    "drift": "drift (1 - cosine)",
    "neighbours_lost": "neighbours lost",
    "genuine_rejected": "genuine pairs rejected",
    "impostors_accepted": "impostor pairs accepted",
}
"""What figures of a class or a group are called."""

_SHARES = {
    *("knn_overlap_self", "knn_overlap_cross", "tar_loss", "false_reject_flips", "false_accept_flips"),
    *(f"recall_at_{count}_drop" for count in (1, 5, 10)),
    *("map_drop", "knn_accuracy_drop", "eer_rise"),
}
_WHOLE = {"count", "invalid", "dead_dimensions", "k"}


def figure(name: str, value: float | None) -> str:
    """A metric's value as it is written on the page."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "−∞" if value < 0 else "∞"
    if name in _SHARES:
        return f"{value:.2%}" if abs(value) >= 0.001 or value == 0 else f"{value:.4%}"
    if name == "sqnr_db":
        return f"{value:.2f}"
    return f"{value:.0f}" if name in _WHOLE and value == int(value) else f"{value:.5g}"


def cosine(value: float | None) -> str:
    """A row's cosine."""
    return "invalid" if value is None else f"{value:.6f}"


def decibels(value: float | None) -> str:
    """A ratio in dB; a dash where there is no noise."""
    return figure("sqnr_db", value)


def part_figure(name: str, value: float) -> str:
    """A figure of a class or a group."""
    return f"{value:.2g}" if name == "drift" else f"{value:.2%}"
