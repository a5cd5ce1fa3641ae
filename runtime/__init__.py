"""embedlite.runtime: a Keras encoder's embedding, computed on the device.

Needs numpy and a TFLite interpreter; nothing here imports TensorFlow, Keras, Pillow or click when it is
imported.

>>> from embedlite.runtime import Encoder
>>> encoder = Encoder("model.int8.tflite")     # doctest: +SKIP
>>> vectors = encoder.embed(images)            # doctest: +SKIP
"""

from .contract import Contract, InputContract, NormalizationSpec
from .encoder import Encoder
from .errors import EmbedliteError
from .version import __version__

__all__ = ["Contract", "EmbedliteError", "Encoder", "InputContract", "NormalizationSpec", "__version__"]
