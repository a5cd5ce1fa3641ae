"""Keras layers for the usual normalizations of an embedding, and of pixels, serializable and free of Lambdas.

``import embedlite.convert.layers`` registers them, so a ``model.keras`` that uses them loads without
``custom_objects``. A flat embedding (under min-max) and a zero vector (under L2) give zeros, never NaN.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from ..runtime.model.normalizations import KINDS, REACHES, Kind

_SAVED = keras.saving.register_keras_serializable(package="embedlite")


class _Normalization(keras.layers.Layer):  # type: ignore[misc]  # keras has no types
    """A row of the table: ``values / guard(divisor)``.

    Args:
        axis: ``"sample"`` (every axis but the batch: each image by itself), ``"channel"`` (every axis but the
            last, the batch included), ``"batch"`` (everything at once), or axes as integers. A reduction over
            axis 0 gives the same image another embedding in another batch; on a device the batch is one.
        divisor: what the divisor is taken of: ``"shifted"``, what is divided; ``"input"``.
        epsilon: the divisor is never below it; where it may be negative, it is added to the divisor.

    Input: any float tensor. Output: the same shape and dtype; zeros where the divisor is zero.
    """

    kind: Kind

    def __init__(
        self,
        axis: str | int | tuple[int, ...] | None = None,
        divisor: str = "shifted",
        epsilon: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        axis = self.kind.axis if axis is None else axis
        if isinstance(axis, str) and axis not in REACHES:
            raise ValueError(f"axis is {axis!r}. Use one of {', '.join(reversed([*REACHES]))}, or integers.")
        if divisor not in self.kind.divisors:
            raise ValueError(f"divisor is {divisor!r}. Use {' or '.join(map(repr, self.kind.divisors))}.")
        if epsilon is None:
            epsilon = self.kind.divisors[divisor].epsilon
        if epsilon < 0:
            raise ValueError(f"epsilon is {epsilon}. It must not be negative.")
        self.axis = axis if isinstance(axis, (str, int)) else tuple(axis)
        self.divisor = divisor
        self.epsilon = float(epsilon)

    def call(self, x: Any) -> Any:
        """Normalize ``x``."""
        axes = _axes(self.axis, len(x.shape))
        values = x - ops.min(x, axis=axes, keepdims=True) if self.kind.shifts else x
        if self.kind.measure == "norm":
            divisor = ops.sqrt(ops.sum(ops.square(x), axis=axes, keepdims=True))
        else:
            divisor = ops.max(values if self.divisor == "shifted" else x, axis=axes, keepdims=True)
        if self.epsilon > 0 and not self.kind.signed(self.divisor):
            return values / ops.maximum(divisor, self.epsilon)
        if self.epsilon > 0:
            divisor = divisor + self.epsilon
        # A maximum may be negative, so it cannot be clamped: only an exact zero is replaced, by infinity, so that the
        # answer is zero.
        return values / ops.where(ops.equal(divisor, 0), float("inf"), divisor)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments, for saving."""
        which = {"divisor": self.divisor} if len(self.kind.divisors) > 1 else {}
        return {**super().get_config(), "axes": self.axis, **which, "epsilon": self.epsilon}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """The layer from its arguments. Keras drops an ``axis`` that is a name or a list when it reads HDF5."""
        return cls(**{("axis" if key == "axes" else key): value for key, value in config.items()})


@_SAVED
class MinMaxNormalization(_Normalization):
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

    kind = KINDS["minmax"]

    def __init__(
        self,
        axis: str | int | tuple[int, ...] = "sample",
        divisor: str = "shifted",
        epsilon: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(axis, divisor, epsilon, **kwargs)


@_SAVED
class L2Normalization(_Normalization):
    """``x / max(|x|, epsilon)`` with the Euclidean norm over ``axis``; a zero vector gives zeros.

    Args:
        axis: axis or axes of the norm; default the last.
        epsilon: the norm is never taken below it. 1e-6 is what TFLite's L2_NORMALIZATION operator has built in.

    Input: any float tensor. Output: the same shape and dtype.
    """

    kind = KINDS["l2"]

    def __init__(self, axis: int | tuple[int, ...] = -1, epsilon: float = 1e-6, **kwargs: Any) -> None:
        if epsilon <= 0:
            raise ValueError(f"epsilon is {epsilon}. It must be greater than zero.")
        super().__init__(axis, epsilon=epsilon, **kwargs)


for _kind in KINDS.values():
    if _kind.layer not in globals():
        _class = type(_kind.layer, (_Normalization,), {"kind": _kind, "__doc__": _Normalization.__doc__})
        globals()[_kind.layer] = _SAVED(_class)


_CAFFE_MEANS = (103.939, 116.779, 123.68)
_TORCH_MEANS, _TORCH_DEVIATIONS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@_SAVED
class PixelPreprocessing(keras.layers.Layer):  # type: ignore[misc]  # keras has no types
    """What ``preprocess_input`` of ``keras.applications`` does to RGB pixels 0-255, by its three modes.

    Args:
        mode: ``"caffe"`` (VGG, ResNet): red and blue exchanged, ImageNet's mean subtracted, not scaled; ``"tf"``
            (MobileNet, MobileNetV2, InceptionV3, Xception, ResNetV2, NASNet): ``x / 127.5 - 1``; ``"torch"``
            (DenseNet): ``x / 255``, then ImageNet's mean subtracted and divided by its standard deviation.

    Input: (..., 3) float tensor. Output: the same shape and dtype.
    """

    def __init__(self, mode: str = "tf", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if mode not in ("caffe", "tf", "torch"):
            raise ValueError(f"mode is {mode!r}. Use 'caffe', 'tf' or 'torch'.")
        self.mode = mode

    def call(self, x: Any) -> Any:
        """Preprocess ``x``."""
        if self.mode == "tf":
            return x / 127.5 - 1.0
        if self.mode == "caffe":
            return ops.flip(x, axis=-1) - ops.convert_to_tensor(_CAFFE_MEANS, x.dtype)
        means, deviations = (ops.convert_to_tensor(values, x.dtype) for values in (_TORCH_MEANS, _TORCH_DEVIATIONS))
        return (x / 255.0 - means) / deviations

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments, for saving."""
        return {**super().get_config(), "mode": self.mode}


def _axes(axis: Any, rank: int) -> tuple[int, ...]:
    if axis == "sample":
        return tuple(range(1, rank))
    if axis == "channel":
        return tuple(range(rank - 1))
    if axis == "batch":
        return tuple(range(rank))
    return tuple(a % rank for a in ([axis] if isinstance(axis, int) else axis))
