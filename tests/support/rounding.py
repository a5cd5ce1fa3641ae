"""How far two runtimes may be apart that round the same file differently; derived, so that it holds on any processor.

Given the same integers, two kernels of an int8 operator are a step apart at most, where a value lies between two
integers. Every operator after it is made for the range of what it gets, so that a step comes out as about a step.
"""

import numpy as np


def decibels(found: np.ndarray, wanted: np.ndarray) -> float:
    """Signal-to-noise ratio; infinite where not a bit differs, as between two float32 results on some processors."""
    noise = float(np.square(found.astype(np.float64) - wanted).sum())
    signal = float(np.square(wanted.astype(np.float64)).sum())
    return float("inf") if noise == 0 else 10 * float(np.log10(signal / noise))


def farthest(depth: int) -> int:
    """Steps: no value is farther off than if every one of ``depth`` operators on its way had moved it the same way."""
    return depth


def spread(depth: int) -> float:
    """Steps, root of the mean square, if no operator's two results had more in common than the value that they round.

    Each is then off by anything up to half a step, a variance of 1/12, and the variances of all operators add up.
    """
    return (depth * 2 / 12) ** 0.5


FLOAT_DB = 100
"""Signal-to-noise ratio of two float32 results of the example's encoder: a hundred thousandth of the embedding's size.

Its values are sums of at most 1,152 products, of which two orders are some sqrt(1152) = 34 roundings of 6e-8 apart, two
millionths; nineteen layers of that are sqrt(19) times as much.
"""

INT8_DB = 30
"""Signal-to-noise ratio of two int8 results of it: two steps by :func:`spread`, and as much again for the minimum and
the maximum that divide them, of the two hundred steps between the two; the embedding's own size is half of that."""
