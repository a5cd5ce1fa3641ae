"""Opening the user's model, whatever it was saved as; each format is a module of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ...runtime.errors import RequestError
from ..errors import ModelLoadError
from .foreign import told
from .options import KERAS_SUFFIXES, LoadOptions

if TYPE_CHECKING:
    from .original import Original

FORMATS = ".keras, .h5 or .hdf5, a SavedModel folder, or a float .tflite"


def load_original(path: Path, options: LoadOptions | None = None) -> Original:
    """Open a model file without running any code that is not the framework's, ours, or handed over by the user.

    Args:
        path: a ``.keras``, ``.h5`` or ``.hdf5`` file, a SavedModel's folder, or a float ``.tflite``.
        options: what the user says of it.

    Raises:
        ModelLoadError: no such file, another format, damaged, or refused as harmful.
        CustomCodeError: it needs code that nobody handed over.
        ModelShapeError: not one image in and one embedding out, or no known size.
        RequestError: an option that this format cannot have.
    """
    options = options or LoadOptions()
    kind = "SavedModel" if path.is_dir() else f"{path.suffix} file"
    way_out = "Copy it again, or save it again where it was made."
    if "keras" not in sys.modules:
        # Whatever Keras runs on elsewhere, it is TensorFlow that converts.
        os.environ["KERAS_BACKEND"] = "tensorflow"
    with told(ModelLoadError, str(path), kind, "cannot be loaded", way_out):
        return _open(path, options)


def _open(path: Path, options: LoadOptions) -> Original:
    # Late, because devices without the packages for it import the options beside this.
    from .keras_model import load_keras
    from .saved_model import SAVED_MODEL_NAME, is_saved_model, load_saved_model
    from .tflite import load_tflite

    if not path.exists():
        raise ModelLoadError(f"there is no {path}. Pass the path of a model: {FORMATS}.")
    suffix = path.suffix.lower()
    if suffix in KERAS_SUFFIXES and path.is_file() and options.signature is None:
        return load_keras(path, options)
    if suffix not in KERAS_SUFFIXES and (options.custom_objects is not None or options.replace_lambda):
        raise RequestError(
            f"--custom-objects and --replace-lambda are for Keras files, and {path} is none: it holds all it needs. "
            "Leave them out."
        )
    if options.signature is not None and not is_saved_model(path):
        raise RequestError(f"--signature is for SavedModels, and {path} is none. Leave it out.")
    if is_saved_model(path):
        return load_saved_model(path, options)
    if path.is_dir():
        raise ModelLoadError(
            f"{path} is a folder without {SAVED_MODEL_NAME}, so it is not a SavedModel. Pass the path of a model: "
            f"{FORMATS}."
        )
    if suffix == ".tflite":
        return load_tflite(path, options)
    raise ModelLoadError(f"{path} is not of a format that is known here. Pass the path of a model: {FORMATS}.")
