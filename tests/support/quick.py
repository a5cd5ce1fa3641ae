"""Which tests ``run.py check`` runs: those that start neither TensorFlow nor another world, and ask no server.

A file is left out if it imports at its top what does; a test, if it uses such a fixture or names such a thing itself.
"""

import inspect
import re
from pathlib import Path

import pytest

_WORLDS = (
    "tensorflow|keras|tf_keras|encoders|browser|buckets|cluster|emulated_device|foreign_packages|mediapipe|moto|dask"
)
_IMPORTS = re.compile(
    rf"^(import|from) ({_WORLDS})\b|^from embedlite\.convert import .*\bexport\b|^from embedlite\.convert\.layers\b",
    re.MULTILINE,
)
# The last two are fixtures that a test asks for by name: they train the example.
_NAMES = re.compile(r"\b(tensorflow|keras|tf_keras|tflite_micro|export-tflite|dask|int8_file|float32_file)\b")
_FIXTURES = {"digits", "small", "seeds", "wheel", "resolved"}
_FOLDERS = ("docs", "whole")


def starts_a_world(path: Path) -> bool:
    """Whether no test of a file is quick; the file is read, not imported."""
    return path.name.startswith("test_") and (
        path.parent.name in _FOLDERS or _IMPORTS.search(path.read_text()) is not None
    )


def is_quick(item: pytest.Item) -> bool:
    """Whether a test of another file is."""
    if _FIXTURES.intersection(getattr(item, "fixturenames", ())):
        return False
    function = getattr(item, "function", None)
    return function is None or _NAMES.search(inspect.getsource(function)) is None
