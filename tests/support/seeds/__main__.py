"""Encoders as the users of embedlite have them, built with the real frameworks and saved the way their users save them.

    python tests/support/seeds NAME... FOLDER

makes FOLDER/NAME with the model, ``calibration.npy`` and ``test.npy`` (uint8 crops of photos), ``reference.npz`` (the
original's answers to the test images) and the user's own code. See SEEDS below for the names.
"""

import sys
from functools import partial
from pathlib import Path

from embedlite.runtime.commands.options import quiet_libraries

with quiet_libraries():
    import keras
    from keras import layers

    import keras_models
    import tf1_graph

SEEDS = {
    "s1": partial(tf1_graph.save, size=64),
    "s1-512": partial(tf1_graph.save, size=512, calibration=6, test=8),
    "s2": keras_models.s2,
    "s2-open": keras_models.s2_open,
    "s2-minmax": keras_models.s2_minmax,
    "unbuilt": keras_models.unbuilt,
    "s3": keras_models.s3,
    "s3-registered": keras_models.s3_registered,
    "s4": keras_models.s4,
    "s4-bytecode": keras_models.s4_bytecode,
    "s5": keras_models.s5,
    "s6-max": partial(keras_models.s6, pooling=layers.GlobalMaxPool2D),
    "s6-average": partial(keras_models.s6, pooling=layers.GlobalAveragePooling2D),
    "l2-ops": partial(keras_models.by_function, name="unit"),
    "l2-tf": partial(keras_models.by_function, name="unit_tf"),
    "layernorm": partial(keras_models.normalized, make=layers.LayerNormalization),
    "formats": keras_models.formats,
}


def main() -> None:
    """Make the seeds that the command line names."""
    *names, parent = sys.argv[1:] or [""]
    if not names or not set(names) <= set(SEEDS):
        sys.exit(f"{__doc__}\nNAME is one of: {', '.join(SEEDS)}")
    for name in names:
        folder = Path(parent, name)
        folder.mkdir(parents=True)
        keras.utils.set_random_seed(7)
        with quiet_libraries():
            SEEDS[name](folder)


if __name__ == "__main__":
    main()
