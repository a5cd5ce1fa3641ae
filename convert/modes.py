"""What can be made, and which runtime runs it: quantization modes, precisions of a layer, targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..runtime.backends.interpreters import installed
from ..runtime.backends.registry import BACKENDS
from ..runtime.errors import MissingPackageError, RequestError

MODES = ("float32", "float16", "dynamic", "int8", "int16x8")
"""Quantization modes, in the order of the table."""

CALIBRATED = ("int8", "int16x8")
"""The modes that need ranges: 8-bit weights with 8-bit or 16-bit activations."""

MIXED = "mixed"
"""How an int8 file is called some layers of which are something else; with a number where there are several files."""

FLOAT, DYNAMIC, INT16 = "float", "dynamic", "int16"
PRECISIONS = (FLOAT, DYNAMIC, INT16)
"""What an operator of the int8 file may be instead: float, 8-bit weights between float activations, or 16-bit
activations."""

OLDER = "tflite-runtime"
"""The interpreter that lacks some kernels: a target for whose sake files are made without."""

WEIGHTS = "weights"
"""What the last layer of the int8 file may be: 8-bit weights that are made float again, and float activations."""

CORRECTIONS = ("rounding", "bias", "refit")
"""Corrections of a quantized graph, in the order in which they are applied."""

AUTO = "auto"
"""Ranges by the method that moves held-out embeddings least; see :mod:`embedlite.calibration.auto`."""

Precision = Mapping[str, str]
"""From the name of a layer to one of :data:`embedlite.convert.modes.PRECISIONS`; the other layers are int8."""


def is_mixed(mode: str) -> bool:
    """Whether a file is called like one some layers of which are not int8."""
    return mode.startswith(MIXED)


def takes_ranges(mode: str) -> bool:
    """Whether a file of this mode needs ranges, because it has integer activations."""
    return mode in CALIBRATED or is_mixed(mode)


def missing_runtimes() -> tuple[str, ...]:
    """Packages that would verify files here and are not installed."""
    return tuple(target.package for target in BACKENDS.values() if not installed(target.package))


def check_targets(names: Iterable[str], modes: Sequence[str]) -> tuple[str, ...]:
    """The required targets, once each.

    Raises:
        RequestError: one can run none of the modes.
        MissingPackageError: the package that stands for it is not installed.
    """
    chosen = tuple(dict.fromkeys(names))
    for name in chosen:
        target = BACKENDS[name]
        if not any(target.runs(mode, {}) for mode in modes):
            raise RequestError(
                f"--target {name} runs {', '.join(target.modes)} files, but {', '.join(modes)} was asked for. "
                f"Add -q {target.modes[-2]}, which needs --calibration-data."
            )
        if not installed(target.package):
            raise MissingPackageError(
                f"--target {name} needs {target.package} to check the files, and it is not installed. "
                "Run: pip install 'embedlite[verify]'."
            )
    return chosen
