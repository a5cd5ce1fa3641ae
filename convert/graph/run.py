"""Running float graphs in this process, to prove, to trial and to judge them."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ...runtime.backends.interpreters import find_runtime, open_interpreter
from ...runtime.errors import InterpreterFailedError
from ...runtime.machine import available_threads
from .graph import Graph

Values = NDArray[np.float32]
_T = TypeVar("_T")
_Image = TypeVar("_Image")


def embedding_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of one embedding for an output tensor of batch 1: (1, D) and (1, 1, 1, D) give (D,), (rows, D) stays."""
    if len(shape) == 4 and shape[:3] == (1, 1, 1):
        return shape[3:]
    return shape[1:] if shape[0] == 1 else shape


def float_runner(flatbuffer: bytes, threads: int | None = None) -> Callable[[Values], Values]:
    """A TFLite graph with float32 input and output as a plain function on one (H, W, C) float32 image."""
    run = _runner(flatbuffer, threads)
    return lambda image: _embedding(run(image[None])[0])


def float_rows(flatbuffer: bytes, images: Sequence[Values], threads: int | None = None) -> Values:
    """The flattened output of a TFLite graph for each image: (images, D)."""

    def make() -> Callable[[Values], Values]:
        run = float_runner(flatbuffer, threads=1)
        return lambda image: run(image).ravel()

    return np.stack(map_images(make, images, threads))


def map_images(make: Callable[[], Callable[[_Image], _T]], images: Sequence[_Image], threads: int | None) -> list[_T]:
    """What a function answers for each image, in their order.

    Images are spread over the threads, an interpreter each: threads within the inference of a small encoder mostly wait
    for each other.

    Args:
        make: makes the function, once for each thread.
        images: what it is called with, images or their numbers.
        threads: default all processors.
    """
    workers = min(threads or available_threads(), len(images))

    def part(first: int) -> list[_T]:
        run = make()
        return [run(images[place]) for place in range(first, len(images), workers)]

    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(part, range(workers)))
    return [parts[place % workers][place // workers] for place in range(len(images))]


def give_back() -> None:
    """Return memory that was freed to the system: TensorFlow's conversion leaves some hundred megabytes of it."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
            ctypes.CDLL(None).malloc_trim(0)


def tensor_values(flatbuffer: bytes, names: Sequence[str], images: Iterable[Values]) -> Iterator[dict[str, Values]]:
    """The values of some tensors of a float graph for each (H, W, C) float32 image, by name."""
    graph = Graph(flatbuffer)
    graph.subgraph.outputs = [graph.index_of(name) for name in names]
    graph.model.signatureDefs = []
    run = _runner(graph.to_bytes())
    for image in images:
        yield dict(zip(names, run(image[None]), strict=True))


def island_runner(graph: Graph, source: int, result: int, positions: Sequence[int]) -> Callable[[Values], Values]:
    """Some operators of a graph as a graph of their own: one tensor in, one tensor out.

    Args:
        graph: the whole graph; it is not changed.
        source: index of the tensor that goes in.
        result: index of the tensor that comes out.
        positions: places of the operators among the graph's, in execution order.
    """
    run = _runner(_cut(graph, source, result, positions), threads=1)
    return lambda values: run(values)[0]


def _cut(graph: Graph, source: int, result: int, positions: Sequence[int]) -> bytes:
    """Some operators with their tensors and constants alone: the rest of a large model is never packed."""
    operators = [copy.copy(graph.operators[position]) for position in positions]
    lists = [[int(index) for index in ends] for op in operators for ends in (op.inputs, op.outputs)]
    used = sorted({source, result, *(index for ends in lists for index in ends if index >= 0)})
    place = {old: new for new, old in enumerate(used)} | {-1: -1}
    buffers = sorted({0, *(graph.tensor(index).buffer for index in used)})
    tensors = [copy.copy(graph.tensor(index)) for index in used]
    for tensor in tensors:
        tensor.buffer = buffers.index(tensor.buffer)
    for operator in operators:
        operator.inputs = [place[int(index)] for index in operator.inputs]
        operator.outputs = [place[int(index)] for index in operator.outputs]
    island = copy.copy(graph)
    island.model = copy.copy(graph.model)
    island.model.buffers = [graph.model.buffers[index] for index in buffers]
    island.model.metadata, island.model.signatureDefs = [], []
    subgraph = copy.copy(graph.subgraph)
    subgraph.tensors, subgraph.operators = tensors, operators
    subgraph.inputs, subgraph.outputs = [place[source]], [place[result]]
    island.model.subgraphs = [subgraph]
    return island.to_bytes()


def _runner(flatbuffer: bytes, threads: int | None = None) -> Callable[[Values], list[Values]]:
    runtime = find_runtime()
    interpreter = open_interpreter(runtime, flatbuffer, threads=threads or available_threads())
    source = interpreter.get_input_details()[0]["index"]
    results = [detail["index"] for detail in interpreter.get_output_details()]

    def run(values: Values) -> list[Values]:
        try:
            interpreter.set_tensor(source, values)
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in results]
        except (RuntimeError, ValueError, IndexError) as error:
            raise InterpreterFailedError(
                f"{runtime.name} {runtime.version} failed while running the float graph: {str(error).strip()}. Update "
                "the interpreter, or simplify the model there."
            ) from error

    return run


def _embedding(values: Values) -> Values:
    return values.reshape(embedding_shape(values.shape))
