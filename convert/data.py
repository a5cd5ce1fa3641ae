"""The images of an export: those that set ranges and constants, and those that judge the result.

``--select coverage``: the calibration images that cover the embedding space best, and what that gained.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..calibration import (
    Method,
    Statistics,
    choose_ranges,
    collect_statistics,
    load_statistics,
    select_coverage,
    tensor_groups,
)
from ..calibration.collect import collect_outputs
from ..calibration.coverage import covering_radius
from ..calibration.engine import Engine, list_images
from ..calibration.images import hold_out
from ..calibration.statistics_file import holds_statistics
from ..runtime.drift.wording import decibels
from ..runtime.errors import RequestError
from ..runtime.images.open import Data, open_source
from ..runtime.images.source import Skipped, Source
from ..runtime.input.preprocess import as_float32, to_pixels
from ..runtime.input.values import FIRST_IMAGES, InputValues
from ..runtime.model.contract import InputContract
from ..runtime.progress import progress
from .load.lower import LoweredModel
from .make.golden import MOST_IMAGES as GOLDEN_IMAGES
from .max_drift import check_enough_images
from .normalization.prepare import prepare
from .quantize.trial import ReadyImages, Trial, unmeasured
from .repeated_images import explain_repeats
from .request import Request

MOST_TEST_IMAGES = 512
"""Drift is measured on no more; drift-report measures any number."""

_MOST_NAMED = 3

_PIXEL_IMAGES = 16
"""So many are looked at for what their pixels say; to decode more would cost more than it tells."""

_SIDE = 8
_NOISE = 0.1
"""Mean correlation of neighbours in noise, at most, and the least side of an image that tells; photos have 0.7."""


@dataclass(frozen=True)
class ExportData:
    """Images by their use; None where there are none.

    Attributes:
        calibration: what sets ranges and constants.
        test: what drift is measured on; none of it is in ``calibration``.
        decisions: what was decided on the user's behalf.
        skipped: images that were left out because they cannot be read, those for calibration first.
        statistics: what was seen of calibration images elsewhere, in place of ``calibration``.
        golden: what is shipped with the files to be replayed.
        further: what int8 is fine-tuned on besides the calibration images.
    """

    calibration: Source | None
    test: Source | None
    decisions: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    statistics: Statistics | None = None
    golden: Source | None = None
    further: Source | None = None

    @property
    def judging(self) -> Source | None:
        """Images to judge by: those that set nothing, else those that there are."""
        return self.test or self.calibration


def open_data(request: Request, contract: InputContract) -> ExportData:
    """Open what was given, and hold a part of the calibration images out if no test images were.

    Raises:
        DataError: see :func:`embedlite.runtime.images.open.open_source`.
    """
    golden, further, told = None, None, list[str]()
    skipped: tuple[Skipped, ...] = ()
    if request.golden_from is not None:
        golden = open_source(request.golden_from, contract, request.feature).sample(GOLDEN_IMAGES, request.seed)
        # Floats are refused where the vectors are made.
        told += explain_values("golden", golden) if golden.pixels else []
    if request.fine_tune_flips and not contract.is_image:
        raise RequestError("--fine-tune-flips is for images, and the input is an array. Leave it out.")
    if request.fine_tune_data is not None:
        further, skipped, _ = _open(request.fine_tune_data, None, request, contract)
        told += [*explain_values("fine-tuning", further), *_explain(skipped)]
    data = _open_images(request, contract)
    skipped = data.skipped + skipped
    return replace(data, decisions=(*told, *data.decisions), skipped=skipped, golden=golden, further=further)


def _open_images(request: Request, contract: InputContract) -> ExportData:
    """Those that set ranges and those that judge."""
    test, decisions = None, list[str]()
    skipped: tuple[Skipped, ...] = ()
    if request.test_data is not None:
        test, skipped, given = _open(request.test_data, MOST_TEST_IMAGES, request, contract)
        if given > MOST_TEST_IMAGES:
            decisions.append(f"drift is measured on {len(test)} of the {given} test images; drift-report measures all.")
        decisions += explain_values("test", test)
    if request.calibration_data is None:
        decisions += explain_repeats(None, test, request.seed)
        return ExportData(None, test, (*decisions, *_explain(skipped)), skipped)
    statistics = _statistics(request)
    if statistics is not None:
        decisions += explain_repeats(None, test, request.seed)
        return ExportData(None, test, (*decisions, *_explain(skipped)), skipped, statistics)
    # Coverage chooses from all of them, once there is a float graph to embed them with.
    count = request.num_samples if request.select == "random" else None
    calibration, others, _ = _open(request.calibration_data, count, request, contract)
    skipped = others + skipped
    decisions += explain_values("calibration", calibration)
    if test is None:
        kept, held = hold_out(len(calibration), request.seed)
        if held:
            calibration, test = calibration.subset(kept), calibration.subset(held)
            decisions.append(
                f"{len(held)} of the {len(kept) + len(held)} calibration images set no ranges: drift is measured "
                "on them. Pass --test-data to use all for calibration."
            )
        else:
            decisions.append(
                f"no drift was measured: {len(calibration)} calibration image(s) are too few to set some aside."
            )
    decisions += explain_repeats(calibration, test, request.seed)
    return ExportData(calibration, test, (*decisions, *_explain(skipped)), skipped)


def explain_values(use: str, source: Source) -> list[str]:
    """What the values of images say against the contract, as ``Encoder`` says it of its inputs, and of noise.

    What is not finite is refused where it is read.
    """
    if source.contract.color_order == "none":
        return []
    # Where it lies is nobody's business who reads the card.
    name = Path(source.name).name
    values = InputValues(name, source.contract)
    count = min(len(source), _PIXEL_IMAGES if source.pixels else FIRST_IMAGES)
    correlations, flat = [], 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for index in np.linspace(0, len(source) - 1, count).astype(int).tolist():
            image = source.load(index)
            if image.dtype.kind == "f":
                if not np.isfinite(image).all():
                    continue
                values.check_floats(as_float32(image), every_value=True)
            else:
                if image.dtype == np.uint16:
                    values.check_wide(image)
                values.check_pixels(to_pixels(image, f"{source.name}, image {source.ids[index]!r}"))
            correlations += _neighbours(image)
            flat += bool((image == image[:1, :1]).all())
        values.conclude()
    said = [str(warning.message) for warning in caught]
    if flat > count / 2:
        said.append(
            f"{name}: {flat} of {count} images that were looked at are of one colour throughout. Ranges and drift on "
            "such say nothing of others: pass images such as the model will see."
        )
    if correlations and float(np.mean(correlations)) < _NOISE:
        said.append(
            f"{name}: neighbouring pixels have nothing to do with each other (correlation "
            f"{np.mean(correlations):.2f}, {count} images), as in noise. What noise says of ranges and drift does not "
            "hold for photos: pass images such as the model will see."
        )
    return [f"mind the {use} images: {text}" for text in said]


def _neighbours(image: NDArray[Any]) -> list[float]:
    """How a pixel and the one beside it correlate; nothing for a flat image, or one that has hardly any pixels."""
    if min(image.shape[:2]) < _SIDE:
        return []
    values = image.astype(np.float64)
    values -= values.mean(axis=(0, 1))
    spread = float((values**2).mean())
    return [float((values[:, 1:] * values[:, :-1]).mean()) / spread] if spread > 0 else []


def _statistics(request: Request) -> Statistics | None:
    """The statistics that were given in place of calibration images, if that is what they are.

    Raises:
        RequestError: something was asked for that needs the images.
    """
    given = request.calibration_data
    if not isinstance(given, Statistics) and not (isinstance(given, (str, Path)) and holds_statistics(Path(given))):
        return None
    needing = {
        "--normalization frozen": request.normalization == "frozen",
        "--num-samples": request.num_samples is not None,
        "--select": request.select != "random",
        "--calibration-cache": request.calibration_cache is not None,
    }
    for option, said in needing.items():
        if said:
            raise RequestError(
                f"{option} needs calibration images, and statistics were given in their place. Leave it out, or pass "
                "the images."
            )
    return given if isinstance(given, Statistics) else load_statistics(given)


def _open(
    data: Data, count: int | None, request: Request, contract: InputContract
) -> tuple[Source, tuple[Skipped, ...], int]:
    """The images to use, those left out, and how many were given.

    The sample is drawn before it is checked: to check all of a large set for the sake of a few would take longer than
    the export.
    """
    given = open_source(data, contract, request.feature)
    source = given.sample(count, request.seed)
    if not request.skip_unreadable:
        return source, (), len(given)
    return *source.readable(progress(range(len(source)), len(source), "checking images")), len(given)


def _explain(skipped: tuple[Skipped, ...]) -> list[str]:
    if not skipped:
        return []
    named = ", ".join(image.id for image in skipped[:_MOST_NAMED])
    more = f" and {len(skipped) - _MOST_NAMED} more" if len(skipped) > _MOST_NAMED else ""
    return [
        f"WARNING: {len(skipped)} image(s) that cannot be used were left out: {named}{more}. export.json has the "
        "reasons."
    ]


def calibration_fingerprint(data: ExportData) -> str | None:
    """Fingerprint of the calibration images, or of those that their statistics are of; None without."""
    if data.calibration is not None:
        return data.calibration.fingerprint()
    return None if data.statistics is None else f"{data.statistics.images:064x}"


def check_searchable(data: ExportData) -> None:
    """Refuse a search that no calibration images could judge, or too few.

    Raises:
        RequestError: there are only statistics of them, or too few; the message says how many are needed.
    """
    if data.calibration is None:
        raise RequestError(
            "a search judges files by calibration images, and --calibration-data holds statistics of them only. Pass "
            "the images themselves, or leave --pareto and --max-drift out."
        )
    check_enough_images(len(data.calibration))


def select_images(
    lowered: LoweredModel, data: ExportData, request: Request, engine: Engine
) -> tuple[ExportData, list[str]]:
    """Replace a pool of calibration images by the ``request.num_samples`` of them that cover it best.

    Returns:
        The data, and what was decided.
    """
    pool, count = data.calibration, request.num_samples
    if pool is None or count is None:
        return data, []
    # Rows are in the order of their content, so that the order of the images does not matter.
    listing = list_images(pool, engine)
    order = sorted(range(len(pool)), key=listing.digest)
    kept, held = ([order[i] for i in part] for part in hold_out(len(order), request.seed))
    if count >= len(kept):
        return data, [f"all {len(pool)} calibration images were used: {count} were asked for, so there was no choice."]
    embeddings = collect_outputs(
        lowered.flatbuffer, pool, engine.counted(kept, len(kept), "embedding the pool"), engine=engine
    )
    coverage = select_coverage(embeddings, count)
    random = np.random.default_rng(request.seed).choice(len(kept), count, replace=False).tolist()
    radius = covering_radius(embeddings, random)
    gain = ""
    if held:
        by_coverage, by_chance = (
            _int8_sqnr(lowered, pool, [kept[row] for row in rows], held, request, engine)
            for rows in (coverage.indices, random)
        )
        gain = (
            f" int8 by their minimum and maximum has {decibels(by_coverage)} on {len(held)} other images, by as many "
            f"at random {decibels(by_chance)}."
        )
    text = (
        f"{count} of {len(pool)} calibration images were chosen to cover the embedding space: no image is farther than "
        f"{coverage.radius:.3g} from a chosen one (at random: {radius:.3g}).{gain}"
    )
    chosen = sorted(kept[row] for row in coverage.indices)
    return replace(data, calibration=pool.subset(chosen)), [text]


def _int8_sqnr(
    lowered: LoweredModel,
    pool: Source,
    chosen: Sequence[int],
    held: Sequence[int],
    request: Request,
    engine: Engine,
) -> float | None:
    """What int8 gives on held-out images with the extremes of the chosen ones."""
    graph = prepare(lowered.flatbuffer)
    without = unmeasured(graph)
    statistics = collect_statistics(
        graph.flatbuffer, pool, histograms=False, engine=engine, without=without, indices=chosen
    )
    groups = tensor_groups(graph.flatbuffer, without)
    trial = Trial(graph, ReadyImages(pool, held), request.threads)
    return trial.sqnr(trial.errors(graph.flatbuffer, choose_ranges(statistics, groups, Method("minmax"))))
