"""The input contract that does what the user's own preprocessing does: found, and proved on the user's images."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.drift.intervals import drift_of
from ...runtime.drift.metrics import ranked_db, sqnr_db
from ...runtime.drift.wording import decibels
from ...runtime.errors import EmbedliteError, InputError, RequestError
from ...runtime.images.decode import load_image
from ...runtime.images.formats import IMAGE_SUFFIXES, pillow
from ...runtime.images.walk import walk
from ...runtime.input.preprocess import model_ready
from ...runtime.input.shapes import check_one
from ...runtime.model.contract import InputContract, InputOptions
from ...runtime.model.origin import PARTS
from ..contract_search import PLAIN, SCALINGS, as_options, explain

Values = NDArray[np.float32]

SEARCHED, PROVED, KEPT = 8, 128, 16
"""Images that the contract is looked for with, that it is proved on, and that say what a difference costs."""

_LEVEL = 1.0
_SAME = 0.01
"""Most that a contract may be off: one level of 255 for a function that returns integers, or this in its own units."""

_IDENTICAL_DB = 160.0


@dataclass(frozen=True)
class Proof:
    """What a preprocessing function and the nearest contract have in common.

    Attributes:
        name: of the function.
        contract: the nearest.
        options: what says so on a command line; empty where the defaults do.
        worst: the largest difference on any image, in units of ``most``.
        most: the largest that there may be.
        unit: what both are counted in.
        images: number of images that it was proved on.
        samples: what the function and the contract make of some of them.
        notes: what else the function did, and what the images do not show.
        fixed: whether the contract is that of a file, and ``options`` what would change it to the nearest.
        not_shown: parts of a contract that these images cannot prove.
    """

    name: str
    contract: InputContract
    options: str
    worst: float
    most: float
    unit: str
    images: int
    samples: tuple[list[Values], list[Values]] = field(repr=False)
    notes: tuple[str, ...] = ()
    fixed: bool = False
    not_shown: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The key ``preprocess`` of the drift report."""
        return {
            "function": self.name,
            "holds": self.holds,
            "nearest": self.options,
            "apart": self.worst,
            "allowed": self.most,
            "unit": self.unit,
            "images": self.images,
            "not_shown": list(self.not_shown),
            "notes": list(self.notes),
        }

    @property
    def origins(self) -> dict[str, str]:
        """Where each part of the contract comes from, see :class:`embedlite.runtime.model.contract.Contract`."""
        origin = "proved" if self.holds else "inferred"
        return {name: "assumed" if name in self.not_shown else origin for name in PARTS}

    @property
    def holds(self) -> bool:
        """Whether the contract does what the function does."""
        return self.worst <= self.most

    def judge(self, embed: Callable[[Sequence[Values]], Values], *, accept: bool) -> list[str]:
        """What was found, as decisions.

        Args:
            embed: the float model on images, (H, W, C) float32, to rows.
            accept: whether to go on where it does not hold.

        Raises:
            RequestError: the contract does not do what the function does.
        """
        with_options = self.options or "the defaults"
        figures = f"at most {self.worst:.3g} {self.unit} apart on {self.images} images"
        if self.holds:
            proved = "" if self.fixed else f": {with_options}"
            return [f"the contract does what {self.name} does, proved{proved}; {figures}.", *self.notes]
        theirs, ours = (embed(images) for images in self.samples)
        drift = drift_of(ours, theirs)
        cost = "nothing" if drift.sqnr_db is None else decibels(drift.sqnr_db)
        neighbours = drift.knn_overlap_cross
        kept = "" if neighbours is None else f" and keeps {neighbours:.0%} of the nearest neighbours"
        apart = (
            f"up to {self.worst:.3g} {self.unit} apart where {self.most:g} is allowed, which costs {cost} in the "
            f"embedding{kept} ({len(ours)} images)"
        )
        said = f"no contract does what {self.name} does: the nearest is {with_options}, {apart}"
        if self.fixed:
            nearest = f"; the nearest contract has {self.options}" if self.options else "; no other contract is nearer"
            said = f"the file's contract does not do what {self.name} does: {apart}{nearest}"
        if not accept:
            why = "".join(f" {note}" for note in self.notes)
            advice = "Export again with it" if self.fixed else "Preprocess as one of the contracts does"
            raise RequestError(f"{said}.{why} {advice}, or pass --accept-contract to go on all the same.")
        return [f"{said}; it was accepted.", *self.notes]


