"""A graph of 16-bit activations, imitated by the float graph with the quantized one's weights and biases.

The activations of the two differ next to nothing, the rounded weights are all that is wrong, and an interpreter runs
the imitation some twenty times faster: a CPU has reference kernels for 16-bit activations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....runtime.model.flatbuffer import read_flatbuffer
from ...graph.graph import Graph
from .linear_layer import LinearLayer, constant_bytes, own_constant


class Imitation:
    """The float graph with stored weights and biases.

    Attributes:
        data: its bytes.
        info: its tensors and wiring.
    """

    def __init__(self, original: bytes, layers: tuple[LinearLayer, ...]) -> None:
        """Give each layer weights and a bias of its own.

        Args:
            original: the float graph.
            layers: those of the quantized graph that have a counterpart in it.
        """
        graph = Graph(original)
        self._places: dict[int, int] = {}
        for layer in layers:
            operator = graph.operators[layer.float_place]
            for role in (1, 2):
                self._places[layer.tensors[role]] = own_constant(graph, operator, role)
        self.data = bytearray(graph.to_bytes())
        self.info = read_flatbuffer(bytes(self.data))

    def replace(self, index: int, stored: NDArray[Any], scales: NDArray[np.float64], axis: int) -> int:
        """Overwrite the counterpart of a constant.

        Args:
            index: of the quantized graph's constant.
            stored: its whole numbers.
            scales: their step sizes, one for all or one for each place of an axis.
            axis: this one.

        Returns:
            The index of the counterpart.
        """
        shape = [1] * stored.ndim
        shape[axis] = len(scales)
        place = self._places[index]
        values = (stored * scales.reshape(shape)).astype(np.float32)
        constant_bytes(self.data, place)[:] = np.frombuffer(values.tobytes(), np.uint8)
        return place
