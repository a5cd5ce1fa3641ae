"""The options of an export, each declared once, in groups, for ``export-tflite --help`` and ``export()`` alike.

To add one, add a row to a group. It is then an option of the command, a field of :class:`ExportOptions` for Python, in
``export.json`` where it was given, and with ``decides=True`` in the recipe. What it may not be combined with is checked
where the request is made of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..calibration import parse_method
from ..calibration.engine import LOCAL
from ..runtime.backends.registry import BACKENDS
from ..runtime.errors import RequestError
from ..runtime.images.open import Data
from ..runtime.images.remote import data_location
from ..runtime.model.contract import INPUT_DTYPES, PLACEMENTS, InputOptions
from ..runtime.options import ACCEPT, ENGINE, FEATURE, THREADS, declare, described, option
from .load.options import LoadOptions
from .modes import AUTO, CORRECTIONS, MODES

SELECTIONS = ("random", "coverage")
"""How --num-samples images are chosen, the default first."""


def _check_method(text: str) -> None:
    if text != AUTO:
        parse_method(text)


def _check_training(seconds: float) -> None:
    if not (math.isfinite(seconds) and seconds > 0):
        raise RequestError(f"--fine-tune-time is {seconds:g} s. Give the training some time, for instance 300.")


def _check_seconds(seconds: float) -> None:
    if not (math.isfinite(seconds) and seconds > 0):
        raise RequestError(f"the time budget is {seconds:g} s. Give the search some time, for instance 60.")


@described
@dataclass(frozen=True, kw_only=True)
class ContractOptions:
    """Whether the input contract is what the model was trained with."""

    title: ClassVar[str] = "Input"

    preprocess: Any = option(
        None,
        "Python that you trust: a function from the path of an image, or a Pillow image, to what the model takes. The "
        "contract that does the same is found and proved on the images. It is executed.",
        metavar="FILE.py:FUNCTION",
    )
    accept_contract: bool = declare(False, ACCEPT)


@described
@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """Images, and what is made of them."""

    title: ClassVar[str] = "Images and calibration"

    feature: str | None = declare(None, FEATURE)
    skip_unreadable: bool = option(
        False, "Leave out images that cannot be read or hold NaN, and name them, instead of refusing all."
    )
    num_samples: int | None = option(None, "Use N calibration images.  [default: all]", metavar="N", least=1)
    select: str = option(
        SELECTIONS[0],
        "Which: random, or coverage: those that cover the encoder's embedding space best.",
        metavar="HOW",
        choices=SELECTIONS,
    )
    calibrate_method: str = option(
        AUTO,
        "How ranges are taken: minmax, percentile:99.99, mse, entropy, or auto: for each tensor what moves held-out "
        "embeddings least.",
        metavar="METHOD",
        check=_check_method,
        decides=True,
    )
    calibration_cache: str | Path | None = option(
        None, "Keeps the statistics; a killed run takes up there, and the next one needs no inference.", metavar="FILE"
    )


@described
@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """What the files are like."""

    title: ClassVar[str] = "Files"

    normalization: str = option(
        AUTO,
        "Where it is computed: graph (in the file), runtime (by Encoder), frozen (constants from the calibration "
        "data), or auto: graph, but runtime where the output is an integer.",
        metavar="PLACE",
        choices=(AUTO, *PLACEMENTS),
        decides=True,
    )
    targets: Sequence[str] = option(
        (),
        f"A runtime that must run the files: {', '.join(BACKENDS)}; repeatable.",
        flag="--target",
        metavar="NAME",
        choices=tuple(BACKENDS),
        decides=True,
    )
    input_type: str | None = option(
        None,
        "float32, uint8 (raw pixels), int8; of the int8 file.  [default: float32; int8 for ethos-u]",
        metavar="TYPE",
        choices=INPUT_DTYPES,
        decides=True,
    )
    output_type: str | None = option(
        None,
        "Likewise; a file with an integer output ends at the raw embedding.",
        metavar="TYPE",
        choices=INPUT_DTYPES,
        decides=True,
    )
    wide_output: bool = option(
        False,
        "An int8 file that ends at the raw embedding computes its last layer two or four times, each over a part of "
        "the range, where that brings 1 dB; Encoder adds them up.",
        decides=True,
    )
    equalize: bool = option(
        True,
        "Equalize convolutions for int8, and move offsets into biases, where it helps.  [default: equalize]",
        decides=True,
    )
    correct: Sequence[str] = option(
        (),
        f"Corrections that are kept where they help: {', '.join(CORRECTIONS)}, none; repeatable.  [default: all]",
        metavar="NAME",
    )
    allow_fp16: bool = option(
        False,
        "Let processors with half-precision arithmetic compute the float32 file in that, too, as they may the float16 "
        "file, if the images show that it keeps the drift gates.",
        decides=True,
    )
    c_array: bool = option(False, "Write the smallest file that a microcontroller runs as C, too.")
    c_header: bool = option(False, "Write what a C or C++ program needs of each file, too: STEM.MODE.contract.h.")
    card: bool = option(False, "Write a model card, too: STEM.card.md, made from export.json.")
    golden_from: Data | None = option(
        None,
        "Images, a few of which are stored in the file for --selftest.  [default: synthetic ones]",
        metavar="PATH",
        parse=data_location,
    )


FINE_TUNE_SECONDS = 300.0


@described
@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """Weights that are trained further for int8."""

    title: ClassVar[str] = "Fine-tuning"

    fine_tune: bool = option(
        False,
        "Train the weights of int8 and int16x8 to answer as the float model does; kept where held-out images clearly "
        "gain.",
    )
    fine_tune_data: Data | None = option(
        None, "Further images for that, unlabelled.", metavar="PATH", parse=data_location
    )
    fine_tune_time: float = option(FINE_TUNE_SECONDS, "How long.", metavar="SECONDS", check=_check_training)
    fine_tune_flips: bool = option(False, "Left and right may change places in what is trained on.")
    fine_tune_checkpoint: str | Path | None = option(
        None, "Keeps the state of the training; one that was killed goes on there.", metavar="FILE"
    )


@described
@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Which layers should not be int8, and which file to ship."""

    title: ClassVar[str] = "Search"

    pareto: bool = option(False, "Compare every mode and what a search finds; say which to ship where.")
    max_drift: Sequence[str] = option(
        (),
        "Write the fastest file that keeps this limit, for instance sqnr_db=30; repeatable.",
        metavar="METRIC=VALUE",
    )
    time_budget: float | None = option(
        None, "End the search after this time.  [default: never]", metavar="SECONDS", check=_check_seconds
    )
    search_cache: str | Path | None = option(
        None, "Keeps what was tried, for the next search; a killed one takes up there.", metavar="FILE"
    )
    measured: str | Path | None = option(
        None, "Latencies that embed-tflite --measure found on a device, in place of those here.", metavar="FILE"
    )
    recipe: str | Path | None = option(
        None, "An export.json: make its files again from its decisions, without a search.", metavar="FILE"
    )


