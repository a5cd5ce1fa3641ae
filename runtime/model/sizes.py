"""How much memory a TFLite graph needs to run, held against what any encoder needs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..child_limits import LARGEST_TENSOR
from ..errors import ModelLimitError

LARGEST_RUN = 1 << 30
"""Values of the tensors that are needed at one time: 4 GiB of float32."""

MOST_SUBGRAPHS = 10_000
"""Bodies of loops and branches, as often as they are named."""

_GET_AGAIN = "It was not given to any interpreter. Get it again from where it was made."


def check_sizes(
    tensors: Sequence[tuple[str, tuple[int, ...], bool]],
    inputs: Sequence[int],
    outputs: Sequence[int],
    operators: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
) -> None:
    """Refuse tensors that are too large, each by itself or together.

    Args:
        tensors: of one subgraph: name, shape, whether it is a constant.
        inputs, outputs: of the subgraph, as places in ``tensors``.
        operators: what each reads and writes, in the order of execution; -1 is an input left out.

    Raises:
        ModelLimitError: they are.
    """
    sizes = [math.prod(max(1, size) for size in shape) for _, shape, _ in tensors]
    for (name, shape, _), size in zip(tensors, sizes, strict=True):
        if size > LARGEST_TENSOR:
            raise ModelLimitError(
                f"its tensor {name!r} has the shape {' x '.join(map(str, shape))}, and at most "
                f"{LARGEST_TENSOR:,} values may stand in one tensor. {_GET_AGAIN}"
            )
    if sum(sizes) <= LARGEST_RUN:
        return
    ends = dict.fromkeys(inputs, 0)
    for place, (reads, writes) in enumerate(operators):
        ends.update(dict.fromkeys((*reads, *writes), place))
    ends.update(dict.fromkeys(outputs, len(operators)))
    over: dict[int, list[int]] = {}
    for index, place in ends.items():
        over.setdefault(place, []).append(index)
    constant = {index for index, (_, _, stored) in enumerate(tensors) if stored} | {-1}
    held, alive = 0, set(constant)
    for place, (reads, writes) in enumerate(operators):
        for index in {*inputs, *reads, *writes} - alive:
            held += sizes[index]
            alive.add(index)
        if held > LARGEST_RUN:
            raise ModelLimitError(
                f"its tensors need memory for {held:,} values at one time (at operator {place}), and at most "
                f"{LARGEST_RUN:,} are held here. {_GET_AGAIN}"
            )
        for index in set(over.get(place, ())) - constant:
            held -= sizes[index]


def check_calls(calls: Sequence[Sequence[int]]) -> None:
    """Refuse subgraphs that call each other in a circle, or too often.

    Args:
        calls: for each subgraph, those that it calls.

    Raises:
        ModelLimitError: they do.
        IndexError: one is not there.
    """
    runs: dict[int, int] = {}
    for first in range(len(calls)):
        left = [first]
        while left:
            number = left[-1]
            missing = [other for other in calls[number] if other not in runs]
            for other in missing:
                if not 0 <= other < len(calls):
                    raise IndexError(f"subgraph {other} of {len(calls)}")
            if any(other in left for other in missing):
                raise ModelLimitError(
                    f"its subgraph {number} (a loop's or a branch's) leads back to itself, so it never ends. "
                    f"{_GET_AGAIN}"
                )
            if missing:
                left.append(missing[0])
                continue
            runs[left.pop()] = found = 1 + sum(runs[other] for other in calls[number])
            if found > MOST_SUBGRAPHS:
                raise ModelLimitError(
                    f"its subgraph {number} leads to {found:,} others (loops and branches within each other), and at "
                    f"most {MOST_SUBGRAPHS:,} are run here. {_GET_AGAIN}"
                )
