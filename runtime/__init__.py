"""embedlite.runtime: a Keras encoder's embedding, computed on the device.

Needs numpy and a TFLite interpreter; nothing here imports TensorFlow, Keras, Pillow or click when it is
imported.

>>> from embedlite.runtime import Encoder
>>> encoder = Encoder("model.int8.tflite")     # doctest: +SKIP
>>> vectors = encoder.embed(images)            # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .encoder import Encoder
from .errors import EmbedliteError
from .model.contract import Contract, InputContract, NormalizationSpec
from .version import __version__

if TYPE_CHECKING:
    from .monitor import DriftMonitor

__all__ = ["Contract", "DriftMonitor", "EmbedliteError", "Encoder", "InputContract", "NormalizationSpec", "__version__"]


def __getattr__(name: str) -> Any:
    # Most programs embed without a monitor and need not wait for its import.
    if name == "DriftMonitor":
        from .monitor import DriftMonitor

        return DriftMonitor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
