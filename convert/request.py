"""What was asked of an export, checked before TensorFlow is imported: what cannot be combined or would do nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..runtime.backends.registry import BACKENDS
from ..runtime.errors import RequestError
from ..runtime.model.contract import InputContract
from ..runtime.options import check_values
from .max_drift import Budget, parse_budget
from .modes import CALIBRATED, MIXED, MODES, check_targets, is_mixed
from .options import FINE_TUNE_SECONDS, SELECTIONS, Asked
from .quantize.correct import choose_corrections

MOST_MIXED = 4
"""Files that a search may find."""


@dataclass(frozen=True, kw_only=True)
class Request(Asked):
    """What was asked, checked, and what follows from it.

    Attributes:
        stem: what the names of the files begin with.
        folder: where they go.
        modes: to be made, in the order of the table.
        named: those that must be made; others are where they can.
        corrections: to be tried.
        budget: the limits of ``max_drift``; None without.
    """

    stem: str
    folder: Path
    modes: tuple[str, ...]
    named: tuple[str, ...]
    corrections: tuple[str, ...]
    budget: Budget | None

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


def check_request(asked: Asked, path: Path, decided: Sequence[str] | None) -> Request:
    """What was asked, or the first reason why it cannot be done.

    Args:
        asked: as it was asked.
        path: of the model, or what stands for it where it is in memory.
        decided: the modes of a recipe; None without.

    Raises:
        RequestError: a value does not exist, cannot be combined with another, or would do nothing.
    """
    check_values(asked)
    calibrated = asked.calibration_data is not None
    compared = asked.pareto or bool(asked.max_drift)
    modes = (
        choose_modes(asked.quantize, calibrated=calibrated, compared=compared) if decided is None else tuple(decided)
    )
    _check_types(asked, modes)
    _check_images(asked)
    _check_tuning(asked, modes)
    targets = check_targets(asked.targets, modes)
    _check_width(asked, targets)
    _check_measured(asked)
    return Request(
        **{**vars(asked), "targets": targets},
        stem=path.resolve().name if path.is_dir() else path.stem,
        folder=path.resolve().parent if asked.output_dir is None else Path(asked.output_dir),
        modes=modes,
        # What ``all`` brought along is wanted where it can be had; what was named is wanted.
        named=tuple(mode for mode in modes if mode in asked.quantize)
        if "all" in asked.quantize or asked.pareto
        else modes,
        corrections=choose_corrections(asked.correct, modes),
        budget=parse_budget(asked.max_drift) if asked.max_drift else None,
    )


def check_search(asked: Asked) -> None:
    """Refuse searches without what they need, and options that would do nothing; before a recipe is read.

    Raises:
        RequestError: the first of them.
    """
    limited, recipe = bool(asked.max_drift), asked.recipe
    searching = asked.pareto or limited
    if limited and recipe is not None:
        raise RequestError("--max-drift searches for a file, and --recipe says which files. Leave one of them out.")
    if recipe is not None and asked.quantize:
        raise RequestError("--recipe says which files to make. Leave -q out.")
    for option, value in (("--time-budget", asked.time_budget), ("--search-cache", asked.search_cache)):
        if value is not None and (not searching or recipe is not None):
            raise RequestError(f"{option} is about a search. Add --pareto or --max-drift, or leave it out.")
    if asked.measured is not None and not asked.pareto:
        raise RequestError(
            "--measured compares files by their latencies on a device, which has to have them first. Export with "
            "--pareto, measure that folder there, and repeat the command with --recipe export.json and --measured."
        )
    if asked.measured is not None and limited:
        raise RequestError(
            "--measured is about files that a device has, and --max-drift makes others. Leave --max-drift out, and "
            "name the export.json of those files with --recipe."
        )
    if searching and not asked.measure:
        raise RequestError("a comparison is made by running the files, and measure is False. Leave one of them out.")
    if searching and recipe is None and asked.calibration_data is None:
        raise RequestError(
            f"{'--max-drift' if limited else '--pareto'} compares int8 files with the others, and int8 needs "
            "calibration data. Pass --calibration-data with a folder of some hundred images like those the encoder "
            "will see."
        )


def choose_modes(asked: Sequence[str], *, calibrated: bool, compared: bool = False) -> tuple[str, ...]:
    """The modes to make, in the order of the table; ``compared`` makes all of them the default.

    Raises:
        RequestError: a mode that needs ranges was asked for without calibration data.
    """
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


def _check_images(asked: Asked) -> None:
    """Refuse what is said of images where there are none, and ways of calibrating that lack something."""
    calibrated = asked.calibration_data is not None
    if asked.normalization == "frozen" and not calibrated:
        raise RequestError(
            "--normalization frozen takes its constants from calibration images. Pass --calibration-data."
        )
    if asked.select == "coverage" and asked.num_samples is None:
        raise RequestError("--select coverage chooses among the calibration images. Say how many: --num-samples N.")
    if not calibrated and (asked.calibration_cache is not None or asked.select != SELECTIONS[0]):
        what = "--calibration-cache" if asked.calibration_cache is not None else "--select"
        raise RequestError(f"{what} is about calibration images, and there are none. Pass --calibration-data.")
    data = calibrated or asked.test_data is not None
    for option, said in (("--feature", asked.feature is not None), ("--skip-unreadable", asked.skip_unreadable)):
        if said and not data:
            raise RequestError(
                f"{option} is for the images, and none were given. Pass --calibration-data or --test-data, or leave "
                "it out."
            )


def _check_types(asked: Asked, modes: Sequence[str]) -> None:
    """Refuse an integer type without an int8 file."""
    for option, value in (("--input-type", asked.input_type), ("--output-type", asked.output_type)):
        if value not in (None, "float32") and not any(mode == "int8" or is_mixed(mode) for mode in modes):
            raise RequestError(
                f"{option} {value} is for the int8 file, which was not asked for. Add -q int8, which needs "
                "--calibration-data."
            )


def _check_width(asked: Asked, targets: Sequence[str]) -> None:
    """Refuse copies of the last layer where no file ends in int8."""
    default = "int8" if any(BACKENDS[name].integer_only for name in targets) else "float32"
    if asked.wide_output and (asked.output_type or default) != "int8":
        raise RequestError(
            f"--wide-output is for files that end in int8, and the output would be {asked.output_type or default}, "
            "where it has no use. Add --output-type int8, or leave it out."
        )


def _check_tuning(asked: Asked, modes: Sequence[str]) -> None:
    """Refuse fine-tuning where it does not apply."""
    further = (
        ("--fine-tune-data", asked.fine_tune_data is not None),
        ("--fine-tune-time", asked.fine_tune_time != FINE_TUNE_SECONDS),
        ("--fine-tune-flips", asked.fine_tune_flips),
        ("--fine-tune-checkpoint", asked.fine_tune_checkpoint is not None),
    )
    if not asked.fine_tune:
        for option, said in further:
            if said:
                raise RequestError(f"{option} is for fine-tuning. Add --fine-tune, or leave it out.")
        return
    if not set(CALIBRATED).intersection(modes):
        raise RequestError(
            "--fine-tune is for int8 and int16x8 files, and none was asked for. Add -q int8, which needs "
            "--calibration-data."
        )
    if asked.recipe is not None:
        raise RequestError("--recipe makes files again without trying, and --fine-tune tries. Leave one of them out.")


def _check_measured(asked: Asked) -> None:
    """Refuse what is found by running the files where they are not run."""
    for what, said in (
        ("golden vectors are made", asked.golden_from is not None),
        ("targets are checked", asked.targets),
    ):
        if said and not asked.measure:
            raise RequestError(f"{what} by running the files, and measure is False. Leave one of them out.")


def check_raw_pixels(contract: InputContract) -> None:
    """Refuse raw pixels in the file where one step size and one whole zero point cannot say mean and std.

    Raises:
        RequestError: the input is not an image, mean or std differ by channel, or the mean is not a whole number from 0
            to 255.
    """
    if not contract.is_image:
        raise RequestError(
            f"--input-type uint8 is for pixels, and the model takes arrays of shape {contract.shape}. Use --input-type "
            "float32 or int8."
        )
    mean, std = set(contract.mean), set(contract.std)
    if len(mean) > 1 or len(std) > 1 or not float(next(iter(mean))).is_integer() or not 0 <= next(iter(mean)) <= 255:
        raise RequestError(
            f"--input-type uint8 needs one std and one whole mean between 0 and 255 for all channels, but mean is "
            f"{list(contract.mean)} and std {list(contract.std)}. Use --input-type float32 or int8."
        )
