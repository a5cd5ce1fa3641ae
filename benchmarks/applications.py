"""Every architecture of keras.applications, untrained and without its top, as float32 against Keras.

    python3 run.py bench applications [NAME ...]    prints a table; names default to the smallest variant of each

Each is exported as it is (floats in, mean 0 and std 1) and with its own preprocessing in front (pixels 0-255 in).
Images are uniform noise of the smallest size that the architecture takes.
"""

import sys
import tempfile
import time

import numpy as np

from embedlite.runtime import Encoder
from embedlite.runtime.commands.options import quiet_libraries

with quiet_libraries():
    import keras

    from embedlite.convert import ExportOptions, export

SMALLEST = {
    "MobileNet": ("mobilenet", 32),
    "MobileNetV2": ("mobilenet_v2", 32),
    "MobileNetV3Small": ("mobilenet_v3", 32),
    "MobileNetV3Large": ("mobilenet_v3", 32),
    "EfficientNetB0": ("efficientnet", 32),
    "EfficientNetV2B0": ("efficientnet_v2", 32),
    "NASNetMobile": ("nasnet", 32),
    "DenseNet121": ("densenet", 32),
    "Xception": ("xception", 71),
    "ResNet50": ("resnet", 32),
    "ResNet50V2": ("resnet_v2", 32),
    "VGG16": ("vgg16", 32),
    "VGG19": ("vgg19", 32),
    "InceptionV3": ("inception_v3", 75),
    "InceptionResNetV2": ("inception_resnet_v2", 75),
    "ConvNeXtTiny": ("convnext", 32),
}
"""The smallest variant of each architecture: the module of its preprocessing, and the smallest image that it takes."""

IMAGES = 2


def build(name: str, *, preprocessing: bool) -> tuple[keras.Model, int]:
    """A model without its top, and the size of its images.

    Args:
        name: of the architecture.
        preprocessing: whether it takes pixels 0-255: its own preprocessing comes first.
    """
    module, size = SMALLEST[name]
    keras.utils.set_random_seed(0)
    shape = (size, size, 3)
    body = getattr(keras.applications, name)(weights=None, include_top=False, pooling="avg", input_shape=shape)
    if not preprocessing:
        return body, size
    pixels = keras.Input(shape)
    prepared = getattr(keras.applications, module).preprocess_input(pixels * 1.0)
    return keras.Model(pixels, body(prepared), name=name.lower()), size


def compare(name: str, *, preprocessing: bool) -> tuple[str, int]:
    """Decibels of the exported file against Keras, in words, and the file's bytes."""
    model, size = build(name, preprocessing=preprocessing)
    images = np.random.default_rng(0).random((IMAGES, size, size, 3), np.float32) * (255 if preprocessing else 1)
    wanted = np.stack([np.asarray(model(image[None], training=False))[0] for image in images]).astype(np.float64)
    with tempfile.TemporaryDirectory() as folder:
        # The pixels are given as floats, which go into the model as they are.
        options = ExportOptions(measure=False, mean=(0.0,), std=(1.0,), accept_contract=True)
        (file,) = export(model, folder, quantize=["float32"], options=options).files
        with Encoder(file.path) as encoder:
            found = encoder.embed(images)
        noise = float(((wanted - found) ** 2).sum())
        decibels = f"{10 * np.log10((wanted**2).sum() / noise):.0f} dB" if noise else "the same bits"
        return decibels, file.path.stat().st_size


def main(names: list[str]) -> None:
    """Print the table, a row as soon as it is known."""
    print("| architecture | image | float32 file | as it is | with its preprocessing |")
    print("|---|---|---|---|---|")
    for name in names or SMALLEST:
        start = time.process_time()
        plain, size = compare(name, preprocessing=False)
        keras.backend.clear_session()
        prepared, _ = compare(name, preprocessing=True)
        keras.backend.clear_session()
        side = SMALLEST[name][1]
        row = f"| {name} | {side}×{side} | {size / 1e6:.1f} MB | {plain} | {prepared} |"
        print(row, flush=True)
        print(f"{name}: {time.process_time() - start:.0f} CPU s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
