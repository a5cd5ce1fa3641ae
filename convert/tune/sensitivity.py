"""What the embedding hears of small changes anywhere in the float graph, by a backward pass.

With random signs of the embedding's values the squares of what is heard are, on average over the signs, sums over all
of them (Hutchinson, 1990): of one value's gradient, the noise that its rounding brings; of a change of many values at
once, the squared length of what it does to the embedding.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.model.flatbuffer import read_flatbuffer
from ...runtime.model.tensor_match import match_graphs
from .network import Network

_DRAWS = 2
"""Sets of signs for each batch."""

Batch = NDArray[np.float32]


class NoGradientError(Exception):
    """What is heard of some values is not a number."""


@dataclass(frozen=True)
class Heard:
    """One batch, with one set of signs.

    Attributes:
        values: the activations that were asked for, by index.
        of_values: their gradients.
        of_constants: those of the constants that were asked for.
    """

    values: dict[int, Batch]
    of_values: dict[int, Batch]
    of_constants: dict[int, Batch]


def rounded(quantized: bytes, original: bytes) -> set[int]:
    """The tensors of a float graph that are 8-bit integers in the graph that was made from it, by index."""
    info = read_flatbuffer(quantized)
    pairs = match_graphs(info, read_flatbuffer(original)).tensors
    return {true for mine, true in pairs.items() if info.tensors[mine].dtype == "int8"}


def heard(
    network: Network, images: Batch, seed: int, of: Collection[int], constants: Collection[int] = ()
) -> Iterator[Heard]:
    """One forward and one backward pass for each of a few sets of signs.

    Args:
        network: of a float graph.
        images: (N, ...).
        seed: of the signs.
        of: activations, by index.
        constants: likewise.

    Raises:
        NoGradientError: a gradient is not finite.
    """
    signs = np.random.default_rng(seed)
    for _ in range(_DRAWS):
        yield _heard_once(network, images, signs, of, constants)


def _heard_once(
    network: Network, images: Batch, signs: np.random.Generator, of: Collection[int], constants: Collection[int]
) -> Heard:
    import tensorflow as tf

    graph = network.graph
    with tf.GradientTape() as tape:
        weights = {index: tf.constant(graph.constant(index)) for index in constants}
        tape.watch(weights)
        values, watched = {int(graph.subgraph.inputs[0]): tf.constant(images)}, dict[int, Any]()
        for operator in graph.operators:
            for index, written in network.apply(operator, values, weights).items():
                values[index] = written
                if index in of:
                    watched[index] = written
                    tape.watch(written)
        found = values[network.output]
        total = tf.reduce_sum(found * signs.choice(np.array([-1, 1], np.float32), found.shape))
    of_weights, of_values = tape.gradient(total, (weights, watched), unconnected_gradients="zero")
    found = Heard(
        {index: tensor.numpy() for index, tensor in watched.items()},
        {index: tensor.numpy() for index, tensor in of_values.items()},
        {index: tensor.numpy() for index, tensor in of_weights.items()},
    )
    if not all(np.isfinite(part).all() for parts in (found.of_values, found.of_constants) for part in parts.values()):
        raise NoGradientError
    return found
