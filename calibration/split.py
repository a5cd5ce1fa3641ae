"""Setting images aside to measure drift on: what set the ranges cannot judge them."""

from __future__ import annotations

import numpy as np

HELD_OUT_SHARE = 5
HELD_OUT_MOST = 64


def hold_out(count: int, seed: int) -> tuple[list[int], list[int]]:
    """Split ``count`` images into calibration and held-out indices, both ascending.

    A seeded fifth is held out, at most 64 images; fewer than five images are all used for calibration.
    """
    held = min(count // HELD_OUT_SHARE, HELD_OUT_MOST)
    chosen = set(np.random.default_rng(seed).choice(count, held, replace=False).tolist())
    return [i for i in range(count) if i not in chosen], sorted(chosen)
