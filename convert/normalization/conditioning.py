"""How well a normalization stands the rounding of its input: how near its divisor comes to zero, in steps of int8.

Dividing by the maximum of the shifted values divides by the widest difference there is, some hundred steps. The maximum
of the input itself may lie anywhere, at zero as well, and where it is one step and is rounded to two, every value is
half of what it was. In float nothing of that is seen.

Measured by doing it: the raw tensor of some calibration images is rounded to its int8 steps and normalized as if
nothing else were rounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from ...runtime.input.normalize import fraction, normalize
from ...runtime.model.contract import NormalizationSpec
from ..graph.run import tensor_values
from ..results import NEAR, Conditioning
from .prepare import FloatGraph

_LEVELS = 255


def measure_conditioning(
    graph: FloatGraph, limits: Mapping[str, tuple[float, float]], images: Iterable[NDArray[np.float32]]
) -> tuple[Conditioning, ...]:
    """The conditioning of every normalization of a graph; of those without a range, and without images, nothing.

    Args:
        graph: the prepared float graph.
        limits: ranges of its activations by name, see :class:`embedlite.calibration.Ranges`.
        images: model-ready, (H, W, C) float32.
    """
    ranged = [(name, spec) for name, spec in graph.normalizations if _step(limits.get(name, (0, 0))) > 0]
    if not ranged:
        return ()
    seen = list(tensor_values(graph.flatbuffer, [name for name, _ in ranged], images))
    if not seen:
        return ()
    return tuple(
        _conditioning(name, spec, _step(limits[name]), [values[name] for values in seen]) for name, spec in ranged
    )


def _step(limits: tuple[float, float]) -> float:
    low, high = limits
    return (max(high, 0.0) - min(low, 0.0)) / _LEVELS


def _conditioning(name: str, spec: NormalizationSpec, step: float, seen: list[NDArray[np.float32]]) -> Conditioning:
    divisors, moves, squares, noises, raw, rounding = [], [], [], [], 0.0, 0.0
    for values in seen:
        _, divisor = fraction(values, spec)
        rounded = np.round(values.astype(np.float64) / step) * step
        exact = normalize(values, spec).astype(np.float64)
        noise = (normalize(rounded, spec) - exact) ** 2
        axes = tuple(axis for axis in range(values.ndim) if divisor.shape[axis] == 1)
        # A step in the numerator, and the same step in the divisor: it moves what is divided in proportion.
        reach = step + np.abs(exact).max(axis=axes, keepdims=True) * step
        moves.append(np.divide(reach, np.abs(divisor), out=np.zeros_like(divisor), where=divisor != 0).ravel())
        divisors.append(np.abs(divisor).ravel() / step)
        squares.append((exact**2).mean())
        noises.append(noise.sum(axis=axes, keepdims=True).ravel())
        raw += float((values.astype(np.float64) ** 2).sum())
        rounding += float(((rounded - values) ** 2).sum())
    steps, noise_of, size = np.concatenate(divisors), np.concatenate(noises), seen[0].size
    signal, total = float(np.mean(squares)), float(noise_of.sum())
    lost = None
    if raw and rounding and signal and total:
        lost = 10 * float(np.log10(raw / rounding) - np.log10(signal * size * len(seen) / total))
    return Conditioning(
        tensor=name,
        kind=spec.kind,
        divisor=spec.divisor,
        images=len(seen),
        step=step,
        nearest=float(steps.min()),
        near=float((steps < NEAR).mean()),
        amplified=float(np.concatenate(moves).max()) / signal**0.5 if signal else 0.0,
        lost_db=lost,
        near_noise=float(noise_of[steps < NEAR].sum()) / total if total else 0.0,
    )
