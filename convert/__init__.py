"""embedlite.convert: from a trained Keras encoder to TFLite files; for the workstation, needs TensorFlow.

>>> from embedlite.convert import ExportOptions, export
>>> result = export("model.keras", "out", quantize=["all"], calibration_data="photos/")   # doctest: +SKIP
>>> result = export("model.keras", "out", options=ExportOptions(targets=["micro"], c_array=True))   # doctest: +SKIP

The only package that imports TensorFlow, and only where a model is loaded. On a device without it the modules that say
what can be asked for (:mod:`embedlite.convert.load.options`, :mod:`embedlite.convert.modes`) can still be imported.
"""

from __future__ import annotations

import importlib.util
import os

from ..runtime.commands.start import start
from ..runtime.errors import MissingPackageError

TYPE_CHECKING = False  # see embedlite.runtime
if TYPE_CHECKING:
    from typing import Any

    from .exporting import export, export_asked
    from .options import Asked, ExportOptions
    from .results import ExportResult

__all__ = ["Asked", "ExportOptions", "ExportResult", "check_installed", "export", "export_asked"]

# Read by TensorFlow when it is imported, which happens later and only where a model is really loaded.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")


def check_installed() -> None:
    """Refuse to begin an export without the packages that it needs.

    Raises:
        MissingPackageError: one is not installed.
    """
    missing = [name for name in ("tensorflow", "litert_quantizer") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPackageError(
            f"embedlite.convert needs {', '.join(missing)}, which is not installed here. "
            "Run: pip install 'embedlite[convert]'. On a device, embedlite.runtime is all that is needed."
        )


def __getattr__(name: str) -> Any:
    if name in ("export", "export_asked"):
        check_installed()
        from .exporting import export, export_asked

        return {"export": export, "export_asked": export_asked}[name]
    if name in ("Asked", "ExportOptions"):
        from .options import Asked, ExportOptions

        return {"Asked": Asked, "ExportOptions": ExportOptions}[name]
    if name == "ExportResult":
        from .results import ExportResult

        return ExportResult
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """``export-tflite``."""
    start("embedlite.convert.command")
