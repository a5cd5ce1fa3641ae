"""What was asked of an export, checked before TensorFlow is imported.

``--max-drift``: limits on the drift of the file that is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..calibration import parse_method
from ..calibration.engine import LOCAL
from ..runtime.drift import Drift
from ..runtime.drift.gates import AT_MOST, INFORMATION, Gate, apply_gates, parse_gates
from ..runtime.errors import RequestError
from ..runtime.images.open import Data
from ..runtime.model.contract import INPUT_DTYPES, PLACEMENTS, InputContract
from .modes import AUTO, CALIBRATED, MIXED, MODES, is_mixed

SELECTIONS = ("random", "coverage")
"""How --num-samples images are chosen, the default first."""

MOST_MIXED = 4
"""Files that a search may find."""


@dataclass(frozen=True)
class Request:
    """A checked request."""

    stem: str
    output_dir: Path
    modes: tuple[str, ...]
    named: tuple[str, ...]
    calibration_data: Data | None
    test_data: Data | None
    golden_from: Data | None
    feature: str | None
    skip_unreadable: bool
    normalization: str
    input_type: str | None
    output_type: str | None
    targets: tuple[str, ...]
    c_array: bool
    num_samples: int | None
    select: str
    calibrate_method: str
    calibration_cache: Path | None
    batch_size: int
    seed: int
    equalize: bool
    corrections: tuple[str, ...]
    pareto: bool
    budget: Budget | None
    time_budget: float | None
    search_cache: Path | None
    measured: Path | None
    recipe: Path | None
    threads: int | None
    measure: bool
    engine: Any = LOCAL

    def path(self, mode: str) -> Path:
        """Where one mode's file goes."""
        return self.output_dir / f"{self.stem}.{mode}.tflite"

    @property
    def searching(self) -> bool:
        """Whether layers are searched that should not be int8."""
        return (self.pareto or self.budget is not None) and self.recipe is None and "int8" in self.modes

    @property
    def chooses_one(self) -> bool:
        """Whether only the file is written that keeps the limits in the least time."""
        return self.budget is not None and not self.pareto

    @property
    def timed_on(self) -> str:
        """The target that latencies are measured on."""
        return self.targets[0] if self.targets and (self.pareto or self.budget is not None) else "litert"

    @property
    def names(self) -> tuple[str, ...]:
        """The modes, and what files that a search finds may be called."""
        further = (MIXED, *(f"{MIXED}{number}" for number in range(1, MOST_MIXED + 1)))
        return (*self.modes, *(further if self.searching else ()))

    @property
    def result_path(self) -> Path:
        """Where export.json goes."""
        return self.output_dir / f"{self.stem}.export.json"


def check_search(
    *,
    pareto: bool,
    limited: bool,
    calibrated: bool,
    measure: bool,
    time_budget: float | None,
    search_cache: str | Path | None,
    measured: str | Path | None,
    recipe: str | Path | None,
    asked: Sequence[str],
) -> None:
    """Refuse searches without what they need, and options that would do nothing.

    Raises:
        RequestError: the first of them.
    """
    searching = pareto or limited
    if limited and recipe is not None:
        raise RequestError("--max-drift searches for a file, and --recipe says which files. Leave one of them out.")
    if recipe is not None and asked:
        raise RequestError("--recipe says which files to make. Leave -q out.")
    for option, value in (("--time-budget", time_budget), ("--search-cache", search_cache)):
        if value is not None and (not searching or recipe is not None):
            raise RequestError(f"{option} is about a search. Add --pareto or --max-drift, or leave it out.")
    if time_budget is not None and not time_budget > 0:
        raise RequestError(f"the time budget is {time_budget:g} s. Give the search some time, for instance 60.")
    if measured is not None and not pareto:
        raise RequestError(
            "--measured compares files by their latencies on a device, which has to have them first. Export with "
            "--pareto, measure that folder there, and repeat the command with --recipe export.json and --measured."
        )
    if measured is not None and limited:
        raise RequestError(
            "--measured is about files that a device has, and --max-drift makes others. Leave --max-drift out."
        )
    if searching and not measure:
        raise RequestError("a comparison is made by running the files, and measure is False. Leave one of them out.")
    if searching and recipe is None and not calibrated:
        raise RequestError(
            f"{'--max-drift' if limited else '--pareto'} compares int8 files with the others, and int8 needs "
            "calibration data. Pass --calibration-data with a folder of some hundred images like those the encoder "
            "will see."
        )


def choose_modes(asked: Sequence[str], *, calibrated: bool, compared: bool = False) -> tuple[str, ...]:
    """The modes to make, in the order of the table; ``compared`` makes all of them the default.

    Raises:
        RequestError: a mode does not exist, or one that needs ranges was asked for without calibration data.
    """
    for mode in asked:
        if mode not in (*MODES, "all"):
            raise RequestError(f"unknown quantization mode {mode!r}. Use one of: {', '.join(MODES)}, all.")
    if "all" in asked or (compared and not asked and calibrated):
        asked = MODES
    if not asked:
        asked = ("float32", "int8") if calibrated else ("float32",)
    for mode in CALIBRATED:
        if mode in asked and not calibrated:
            raise RequestError(
                f"{mode} needs calibration data to know the range of every activation. Pass --calibration-data with a "
                "folder of some hundred images like those the encoder will see, or ask for dynamic, which needs none."
            )
    return tuple(mode for mode in MODES if mode in asked)


