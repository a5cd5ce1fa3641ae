"""The normalizations as plain numpy, per image: the definition that graphs and tests are held against.

Formulas and kinds are those of :mod:`embedlite.runtime.model.normalizations`.

With placement ``runtime`` the file ends at the quantized raw embedding, x = scale (q - zero_point). A quotient by a
maximum then does not depend on the scale but through epsilon, so it is computed on the integers and rounded once, to
the same float32 on every machine.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.contract import NormalizationSpec
from ..model.normalizations import KINDS, NONE

_OVERFLOW = Fraction(2**128 - 2**103)
"""From here on float32 rounds to infinity: the largest is 2^128 - 2^104, and half its step 2^103."""


def normalize(values: NDArray[Any], spec: NormalizationSpec) -> NDArray[np.float32]:
    """Normalize a raw embedding.

    Args:
        values: the tensor that ``spec.axes`` speak of, batch axis included, any float dtype.
        spec: see :class:`~embedlite.runtime.model.contract.NormalizationSpec`.

    Returns:
        An array of the same shape, float32; all zeros where the divisor is zero.
    """
    if spec.kind == NONE:
        return values.astype(np.float32)
    numerator, divisor = fraction(values, spec)
    # Where the divisor is zero the answer is zero, whatever stands above it.
    quotient = np.divide(numerator, divisor, out=np.zeros_like(numerator), where=divisor != 0)
    rounded: NDArray[np.float32] = quotient.astype(np.float32)
    return rounded


def fraction(values: NDArray[Any], spec: NormalizationSpec) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What a normalization divides, and the guarded divisor.

    Args:
        values: see :func:`normalize`.
        spec: of another kind than ``none``.

    Returns:
        The numerator, shaped like ``values``, and the divisor, which broadcasts against it; float64.
    """
    # In double, where neither a difference nor a square of float32 leaves the range.
    x = values.astype(np.float64)
    numerator = x - x.min(axis=spec.axes, keepdims=True) if KINDS[spec.kind].shifts else x
    return numerator, guard_divisor(bare_divisor(x, spec), spec)


def bare_divisor(x: NDArray[np.float64], spec: NormalizationSpec) -> NDArray[np.float64]:
    """What a normalization other than ``none`` divides by, before its guard; with the axes kept, of length one."""
    kind, axes = KINDS[spec.kind], spec.axes
    if kind.measure == "norm":
        norm: NDArray[np.float64] = np.sqrt((x * x).sum(axis=axes, keepdims=True))
        return norm
    # The largest x less the smallest is the largest difference, rounding included.
    largest: NDArray[np.float64] = x.max(axis=axes, keepdims=True)
    return largest - x.min(axis=axes, keepdims=True) if kind.shifts and spec.divisor == "shifted" else largest


def guard_divisor(divisor: NDArray[np.float64], spec: NormalizationSpec) -> NDArray[np.float64]:
    """The divisor as the normalization's epsilon guards it."""
    if spec.epsilon_mode == "max":
        return np.maximum(divisor, spec.epsilon)
    return divisor + spec.epsilon if spec.epsilon_mode == "add" else divisor


def normalize_quantized(
    values: NDArray[Any], scale: float, zero_point: int, spec: NormalizationSpec
) -> NDArray[np.float32]:
    """The normalization of ``scale * (values - zero_point)``.

    By a maximum it is the exact rational result rounded once to float32; a norm takes one square root in double.

    Args:
        values: the quantized tensor that ``spec.axes`` speak of, int8 or uint8, batch axis included; or ``spec.copies``
            along its last axis, which are added up.
        scale: its quantization scale.
        zero_point: its quantization zero point.
        spec: see :class:`~embedlite.runtime.model.contract.NormalizationSpec`.

    Returns:
        An array of the (added) shape, float32; all zeros where the divisor is zero.
    """
    q = values.astype(np.int64)
    if spec.copies > 1:
        q, zero_point = q.reshape(*q.shape[:-1], spec.copies, -1).sum(axis=-2), spec.zero_point
    q -= zero_point
    kind = KINDS[spec.kind]
    if kind.measure == "norm":
        norm = np.sqrt((q * q).sum(axis=spec.axes, keepdims=True).astype(np.float64)) * np.float64(np.float32(scale))
        guarded = guard_divisor(norm, spec)
        quotient = np.divide(q * np.float64(np.float32(scale)), guarded, out=np.zeros(q.shape), where=guarded != 0)
        rounded: NDArray[np.float32] = quotient.astype(np.float32)
        return rounded
    numerator = q - q.min(axis=spec.axes, keepdims=True) if kind.shifts else q
    divisor = (numerator if spec.divisor == "shifted" else q).max(axis=spec.axes, keepdims=True)
    epsilon = (
        Fraction(0) if spec.epsilon_mode == "none" else Fraction(spec.epsilon) / Fraction(float(np.float32(scale)))
    )
    if epsilon == 0 or (spec.epsilon_mode == "max" and bool((divisor >= epsilon).all())):
        # Both are integers far below 2^24, so float32 holds them exactly and the division rounds once.
        top, bottom = numerator.astype(np.float32), divisor.astype(np.float32)
        ratio: NDArray[np.float32] = np.divide(top, bottom, out=np.zeros(q.shape, np.float32), where=bottom != 0)
        return ratio
    return _divide_exactly(numerator, divisor, epsilon, spec.epsilon_mode)


def _divide_exactly(
    numerator: NDArray[np.int64], divisor: NDArray[np.int64], epsilon: Fraction, mode: str
) -> NDArray[np.float32]:
    """numerator / guard(divisor) in rational arithmetic; few different numerators occur, so each is divided once."""
    divisor = np.broadcast_to(divisor, numerator.shape)
    pairs, place = np.unique(np.stack([numerator.ravel(), divisor.ravel()]), axis=1, return_inverse=True)
    results = np.zeros(pairs.shape[1], np.float32)
    for index, (top, bottom) in enumerate(pairs.T.tolist()):
        guarded = bottom + epsilon if mode == "add" else max(Fraction(bottom), epsilon)
        if guarded != 0:
            results[index] = round_to_float32(top / guarded)
    exact: NDArray[np.float32] = results[place.ravel()].reshape(numerator.shape)
    return exact


def round_to_float32(value: Fraction) -> np.float32:
    """The float32 nearest to a rational number, ties to even: ``float()`` first would round twice.

    Beyond the largest float32 and half a step, infinity, as IEEE 754 has it.
    """
    if abs(value) >= _OVERFLOW:
        return np.float32(np.inf if value > 0 else -np.inf)
    with np.errstate(over="ignore"):
        near = np.float32(float(value))
        candidates = [near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf))]
    finite = [c for c in candidates if np.isfinite(c)]
    return min(finite, key=lambda c: (abs(Fraction(float(c)) - value), int(c.view(np.int32)) & 1))
