"""embedlite.runtime: a Keras encoder's embedding, computed on the device.

Needs numpy and a TFLite interpreter; nothing here imports TensorFlow, Keras, Pillow or click when it is
imported.

>>> from embedlite.runtime import Encoder
>>> encoder = Encoder("model.int8.tflite")     # doctest: +SKIP
>>> vectors = encoder.embed(images)            # doctest: +SKIP
"""

from __future__ import annotations

import importlib

from .errors import EmbedliteError
from .version import __version__

TYPE_CHECKING = False  # typing takes longer to be imported than all of this
if TYPE_CHECKING:
    from typing import Any

    from .encoder import Encoder
    from .model.contract import Contract, InputContract, NormalizationSpec
    from .monitor import DriftMonitor

__all__ = ["Contract", "DriftMonitor", "EmbedliteError", "Encoder", "InputContract", "NormalizationSpec", "__version__"]


def __getattr__(name: str) -> Any:
    # Commands answer a signal in one line once this is imported, and numpy takes its time.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = {"DriftMonitor": "monitor", "Encoder": "encoder"}.get(name, "model.contract")
    return getattr(importlib.import_module(f".{module}", __name__), name)
