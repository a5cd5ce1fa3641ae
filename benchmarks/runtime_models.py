"""The files that benchmarks/runtime.py measures; a program of its own, because no device has TensorFlow loaded.

python benchmarks/runtime_models.py FOLDER
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from embedlite.runtime.commands.options import quiet_libraries

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

SIZE = 512


def main() -> None:
    """Export the models into the folder of the first argument."""
    with quiet_libraries():
        import keras
        from keras import layers

        from embedlite.convert import ExportOptions, export

        from six_blocks import six_blocks

        keras.utils.set_random_seed(0)
        shape = (SIZE, SIZE, 3)

        def quick(shape: tuple[int, int, int]) -> keras.Sequential:
            """So little work that what is around it shows."""
            pooling = layers.AveragePooling2D(shape[0] // 16)
            convolution = layers.Conv2D(32, 3, strides=2, activation="relu")
            return keras.Sequential([keras.Input(shape), pooling, convolution, layers.GlobalAveragePooling2D()])

        # A 512-d embedding makes the int8 file 4.7 MB.
        models = {
            "small": (quick((32, 32, 1)), ["float32"]),
            "large": (six_blocks(shape, dimensions=512), ["float32", "int8"]),
            "quick": (quick(shape), ["float32"]),
        }
        for name, (model, modes) in models.items():
            images = np.random.default_rng(0).random((4, *model.input_shape[1:]), np.float32)
            # The weights are random; batch normalization that has seen images keeps activations of an ordinary size.
            model(images, training=True)
            with tempfile.TemporaryDirectory() as folder:
                calibration = images if "int8" in modes else None
                result = export(
                    model, folder, quantize=modes, calibration_data=calibration, options=ExportOptions(measure=False)
                )
                for file in result.files:
                    shutil.move(file.path, Path(sys.argv[1], f"{name}.{file.mode}.tflite"))


if __name__ == "__main__":
    main()
