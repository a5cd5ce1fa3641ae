"""Bias correction: the mean error of every channel, measured on images and taken out of the biases.

Rounding weights and activations does not only add noise: over many images each channel of a layer is off by something
of its own, which the next layers carry on. A bias is a 32-bit integer in steps far finer than those of the activation,
so that error can be subtracted there for nothing: same operators, same size, same time. The layers are corrected in
the order of execution, each with those before it already corrected.

Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019 (arXiv:1906.04721), section
4.2, with measured in place of expected values; Finkelstein et al., Fighting Quantization Bias With Bias, 2019
(arXiv:1906.03193).
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from ....runtime.progress import progress
from .paired_graph import PairedGraph, Values

_PLACES = 1024
"""Of an output that are compared at a time: in double precision a wide layer's is larger than the graph."""


def correct_biases(graph: PairedGraph) -> None:
    """Subtract from each bias the mean error of its channel; see the module's text.

    Args:
        graph: the quantized graph, which is changed, and the images.
    """
    for layer in progress(graph.layers, len(graph.layers), "correcting biases"):
        # What a later operator clips anyway is not an error.
        errors = graph.both_outputs(layer, partial(channel_errors, bounds=graph.bounds(layer)))
        mean = np.mean(errors, axis=0)
        bias = layer.tensors[2]
        graph.replace(bias, graph.constant(bias) - mean / graph.scales(bias, len(mean)))


def channel_errors(
    values: Values, true: Values, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> NDArray[np.float64]:
    """By how much one image's values are too large on average, for each channel (the last axis): (C,).

    Args:
        values: those of the quantized graph.
        true: those of the float graph.
        bounds: between which true values are taken.
    """
    found, wanted = (part.reshape(-1, part.shape[-1]) for part in (values, true))
    total = np.zeros(found.shape[-1])
    for first in range(0, len(found), _PLACES):
        block = slice(first, first + _PLACES)
        total += (found[block].astype(np.float64) - np.clip(wanted[block], *bounds)).sum(axis=0)
    return total / len(found)
