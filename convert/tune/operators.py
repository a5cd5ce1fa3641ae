"""What TFLite's operators compute, in TensorFlow, in real numbers and for a batch: so that gradients pass through them.

A row of :data:`OPERATORS` is a function of the operator's inputs and of a :class:`Call`. Weights come as TFLite stores
them. A form that is not there raises :class:`UnsupportedError`, by name: nothing is computed otherwise than the file
does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

Tensor = Any
"""A ``tf.Tensor``."""


class UnsupportedError(Exception):
    """An operator, or a form of it, that has no row here; its text is the name."""


@dataclass(frozen=True)
class Call:
    """What an operator is besides its inputs.

    Attributes:
        name: its kind.
        options: its ``builtinOptions``; None for those without.
        shape: of its first output, with the batch axis of one that the file has.
        dtype: of that output.
        shapes: of its inputs, likewise; () of one that is left out.
        constants: the values of each input that is a constant, else None.
        depends: which inputs depend on the image: not those that are unpacked of constants either.
    """

    name: str
    options: Any
    shape: tuple[int, ...]
    dtype: str
    shapes: tuple[tuple[int, ...], ...]
    constants: tuple[NDArray[Any] | None, ...]
    depends: tuple[bool, ...]

    @property
    def rank(self) -> int:
        """Of its first input."""
        return len(self.shapes[0])

    @property
    def read(self) -> list[tuple[int, ...]]:
        """Shapes of the inputs that depend on the image."""
        return [shape for shape, depends in zip(self.shapes, self.depends, strict=True) if depends]

    @property
    def lead(self) -> int:
        """The length of the first axis of what it reads: 1, or of one that holds an image's rows."""
        leads = {first_of(shape) for shape in self.read if shape}
        if len(leads) != 1:
            raise self.refuse("over the batch axis")
        return next(iter(leads))

    def refuse(self, what: str) -> UnsupportedError:
        """The error for a form that is not there."""
        return UnsupportedError(f"{self.name} {what}")

    def constant(self, place: int) -> NDArray[Any]:
        """An input that must be a constant."""
        found = self.constants[place] if place < len(self.constants) else None
        if found is None:
            raise self.refuse("of computed sizes or axes")
        return found

    @property
    def batched(self) -> list[int]:
        """The output's shape for any batch."""
        if not self.shape:
            raise self.refuse("over the batch axis")
        return [-1, *self.shape[1:]]

    def axes(self, place: int) -> list[int]:
        """Constant axes, counted from the front; the batch axis is not among them."""
        found = sorted(int(axis) % self.rank for axis in self.constant(place).ravel())
        if 0 in found:
            raise self.refuse("over the batch axis")
        return found


def first_of(shape: tuple[int, ...]) -> int:
    """The length of the first axis; 1 where there is none."""
    return shape[0] if shape else 1


Results = list[Tensor]
"""Of an operator that writes several tensors."""

Function = Callable[[list[Tensor], Call], Tensor | Results]


def activated(values: Tensor, options: Any) -> Tensor:
    """With the activation function that is fused into an operator."""
    import tensorflow as tf

    kinds = schema.ActivationFunctionType
    kind = getattr(options, "fusedActivationFunction", kinds.NONE)
    if kind == kinds.NONE:
        return values
    if kind == kinds.RELU:
        return tf.nn.relu(values)
    if kind == kinds.RELU6:
        return tf.clip_by_value(values, 0.0, 6.0)
    if kind == kinds.RELU_N1_TO_1:
        return tf.clip_by_value(values, -1.0, 1.0)
    if kind == kinds.TANH:
        return tf.tanh(values)
    raise UnsupportedError(f"the fused activation {kind}")


def padding(call: Call) -> str:
    """As TensorFlow names it."""
    return "SAME" if call.options.padding == schema.Padding.SAME else "VALID"


def _biased(values: Tensor, inputs: Sequence[Tensor], place: int) -> Tensor:
    return values + inputs[place] if len(inputs) > place and inputs[place] is not None else values


def _is_point(kernel: Tensor) -> bool:
    """Whether it reads one pixel."""
    return tuple(kernel.shape[:2]) == (1, 1)


