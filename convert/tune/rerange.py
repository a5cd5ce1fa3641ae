"""Ranges of activations that cost the embedding least: a narrower one has smaller steps, and cuts off more.

What both cost is known from backward passes, see :mod:`embedlite.convert.tune.sensitivity`. Steps are noise, value by
value: step^2 / 12 times the sum of the squared gradients. What is cut off is a change of some values of an image, all
in one direction: the square of its product with the gradient, image by image.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ...calibration import Ranges
from ..graph.constraints import FIXED
from .network import Network
from .sensitivity import Batch, heard, rounded

_SHARES = np.linspace(2, 0.4, 33)
"""Of either side of a range, which are tried: one by a percentile may cut off too much."""

_PASSES_ON = frozenset(
    {
        *("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "MAX_POOL_2D", "PAD", "MIRROR_PAD", "SLICE"),
        *("STRIDED_SLICE", "SPLIT", "SPLIT_V", "UNPACK", "GATHER", "REVERSE_V2"),
    }
)
"""Operators that write values of what they read, and zeros: kernels insist on the same step size."""

Costs = NDArray[np.float64]


class Reranging:
    """What other ranges of a file's activations cost, measured."""

    def __init__(self, quantized: bytes, original: bytes, ranges: Ranges) -> None:
        """Find what has a range that may be chosen.

        Args:
            quantized: the graph in integers.
            original: the float graph that it was made from.
            ranges: of its activations.
        """
        self._network, self._ranges = Network(original), ranges
        graph, integers = self._network.graph, rounded(quantized, original)
        self._limits = {
            index: (min(low, 0.0), max(high, 0.0))
            for operator in graph.operators
            if (kind := graph.operator_name(operator)) not in _PASSES_ON and (kind, "int8") not in FIXED
            for index in map(int, operator.outputs)
            if index in integers and graph.tensor_name(index) in ranges.limits
            for low, high in [ranges.limits[graph.tensor_name(index)]]
        }
        self._power = dict.fromkeys(self._limits, 0.0)
        self._cut = {index: np.zeros((2, len(_SHARES))) for index in self._limits}

    def measure(self, images: Batch, seed: int) -> None:
        """Add what these images say.

        Args:
            images: a batch, (N, H, W, C).
            seed: of the signs.
        """
        for passed in heard(self._network, images, seed, self._limits):
            for index, values in passed.values.items():
                gradients = passed.of_values[index]
                # What is exactly zero, as after a ReLU, is rounded without an error.
                self._power[index] += float(np.square(gradients, dtype=np.float64).sum(where=values != 0))
                low, high = self._limits[index]
                sides = ((-values, -gradients, -low), (values, gradients, high))
                self._cut[index] += [_cut(*side, len(images)) for side in sides]

    def reranged(self, part: float = 1.0) -> Ranges:
        """The ranges that cost least, each by itself.

        Args:
            part: how much of the way there is gone.
        """
        graph, changed = self._network.graph, dict(self._ranges.limits)
        for operator in graph.operators:
            read = next(map(graph.tensor_name, graph.inputs(operator)), "")
            for index in map(int, operator.outputs):
                name = graph.tensor_name(index)
                if index in self._limits:
                    (low, high), (least, most) = self._limits[index], self._cheapest(index)
                    changed[name] = low + part * (least - low), high + part * (most - high)
                elif graph.operator_name(operator) in _PASSES_ON and name in changed and read in changed:
                    alike = self._ranges.limits[name] == self._ranges.limits[read]
                    (low, high), (least, most) = changed[name], changed[read]
                    changed[name] = changed[read] if alike else (max(low, least), min(high, most))
        return replace(self._ranges, limits=changed)

    def _cheapest(self, index: int) -> tuple[float, float]:
        low, high = self._limits[index]
        below, above = self._cut[index]
        widths = high * _SHARES[None, :] - low * _SHARES[:, None]
        costs = below[:, None] + above[None, :] + (widths / 255) ** 2 / 12 * self._power[index]
        of_low, of_high = np.unravel_index(np.argmin(costs), costs.shape)
        return low * float(_SHARES[of_low]), high * float(_SHARES[of_high])


def _cut(values: Batch, gradients: Batch, limit: float, images: int) -> Costs:
    """For each share of a limit the sum over images of the square of what is heard if values end there."""
    costs = np.zeros(len(_SHARES))
    if limit <= 0:
        return costs
    # An image may have several rows, one after the other.
    rows, *_ = where = np.nonzero(values > limit * _SHARES[-1])
    reached, slopes = values[where].astype(np.float64), gradients[where]
    for place, share in enumerate(_SHARES):
        lost = np.bincount(rows * images // len(values), slopes * np.maximum(reached - limit * share, 0), images)
        costs[place] = float(np.square(lost).sum())
    return costs
