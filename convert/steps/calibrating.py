"""What int8 is made from, and how well the normalization stands its rounding."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ...calibration.engine import Engine
from ...calibration.errors import CalibrationDataError
from ...runtime.backends.registry import BACKENDS
from ...runtime.model.contract import InputContract
from ..data import ExportData, calibration_fingerprint
from ..graph.graph import Graph
from ..graph.loops import has_loops
from ..make.placement import choose_ends
from ..make.recipe import Recipe
from ..modes import takes_ranges
from ..normalization.conditioning import measure_conditioning
from ..normalization.prepare import FloatGraph
from ..quantize.choices import CalibrationOptions
from ..quantize.floating.end import possible_ends
from ..quantize.from_statistics import plan_from_statistics
from ..quantize.plan import Int8Plan, plan_int8
from ..request import Request
from ..results import Conditioning

_CONDITIONING_IMAGES = 32
"""Calibration images on which normalizations are asked how well they stand rounding."""


@dataclass(frozen=True)
class Calibrated:
    """What the calibration images gave.

    Attributes:
        plan: what int8 is made from; None where no file needs ranges, or none can be had.
        conditioning: of each normalization that int8 would round the input of; empty without images.
        kept: what else was decided.
        refused: why the images give no ranges, where other files can be made.
    """

    plan: Int8Plan | None
    conditioning: tuple[Conditioning, ...] = ()
    kept: tuple[str, ...] = ()
    refused: CalibrationDataError | None = None

    @property
    def decisions(self) -> tuple[str, ...]:
        """What was decided on the user's behalf."""
        return () if self.plan is None else (*self.plan.decisions, *self.kept)


def calibrate(
    request: Request,
    graph: FloatGraph,
    data: ExportData,
    contract: InputContract,
    engine: Engine,
    *,
    recipe: Recipe | None,
) -> Calibrated:
    """Choose the ranges of int8, or take a recipe's choices.

    Args:
        request: how it is done, and the modes that it is done for.
        graph: the prepared float graph.
        data: the images, or statistics of them.
        contract: of the input.
        engine: what runs the images.
        recipe: made with these images, or refused.

    Raises:
        CalibrationDataError: the data give no ranges, and all files need some.
        RequestError: the recipe was made with others.
    """
    if not any(map(takes_ranges, request.modes)) or has_loops(Graph(graph.flatbuffer)):
        return Calibrated(None)
    if recipe is not None:
        recipe.check_images(calibration_fingerprint(data), str(request.recipe))
    ends = choose_ends(request, "int8", graph)
    options = CalibrationOptions(
        request.calibrate_method,
        None if request.calibration_cache is None else Path(request.calibration_cache),
        request.equalize,
        request.threads,
        engine,
        request.modes,
        ends.may_end_float,
        ends.input_type != "float32",
    )
    raw_pixels = request.input_type == "uint8"
    if data.calibration is not None:
        images = data.calibration
        choices = None if recipe is None else recipe.choices
        try:
            plan = plan_int8(graph, images, contract, options, raw_pixels=raw_pixels, choices=choices)
        except CalibrationDataError as error:
            if all(map(takes_ranges, request.modes)):
                raise
            return Calibrated(None, refused=error)
        some = islice(map(images.ready, range(len(images))), _CONDITIONING_IMAGES)
        kept = () if options.may_float else _kept_in_integers(request, graph)
        return Calibrated(plan, measure_conditioning(graph, plan.minmax.limits, some), kept)
    if data.statistics is not None:
        return Calibrated(plan_from_statistics(graph, data.statistics, contract, options, raw_pixels=raw_pixels))
    return Calibrated(None)


def _kept_in_integers(request: Request, graph: FloatGraph) -> tuple[str, ...]:
    """What is said where the end could be float and a microcontroller is among the targets."""
    named = [name for name in request.targets if not BACKENDS[name].cpu and not BACKENDS[name].integer_only]
    if not named or "int8" not in request.modes or request.output_type is not None or not possible_ends(graph):
        return ()
    return (
        f"the int8 file computes with integers up to the raw embedding, for {', '.join(named)}: floats there take "
        "memory and time. --output-type float32 tries the last layer in float.",
    )
