"""What can be made, and which runtime runs it: quantization modes, precisions of a layer, targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..runtime.backends.interpreters import installed
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

CORRECTIONS = ("rounding", "bias", "refit")
"""Corrections of a quantized graph, in the order in which they are applied."""

AUTO = "auto"
"""Ranges by the method that moves held-out embeddings least; see :mod:`embedlite.calibration.auto`."""

OF_TARGET: Mapping[str, tuple[str, ...]] = {
    "litert": (FLOAT, DYNAMIC),
    "tflite-runtime": (FLOAT, DYNAMIC),
    # TFLite Micro has no kernels for 8-bit weights between float activations; its 16-bit ones are as fast as others.
    "micro": (FLOAT, INT16),
    "ethos-u": (INT16,),
}
"""What a layer may be besides int8. A CPU runs 16-bit activations on reference kernels, so they are not tried there."""

Precision = Mapping[str, str]
"""From the name of a layer to one of :data:`embedlite.convert.modes.PRECISIONS`; the other layers are int8."""


def is_mixed(mode: str) -> bool:
    """Whether a file is called like one some layers of which are not int8."""
    return mode.startswith(MIXED)


def takes_ranges(mode: str) -> bool:
    """Whether a file of this mode needs ranges, because it has integer activations."""
    return mode in CALIBRATED or is_mixed(mode)


@dataclass(frozen=True)
class Target:
    """A runtime to run on.

    Attributes:
        name: what ``--target`` calls it.
        package: the package that stands for it here, and its name in verdicts.
        modes: the modes it can run at all.
    """

    name: str
    package: str
    modes: tuple[str, ...]

    def runs(self, mode: str, precision: Mapping[str, str]) -> bool:
        """Whether it can run a file at all.

        Args:
            mode: the file's.
            precision: of those of its layers that are not what the mode says.
        """
        if not is_mixed(mode):
            return mode in self.modes
        return "dynamic" in self.modes or DYNAMIC not in precision.values() or self.package == NPU_PACKAGE


NPU_PACKAGE = "ethos-u-vela"
"""The compiler that stands for the NPU."""

TARGETS = {
    target.name: target
    for target in (
        Target("litert", "ai-edge-litert", MODES),
        Target("tflite-runtime", "tflite-runtime", MODES),
        # TFLite Micro has no kernels for float16 weights and none for int8 weights with float activations.
        Target("micro", "tflite-micro", ("float32", "int8", "int16x8")),
        Target("ethos-u", NPU_PACKAGE, ("int8", "int16x8")),
    )
}

INTEGER_ONLY = frozenset({"ethos-u"})
"""Targets that compute with integers only: their files end at the raw embedding."""


def target_of(package: str) -> Target:
    """The target that a package stands for."""
    return next(target for target in TARGETS.values() if target.package == package)


def missing_runtimes() -> tuple[str, ...]:
    """Packages that would verify files here and are not installed."""
    return tuple(target.package for target in TARGETS.values() if not installed(target.package))


def check_targets(names: Iterable[str], modes: Sequence[str]) -> tuple[str, ...]:
    """The required targets, once each.

    Raises:
        RequestError: one can run none of the modes.
        MissingPackageError: the package that stands for it is not installed.
    """
    chosen = tuple(dict.fromkeys(names))
    for name in chosen:
        target = TARGETS[name]
        if not any(target.runs(mode, {}) for mode in modes):
            raise RequestError(
                f"--target {name} runs {', '.join(target.modes)} files, but {', '.join(modes)} was asked for. "
                f"Add -q {target.modes[-2]} and --calibration-data."
            )
        if not installed(target.package):
            raise MissingPackageError(
                f"--target {name} needs {target.package} to check the files, and it is not installed. "
                "Run: pip install 'embedlite[verify]'."
            )
    return chosen
