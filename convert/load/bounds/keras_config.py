"""How large a model a Keras configuration asks for, before Keras builds anything of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ....runtime.child_limits import LARGEST_TENSOR
from ....runtime.errors import ModelLimitError
from ...errors import ModelShapeError

LARGEST_INPUT = 1 << 27
"""Values of one input image: 512 MB of float32, four times the largest photo that is read."""

DEEPEST_CONFIG = 200
"""Objects and lists within each other; a model within a model is three of them."""

MOST_OBJECTS = 50_000
"""Layers, initializers and the like, counted as often as their model is called. NASNetLarge has some 8,000."""

_GET_AGAIN = "Get the file again from where it was made; if you made it, export the encoder alone."

_INPUTS = ("batch_shape", "batch_input_shape")
_SIZES = frozenset(
    [
        "units",
        "filters",
        "kernel_size",
        "size",
        "padding",
        "n",
        "target_shape",
        "input_dim",
        "output_dim",
        "output_shape",
        "height",
        "width",
        "num_tokens",
        "num_bins",
        "num_heads",
        "key_dim",
        "value_dim",
        "fft_length",
        "frame_length",
        "sequence_length",
        "num_mel_bins",
        "depth_multiplier",
        "max_tokens",
        "input_shape",
        "build_input_shape",
        "shape",
        "build_shape",
    ]
)
"""Settings that say how large a layer's weights or results are: one number, or some that multiply."""


def check_config(path: Path, config: dict[str, Any]) -> None:
    """Refuse a configuration that no machine builds.

    Args:
        path: the file, for messages.
        config: of the whole model, as read from JSON.

    Raises:
        ModelShapeError: its input is larger than any image.
        ModelLimitError: it is nested too deeply, has too many layers, or one of a size that no encoder has.
    """
    for name, value in _objects(path, config):
        for key, size in value.items():
            shape = size if isinstance(size, list) else [size]
            if key in _INPUTS and _product(shape) > LARGEST_INPUT:
                raise ModelShapeError(
                    f"{path} was refused: its input of shape {shape} has more than {LARGEST_INPUT:,} values. Save the "
                    "model with the size of the images that it is for."
                )
            several = key.endswith("shape") and all(isinstance(item, list) for item in shape)
            if key in _SIZES and max(map(_product, shape if several else [shape]), default=0) > LARGEST_TENSOR:
                raise ModelLimitError(
                    f"{path} was refused: its layer {name!r} has {key} {_shown(size)}, and at most "
                    f"{LARGEST_TENSOR:,} values may stand in one tensor. {_GET_AGAIN}"
                )
    count = _count(config)
    if count > MOST_OBJECTS:
        raise ModelLimitError(
            f"{path} was refused: its configuration makes {count:,} layers and parts of layers (those of a model "
            f"within it counted as often as it is called), and at most {MOST_OBJECTS:,} are built here. {_GET_AGAIN}"
        )


def _objects(path: Path, config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of a configuration with the name of the layer that it belongs to; nothing here recurses."""
    left: list[tuple[Any, str, int]] = [(config, "", 1)]
    while left:
        value, layer, depth = left.pop()
        if depth > DEEPEST_CONFIG:
            raise ModelLimitError(
                f"{path} was refused: its configuration holds objects within objects more than {DEEPEST_CONFIG} deep, "
                f"as no model does. {_GET_AGAIN}"
            )
        if isinstance(value, dict):
            name = value.get("name")
            layer = name if isinstance(name, str) else layer
            yield layer, value
            left += ((item, layer, depth + 1) for item in value.values() if isinstance(item, (dict, list)))
        else:
            left += ((item, layer, depth + 1) for item in value if isinstance(item, (dict, list)))


def _count(value: Any) -> int:
    """Objects with a class; a layer's as often as it is called, because each call of a model runs all that is in it."""
    if isinstance(value, list):
        return sum(map(_count, value))
    if not isinstance(value, dict):
        return 0
    calls = value.get("inbound_nodes")
    inside = sum(_count(item) for key, item in value.items() if key != "inbound_nodes")
    return (("class_name" in value) + inside) * (max(1, len(calls)) if isinstance(calls, list) else 1)


def _product(shape: list[Any]) -> int:
    """What numbers multiply to, pairs (of padding) summed; unknown ones and nonsense count as one."""
    sizes = [_pair(item) if isinstance(item, list) else item for item in shape]
    return math.prod(max(1, abs(size)) for size in sizes if isinstance(size, int))


def _pair(sizes: list[Any]) -> int:
    return sum(abs(size) for size in sizes if isinstance(size, int))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
