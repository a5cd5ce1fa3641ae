"""The float graph that the calibration benchmarks run: the untrained six-block encoder, as the export prepares it."""

import sys
from pathlib import Path

from embedlite.runtime.commands.options import quiet_libraries

with quiet_libraries():
    import keras

    from embedlite.convert.load.keras_model import from_keras
    from embedlite.convert.load.lower import lower
    from embedlite.convert.load.options import LoadOptions
    from embedlite.convert.normalization.prepare import prepare
    from embedlite.convert.quantize.trial import only_float

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

SHAPE = (512, 512, 3)


def encoder() -> keras.Model:
    """The Keras model; time and memory do not depend on its weights."""
    from six_blocks import six_blocks

    keras.utils.set_random_seed(0)
    with quiet_libraries():
        return six_blocks(SHAPE)


def float_graph(model: keras.Model) -> tuple[bytes, set[str]]:
    """What calibration runs, and the activations in it that need no range."""
    with quiet_libraries():
        graph = prepare(lower(from_keras(model, model.name, LoadOptions())).flatbuffer)
    return graph.flatbuffer, only_float(graph)
