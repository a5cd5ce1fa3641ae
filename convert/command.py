"""``export-tflite``: an encoder as measured TFLite files."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from pathlib import Path

import click

from ..runtime.commands.options import Command, common_options, emit_result, is_verbose, options_of, run_command
from ..runtime.errors import EXIT_BAD_ANSWER
from ..runtime.terminal import line_width
from . import check_installed
from .options import Asked

_ANSWERS = (
    (
        "which file for a Pi Zero?",
        "A Zero 2 W: int8 or dynamic. The first Zero (armv6l): no interpreter is made for it.",
    ),
    ("for a Pi 3 or 4?", "The same; on a 32-bit system int8 with --target tflite-runtime."),
    (
        "a Pi 5, a phone?",
        "float16, which they compute in half precision. Measure there: embed-tflite FOLDER --measure.",
    ),
    ("for a microcontroller?", "int8, with --input-type int8 --output-type int8 --c-array."),
    ("for a browser, an NPU?", "int8; an NPU mostly with integer ends, too. All devices: docs/devices.md."),
    ("how many images?", "Some hundred like those in the field. The result says whether they are enough."),
    ("what is assumed?", "The line 'contract:' of the result says what pixels become and who said so."),
    ("my int8 is bad: why?", "drift-report --layers and --ladder; what to do: docs/int8-is-bad.md."),
    ("what can I show?", "--card writes a page about the files; drift-report --html one with pictures."),
)


@click.command(
    name="export-tflite",
    cls=Command,
    example="export-tflite model.keras --calibration-data calibration -o exported",
    stages=True,
    answers=_ANSWERS,
)
@click.argument("model", type=click.Path(path_type=Path))
@options_of(Asked, "asked")
@common_options
def export_tflite(model: Path, asked: Asked, json_path: str | None) -> int:
    """Export MODEL, normalization included, and measure what each file costs in drift and time.

    MODEL is a .keras, .h5 or .hdf5 file, a SavedModel folder (TensorFlow 2, or 1 with a signature), or a float .tflite.
    Writes STEM.MODE.tflite for each mode and STEM.export.json; prints a table and which file to ship where. Exit code 1
    says that a mode that was named could not be made or does not run, or that a required target does not run a file,
    or that none keeps --max-drift; it is then named .rejected.
    """
    check_installed()
    _share_heaps()
    from . import export_asked
    from .outcome.table import render_result

    result = export_asked(model, asked, json_path=json_path)
    emit_result(result.to_json(), render_result(result, line_width(), details=is_verbose()), json_path)
    return EXIT_BAD_ANSWER if result.failed_targets or result.failed_modes or result.missed else 0


def _share_heaps() -> None:
    """Let all threads take memory from two heaps: one for each of them keeps some 150 MB of what they gave back."""
    most_heaps = -8  # M_ARENA_MAX of glibc's malloc.h; other C libraries have no such heaps
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(most_heaps, 2)


def main() -> None:
    """The ``export-tflite`` program."""
    run_command(export_tflite, runs_models=True)
