"""The table of backends: what runs a file, or says whether it can be run.

A backend is added here and nowhere else: :class:`embedlite.runtime.Encoder`, ``--target``, the verdicts, the timing,
the recommendation and the table of docs/runtimes.md read its row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_ALL = ("float32", "float16", "dynamic", "int8", "int16x8")
_INTEGERS = ("int8", "int16x8")


@dataclass(frozen=True)
class Backend:
    """One row.

    Attributes:
        name: what ``--target`` calls it.
        package: what pip calls it; its name in verdicts, in ``$EMBEDLITE_RUNTIME`` and for ``Encoder(runtime=...)``.
        install: the line that installs it.
        imports: what has to be importable for it to work.
        module: the one with its class ``Interpreter``; empty for a compiler, which runs nothing.
        modes: the modes that it runs.
        precisions: what a layer of an int8 file may be instead: ``float``, ``dynamic`` (8-bit weights between float
            activations), ``int16`` (16-bit activations). Only those that it runs on fast kernels.
        verifies: what it is and what it tells of a file, for docs/runtimes.md.
        automatic: whether it is used without being named, in the order of the table.
        numpy_below: the major version of numpy that it no longer works with; None for none.
        plain: whether it has neither delegates nor intermediate tensors to read.
        integer_only: whether it computes with integers alone, so that files for it end at the raw embedding.
        leaves_rest: whether it leaves operators that it does not have to a processor beside it.
        cpu: whether latencies on it here are those of a CPU.
    """

    name: str
    package: str
    install: str
    imports: str
    module: str
    modes: tuple[str, ...]
    precisions: tuple[str, ...]
    verifies: str
    automatic: bool = False
    numpy_below: int | None = None
    plain: bool = False
    integer_only: bool = False
    leaves_rest: bool = False
    cpu: bool = True

    def runs(self, mode: str, precision: Mapping[str, str]) -> bool:
        """Whether it can run a file at all.

        Args:
            mode: the file's; one that is not in the table is int8 with layers of other precisions.
            precision: of those of its layers that are not what the mode says.
        """
        if mode in _ALL:
            return mode in self.modes
        return "dynamic" in self.modes or "dynamic" not in precision.values() or self.leaves_rest


BACKENDS: Mapping[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(
            "litert",
            "ai-edge-litert",
            "pip install ai-edge-litert",
            imports="ai_edge_litert",
            module="ai_edge_litert.interpreter",
            modes=_ALL,
            # A CPU runs 16-bit activations on reference kernels.
            precisions=("float", "dynamic"),
            verifies="the maintained interpreter: Linux, Raspberry Pi (64 bits), servers",
            automatic=True,
        ),
        Backend(
            "tflite-runtime",
            "tflite-runtime",
            "pip install 'tflite-runtime==2.14.0' 'numpy<2'",
            imports="tflite_runtime",
            module="tflite_runtime.interpreter",
            modes=_ALL,
            precisions=("float", "dynamic"),
            verifies="its ancestor, still on many devices",
            automatic=True,
            # It imports with numpy 2 and only dies inside Interpreter(), with a message about _ARRAY_API.
            numpy_below=2,
        ),
        Backend(
            "micro",
            "tflite-micro",
            "pip install tflite-micro",
            imports="tflite_micro",
            module="embedlite.runtime.backends.micro",
            # It has no kernels for float16 weights and none for int8 weights with float activations; its 16-bit ones
            # are as fast as others.
            modes=("float32", *_INTEGERS),
            precisions=("float", "int16"),
            verifies="the interpreter of microcontrollers; the table shows the arena it needs",
            plain=True,
            cpu=False,
        ),
        Backend(
            "ethos-u",
            "ethos-u-vela",
            "pip install ethos-u-vela",
            imports="ethosu.vela",
            module="",
            modes=_INTEGERS,
            precisions=("int16",),
            verifies="the compiler for Arm's Ethos-U NPUs; the table shows how many operators the NPU runs",
            integer_only=True,
            leaves_rest=True,
            cpu=False,
        ),
    )
}
"""The table, by the name that ``--target`` takes."""

BY_PACKAGE: Mapping[str, Backend] = {backend.package: backend for backend in BACKENDS.values()}

INTERPRETERS: Mapping[str, Backend] = {name: backend for name, backend in BY_PACKAGE.items() if backend.module}
"""Those that run files, by package, in the order in which they are tried."""