def prove(
    function: Any, data: Sequence[Any], contract: InputContract, given: InputOptions, *, fixed: bool = False
) -> Proof:
    """Find the contract that does what a function does, and compare both on every image.

    Args:
        function: a callable, or ``FILE.py:FUNCTION``; it takes the path of an image file or a Pillow image, and returns
            what the model takes.
        data: where images are; the first that is a folder or an image file is used.
        contract: of the model; where the search begins.
        given: what else was said of the input.
        fixed: whether to prove this contract, that of a file, and look for another one only to name it.

    Raises:
        RequestError: the function cannot be used, and what it did; or it contradicts what was said.
    """
    call = _Function(function, contract)
    paths = _image_files(data)
    proved = paths[:: max(1, len(paths) // PROVED)][:PROVED]
    kinds = {path: _kind(path) for path in proved}
    searched = _one_of_each(kinds)[:SEARCHED]
    wanted = {path: call(path, twice=True) for path in searched}
    if all(float(np.ptp(image)) == 0 for image in wanted.values()):
        raise RequestError(f"{call.name} returns flat images for all of {len(wanted)} photos. Pass another function.")
    start = replace(contract, mean=PLAIN[0], std=PLAIN[1], dtype="float32")

    def score(tried: InputContract) -> float:
        try:
            pairs = [(_pixels(path, tried), image) for path, image in wanted.items()]
        except EmbedliteError:
            # Such as a decoder that is not installed.
            return -math.inf
        gains, offsets = _affine(pairs)
        noise = sum(float(((pixels * gains + offsets - image) ** 2).sum()) for pixels, image in pairs)
        signal = sum(float(((image - image.mean()).astype(np.float64) ** 2).sum()) for image in wanted.values())
        return min(ranked_db(sqnr_db(signal, noise)), _IDENTICAL_DB)

    found = explain(start, score, scalings=False).contract
    gains, offsets = _affine([(_pixels(path, found), image) for path, image in wanted.items()])
    if (gains <= 0).any():
        raise RequestError(
            f"{call.name} turns light into dark: no contract does that. Put it into the model, as a Rescaling layer."
        )
    scaled = _scaled(found, gains, offsets, wanted)
    _check_said(call.name, scaled, given)
    nearest, start = scaled, InputContract(contract.shape)
    if fixed:
        scaled = start = replace(contract, dtype="float32")
    missing = _not_shown(list(kinds.values()), contract)
    most = _LEVEL if call.integers else _SAME
    # An integer pipeline counts in levels of its own; the model takes them as they are.
    worst = 0.0
    samples: tuple[list[Values], list[Values]] = ([], [])
    for number, path in enumerate(proved):
        theirs = wanted[path] if path in wanted else call(path)
        ours = model_ready(load_image(path, scaled), scaled)
        worst = max(worst, float(np.abs(theirs - ours).max()))
        if number < KEPT:
            samples[0].append(theirs)
            samples[1].append(ours)
    return Proof(
        call.name,
        replace(scaled, dtype=contract.dtype),
        as_options(nearest, start),
        worst,
        most,
        "levels" if call.integers else "of the model's units",
        len(proved),
        samples,
        (
            *call.notes,
            *([f"not shown by these images: {', '.join(dict.fromkeys(missing.values()))}."] if missing else []),
        ),
        fixed,
        tuple(missing),
    )


class _Function:
    """The user's function, called as it wants to be, with its manners noted."""

    def __init__(self, function: Any, contract: InputContract) -> None:
        self.name, self._call = _load(function)
        self._contract, self.notes = contract, list[str]()
        self._by_path: bool | None = None
        self._dtype: np.dtype[Any] | None = None

    @property
    def integers(self) -> bool:
        """Whether it returned integers."""
        return self._dtype is not None and self._dtype.kind in "ui"

    def __call__(self, path: Path, *, twice: bool = False) -> Values:
        """What it makes of an image, float32; ``twice`` to see whether it always makes the same."""
        found = self._run(path)
        if twice and not np.array_equal(found, self._run(path), equal_nan=True):
            raise RequestError(
                f"{self.name} differs between two calls with {path}: it is random. Pass what the model is to be used "
                "with, without augmentation."
            )
        return found

    def _run(self, path: Path) -> Values:
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
            result = self._answer(path)
        if shown.getvalue().strip():
            self._note(f"{self.name} prints, such as {shown.getvalue().strip().splitlines()[0][:80]!r}.")
        return self._checked(result, path)

    def _answer(self, path: Path) -> Any:
        errors = []
        for by_path in (True, False) if self._by_path is None else (self._by_path,):
            try:
                result = self._call(str(path)) if by_path else self._with_image(path)
            except (Exception, SystemExit) as error:
                errors.append(f"{type(error).__name__}: {error}")
            else:
                self._by_path = by_path
                return result
        how = " and with a Pillow image ".join(errors) if len(errors) > 1 else errors[0]
        raise RequestError(
            f"{self.name} raises with the path {path}: {how}. It takes the path of an image or a Pillow image, and "
            "returns what the model takes."
        )

    def _with_image(self, path: Path) -> Any:
        image_module, _ = pillow()
        with image_module.open(path) as image:
            image.load()
            before = image.size, image.mode, image.tobytes()
            result = self._call(image)
            if before != (image.size, image.mode, image.tobytes()):
                self._note(f"{self.name} changes the image that it is given.")
            return result

    def _checked(self, result: Any, path: Path) -> Values:
        array = np.asarray(result)
        if array.shape[:1] == (1,) and array.ndim == 4:
            array = array[0]
        if array.dtype.kind not in "uif":
            raise RequestError(
                f"{self.name} returns {type(result).__name__} of dtype {array.dtype} for {path}. Return an array of "
                f"shape {self._contract.shape}, float32 or uint8."
            )
        try:
            array = check_one(array, self._contract) if array.dtype != np.int8 else array
        except InputError as error:
            raise RequestError(f"{self.name} returns another thing than the model takes for {path}: {error}") from error
        if self._dtype is not None and (array.dtype.kind in "ui") != self.integers:
            raise RequestError(
                f"{self.name} returns {array.dtype} for {path} and {self._dtype} for another image. Return one of them "
                "for all."
            )
        self._dtype = array.dtype
        if not np.isfinite(array).all():
            raise RequestError(f"{self.name} returns NaN or infinity for {path}. Return finite values.")
        # A copy: it may answer with the same memory next time.
        return np.array(array, np.float32)

    def _note(self, text: str) -> None:
        if text.partition(", such as")[0] not in {note.partition(", such as")[0] for note in self.notes}:
            self.notes.append(text)


def _load(function: Any) -> tuple[str, Callable[[Any], Any]]:
    if callable(function):
        return f"{getattr(function, '__name__', type(function).__name__)}()", function
    file, colon, name = str(function).rpartition(":")
    if not colon or not name.isidentifier():
        raise RequestError(f"--preprocess {function}: name a file and a function in it, such as prepare.py:preprocess.")
    if not Path(file).is_file():
        raise RequestError(f"--preprocess: there is no file {file}. Name a Python file and a function in it.")
    sys.path.insert(0, str(Path(file).resolve().parent))
    try:
        values = runpy.run_path(file, run_name="preprocess")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise RequestError(f"--preprocess: {file} fails when it is run: {type(error).__name__}: {error}.") from error
    finally:
        sys.path.pop(0)
    if not callable(values.get(name)):
        known = sorted(key for key, value in values.items() if callable(value) and not key.startswith("_"))
        raise RequestError(f"{file} has no function {name!r}; it has {', '.join(known) or 'none'}.")
    return f"{name}()", values[name]


def _image_files(data: Sequence[Any]) -> list[Path]:
    for item in data:
        path = Path(item) if isinstance(item, (str, Path)) else None
        if path is not None and path.is_dir():
            names = sorted(name for name in walk(path)[0] if name.lower().endswith(IMAGE_SUFFIXES))
            if names:
                return [path / name for name in names]
        elif path is not None and path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
            return [path]
    raise RequestError(
        "--preprocess is run on image files, and there are none. Pass a folder of photos with --test-data or "
        "--calibration-data."
    )


def _pixels(path: Path, contract: InputContract) -> Values:
    """An image as read by a contract, unscaled."""
    return load_image(path, contract).astype(np.float32, copy=False)


def _affine(pairs: Sequence[tuple[Values, Values]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gain and offset of each channel that make the first of each pair the second, by least squares."""
    pixels, values = (
        np.concatenate([pair[side].reshape(-1, pair[side].shape[2]) for pair in pairs]).astype(np.float64)
        for side in (0, 1)
    )
    middle, goal = pixels.mean(axis=0), values.mean(axis=0)
    spread = ((pixels - middle) ** 2).sum(axis=0)
    gains = ((pixels - middle) * (values - goal)).sum(axis=0) / np.where(spread > 0, spread, 1)
    return gains, goal - gains * middle


def _scaled(
    contract: InputContract, gains: NDArray[np.float64], offsets: NDArray[np.float64], wanted: dict[Path, Values]
) -> InputContract:
    """The contract with mean and std: the usual ones if they fit as well as those that were measured."""
    turn = -1 if contract.color_order == "bgr" else 1
    std = 1 / gains
    mean = -offsets * std
    measured = replace(contract, mean=_short(mean), std=_short(std))
    usual = [
        replace(contract, mean=one[::turn], std=other[::turn])
        for one, other in SCALINGS
        if contract.shape[2] == 3 or len(one) == len(other) == 1
    ]

    def apart(tried: InputContract) -> float:
        return max(
            float(np.abs(model_ready(load_image(path, tried), tried) - image).max()) for path, image in wanted.items()
        )

    best = min(usual, key=apart)
    return best if apart(best) <= max(1.02 * apart(measured), 1e-4 * float(np.abs(gains).max())) else measured


def _short(values: NDArray[np.float64]) -> tuple[float, ...]:
    """Six digits, and one value where all are the same."""
    rounded = tuple(float(f"{value:.6g}") + 0.0 for value in values)
    close = np.ptp(values) <= 1e-4 * max(1.0, float(np.abs(values).max()))
    return (float(f"{values.mean():.6g}") + 0.0,) if close else rounded


def _check_said(name: str, found: InputContract, given: InputOptions) -> None:
    for option, value in vars(given).items():
        if value is not None and getattr(found, option) != value:
            raise RequestError(
                f"--{option.replace('_', '-')} says {value}, and {name} does {getattr(found, option)}. Leave the "
                "option out, or pass another function."
            )


@dataclass(frozen=True)
class _Kind:
    """What an image can show of a contract."""

    jpeg: bool
    turned: bool
    size: tuple[int, int]


def _kind(path: Path) -> _Kind:
    image_module, _ = pillow()
    try:
        with image_module.open(path) as image:
            turned = image.getexif().get(0x0112, 1) != 1
            return _Kind(image.format in ("JPEG", "MPO"), turned, (image.height, image.width))
    except Exception:
        # The function and the reader say what is wrong with it.
        return _Kind(jpeg=False, turned=False, size=(0, 0))


def _one_of_each(kinds: dict[Path, _Kind]) -> list[Path]:
    """JPEG files and others, turned and upright ones, in turns."""
    groups: dict[tuple[bool, bool], list[Path]] = {}
    for path, kind in kinds.items():
        groups.setdefault((kind.jpeg, kind.turned), []).append(path)
    rounds = itertools.zip_longest(*groups.values())
    return [path for one in rounds for path in one if path is not None]


def _not_shown(kinds: Sequence[_Kind], contract: InputContract) -> dict[str, str]:
    """What these images cannot prove: parts of a contract, each with why."""
    missing = dict[str, str]()
    if {kind.size for kind in kinds} == {contract.shape[:2]}:
        why = "the resampler and --fit (every image has the model's size)"
        missing |= {"resampler": why, "fit": why}
    if not any(kind.turned for kind in kinds):
        missing["exif"] = "--exif (no image is turned by it)"
    if not any(kind.jpeg for kind in kinds):
        missing["jpeg_decoder"] = "--jpeg-decoder (no image is a JPEG)"
    return missing
