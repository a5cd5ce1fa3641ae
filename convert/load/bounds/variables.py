"""How many weights a model makes, and how many its files can hold."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ....runtime.child_limits import LARGEST_TENSOR
from ....runtime.errors import ModelLimitError

_SLACK = 16 << 20
"""Weights besides those of the file: what a layer makes and does not save."""

_PACKED = 20
"""How many times smaller a file may be than its weights; Keras stores them uncompressed."""

_SMALLEST = 4
"""Bytes that a weight takes in a file."""


@contextmanager
def as_many_as_stored(path: Path) -> Iterator[None]:
    """While a Keras model is built: refuse weights that its file cannot hold, before they have any memory.

    Args:
        path: the file.

    Raises:
        ModelLimitError: one weight, or all up to it, are too large.
    """
    import tensorflow as tf

    most = _SLACK + _PACKED * path.stat().st_size // _SMALLEST
    made = 0

    def create(next_creator: Any, **settings: Any) -> Any:
        nonlocal made
        shape = _shape_of(settings.get("initial_value"), settings.get("shape"))
        made += math.prod(shape)
        if made > most or math.prod(shape) > LARGEST_TENSOR:
            raise ModelLimitError(
                f"{path} was refused: its layers ask for {made:,} weights up to {settings.get('name')!r}, of shape "
                f"{tuple(shape)}, and a file of {path.stat().st_size:,} bytes holds at most {most:,} (one weight at "
                f"most {LARGEST_TENSOR:,}). Get the file again from where it was made."
            )
        return next_creator(**settings)

    with tf.variable_creator_scope(create):
        yield


def _shape_of(value: Any, shape: Any) -> list[int]:
    """The shape of a variable that is about to be made; its values are only described."""
    import tensorflow as tf

    if shape is None and (made := _made_by_keras(value)) is not None:
        return list(made)
    if shape is None and callable(value):
        with tf.Graph().as_default():
            value = value()
    known = tf.TensorShape(shape if shape is not None else getattr(value, "shape", ()))
    return [size or 0 for size in known.as_list()] if known.rank is not None else []


def _made_by_keras(value: Any) -> tuple[int, ...] | None:
    """The shape that Keras asks an initializer for, which is told of each variable without describing its values."""
    import keras

    with suppress(ValueError):  # a cell may be empty
        for cell in getattr(value, "__closure__", None) or ():
            if isinstance(cell.cell_contents, keras.Variable):
                return tuple(cell.cell_contents.shape)
    return None


def check_checkpoint(path: Path) -> None:
    """Refuse variables of a SavedModel that claim to be larger than the files that hold them.

    Raises:
        ModelLimitError: they do.
    """
    import tensorflow as tf

    prefix = path / "variables" / "variables"
    if not prefix.with_suffix(".index").is_file():
        return
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = reader.get_variable_to_shape_map()
        kinds = reader.get_variable_to_dtype_map()
    except (tf.errors.OpError, ValueError, RuntimeError):
        return  # TensorFlow says why when it loads them
    stored = sum(file.stat().st_size for file in prefix.parent.glob("variables.data-*"))
    claimed = 0
    for name in sorted(shapes):
        claimed += math.prod(shapes[name]) * kinds[name].size if kinds[name].is_numpy_compatible else 0
        if claimed > stored:
            raise ModelLimitError(
                f"{path} was refused: its variables up to {name!r}, of shape {tuple(shapes[name])}, have {claimed:,} "
                f"bytes, and the files beside their index hold {stored:,}. Copy the whole folder again."
            )
