"""How long an accuracy-aware export takes, search included: every mode, corrections, and mixed files.

    python3 run.py bench search [SIZE ...]     sizes of the six-block encoder's input, default 32 512

At 32 it is the trained encoder of examples/digits.py with 200 calibration images, at other sizes an untrained one with
60 crops of scikit-image's photos. Prints the seconds of the search and of the whole export, and what it gained.
"""

import contextlib
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from embedlite.runtime.commands.options import quiet_libraries

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

SEED, IMAGES, TEST_IMAGES = 0, 60, 16


def photo_crops(size: int, count: int) -> np.ndarray:
    """Square crops of real photos, (count, size, size, 3) uint8."""
    from PIL import Image
    from skimage import data

    rng = np.random.default_rng(0)
    photos = [getattr(data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")]
    crops = []
    for index in range(count):
        photo = photos[index % len(photos)]
        side = int(rng.integers(150, min(photo.shape[:2])))
        top, left = (int(rng.integers(0, length - side + 1)) for length in photo.shape[:2])
        crop = Image.fromarray(photo[top : top + side, left : left + side]).resize((size, size))
        crops.append(np.asarray(crop))
    return np.stack(crops)


def encoder_and_images(size: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """An encoder, calibration images and test images."""
    import digits
    import keras
    from sklearn.model_selection import train_test_split

    from six_blocks import six_blocks

    if size == digits.load_images()[0].shape[1]:
        images, labels = digits.load_images()
        pool, test, pool_labels, test_labels = train_test_split(
            images, labels, test_size=0.25, stratify=labels, random_state=SEED
        )
        model = digits.train(pool, pool_labels, test, test_labels, SEED)
        return model, pool[np.random.default_rng(0).choice(len(pool), 200, replace=False)], test
    keras.utils.set_random_seed(0)
    model = six_blocks((size, size, 3))
    crops = photo_crops(size, IMAGES + TEST_IMAGES)
    model(crops[:1] / np.float32(255))
    return model, crops[:IMAGES], crops[IMAGES:]


def main() -> None:
    """Export at each size and print."""
    from embedlite.convert import ExportOptions, export

    for size in map(int, sys.argv[1:] or ("32", "512")):
        with tempfile.TemporaryDirectory() as folder:
            hidden = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
            with quiet_libraries(), hidden[0], hidden[1]:
                model, images, test = encoder_and_images(size)
                start = time.perf_counter()
                result = export(
                    model, folder, calibration_data=images, test_data=test, options=ExportOptions(pareto=True)
                )
                took = time.perf_counter() - start
        search = result.search
        print(f"{size}x{size}, {len(images)} calibration images, {len(test)} test images")
        print(f"search {search.seconds:.0f} s ({len(search.tried)} files timed), whole export {took:.0f} s")
        base = next(file for file in result.files if file.mode == "int8")
        for file in result.files:
            if file.drift is not None and file.drift.sqnr_db is not None:
                print(
                    f"  {file.mode:<8}{file.drift.sqnr_db:>7.1f} dB{1 - (file.drift.knn_overlap_cross or 0):>8.3f} lost"
                    f"{file.bytes / base.bytes:>7.2f} x size{file.latency_us / base.latency_us:>7.2f} x latency"
                )
        print(flush=True)


if __name__ == "__main__":
    main()
