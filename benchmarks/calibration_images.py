"""How many calibration images: drift of the example's int8 file on its held-out digits, by how many images set it.

    python3 run.py bench calibration_images FOLDER [DRAWS]    FOLDER is what `run.py demo FOLDER` left; default 5 draws

Each count is drawn anew from the example's 200 calibration images; the test images set nothing. The default export:
ranges, equalization and corrections are chosen on the drawn images alone.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from embedlite.convert import ExportOptions, export

COUNTS = (4, 8, 16, 32, 64, 128, 200)


def main() -> None:
    """Measure and print."""
    folder, draws = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5
    paths = sorted((folder / "calibration").iterdir())
    images = np.stack([np.asarray(Image.open(path))[..., None] for path in paths])
    print(f"{'images':>6}{'dB, median':>12}{'worst':>8}{'best':>8}{'lost neighbours':>17}")
    for count in COUNTS:
        found = []
        for draw in range(draws if count < len(images) else 1):
            chosen = np.random.default_rng(draw).permutation(len(images))[:count]
            with tempfile.TemporaryDirectory() as out:
                result = export(
                    folder / "model.float32.tflite",
                    out,
                    quantize=["int8"],
                    calibration_data=images[chosen],
                    test_data=folder / "test",
                    options=ExportOptions(seed=draw),
                )
            drift = result.files[0].drift
            assert drift is not None
            found.append((drift.sqnr_db or np.inf, 1 - (drift.knn_overlap_cross or 0)))
        decibels = np.array([row[0] for row in found])
        lost = np.median([row[1] for row in found])
        print(
            f"{count:>6}{np.median(decibels):>12.1f}{decibels.min():>8.1f}{decibels.max():>8.1f}{lost:>16.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
