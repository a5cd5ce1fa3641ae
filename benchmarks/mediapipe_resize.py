"""What MediaPipe's own resizing costs: scikit-image's photos, given whole, against Pillow's resamplers.

    python3 run.py bench mediapipe_resize

Two models: one whose "embedding" is its input, which shows MediaPipe's resized pixels (mean difference in gray levels),
and the untrained six-block encoder (how far a photo's embedding moves, as a share of the mean distance between the
embeddings of two photos; the mean over the photos). In the last column the photo had the model's size before MediaPipe
got it: nothing is resized there, and only rounding differs.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from embedlite.runtime.commands.options import quiet_libraries

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

with quiet_libraries():
    import keras

    from embedlite.convert import ExportOptions, export
    from embedlite.runtime import Encoder

    from six_blocks import six_blocks

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
RESAMPLERS = ("nearest", "box", "bilinear", "lanczos")
SIZES = (64, 224)

# In a process of its own: mediapipe and tflite-runtime do not go together, and its libraries talk.
MEDIAPIPE = """
import json, sys
import mediapipe, numpy
from mediapipe.tasks.python import BaseOptions, vision
model, result, *images = json.load(sys.stdin)
options = vision.ImageEmbedderOptions(base_options=BaseOptions(model_asset_path=model))
with vision.ImageEmbedder.create_from_options(options) as embedder:
    found = [embedder.embed(mediapipe.Image.create_from_file(path)) for path in images]
numpy.save(result, numpy.stack([answer.embeddings[0].embedding for answer in found]))
"""


def mediapipe_embeddings(model: Path, images: list[Path], folder: Path) -> np.ndarray:
    """One row an image, by MediaPipe's ImageEmbedder."""
    result = folder / "mediapipe.npy"
    request = json.dumps([str(path) for path in (model, result, *images)])
    subprocess.run([sys.executable, "-c", MEDIAPIPE], input=request, text=True, capture_output=True, check=True)
    return np.load(result)


def gray_levels(first: np.ndarray, second: np.ndarray) -> float:
    """Mean absolute difference of pixels, of inputs that were divided by 255."""
    return float(np.abs(first - second).mean() * 255)


def share(first: np.ndarray, second: np.ndarray) -> float:
    """Mean distance of paired rows, over the mean distance of two different rows of the second."""
    apart = [np.linalg.norm(a - b) for index, a in enumerate(second) for b in second[index + 1 :]]
    return float(np.linalg.norm(first - second, axis=1).mean() / np.mean(apart))


def identity(size: int) -> keras.Sequential:
    """A model that answers its input."""
    model = keras.Sequential([keras.Input((size, size, 3)), keras.layers.DepthwiseConv2D(1), keras.layers.Flatten()])
    model.layers[0].set_weights([np.ones((1, 1, 3, 1)), np.zeros(3)])
    return model


def row(model: keras.Model, size: int, measure: Callable[[np.ndarray, np.ndarray], float]) -> list[float]:
    """One figure a resampler, and one for photos of the model's size."""
    with tempfile.TemporaryDirectory() as name, quiet_libraries():
        folder = Path(name)
        (file,) = export(model, folder / "model", quantize=["float32"], options=ExportOptions(measure=False)).files
        photos = [Image.fromarray(getattr(data, photo)()) for photo in PHOTOS]
        small = [photo.resize((size, size), Image.Resampling.BILINEAR) for photo in photos]
        paths = [folder / f"{index}.png" for index in range(2 * len(photos))]
        for path, image in zip(paths, photos + small, strict=True):
            image.save(path)
        found = mediapipe_embeddings(file.path, paths, folder)
        whole, same = found[: len(photos)], found[len(photos) :]
        figures = []
        with Encoder(file.path) as encoder:
            for resampler in RESAMPLERS:
                kernel = getattr(Image.Resampling, resampler.upper())
                arrays = [np.asarray(photo.resize((size, size), kernel)) for photo in photos]
                figures.append(measure(whole, encoder.embed(np.stack(arrays))))
            figures.append(measure(same, encoder.embed(np.stack([np.asarray(image) for image in small]))))
    return figures


def main() -> None:
    """Print two rows a model size."""
    print(f"{'model':<8}{'':<14}" + "".join(f"{name:>10}" for name in (*RESAMPLERS, "same size")))
    for size in SIZES:
        keras.utils.set_random_seed(0)
        for label, model, measure in (
            ("gray levels", identity(size), gray_levels),
            ("embedding", six_blocks((size, size, 3)), share),
        ):
            print(f"{size:<8}{label:<14}" + "".join(f"{figure:10.2g}" for figure in row(model, size, measure)))


if __name__ == "__main__":
    main()
