"""Keras layers for the usual normalizations of an embedding, serializable and free of Lambdas.

``import embedlite.convert.layers`` registers them, so a ``model.keras`` that uses them loads without
``custom_objects``. A flat embedding (under min-max) and a zero vector (under L2) give zeros, never NaN.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

_REACH = {"sample": "every axis but the batch", "channel": "every axis but the last", "batch": "every axis"}


@keras.saving.register_keras_serializable(package="embedlite")
class MinMaxNormalization(keras.layers.Layer):  # type: ignore[misc]  # keras has no types
    """``(x - min x) / divisor``, both extremes over ``axis``.

    Args:
        axis: ``"sample"`` (every axis but the batch: each image by itself), ``"channel"`` (every axis but the
            last, the batch included), ``"batch"`` (everything at once), or axes as integers. A reduction over
            axis 0 gives the same image another embedding in another batch; on a device the batch is one.
        divisor: ``"shifted"``: ``max(x - min x)``, so that the result fills [0, 1]; ``"input"``: ``max x``.
        epsilon: ``"shifted"``: the divisor is never below it, default 1e-12. ``"input"``: it is added to the
            divisor, default 0.

    Input: any float tensor. Output: the same shape and dtype; zeros where the divisor is zero.
    """

    def __init__(
        self,
        axis: str | int | tuple[int, ...] = "sample",
        divisor: str = "shifted",
        epsilon: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(axis, str) and axis not in _REACH:
            raise ValueError(f"axis is {axis!r}. Use one of {', '.join(_REACH)}, or integers.")
        if divisor not in ("shifted", "input"):
            raise ValueError(f"divisor is {divisor!r}. Use 'shifted' or 'input'.")
        if epsilon is None:
            epsilon = 1e-12 if divisor == "shifted" else 0.0
        if epsilon < 0:
            raise ValueError(f"epsilon is {epsilon}. It must not be negative.")
        self.axis = axis if isinstance(axis, (str, int)) else tuple(axis)
        self.divisor = divisor
        self.epsilon = float(epsilon)

    def call(self, x: Any) -> Any:
        """Normalize ``x``."""
        axes = _axes(self.axis, len(x.shape))
        shifted = x - ops.min(x, axis=axes, keepdims=True)
        divisor = ops.max(shifted if self.divisor == "shifted" else x, axis=axes, keepdims=True)
        if self.divisor == "shifted" and self.epsilon > 0:
            return shifted / ops.maximum(divisor, self.epsilon)
        if self.epsilon > 0:
            divisor = divisor + self.epsilon
        # The maximum of the input may be negative, so it cannot be clamped: only an exact zero is replaced, by
        # infinity, so that the answer is zero.
        return shifted / ops.where(ops.equal(divisor, 0), float("inf"), divisor)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments, for saving."""
        return {**super().get_config(), "axis": self.axis, "divisor": self.divisor, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="embedlite")
class L2Normalization(keras.layers.Layer):  # type: ignore[misc]  # keras has no types
    """``x / max(|x|, epsilon)`` with the Euclidean norm over ``axis``; a zero vector gives zeros.

    Args:
        axis: axis or axes of the norm; default the last.
        epsilon: the norm is never taken below it. 1e-6 is what TFLite's L2_NORMALIZATION operator has built in.

    Input: any float tensor. Output: the same shape and dtype.
    """

    def __init__(self, axis: int | tuple[int, ...] = -1, epsilon: float = 1e-6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if epsilon <= 0:
            raise ValueError(f"epsilon is {epsilon}. It must be greater than zero.")
        self.axis = axis if isinstance(axis, int) else tuple(axis)
        self.epsilon = float(epsilon)

    def call(self, x: Any) -> Any:
        """Normalize ``x``."""
        axes = _axes(self.axis, len(x.shape))
        norm = ops.sqrt(ops.sum(ops.square(x), axis=axes, keepdims=True))
        return x / ops.maximum(norm, self.epsilon)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments, for saving."""
        return {**super().get_config(), "axis": self.axis, "epsilon": self.epsilon}


def _axes(axis: Any, rank: int) -> tuple[int, ...]:
    if axis == "sample":
        return tuple(range(1, rank))
    if axis == "channel":
        return tuple(range(rank - 1))
    if axis == "batch":
        return tuple(range(rank))
    return tuple(a % rank for a in ([axis] if isinstance(axis, int) else axis))
