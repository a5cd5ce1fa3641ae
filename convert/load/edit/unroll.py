"""Recurrent layers of a Keras model traced otherwise than they were built, and left as they were."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

_AS_CHOSEN = {"unroll": True, "_could_use_gpu_kernel": False}
"""What has a layer take its steps one by one; Keras 2 decides by the second whether the first is looked at."""

_NO_DROPOUT = {"dropout": 0.0, "recurrent_dropout": 0.0}


def unrolling(model: Any) -> Callable[[], AbstractContextManager[None]] | None:
    """A context in which the recurrent layers are traced step by step, for modes without loops; None without any."""
    layers = [layer for layer in model._flatten_layers() if getattr(layer, "unroll", None) is False]
    return _with(layers, _AS_CHOSEN)


def without_dropout(model: Any) -> Callable[[], AbstractContextManager[None]] | None:
    """A context in which recurrent layers have no dropout, which does nothing at inference; None without any.

    Keras 3 draws the numbers for it all the same, and that changes a variable, which no device can.
    """
    cells = [layer for layer in model._flatten_layers() if hasattr(layer, "get_dropout_mask")]
    return _with([cell for cell in cells if any(getattr(cell, name, 0) for name in _NO_DROPOUT)], _NO_DROPOUT)


def _with(layers: Sequence[Any], values: Mapping[str, Any]) -> Callable[[], AbstractContextManager[None]] | None:
    """A context in which layers have other settings, as far as they have them."""

    @contextlib.contextmanager
    def changed() -> Iterator[None]:
        before = [{name: getattr(layer, name) for name in values if hasattr(layer, name)} for layer in layers]
        try:
            for layer, had in zip(layers, before, strict=True):
                for name in had:
                    setattr(layer, name, values[name])
            yield
        finally:
            # The model may be the caller's own.
            for layer, had in zip(layers, before, strict=True):
                for name, value in had.items():
                    setattr(layer, name, value)

    return changed if layers else None
