"""Channels that share a factor: whatever it is, the graph computes the same, to the last bit for powers of two."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from graphs import FloatGraph
from hypothesis import given, settings
from hypothesis import strategies as st

from embedlite.convert.graph.channels import FIXED, channels, scale_channels
from embedlite.convert.graph.graph import Graph
from embedlite.convert.graph.run import float_rows

SIDE, WIDTH = 6, 8
NONE, RELU = schema.ActivationFunctionType.NONE, schema.ActivationFunctionType.RELU


class Grown:
    """A graph that grows by random operators, and the activations that the next one may read."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.graph, self.rng = Graph(FloatGraph((SIDE, SIDE, 4)).to_bytes()), rng
        self.maps = [self.conv(0)]
        self.add = {
            "conv": lambda: self.conv(self.any(), fused=RELU),
            "linear": lambda: self.conv(self.any()),
            "grouped": lambda: self.conv(self.any(), groups=2),
            "depthwise": lambda: self.depthwise(self.any()),
            "prelu": lambda: self.put("PRELU", [self.any(), self.values(1, 1, WIDTH)], None),
            "leaky": lambda: self.put("LEAKY_RELU", [self.any()], self.options("LeakyReluOptionsT", alpha=0.25)),
            "max pool": lambda: self.pool("MAX_POOL_2D"),
            "average pool": lambda: self.pool("AVERAGE_POOL_2D"),
            "pad": self.pad,
            "residual": lambda: self.put("ADD", [self.any(), self.any()], self.options("AddOptionsT")),
            "difference": lambda: self.put("SUB", [self.any(), self.any()], self.options("SubOptionsT")),
            "offset": lambda: self.put("ADD", [self.any(), self.values(WIDTH)], self.options("AddOptionsT")),
            "scale": lambda: self.put("MUL", [self.any(), self.values(WIDTH)], self.options("MulOptionsT")),
            "concatenation": self.halves,
            "gate": self.gate,
            "swish": self.swish,
            "maximum": lambda: self.put("MAXIMUM", [self.any(), self.any()], None),
            "reshape": self.reshape,
            "resize": self.resize,
            "gated by a mean": self.squeeze,
        }

    def any(self) -> int:
        return int(self.rng.choice(self.maps[-3:]))

    def values(self, *shape: int) -> int:
        name = f"constant{len(self.graph.subgraph.tensors)}"
        return self.graph.add_constant(name, self.rng.normal(0, 0.3, shape).astype(np.float32))

    def numbers(self, *numbers: Any) -> int:
        name = f"constant{len(self.graph.subgraph.tensors)}"
        return self.graph.add_constant(name, np.array(numbers, np.int32))

    def options(self, kind: str, **fields: Any) -> Any:
        options = getattr(schema, kind)()
        for name, value in fields.items():
            setattr(options, name, value)
        return options

    def put(self, kind: str, inputs: list[int], options: Any, shape: tuple[int, ...] = (1, SIDE, SIDE, WIDTH)) -> int:
        result = self.graph.add_tensor(f"{kind}{len(self.graph.operators)}", shape)
        self.graph.operators.append(self.graph.make_operator(kind, inputs, [result], options))
        return result

    def conv(self, source: int, fused: int = NONE, groups: int = 1, shape: tuple[int, int] = (SIDE, SIDE)) -> int:
        options = self.options(
            "Conv2DOptionsT", strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1, fusedActivationFunction=fused
        )
        width = self.graph.shape(source)[-1]
        inputs = [source, self.values(WIDTH, 3, 3, width // groups), self.values(WIDTH)]
        return self.put("CONV_2D", inputs, options, (1, *shape, WIDTH))

    def depthwise(self, source: int) -> int:
        """With two outputs to each input channel, and what adds them up again."""
        options = self.options(
            "DepthwiseConv2DOptionsT",
            strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1, depthMultiplier=2,
        )  # fmt: skip
        inputs = [source, self.values(1, 3, 3, 2 * WIDTH), self.values(2 * WIDTH)]
        return self.conv(self.put("DEPTHWISE_CONV_2D", inputs, options, (1, SIDE, SIDE, 2 * WIDTH)))

    def pool(self, kind: str) -> int:
        options = self.options("Pool2DOptionsT", strideH=1, strideW=1, filterHeight=3, filterWidth=3)
        return self.put(kind, [self.any()], options)

    def pad(self) -> int:
        """Zeros around, and as channels on either side, then every layer's width again."""
        paddings = self.graph.add_constant(
            f"paddings{len(self.graph.operators)}", np.array([[0, 0], [1, 0], [0, 0], [1, 3]], np.int32)
        )
        padded = self.put("PAD", [self.any(), paddings], self.options("PadOptionsT"), (1, SIDE + 1, SIDE, WIDTH + 4))
        wide = self.conv(padded, shape=(SIDE + 1, SIDE))
        begin, size = self.numbers(0, 1, 0, 0), self.numbers(1, SIDE, SIDE, WIDTH)
        return self.put("SLICE", [wide, begin, size], self.options("SliceOptionsT"))

    def halves(self) -> int:
        """The first half of one map and the second of another."""
        halves = []
        for place in range(2):
            source, shape = self.any(), (1, SIDE, SIDE, WIDTH // 2)
            results = [self.graph.add_tensor(f"half{len(self.graph.operators)}.{number}", shape) for number in range(2)]
            options = self.options("SplitOptionsT", numSplits=2)
            self.graph.operators.append(self.graph.make_operator("SPLIT", [self.numbers(3), source], results, options))
            halves.append(results[place])
        return self.put("CONCATENATION", halves, self.options("ConcatenationOptionsT", axis=3))

    def gate(self) -> int:
        gate = self.put("LOGISTIC", [self.conv(self.any())], None)
        return self.put("MUL", [self.any(), gate], self.options("MulOptionsT"))

    def swish(self) -> int:
        source = self.any()
        return self.put("MUL", [source, self.put("LOGISTIC", [source], None)], self.options("MulOptionsT"))

    def squeeze(self) -> int:
        source = self.any()
        options = self.options("ReducerOptionsT", keepDims=True)
        mean = self.put("MEAN", [source, self.numbers(1, 2)], options, (1, 1, 1, WIDTH))
        return self.put("MUL", [source, self.conv(mean, shape=(1, 1))], self.options("MulOptionsT"))

    def reshape(self) -> int:
        """Through another width: channels that meet there share a factor."""
        flat = self.put("RESHAPE", [self.any(), self.numbers(1, -1, 12)], None, (1, SIDE * SIDE * WIDTH // 12, 12))
        return self.put("RESHAPE", [flat, self.numbers(1, SIDE, SIDE, WIDTH)], None)

    def resize(self) -> int:
        options = self.options("ResizeBilinearOptionsT", halfPixelCenters=True)
        twice = self.put(
            "RESIZE_BILINEAR", [self.any(), self.numbers(2 * SIDE, 2 * SIDE)], options, (1, 2 * SIDE, 2 * SIDE, WIDTH)
        )
        pool = self.options("Pool2DOptionsT", strideH=2, strideW=2, filterHeight=2, filterWidth=2)
        return self.put("AVERAGE_POOL_2D", [twice], pool)

    def finished(self, *, dense: bool) -> bytes:
        last = self.maps[-1]
        if dense:
            inputs = [last, self.values(5, SIDE * SIDE * WIDTH), self.values(5)]
            last = self.put("FULLY_CONNECTED", inputs, self.options("FullyConnectedOptionsT"), (1, 5))
        self.graph.end_at(last)
        return self.graph.to_bytes()


def grown(seed: int, steps: list[str], *, dense: bool) -> bytes:
    made = Grown(np.random.default_rng(seed))
    for step in steps:
        made.maps.append(made.add[step]())
    return made.finished(dense=dense)


KINDS = sorted(Grown(np.random.default_rng(0)).add)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**20), st.lists(st.sampled_from(KINDS), min_size=1, max_size=9), st.booleans())
def test_any_factors_leave_any_graph_as_it_is(seed: int, steps: list[str], dense: bool) -> None:
    """Products and sums of numbers that are scaled by powers of two round as those that are not."""
    flatbuffer = grown(seed, steps, dense=dense)
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(2, SIDE, SIDE, 4)).astype(np.float32)
    graph = Graph(flatbuffer)
    found = channels(graph)
    factors = 2.0 ** rng.integers(-3, 4, found.count)
    factors[FIXED] = 1
    scale_channels(graph, found, factors)
    np.testing.assert_array_equal(
        float_rows(graph.to_bytes(), list(images), 1), float_rows(flatbuffer, list(images), 1)
    )


def classes(*steps: str) -> tuple[Graph, Callable[[str], list[int]]]:
    graph = Graph(grown(0, list(steps), dense=True))
    found = channels(graph)

    def of(kind: str) -> list[int]:
        """The classes of what the last operator of a kind writes."""
        operator = [item for item in graph.operators if graph.operator_name(item) == kind][-1]
        return list(found.labels.get(int(operator.outputs[0]), np.zeros(WIDTH, int)))

    return graph, of


def test_every_operator_that_passes_factors_on_does() -> None:
    """Given one of each after a convolution, and a dense layer that takes factors back. Result: no channel is fixed."""
    passing = set(KINDS) - {"swish", "gate", "gated by a mean", "reshape"}
    for step in sorted(passing):
        graph, of = classes(step)
        assert FIXED not in of(graph.operator_name(graph.operators[-2])), step


def test_terms_share_factors_and_what_passes_none_on_fixes_them() -> None:
    _, of = classes("linear", "residual")
    assert len(set(of("ADD"))) == WIDTH
    _, of = classes("swish")
    assert set(of("CONV_2D")) == set(of("MUL")) == {FIXED}
    # A gate is fixed, and what it is laid over is not.
    _, of = classes("gated by a mean")
    assert FIXED not in of("MUL")
    # 8 and 12 channels meet in four.
    _, of = classes("reshape")
    assert of("RESHAPE")[:4] == of("RESHAPE")[4:]
    assert len(set(of("RESHAPE"))) == 4


def test_the_output_keeps_its_scale() -> None:
    graph = Graph(grown(0, ["conv"], dense=False))
    found = channels(graph)
    assert int(graph.subgraph.outputs[0]) not in found.labels
