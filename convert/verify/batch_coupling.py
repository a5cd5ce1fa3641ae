"""Batch coupling: whether an image's embedding depends on the other images in its batch.

A normalization that reduces over the batch gives the same image another embedding in another batch. On the device the
batch is one, so a gallery made in batches was made by another function. Nothing in the graph of batch 1 shows this for
certain; running the original both ways does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...runtime.drift import measure_drift
from ..load.lower import LoweredModel
from ..results import BatchCoupling

TOLERANCE = 1e-4
"""Largest difference, relative to the largest value, that another batch size may make by rounding alone."""


def measure_coupling(
    lowered: LoweredModel, images: list[NDArray[np.float32]], single: NDArray[np.float32], batch_size: int
) -> BatchCoupling | None:
    """Run the original on a whole batch and compare with its answers for one image at a time.

    Args:
        lowered: the original.
        images: model-ready (H, W, C) images; repeated until they fill the batch.
        single: the original's embedding of each by itself, (N, ...).
        batch_size: as in training.

    Returns:
        None if the original takes one image at a time.
    """
    run = None if lowered.in_batches is None else lowered.in_batches(batch_size)
    if run is None:
        return None
    places = [index % len(images) for index in range(batch_size)]
    together = run(np.stack([images[index] for index in places]))
    if together.size != batch_size * single[0].size:
        return None
    count = min(batch_size, len(images))
    alone, batched = single[:count], together[:count].reshape(single[:count].shape)
    drift, _ = measure_drift(batched, alone, k=None)
    usable = np.isfinite(alone) & np.isfinite(batched)
    largest = float(np.abs(batched - alone, where=usable, out=np.zeros_like(alone)).max())
    reach = float(np.abs(alone, where=usable, out=np.zeros_like(alone)).max())
    return BatchCoupling(batch_size, largest > TOLERANCE * reach, largest, drift.cosine_mean, drift.cosine_min)
