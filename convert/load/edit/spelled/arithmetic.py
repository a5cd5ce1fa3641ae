"""Functions of single values and of colours, by TensorFlow's names, to within a few steps of float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_ERF_ABOVE = (1.12837915, 0.187221131, 0.0524094095, 0.00364959926, 0.000285978709, 2.12528183e-06)
_ERF_BELOW = (1.0, 0.499253316, 0.112866634, 0.014736188, 0.00114113359, 3.89221741e-05)
"""Powers of x² in erf(x) = x·above/below, fitted to the least relative error (1.3e-8) up to where it is 1."""
_ERF_ENDS = 3.83

_ASINH_SERIES = (1.0, -1 / 6, 3 / 40, -15 / 336, 105 / 3456)
_ATANH_SERIES = (1.0, 1 / 3, 1 / 5, 1 / 7, 1 / 9, 1 / 11)
_SINH_SERIES = (1.0, 1 / 6, 1 / 120, 1 / 5040, 1 / 362880)
"""Powers of x² in f(x) / x, for values near zero, where differences of large numbers leave nothing."""

_SIGN_BIT = np.iinfo(np.int32).min


def _powers(square: Any, coefficients: Sequence[float]) -> Any:
    result = square * coefficients[-1] + coefficients[-2]
    for number in coefficients[-3::-1]:
        result = result * square + number
    return result


def _erf(x: Any) -> Any:
    import tensorflow as tf

    x = tf.clip_by_value(x, -_ERF_ENDS, _ERF_ENDS)
    square = x * x
    return x * _powers(square, _ERF_ABOVE) / _powers(square, _ERF_BELOW)


def _atan(x: Any) -> Any:
    import tensorflow as tf

    return tf.atan2(x, tf.ones_like(x))


def _asin(x: Any) -> Any:
    import tensorflow as tf

    return tf.atan2(x, tf.sqrt((1 - x) * (1 + x)))


def _acos(x: Any) -> Any:
    import tensorflow as tf

    return tf.atan2(tf.sqrt((1 - x) * (1 + x)), x)


def _tan(x: Any) -> Any:
    import tensorflow as tf

    return tf.sin(x) / tf.cos(x)


def _cosh(x: Any) -> Any:
    import tensorflow as tf

    return 0.5 * tf.exp(x) + 0.5 * tf.exp(-x)


def _near_zero(x: Any, limit: float, series: Sequence[float], beyond: Callable[[Any], Any]) -> Any:
    """An odd function: its series up to a limit, and what holds beyond it for positive values."""
    import tensorflow as tf

    size = tf.abs(x)
    small = tf.minimum(size, limit)
    values = tf.where(size < limit, small * _powers(small * small, series), beyond(size))
    return tf.sign(x) * values


def _sinh(x: Any) -> Any:
    import tensorflow as tf

    return _near_zero(x, 1.0, _SINH_SERIES, lambda size: 0.5 * tf.exp(size) - 0.5 * tf.exp(-size))


def _asinh(x: Any) -> Any:
    import tensorflow as tf

    return _near_zero(x, 0.25, _ASINH_SERIES, lambda size: tf.math.log(size + tf.sqrt(size * size + 1)))


def _atanh(x: Any) -> Any:
    import tensorflow as tf

    return _near_zero(x, 0.25, _ATANH_SERIES, lambda size: 0.5 * tf.math.log((1 + size) / (1 - size)))


def _acosh(x: Any) -> Any:
    import tensorflow as tf

    return tf.math.log(x + tf.sqrt((x - 1) * (x + 1)))


def _rgb_to_hsv(image: Any) -> Any:
    import tensorflow as tf

    red, green, blue = (image[..., place] for place in range(3))
    value = tf.reduce_max(image, -1)
    spread = value - tf.reduce_min(image, -1)
    part = 1 / (6 * tf.where(spread > 0, spread, 1.0))
    hue = tf.where(green == value, part * (blue - red) + 1 / 3, part * (red - green) + 2 / 3)
    hue = tf.where(red == value, part * (green - blue), hue)
    hue = tf.where(spread > 0, tf.where(hue < 0, hue + 1, hue), 0.0)
    saturation = tf.where(value > 0, spread / tf.where(value > 0, value, 1.0), 0.0)
    return tf.stack([hue, saturation, value], -1)


def _hsv_to_rgb(image: Any) -> Any:
    import tensorflow as tf

    hue, saturation, value = (image[..., place] for place in range(3))

    def channel(first: float) -> Any:
        place = tf.math.floormod(hue * 6 + first, 6.0)
        return value - value * saturation * tf.clip_by_value(tf.minimum(place, 4 - place), 0.0, 1.0)

    return tf.stack([channel(5.0), channel(3.0), channel(1.0)], -1)


SPELLED: dict[str, Callable[..., Any]] = {
    "Acos": _acos,
    "Acosh": _acosh,
    "Asin": _asin,
    "Asinh": _asinh,
    "Atan": _atan,
    "Atanh": _atanh,
    "Cosh": _cosh,
    "Erf": _erf,
    "Erfc": lambda x: 1 - _erf(x),
    "HSVToRGB": _hsv_to_rgb,
    "RGBToHSV": _rgb_to_hsv,
    "Sinh": _sinh,
    "Tan": _tan,
}


def _sign_bit(node: Any, shapes: Sequence[Any], values: Sequence[Any]) -> Callable[..., Any] | None:
    """``BitwiseAnd`` with the sign bit alone, by which Keras tells -0.0 from 0.0 in its ``argmax``."""
    import tensorflow as tf

    del shapes
    if node.attr["T"].type != tf.int32.as_datatype_enum or values[1] is None or not np.all(values[1] == _SIGN_BIT):
        return None
    return lambda bits, mask: tf.where(bits < 0, mask, 0)


def has_bytes(node: Any) -> bool:
    """Whether an operator multiplies 8-bit integers, as layers do that Keras itself quantized."""
    import tensorflow as tf

    return any(name in node.attr and node.attr[name].type == tf.int8.as_datatype_enum for name in ("T", "Ta", "Tb"))


def _product_of_bytes(node: Any, shapes: Sequence[Any], values: Sequence[Any]) -> Callable[..., Any] | None:
    """A product of 8-bit integers in floats, which hold its sums to a step of float32."""
    import tensorflow as tf

    del shapes, values
    flips = {key: node.attr[name].b for key, name in _FLIPS[node.op].items()}
    result = tf.dtypes.as_dtype(node.attr["Tout" if "Tout" in node.attr else "T"].type)

    def apply(one: Any, other: Any) -> Any:
        product = tf.matmul(tf.cast(one, tf.float32), tf.cast(other, tf.float32), **flips)
        return tf.cast(product, result)

    return apply


_BATCHED = {"adjoint_a": "adj_x", "adjoint_b": "adj_y"}
_FLIPS = {
    "MatMul": {"transpose_a": "transpose_a", "transpose_b": "transpose_b"},
    "BatchMatMulV2": _BATCHED,
    "BatchMatMulV3": _BATCHED,
}

SPELLED_BY_VALUE: dict[str, Callable[..., Any]] = {"BitwiseAnd": _sign_bit, **dict.fromkeys(_FLIPS, _product_of_bytes)}
"""By operator: a function of its node, its inputs' shapes and what is known of their values, see :mod:`..spell`."""
