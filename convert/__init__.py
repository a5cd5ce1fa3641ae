"""embedlite.convert: from a trained Keras encoder to TFLite files; for the workstation, needs TensorFlow.

>>> from embedlite.convert import export
>>> result = export("model.keras", "out", quantize=["all"], calibration_data="photos/")   # doctest: +SKIP
"""

import importlib.util
import os

from ..runtime.errors import MissingPackageError

_MISSING = [name for name in ("tensorflow", "litert_quantizer", "rich") if importlib.util.find_spec(name) is None]
if _MISSING:
    raise MissingPackageError(
        f"embedlite.convert needs {', '.join(_MISSING)}, which is not installed here. "
        "Run: pip install 'embedlite[convert]'. On a device, embedlite.runtime is all that is needed."
    )

# Read by TensorFlow when it is imported, which happens later and only where a model is really loaded.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from .export import export  # noqa: E402
from .results import ExportResult  # noqa: E402

__all__ = ["ExportResult", "export"]
