"""The names of all files that an export may write; whoever writes one asks here, and nobody makes one up."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ...runtime.backends.registry import BACKENDS
from ...runtime.errors import RequestError
from ...runtime.model.artifact import SIDECAR_SUFFIX
from ..request import Request

REJECTED = ".rejected"
"""Added to the name of a file that a required target does not run."""


@dataclass(frozen=True)
class OutputNames:
    """The names of one export's files, all in one folder; they differ in what follows the stem, even without case.

    Attributes:
        request: folder, stem, modes, and what is written besides.
    """

    request: Request

    def file(self, mode: str) -> Path:
        """One mode's file."""
        return self._named(f"{mode}.tflite")

    @property
    def result(self) -> Path:
        """export.json."""
        return self._named("export.json")

    @property
    def card(self) -> Path:
        """The model card."""
        return self._named("card.md")

    def c_source(self, mode: str) -> tuple[Path, Path]:
        """One mode's file as C: header and source."""
        header, source = c_names(f"{self.request.stem}.{mode}")
        return self.request.folder / header, self.request.folder / source

    def contract_header(self, mode: str) -> Path:
        """One mode's contract as a C header."""
        return self.request.folder / header_name(f"{self.request.stem}.{mode}")

    def compiled(self, mode: str) -> tuple[Path, Path]:
        """What the NPU's compiler made of one mode's file, and the contract beside it."""
        path = self._named(f"{mode}.vela.tflite")
        return path, beside(path)

    def every(self) -> dict[str, Path]:
        """Every file that may be written, by what it is.

        Raises:
            RequestError: C source was asked for, and no file that a microcontroller runs.
        """
        request = self.request
        paths = {f"the {mode} file": self.file(mode) for mode in request.names}
        paths |= {f"{name} where it is rejected": rejected_path(path) for name, path in paths.items()}
        if request.card:
            paths["the model card"] = self.card
        for mode in self._as_c():
            paths |= {f"the C source {path.name}": path for path in self.c_source(mode)}
        if request.c_header:
            headers = map(self.contract_header, request.names)
            paths |= {f"the C header {path.name}": path for path in headers}
        if "ethos-u" in request.targets:
            for mode in request.modes:
                if mode in BACKENDS["ethos-u"].modes:
                    compiled, contract = self.compiled(mode)
                    paths |= {
                        f"the compiled {mode} file": compiled,
                        f"the contract of the compiled {mode} file": contract,
                    }
        return {**paths, "export.json": self.result}

    def reserved(self) -> dict[str, Path]:
        """Names that are never written, because what lay there would be taken for a file's contract."""
        return {f"the contract beside the {mode} file": beside(self.file(mode)) for mode in self.request.names}

    def _named(self, end: str) -> Path:
        return self.request.folder / f"{self.request.stem}.{end}"

    def _as_c(self) -> tuple[str, ...]:
        """The modes of which any may be written as C."""
        request = self.request
        if not request.c_array:
            return ()
        if not set(request.modes).intersection(BACKENDS["micro"].modes):
            raise RequestError(
                f"--c-array is for microcontrollers, which run {', '.join(BACKENDS['micro'].modes)} files, but "
                f"{', '.join(request.modes)} was asked for. Add -q float32, or -q int8, which needs "
                "--calibration-data."
            )
        return request.names if request.chooses_one else (c_mode(request),)


def c_mode(request: Request) -> str:
    """The mode that is written as C: the smallest that a microcontroller runs."""
    return next(mode for mode in ("int8", "int16x8", "float32") if mode in request.modes)


def rejected_path(path: Path) -> Path:
    """What a file is called that a required target does not run: a name that no tool takes for a model's."""
    return path.with_name(path.name + REJECTED)


def beside(path: Path) -> Path:
    """Where a contract lies that a file does not carry."""
    return path.with_name(f"{path.name}{SIDECAR_SUFFIX}")


def c_names(stem: str) -> tuple[str, str]:
    """The names of a file's header and source in C; what ``#include`` cannot carry becomes ``_``.

    Args:
        stem: of the ``.tflite`` file, such as ``model.int8``.
    """
    name = re.sub(r'[\x00-\x1f\x7f"\\/?\ud800-\udfff]', "_", stem)
    return f"{name}.h", f"{name}.c"


def header_name(stem: str) -> str:
    """The name of its contract as a C header: ``model.int8.contract.h`` for ``model.int8``."""
    return f"{c_names(stem)[0][:-2]}.contract.h"
