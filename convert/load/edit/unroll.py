"""Recurrent layers of a Keras model traced step by step, for files whose kind of arithmetic enters no loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

_AS_CHOSEN = {"unroll": True, "_could_use_gpu_kernel": False}
"""What has a layer take its steps one by one; Keras 2 decides by the second whether the first is looked at."""


def unrolling(model: Any) -> Callable[[], AbstractContextManager[None]] | None:
    """A context in which the recurrent layers of a model are traced step by step; None if it has none."""
    layers = [layer for layer in model._flatten_layers() if getattr(layer, "unroll", None) is False]

    @contextlib.contextmanager
    def unrolled() -> Iterator[None]:
        before = [{name: getattr(layer, name) for name in _AS_CHOSEN if hasattr(layer, name)} for layer in layers]
        try:
            for layer, had in zip(layers, before, strict=True):
                for name in had:
                    setattr(layer, name, _AS_CHOSEN[name])
            yield
        finally:
            # The model may be the caller's own.
            for layer, had in zip(layers, before, strict=True):
                for name, value in had.items():
                    setattr(layer, name, value)

    return unrolled if layers else None
