"""Where the normalization is computed, and what the tensors at the file's ends hold: decided for each file."""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.backends.registry import BACKENDS
from ...runtime.errors import RequestError
from ..modes import CALIBRATED
from ..normalization.prepare import FloatGraph
from ..request import Request


@dataclass(frozen=True)
class Ends:
    """Placement of the normalization and types of a file's input and output.

    Attributes:
        placement: ``graph``, ``runtime`` or ``frozen``.
        input_type: ``float32``, ``uint8`` or ``int8``.
        output_type: likewise.
        output_chosen: whether the user asked for this output type, so that another one will not do.
        may_end_float: whether more than the normalization may be float at the end: not where a target other than a CPU
            was named, unless float32 output was asked for, nor where the raw embedding is left to the runtime.
    """

    placement: str
    input_type: str
    output_type: str
    output_chosen: bool
    may_end_float: bool


def choose_ends(request: Request, mode: str, graph: FloatGraph) -> Ends:
    """Decide for one mode.

    ``auto`` is ``graph``, except ``runtime`` where the output is an integer or a target computes with integers only.

    Raises:
        RequestError: placement ``runtime`` for a normalization that other layers follow, or ``graph`` with an integer
            output.
    """
    integer_only = mode in CALIBRATED and any(BACKENDS[name].integer_only for name in request.targets)
    types = ["float32", "float32"]
    if mode == "int8":
        types = [
            given or ("int8" if integer_only else "float32") for given in (request.input_type, request.output_type)
        ]
    placement = request.normalization
    if placement == "auto":
        wanted = graph.raw_name is not None and (types[1] != "float32" or integer_only)
        placement = "runtime" if wanted else "graph"
    elif placement == "graph" and types[1] != "float32" and graph.raw_name is not None:
        raise RequestError(
            f"--normalization graph ends the file in float operators, so its output cannot be {types[1]}. "
            "Use --normalization runtime, or --output-type float32."
        )
    elif placement == "runtime" and graph.raw_name is None:
        raise RequestError(
            "--normalization runtime: the encoder does not end in a normalization that is known here, so there is "
            "nothing that could be left to the runtime. Use --normalization graph, or frozen for a min-max inside."
        )
    # A microcontroller has little memory for floats, and many have no unit that computes with them.
    on_cpu = request.output_type == "float32" or all(BACKENDS[name].cpu for name in request.targets)
    free = types[1] == "float32" and not integer_only and on_cpu and placement != "runtime"
    return Ends(placement, types[0], types[1], request.output_type is not None, free)