@described
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How the export itself is done."""

    title: ClassVar[str] = "Run"

    training_batch: int = option(
        32, "Batch size of the training: batch coupling is measured with it.", metavar="N", least=2
    )
    seed: int = option(0, "Of every random choice.", metavar="N", least=0)
    threads: int | None = declare(None, THREADS)
    engine: Any = declare(LOCAL, ENGINE)
    measure: bool = option(
        True, "Run the files (drift, latency, verdicts, golden vectors); False only writes them.", command=False
    )
    force: bool = option(False, "Replace existing files.")


@dataclass(frozen=True, kw_only=True)
class ExportOptions(
    LoadOptions,
    InputOptions,
    ContractOptions,
    CalibrateOptions,
    QuantizeOptions,
    TuneOptions,
    SearchOptions,
    RunOptions,
):
    """Every option of an export besides the model, the images, the modes and the folder; see its bases for each."""


@described
@dataclass(frozen=True, kw_only=True)
class Asked(ExportOptions):
    """All that was asked of an export, as it was asked."""

    title: ClassVar[str] = "What to make"

    output_dir: str | Path | None = option(
        None, "Where the files go.  [default: beside the model]", short="-o", metavar="DIR"
    )
    quantize: Sequence[str] = option(
        (),
        "float32, float16, dynamic, int8, int16x8, all; repeatable.  [default: float32, and int8 with calibration "
        "data]",
        short="-q",
        metavar="MODE",
        choices=(*MODES, "all"),
    )
    calibration_data: Data | None = option(
        None,
        "Images that set int8 ranges, some hundred: a folder, .npy, .npz, .tfrecord.",
        metavar="PATH",
        parse=data_location,
    )
    test_data: Data | None = option(
        None,
        "Images that drift is measured on.  [default: a fifth of the calibration data]",
        metavar="PATH",
        parse=data_location,
    )
