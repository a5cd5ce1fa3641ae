"""How far two runtimes may be apart that round the same file differently; derived, so that it holds on any processor.

Given the same integers, two kernels of an int8 operator are a step apart at most, where a value lies between two
integers. Every operator after it is made for the range of what it gets, so that a step comes out as about a step.
"""


def farthest(depth: int) -> int:
    """Steps: no value is farther off than if every one of ``depth`` operators on its way had moved it the same way."""
    return depth


def spread(depth: int) -> float:
    """Steps, root of the mean square, if no operator's two results had more in common than the value that they round.

    Each is then off by anything up to half a step, a variance of 1/12, and the variances of all operators add up.
    """
    return (depth * 2 / 12) ** 0.5
