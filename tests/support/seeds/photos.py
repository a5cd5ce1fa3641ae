"""Crops of scikit-image's photos, and what an original model answers to them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

PHOTOS = ("astronaut", "coffee", "chelsea", "rocket")
BATCH = 8
"""Images in the batch that shows what a batch-wide normalization does."""


def save_crops(folder: Path, size: int, calibration: int, test: int) -> tuple[np.ndarray, np.ndarray]:
    """Write ``calibration.npy`` and ``test.npy``, uint8 (N, size, size, 3); returns both as the float models take them.

    The crops are cut at random places, a third to a whole of the photo's height, and stretched to ``size``.
    """
    rng = np.random.default_rng(0)
    photos = [getattr(data, name)() for name in PHOTOS]
    crops = []
    for index in range(calibration + test):
        photo = photos[index % len(PHOTOS)]
        side = int(rng.integers(photo.shape[0] // 3, photo.shape[0] + 1))
        top, left = (int(rng.integers(0, length - side + 1)) for length in photo.shape[:2])
        crop = Image.fromarray(photo[top : top + side, left : left + side])
        crops.append(np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR)))
    images = np.stack(crops)
    np.save(folder / "calibration.npy", images[:calibration])
    np.save(folder / "test.npy", images[calibration:])
    ready = images.astype(np.float32) / 255
    return ready[:calibration], ready[calibration:]


Model = Callable[[np.ndarray], dict[str, np.ndarray]]


def save_reference(folder: Path, calibration: np.ndarray, test: np.ndarray, model: Model) -> None:
    """Write ``reference.npz``: the original's answers, one image at a time and several at once.

    Args:
        folder: where to.
        calibration: (N, H, W, 3) float32, the images whose extremes a frozen normalization takes.
        test: (N, H, W, 3) float32, the images to answer.
        model: a batch of images to ``embeddings``, and ``raw`` where a normalization ends the encoder.

    ``embeddings`` and ``raw`` have a row an image (of several rows, where an image has several), ``batch`` is what the
    first images answer when they come in one batch, and ``limits`` are the extremes of ``raw`` over ``calibration``.
    """
    each = [model(image[None]) for image in test]
    results = {name: np.stack([np.asarray(answers[name]) for answers in each]) for name in each[0]}
    results = {name: rows[:, 0] if rows.shape[1] == 1 else rows for name, rows in results.items()}
    batch = np.asarray(model(test[:BATCH])["embeddings"])
    results["batch"] = batch.reshape(BATCH, *results["embeddings"].shape[1:])
    for name, values in results.items():
        flat = values.reshape(len(values), -1)
        spread = float(flat.std(axis=0).mean() / flat.std())
        if not np.isfinite(flat).all() or spread < 0.1:
            # A seed that answers the same to every image could not show any mistake.
            raise SystemExit(f"{folder.name}: {name} is degenerate: it varies over the images by {spread:.3f} only")
    if "raw" in results:
        # The raw embedding of an image does not depend on its batch.
        raw = np.asarray(model(calibration)["raw"])
        results["limits"] = np.array([raw.min(), raw.max()])
    np.savez(folder / "reference.npz", **results)
