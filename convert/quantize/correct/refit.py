"""The last linear layer fitted again: from what the quantized graph really gives it to what the float graph answers.

The layer that makes the embedding sees all that went wrong before it. Its weights W and bias b are chosen again by
ridge regression, so that with the quantized graph's inputs X they come close to the float graph's outputs Y:

    minimum of  |X W' + b - Y|^2 + r |W - W_float|^2

They are held near the float weights, not near zero, so that a few images cannot move what they say nothing about; how
near is chosen on a part of the images. Then the weights are rounded in new step sizes
(:mod:`embedlite.convert.quantize.correct.rounding`), one for each output or one for all, as they were. Same size, same
operators.

Ridge regression: Hoerl and Kennard, 1970. Fitting a quantized layer to the float model's answers is the closed form of
what Hubara et al., Accurate Post Training Quantization With Small Calibration Sets, 2020 (arXiv:2006.10518, section 3)
do by gradient descent.
"""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from .linear_layer import LinearLayer
from .paired_graph import PairedGraph, input_rows, weight_matrices
from .rounding import LARGEST, MOST_INPUTS, round_with_feedback

RIDGES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
"""What r is chosen from, in shares of the mean variance of X; the first is nearest to the float weights."""

_JUDGING = 5
"""Every so many images one judges the others' fit."""

_Array = NDArray[np.float64]


def refit_last_layer(graph: PairedGraph) -> None:
    """Fit the last linear layer to the float graph; see the module's text. Others than that are left as they are.

    Args:
        graph: the quantized graph, which is changed, and the images: fewer than ten leave it as it is.
    """
    layer = graph.layers[-1]
    weights = graph.float_constant(layer.float_tensors[1])
    linear = layer.options.fusedActivationFunction == schema.ActivationFunctionType.NONE
    known = layer.kind != "DEPTHWISE_CONV_2D" and np.prod(weights.shape[1:]) <= MOST_INPUTS
    by_channel = graph.scaled_by_channel(layer)
    in_float = layer not in graph.integers
    if not linear or not known or not (by_channel or in_float):
        return
    matrix, bias = weight_matrices(layer, weights)[0], graph.float_bias(layer)
    pairs = _rows(graph, layer, weights.shape)
    if len(pairs) < 2 * _JUDGING:
        return
    ridge = choose_ridge([pair[0] for pair in pairs], [pair[1] @ matrix.T for pair in pairs], matrix)
    inputs, wanted = (np.concatenate(rows) for rows in zip(*pairs, strict=True))
    targets = wanted @ matrix.T + bias
    fitted, offset = fit_near(inputs, targets, matrix, ridge)
    scales = np.abs(fitted).max(axis=1) / LARGEST
    if not by_channel:
        scales = np.full_like(scales, scales.max())
    scales = np.where(scales > 0, scales, graph.scales(layer.tensors[1], len(scales))).astype(np.float32)
    centred = inputs - inputs.mean(axis=0)
    rounded = round_with_feedback(fitted, centred.T @ centred, scales.astype(np.float64))
    # What rounding does to the mean goes into the bias, which has far finer steps.
    offset += (fitted - rounded * scales[:, None]) @ inputs.mean(axis=0)
    graph.rescale(layer, scales)
    graph.replace(layer.tensors[1], rounded.reshape(weights.shape))
    graph.replace(layer.tensors[2], offset / graph.scales(layer.tensors[2], len(offset)))


def fit_near(inputs: _Array, targets: _Array, near: _Array, ridge: float) -> tuple[_Array, _Array]:
    """Weights and bias of a linear function by ridge regression towards given weights.

    Args:
        inputs: (n, k).
        targets: (n, outputs).
        near: (outputs, k), the weights that it is drawn to.
        ridge: how strongly, as a share of the inputs' mean variance.

    Returns:
        (outputs, k) and (outputs,).
    """
    return _Regression(inputs, targets, near).fitted(ridge)


class _Regression:
    """What fits with several ridges share.

    With X the inputs and R what is left of the targets, the weights change by (X'X + r)^-1 X'R = X' (XX' + r)^-1 R
    (Saunders et al., 1998): a matrix of rows instead of inputs, of which a flattened map has thousands.
    """

    def __init__(self, inputs: _Array, targets: _Array, near: _Array) -> None:
        self._near, self._mean, self._middle = near, inputs.mean(axis=0), targets.mean(axis=0)
        self._centred = inputs - self._mean
        self._rest = targets - self._middle - self._centred @ near.T
        self._by_row = len(inputs) < inputs.shape[1]
        self._moments = self._centred @ self._centred.T if self._by_row else self._centred.T @ self._centred

    def fitted(self, ridge: float) -> tuple[_Array, _Array]:
        """Weights and bias; see :func:`fit_near`."""
        strength = ridge * np.trace(self._moments) / self._near.shape[1]
        weights = self._near
        # Inputs that are always the same tell nothing of the weights.
        if strength != 0:
            moments = self._moments + strength * np.eye(len(self._moments))
            if self._by_row:
                change = self._centred.T @ np.linalg.solve(moments, self._rest)
            else:
                change = np.linalg.solve(moments, self._centred.T @ self._rest)
            weights = self._near + change.T
        return weights, self._middle - weights @ self._mean


def choose_ridge(inputs: list[_Array], targets: list[_Array], near: _Array) -> float:
    """The ridge with which a fit to four fifths of the images comes closest on the last fifth.

    Args:
        inputs: for each image, (places, k).
        targets: likewise, (places, outputs).
        near: see :func:`fit_near`.
    """

    def part(rows: list[_Array], judging: bool) -> _Array:
        return np.concatenate([item for place, item in enumerate(rows) if (place % _JUDGING == 0) == judging])

    fitting, judging = ((part(inputs, chosen), part(targets, chosen)) for chosen in (False, True))
    regression = _Regression(*fitting, near)

    def error(ridge: float) -> float:
        weights, bias = regression.fitted(ridge)
        return float(np.square(judging[0] @ weights.T + bias - judging[1]).sum())

    return min(RIDGES, key=error)


def _rows(graph: PairedGraph, layer: LinearLayer, shape: tuple[int, ...]) -> list[tuple[_Array, _Array]]:
    """The inputs of the layer in both graphs, image by image, each (places, inputs)."""
    found = graph.both_inputs(layer, lambda *both: [input_rows(layer, values, shape) for values in both])
    return [
        (mine[0].astype(np.float64), true[0].astype(np.float64))
        for mine, true in found
        if mine is not None and true is not None
    ]
