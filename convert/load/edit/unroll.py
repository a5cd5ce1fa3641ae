"""Recurrent layers of a Keras model traced otherwise than they were built, and left as they were."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

_AS_CHOSEN = {"unroll": True, "_could_use_gpu_kernel": False}
"""What has a layer take its steps one by one; Keras 2 decides by the second whether the first is looked at."""

_NO_DROPOUT = {"dropout": 0.0, "recurrent_dropout": 0.0}


def unrolling(model: Any) -> Callable[[], AbstractContextManager[None]] | None:
    """A context in which the recurrent layers are traced step by step, for modes without loops; None without any."""
    layers = [layer for layer in model._flatten_layers() if getattr(layer, "unroll", None) is False]
    return _with(layers, _AS_CHOSEN)


def calm(model: Any) -> Callable[[], AbstractContextManager[None]] | None:
    """A context in which layers draw no random numbers that change nothing at inference; None where there are none.

    Keras 3 draws those of dropout in recurrent layers and of augmentation all the same, and that changes a variable,
    which no device can.
    """
    import keras

    layers = list(model._flatten_layers())
    cells = [layer for layer in layers if hasattr(layer, "get_dropout_mask")]
    sources = [getattr(layer, name, None) for layer in layers for name in ("generator", "seed_generator")]
    without = _with([cell for cell in cells if any(getattr(cell, name, 0) for name in _NO_DROPOUT)], _NO_DROPOUT)
    same = _with([one for one in sources if isinstance(one, keras.random.SeedGenerator)], {"next": _same})
    contexts = [context for context in (without, same) if context is not None]

    @contextlib.contextmanager
    def calmed() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context())
            yield

    return calmed if contexts else None


def _same(ordered: bool = True) -> Any:
    """The same numbers each time, in a source's place."""
    return np.zeros(2, np.uint32)


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
