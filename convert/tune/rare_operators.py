"""What those of TFLite's operators compute that few networks have, as in :mod:`embedlite.convert.tune.operators`.

Where a function has no slope, as a sign, TensorFlow's gradient is zero, and what lies beside it is trained.
"""

from __future__ import annotations

from typing import Any

from .operators import (
    OPERATORS,
    Call,
    Function,
    Results,
    Tensor,
    between,
    by_image,
    of_batch,
    of_one,
    of_two,
    padding,
    reduced,
)

_LEAST_LOGARITHM = 1e-10


def _logarithm(inputs: list[Tensor], call: Call) -> Tensor:
    """Its gradient ends where it is infinite: 8 bits often are zero there."""
    import tensorflow as tf

    values = inputs[0]
    steep = values < _LEAST_LOGARITHM
    apart = tf.where(steep, tf.ones_like(values), values)
    return tf.where(steep, tf.stop_gradient(tf.math.log(values)), tf.math.log(apart))


def _parts(values: Tensor, sizes: Any, axis: Any, call: Call) -> Results:
    import tensorflow as tf

    return list(tf.split(values, sizes, _behind_batch(axis, values, call)))


def _packed(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    axis = call.options.axis % len(call.shape)
    if axis:
        return tf.stack(of_batch(inputs, call), axis)
    return tf.reshape(tf.stack([by_image(values, call) for values in of_batch(inputs, call)], 1), call.batched)


def _unpacked(inputs: list[Tensor], call: Call) -> Results:
    import tensorflow as tf

    values, axis = inputs[0], call.options.axis % inputs[0].shape.rank
    if axis:
        return list(tf.unstack(values, call.options.num, axis))
    return [tf.reshape(part, call.batched) for part in tf.unstack(by_image(values, call), call.lead, 1)]


def _gathered(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    if call.options.batchDims:
        raise call.refuse("with other indices for each image")
    return tf.gather(inputs[0], call.constant(1), axis=_behind_batch(call.options.axis, inputs[0], call))


def _reversed(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    return tf.reverse(inputs[0], call.axes(1))


def _summed_up(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    (axis,), options = call.axes(1), call.options
    return tf.cumsum(inputs[0], axis, bool(options.exclusive), bool(options.reverse))


def _largest(inputs: list[Tensor], call: Call) -> Results:
    import tensorflow as tf

    return list(tf.math.top_k(inputs[0], int(call.constant(1).item())))


def _broadcast(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    if not call.depends[0]:
        raise call.refuse("of a constant")
    shape = call.shapes[0]
    values = tf.reshape(inputs[0], [-1, *[1] * (len(call.shape) - len(shape)), *shape])
    images = tf.shape(values)[:1]
    return tf.reshape(tf.broadcast_to(values, tf.concat([images, call.shape], axis=0)), call.batched)


def _cast(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    return tf.cast(inputs[0], call.dtype)


def _volumes(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    options = call.options
    if max(options.dilationDFactor, options.dilationHFactor, options.dilationWFactor) > 1:
        raise call.refuse("with dilations")
    strides = (1, options.strideD, options.strideH, options.strideW, 1)
    found = tf.nn.conv3d(inputs[0], inputs[1], strides, padding(call))
    return found + inputs[2] if len(inputs) > 2 and inputs[2] is not None else found


def _resized(name: str) -> Function:
    def resize(inputs: list[Tensor], call: Call) -> Tensor:
        import tensorflow as tf

        options = call.options
        forms = {"align_corners": bool(options.alignCorners), "half_pixel_centers": bool(options.halfPixelCenters)}
        return getattr(tf.raw_ops, name)(images=inputs[0], size=call.constant(1), **forms)

    return resize


def _rearranged(name: str) -> Function:
    """Between blocks of pixels and channels."""

    def rearrange(inputs: list[Tensor], call: Call) -> Tensor:
        import tensorflow as tf

        return getattr(tf.nn, name)(inputs[0], call.options.blockSize)

    return rearrange


def _strided(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    options, (first, last, steps) = call.options, (call.constant(place).tolist() for place in (1, 2, 3))
    whole = (options.beginMask & 1 or first[0] == 0) and (options.endMask & 1 or last[0] == 1) and steps[0] == 1
    if not whole or options.shrinkAxisMask & 1 or options.ellipsisMask or options.newAxisMask:
        raise call.refuse("over the batch axis")
    return tf.strided_slice(
        inputs[0],
        first,
        last,
        steps,
        begin_mask=options.beginMask | 1,
        end_mask=options.endMask | 1,
        shrink_axis_mask=options.shrinkAxisMask,
    )


def _sliced(inputs: list[Tensor], call: Call) -> Tensor:
    import tensorflow as tf

    first, sizes = call.constant(1).tolist(), call.constant(2).tolist()
    if first[0] != 0 or sizes[0] not in (1, -1):
        raise call.refuse("over the batch axis")
    return tf.slice(inputs[0], first, [-1, *sizes[1:]])


def _behind_batch(axis: Any, values: Tensor, call: Call) -> int:
    """An axis that is not the batch's, counted from the front."""
    found = int(axis) % int(values.shape.rank)
    if found == 0:
        raise call.refuse("over the batch axis")
    return found


RARE: dict[str, Function] = {
    "GREATER": of_two("greater"),
    "GREATER_EQUAL": of_two("greater_equal"),
    "LESS": of_two("less"),
    "LESS_EQUAL": of_two("less_equal"),
    "NOT_EQUAL": of_two("not_equal"),
    "LOGICAL_AND": of_two("logical_and"),
    "LOGICAL_OR": of_two("logical_or"),
    "FLOOR_DIV": of_two("math.floordiv"),
    "FLOOR_MOD": of_two("math.floormod"),
    "ATAN2": of_two("atan2"),
    "LOGICAL_NOT": of_one("logical_not"),
    "SIGN": of_one("sign"),
    "FLOOR": of_one("floor"),
    "CEIL": of_one("math.ceil"),
    "ROUND": of_one("round"),
    "SIN": of_one("sin"),
    "COS": of_one("cos"),
    "LOG_SOFTMAX": of_one("nn.log_softmax"),
    "LOG": _logarithm,
    "RELU_0_TO_1": lambda inputs, call: between(inputs[0], 0.0, 1.0),
    "SELECT": OPERATORS["SELECT_V2"],
    "REDUCE_PROD": reduced("prod"),
    "RESIZE_BILINEAR": _resized("ResizeBilinear"),
    "RESIZE_NEAREST_NEIGHBOR": _resized("ResizeNearestNeighbor"),
    "DEPTH_TO_SPACE": _rearranged("depth_to_space"),
    "SPACE_TO_DEPTH": _rearranged("space_to_depth"),
    "STRIDED_SLICE": _strided,
    "SLICE": _sliced,
    "SPLIT": lambda inputs, call: _parts(inputs[1], call.options.numSplits, call.constant(0), call),
    "SPLIT_V": lambda inputs, call: _parts(inputs[0], call.constant(1).tolist(), call.constant(2), call),
    "PACK": _packed,
    "UNPACK": _unpacked,
    "GATHER": _gathered,
    "REVERSE_V2": _reversed,
    "CUMSUM": _summed_up,
    "TOPK_V2": _largest,
    "BROADCAST_TO": _broadcast,
    "CAST": _cast,
    "CONV_3D": _volumes,
}
