"""Errors of the export, under the tree of :mod:`embedlite.runtime.errors`::

EmbedliteError
  ModelFileError
    ModelLoadError              the file cannot be loaded as a Keras model
      CustomCodeError           it needs code that only the user has
    ModelShapeError             not one image in, one embedding out, of known size
  ConversionError               TensorFlow or litert-quantizer refused the model
"""

from __future__ import annotations

from ..runtime.errors import EmbedliteError, ModelFileError


class ModelLoadError(ModelFileError):
    """The file cannot be loaded as a Keras model."""


class CustomCodeError(ModelLoadError):
    """The file refers to code that is not in it."""


class ModelShapeError(ModelFileError):
    """The model is not one image in and one embedding out, or its size is not known."""


class ConversionError(EmbedliteError):
    """TensorFlow or litert-quantizer refused the model."""