def _conv(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    options, source = call.options, inputs[0]
    kernel = tf.transpose(inputs[1], (1, 2, 3, 0))
    strides = (options.strideH, options.strideW)
    dilations = (options.dilationHFactor, options.dilationWFactor)
    if max(strides) > 1 and max(dilations) > 1:
        raise call.refuse("with strides and dilations")
    if _is_point(kernel):
        # With strides the gradient of such a kernel writes beyond its memory where channels are few (oneDNN in
        # TensorFlow 2.21), and ends the process. So the pixels that it reads are taken first.
        source, strides = source[:, :: strides[0], :: strides[1]], (1, 1)
    groups = source.shape[-1] // kernel.shape[2]
    # TensorFlow has no gradient of grouped convolutions on processors, nor of dilated ones but by this function.
    parts = [
        tf.nn.convolution(part, piece, strides, padding(call), dilations=dilations)
        for part, piece in zip(tf.split(source, groups, axis=-1), tf.split(kernel, groups, axis=-1), strict=True)
    ]
    return _biased(parts[0] if groups == 1 else tf.concat(parts, axis=-1), inputs, 2)


def _depthwise(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    options, source, stored = call.options, inputs[0], inputs[1]
    strides = (options.strideH, options.strideW)
    dilations = (options.dilationHFactor, options.dilationWFactor)
    channels = source.shape[-1]
    kernel = tf.reshape(stored, (*stored.shape[1:3], channels, stored.shape[3] // channels))
    if strides[0] != strides[1] or (max(strides) > 1 and max(dilations) > 1):
        raise call.refuse(f"with strides {strides} and dilations {dilations}")
    found = tf.nn.depthwise_conv2d(source, kernel, (1, *strides, 1), padding(call), dilations=dilations)
    return _biased(found, inputs, 2)


def _dense(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    rows = tf.reshape(inputs[0], (-1, inputs[1].shape[1]))
    return tf.reshape(_biased(tf.matmul(rows, inputs[1], transpose_b=True), inputs, 2), call.batched)


def _transposed(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    options, source = call.options, inputs[2]
    kernel, (high, wide) = tf.transpose(inputs[1], (1, 2, 0, 3)), (options.strideH, options.strideW)
    if _is_point(kernel):
        # As in :func:`_conv`: here zeros come between the pixels afterwards.
        found = tf.einsum("nyxi,oi->nyxo", source, kernel[0, 0])[:, :, None, :, None]
        found = tf.pad(found, ((0, 0), (0, 0), (0, high - 1), (0, 0), (0, wide - 1), (0, 0)))
        found = tf.reshape(found, (-1, high * source.shape[1], wide * source.shape[2], kernel.shape[2]))
        found = found[:, : call.shape[1], : call.shape[2]]
    else:
        shape = tf.concat([tf.shape(source)[:1], call.shape[1:]], axis=0)
        found = tf.nn.conv2d_transpose(source, kernel, shape, (high, wide), padding(call))
    return _biased(found, inputs, 3)


def _pool(kind: str) -> Function:
    def pool(inputs: list[Tensor], call: Call) -> Tensor:
        import tensorflow as tf

        options = call.options
        window, strides = (options.filterHeight, options.filterWidth), (options.strideH, options.strideW)
        return tf.nn.pool(inputs[0], window, kind, strides, padding(call))

    return pool


def reduced(name: str) -> Function:
    """A function of the values along axes."""

    def reduce(inputs: list[Tensor], call: Call) -> Tensor:
        import tensorflow as tf

        return getattr(tf, f"reduce_{name}")(inputs[0], axis=call.axes(1), keepdims=bool(call.options.keepDims))

    return reduce


def _reshaped(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    return tf.reshape(inputs[0], call.batched)


def _padded(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    margins = call.constant(1)
    if margins[0].any():
        raise call.refuse("over the batch axis")
    if call.name == "MIRROR_PAD":
        mode = "REFLECT" if call.options.mode == schema.MirrorPadMode.REFLECT else "SYMMETRIC"
        return tf.pad(inputs[0], margins, mode)
    value = call.constant(2).item() if call.name == "PADV2" else 0.0
    return tf.pad(inputs[0], margins, constant_values=value)


def _tiled(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    times = call.constant(1)
    if times[0] != 1:
        raise call.refuse("over the batch axis")
    return tf.tile(inputs[0], times)


def _transposes(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    order = call.constant(1)
    if order[0] == 0:
        return tf.transpose(inputs[0], order)
    return tf.reshape(tf.transpose(by_image(inputs[0], call), [0, *(order + 1)]), call.batched)


def by_image(values: Tensor, call: Call) -> Tensor:
    """With an axis for the images before those that the file has."""
    import tensorflow as tf

    return tf.reshape(values, [-1, call.lead, *values.shape[1:]])


def _concatenated(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    axis = call.options.axis % len(call.shape)
    if axis == 0:
        raise call.refuse("over the batch axis")
    return tf.concat(of_batch(inputs, call), axis)


def of_batch(inputs: list[Tensor], call: Call) -> list[Tensor]:
    """Inputs with a constant's one row as often as there are images."""
    import tensorflow as tf

    if call.lead != 1 and not all(call.depends):
        raise call.refuse("with a constant over the batch axis")
    batch = tf.shape(inputs[call.depends.index(True)])[0]
    return [
        item if depends else tf.repeat(item, batch, axis=0) for item, depends in zip(inputs, call.depends, strict=True)
    ]


def _softmax(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    return tf.nn.softmax(inputs[0] * call.options.beta)


def _prelu(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    # As Keras spells it, which TensorFlow's converter knows.
    return tf.nn.relu(inputs[0]) + -inputs[1] * tf.nn.relu(-inputs[0])


def _leaky(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    return tf.maximum(inputs[0], 0.0) + call.options.alpha * tf.minimum(inputs[0], 0.0)


def _hard_swish(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    return inputs[0] * tf.clip_by_value(inputs[0] + 3.0, 0.0, 6.0) / 6.0


def _gelu(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    return tf.nn.gelu(inputs[0], approximate=bool(call.options.approximate))


def _l2(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    total = tf.reduce_sum(tf.square(inputs[0]), axis=-1, keepdims=True)
    return inputs[0] / tf.maximum(tf.sqrt(tf.maximum(total, 1e-30)), 1e-6)


def _selected(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    return tf.reshape(tf.where(*aligned(inputs, call)), call.batched)


def _matmul(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    if call.lead != 1 and any(len(shape) > 2 and not of for shape, of in zip(call.shapes, call.depends, strict=True)):
        raise call.refuse("with a constant over the batch axis")

    return tf.matmul(inputs[0], inputs[1], transpose_a=bool(call.options.adjX), transpose_b=bool(call.options.adjY))


def of_one(name: str) -> Function:
    """A function of one tensor."""

    def apply(inputs: list[Tensor], call: Call) -> Tensor:
        import tensorflow as tf

        return attrgetter(name)(tf)(inputs[0])

    return apply


def of_two(name: str) -> Function:
    """A function of two tensors."""

    def apply(inputs: list[Tensor], call: Call) -> Tensor:
        import tensorflow as tf

        return tf.reshape(attrgetter(name)(tf)(*aligned(inputs, call)), call.batched)

    return apply


def aligned(inputs: list[Tensor], call: Call) -> list[Tensor]:
    """Inputs that broadcast as the file's do, which are one image's: with an axis for the images first if need be.

    What comes of it is to be brought to :attr:`Call.batched`.
    """
    import tensorflow as tf

    rank, lead = len(call.shape), call.shape[:1]
    alike = all(len(shape) == rank and shape[:1] == lead for shape in call.read)
    each = list(zip(inputs, call.depends, call.shapes, strict=True))
    if alike and all(depends or len(shape) < rank or shape[:1] == (1,) for _, depends, shape in each):
        return inputs
    return [
        tf.reshape(values, [-1, *[1] * (rank - len(shape)), *shape]) if depends else values
        for values, depends, shape in each
    ]


def _powers(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    return tf.reshape(_power(*aligned(inputs, call)), call.batched)


OPERATORS: dict[str, Function] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _dense,
    "TRANSPOSE_CONV": _transposed,
    "BATCH_MATMUL": _matmul,
    "ADD": of_two("add"),
    "SUB": of_two("subtract"),
    "MUL": of_two("multiply"),
    "DIV": of_two("divide"),
    "MAXIMUM": of_two("maximum"),
    "MINIMUM": of_two("minimum"),
    "SQUARED_DIFFERENCE": of_two("math.squared_difference"),
    "EQUAL": of_two("equal"),
    "SELECT_V2": _selected,
    "MEAN": reduced("mean"),
    "SUM": reduced("sum"),
    "REDUCE_MAX": reduced("max"),
    "REDUCE_MIN": reduced("min"),
    "AVERAGE_POOL_2D": _pool("AVG"),
    "MAX_POOL_2D": _pool("MAX"),
    "PAD": _padded,
    "PADV2": _padded,
    "MIRROR_PAD": _padded,
    "TILE": _tiled,
    "RESHAPE": _reshaped,
    "SQUEEZE": _reshaped,
    "EXPAND_DIMS": _reshaped,
    "TRANSPOSE": _transposes,
    "CONCATENATION": _concatenated,
    "RELU": of_one("nn.relu"),
    "RELU6": lambda inputs, call: between(inputs[0], 0.0, 6.0),
    "RELU_N1_TO_1": lambda inputs, call: between(inputs[0], -1.0, 1.0),
    "PRELU": _prelu,
    "LEAKY_RELU": _leaky,
    "ELU": of_one("nn.elu"),
    "GELU": _gelu,
    "HARD_SWISH": _hard_swish,
    "LOGISTIC": of_one("sigmoid"),
    "TANH": of_one("tanh"),
    "SOFTMAX": _softmax,
    "L2_NORMALIZATION": _l2,
    "ABS": of_one("abs"),
    "NEG": of_one("negative"),
    "EXP": of_one("exp"),
    "SQUARE": of_one("square"),
    "SQRT": lambda inputs, call: _power(inputs[0], 0.5),
    "RSQRT": lambda inputs, call: _power(inputs[0], -0.5),
    "POW": _powers,
}


_LEAST_BASE = 1e-10


def _power(base: Tensor, exponent: Any) -> Tensor:
    """A power whose gradient ends where the base is zero, which 8 bits often are: that of a root is infinite there."""
    import tensorflow as tf

    steep = tf.abs(base) < _LEAST_BASE
    apart = tf.where(steep, tf.ones_like(base), base)
    return tf.where(steep, tf.stop_gradient(base**exponent), apart**exponent)


def between(values: Tensor, low: float, high: float) -> Tensor:
    """With bounds."""
    import tensorflow as tf

    return tf.clip_by_value(values, low, high)
