"""What one operator takes in float and in int8, with LiteRT: the times by which islands of float grow.

    python3 run.py bench kernels

Nanoseconds of the processor in one thread, a low quantile of 60 runs: for each value of the largest tensor, for each
product of `BATCH_MATMUL`. The last line is of a value that is quantized or dequantized. TensorFlow converts each
operator as a model of its own; in int8 with integers at both ends.
"""

import time
from collections.abc import Callable

import numpy as np

from embedlite.runtime.commands.options import quiet_libraries

with quiet_libraries():
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

MAP, ROW, RUNS = (32, 32, 64), (32, 32, 1), 60
LEFT, RIGHT = (4, 128, 32), (4, 32, 128)
SLOPES = np.linspace(0.05, 0.3, MAP[-1], dtype=np.float32)
Function = Callable[..., tf.Tensor]
OPERATORS: dict[str, tuple[Function, list[tuple[int, ...]]]] = {
    "ABS": (tf.abs, [MAP]),
    "ADD": (tf.add, [MAP, MAP]),
    "AVERAGE_POOL_2D": (lambda x: tf.nn.avg_pool2d(x, 2, 2, "VALID"), [MAP]),
    "BATCH_MATMUL": (tf.matmul, [LEFT, RIGHT]),
    "CONCATENATION": (lambda x, y: tf.concat([x, y], -1), [MAP, MAP]),
    "HARD_SWISH": (lambda x: x * tf.nn.relu6(x + 3) / 6, [MAP]),
    "L2_NORMALIZATION": (lambda x: tf.math.l2_normalize(x, -1), [MAP]),
    "LEAKY_RELU": (lambda x: tf.nn.leaky_relu(x, 0.1), [MAP]),
    "LOGISTIC": (tf.sigmoid, [MAP]),
    "MAXIMUM": (tf.maximum, [MAP, MAP]),
    "MEAN": (lambda x: tf.reduce_mean(x, -1, keepdims=True), [MAP]),
    "MINIMUM": (lambda x: tf.minimum(x, 0.5), [MAP]),
    "MUL": (tf.multiply, [MAP, MAP]),
    "NEG": (tf.negative, [MAP]),
    "PRELU": (lambda x: tf.nn.relu(x) - SLOPES * tf.nn.relu(-x), [MAP]),
    "RELU": (tf.nn.relu, [MAP]),
    "RESHAPE": (lambda x: tf.reshape(x, (1, 1024, 64)), [MAP]),
    "RSQRT": (tf.math.rsqrt, [MAP]),
    "SOFTMAX": (tf.nn.softmax, [MAP]),
    "SQUARED_DIFFERENCE": (tf.math.squared_difference, [MAP, ROW]),
    "SUB": (tf.subtract, [MAP, ROW]),
    "SUM": (lambda x: tf.reduce_sum(x, -1, keepdims=True), [MAP]),
    "TANH": (tf.tanh, [MAP]),
    "TRANSPOSE": (lambda x: tf.transpose(x, (0, 3, 1, 2)), [MAP]),
}


def converted(function: Function, shapes: list[tuple[int, ...]], dtype: tf.DType | None) -> bytes:
    """The operator alone; in int8 with ends of ``dtype``, in float without one."""
    signature = [tf.TensorSpec((1, *shape), tf.float32) for shape in shapes]
    concrete = tf.function(function, input_signature=signature, autograph=False).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    if dtype is not None:
        rng = np.random.default_rng(0)
        images = [[rng.uniform(0.1, 1, (1, *shape)).astype(np.float32) for shape in shapes] for _ in range(5)]
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: iter(images)
        converter.inference_input_type = converter.inference_output_type = dtype
    made: bytes = converter.convert()
    return made


def nanoseconds(file: bytes) -> float:
    """Of the processor, for one run."""
    interpreter = Interpreter(model_content=file, num_threads=1)
    interpreter.allocate_tensors()
    for details in interpreter.get_input_details():
        interpreter.set_tensor(details["index"], np.ones(details["shape"], details["dtype"]))
    spent = []
    for _ in range(RUNS):
        start = time.process_time_ns()
        interpreter.invoke()
        spent.append(time.process_time_ns() - start)
    return float(np.quantile(spent, 0.2))


def main() -> None:
    """Measure and print."""
    size = int(np.prod(MAP))
    print(f"{'operator':<20}{'float':>8}{'int8':>8}  ratio")
    for name, (function, shapes) in OPERATORS.items():
        count = int(np.prod(LEFT)) * RIGHT[-1] if name == "BATCH_MATMUL" else size
        with quiet_libraries():
            times = [nanoseconds(converted(function, shapes, dtype)) / count for dtype in (None, tf.int8)]
        print(f"{name:<20}{times[0]:>8.3f}{times[1]:>8.3f}{times[1] / times[0]:>7.1f}", flush=True)
    with quiet_libraries():
        inside, outside = (nanoseconds(converted(tf.tanh, [MAP], dtype)) for dtype in (tf.int8, tf.float32))
    print(f"a value that is quantized or dequantized: {(outside - inside) / size / 2:.3f}")


if __name__ == "__main__":
    main()