def check_numbers(*, seed: int, batch_size: int) -> None:
    """Refuse a seed that numpy's generator does not take, and a batch without neighbours.

    Raises:
        RequestError: the seed is negative, or the batch is smaller than two.
    """
    if seed < 0:
        raise RequestError(f"the seed is {seed}. Use a whole number that is not negative.")
    if batch_size < 2:
        raise RequestError(f"the batch size is {batch_size}. Name the one the encoder was trained with, 2 or more.")


def check_calibration(
    select: str, method: str, cache: str | Path | None, num_samples: int | None, *, calibrated: bool
) -> None:
    """Refuse ways of calibrating that do not exist, and options that would do nothing.

    Raises:
        RequestError: an unknown method or selection, a cache without calibration data, or coverage of an unknown
            number of images.
    """
    if method != AUTO:
        parse_method(method)
    if select not in SELECTIONS:
        raise RequestError(f"unknown selection {select!r}. Use one of: {', '.join(SELECTIONS)}.")
    if select == "coverage" and num_samples is None:
        raise RequestError("--select coverage chooses among the calibration images. Say how many: --num-samples N.")
    if not calibrated and (cache is not None or select != SELECTIONS[0]):
        what = "--calibration-cache" if cache is not None else "--select"
        raise RequestError(f"{what} is about calibration images, and there are none. Pass --calibration-data.")


def check_data_options(feature: str | None, *, skip_unreadable: bool, data: bool) -> None:
    """Refuse what is said of images where there are none.

    Raises:
        RequestError: neither calibration nor test data were given.
    """
    for option, said in (("--feature", feature is not None), ("--skip-unreadable", skip_unreadable)):
        if said and not data:
            raise RequestError(
                f"{option} is for the images, and none were given. Pass --calibration-data or --test-data, or leave "
                "it out."
            )


def check_types(modes: Sequence[str], input_type: str | None, output_type: str | None) -> None:
    """Refuse tensor types that no file of this export could have.

    Raises:
        RequestError: an unknown type, or an integer type without an int8 file.
    """
    for option, value in (("--input-type", input_type), ("--output-type", output_type)):
        if value is not None and value not in INPUT_DTYPES:
            raise RequestError(f"{option} is {value!r}. Use one of: {', '.join(INPUT_DTYPES)}.")
        if value not in (None, "float32") and not any(mode == "int8" or is_mixed(mode) for mode in modes):
            raise RequestError(f"{option} {value} is for the int8 file, which was not asked for. Add -q int8.")


def check_normalization(normalization: str, *, calibrated: bool) -> None:
    """Refuse a placement that does not exist, or whose constants would come from nowhere.

    Raises:
        RequestError: unknown, or ``frozen`` without calibration data.
    """
    if normalization not in ("auto", *PLACEMENTS):
        raise RequestError(f"unknown normalization {normalization!r}. Use one of: auto, {', '.join(PLACEMENTS)}.")
    if normalization == "frozen" and not calibrated:
        raise RequestError(
            "--normalization frozen takes its constants from calibration images. Pass --calibration-data."
        )


def check_raw_pixels(contract: InputContract) -> None:
    """Refuse raw pixels in the file where one step size and one whole zero point cannot say mean and std.

    Raises:
        RequestError: mean or std differ by channel, or the mean is no whole number from 0 to 255.
    """
    mean, std = set(contract.mean), set(contract.std)
    if len(mean) > 1 or len(std) > 1 or not next(iter(mean)).is_integer() or not 0 <= next(iter(mean)) <= 255:
        raise RequestError(
            f"--input-type uint8 needs one std and one whole mean between 0 and 255 for all channels, but mean is "
            f"{list(contract.mean)} and std {list(contract.std)}. Use --input-type float32 or int8."
        )


LEAST_IMAGES = 40
"""Calibration images with which a search is worth its time."""

METRICS = tuple(name for name in Drift.__dataclass_fields__ if name not in INFORMATION)
"""What can be limited: the metrics that are measured of every file."""


@dataclass(frozen=True)
class Budget:
    """Limits on drift metrics; without any it is kept by every file.

    Attributes:
        limits: by metric; see :data:`embedlite.runtime.drift.gates.AT_MOST` for those that are upper ones.
    """

    limits: Mapping[str, float]

    def missed(self, drift: Drift) -> tuple[Gate, ...]:
        """The limits that a drift does not keep."""
        return tuple(gate for gate in apply_gates(asdict(drift), self.limits) if not gate.passed)

    def kept(self, drift: Drift) -> bool:
        """Whether a drift keeps all limits."""
        return not self.missed(drift)

    def __str__(self) -> str:
        return ", ".join(limit_text(name, limit) for name, limit in self.limits.items())


def parse_budget(texts: Sequence[str]) -> Budget:
    """Limits from ``METRIC=VALUE`` texts.

    Raises:
        RequestError: no such metric, or no number.
    """
    return Budget(parse_gates(texts, METRICS, "--max-drift"))


def limit_text(name: str, limit: float) -> str:
    """A limit as people write it: ``sqnr_db >= 30``."""
    return f"{name} {'<=' if name in AT_MOST else '>='} {limit:g}"


def check_enough_images(count: int) -> None:
    """Refuse to search with so few images that chance would decide.

    Args:
        count: calibration images, without those that are test data.

    Raises:
        RequestError: they are too few; the message says how many are needed.
    """
    if count < LEAST_IMAGES:
        raise RequestError(
            f"a search for the least drift needs {LEAST_IMAGES} calibration images or more, and there are {count} "
            "(without those that are test data). Pass more images with --calibration-data, or leave --pareto and "
            "--max-drift out."
        )
