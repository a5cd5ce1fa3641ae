"""What was asked of an export, checked before TensorFlow is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..runtime.contract import INPUT_DTYPES
from ..runtime.errors import OutputError, RequestError
from ..runtime.files import check_writable
from .quantize import MODES

Data = str | Path | NDArray[Any]


@dataclass(frozen=True)
class Request:
    """A checked request; see :func:`embedlite.convert.export` for the meaning of each field."""

    stem: str
    output_dir: Path
    modes: tuple[str, ...]
    calibration_data: Data | None
    test_data: Data | None
    input_type: str
    output_type: str
    num_samples: int | None
    seed: int
    equalize: bool
    threads: int | None
    measure: bool

    def path(self, mode: str) -> Path:
        """Where one mode's file goes."""
        return self.output_dir / f"{self.stem}.{mode}.tflite"

    @property
    def result_path(self) -> Path:
        """Where export.json goes."""
        return self.output_dir / f"{self.stem}.export.json"


def choose_modes(asked: Sequence[str], *, calibrated: bool) -> tuple[str, ...]:
    """The modes to make, in the order of the table.

    Raises:
        RequestError: a mode does not exist, or int8 was asked for without calibration data.
    """
    for mode in asked:
        if mode not in (*MODES, "all"):
            raise RequestError(f"unknown quantization mode {mode!r}. Use one of: {', '.join(MODES)}, all.")
    if "all" in asked:
        asked = MODES
    if not asked:
        asked = ("float32", "int8") if calibrated else ("float32",)
    if "int8" in asked and not calibrated:
        raise RequestError(
            "int8 needs calibration data to know the range of every activation. Pass --calibration-data with a folder "
            "of some hundred images like those the encoder will see, or ask for dynamic, which needs none."
        )
    return tuple(mode for mode in MODES if mode in asked)


def check_seed(seed: int) -> None:
    """Refuse a seed that numpy's generator does not take.

    Raises:
        RequestError: it is negative.
    """
    if seed < 0:
        raise RequestError(f"the seed is {seed}. Use a whole number that is not negative.")


def check_types(modes: Sequence[str], input_type: str, output_type: str) -> None:
    """Refuse tensor types that no file of this export could have.

    Raises:
        RequestError: an unknown type, or an integer type without an int8 file.
    """
    for option, value in (("--input-type", input_type), ("--output-type", output_type)):
        if value not in INPUT_DTYPES:
            raise RequestError(f"{option} is {value!r}. Use one of: {', '.join(INPUT_DTYPES)}.")
        if value != "float32" and "int8" not in modes:
            raise RequestError(f"{option} {value} is for the int8 file, which was not asked for. Add -q int8.")


def check_outputs(request: Request, *, force: bool) -> None:
    """Refuse what could not be written at the end.

    Raises:
        OutputExistsError: a file is there and ``force`` is false.
        OutputError: the folder cannot be made or written to.
    """
    try:
        request.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the output folder {request.output_dir}: {error.strerror or error}. Name another one with -o."
        ) from error
    check_writable([*(request.path(mode) for mode in request.modes), request.result_path], force=force)
