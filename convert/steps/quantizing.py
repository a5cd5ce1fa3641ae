"""The files of all modes, and those that a search adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...calibration.errors import CalibrationDataError
from ...runtime.drift import Drift
from ...runtime.errors import InterpreterFailedError
from ...runtime.images.source import Source
from ..errors import ConversionError
from ..make.allow_half import HalfPrecision, half_modes, try_half
from ..make.maker import Made, Maker
from ..make.recipe import Recipe
from ..modes import Precision, takes_ranges
from ..normalization.prepare import FloatGraph
from ..quantize.plan import Int8Plan
from ..request import Request
from ..results import NotMade, SearchReport
from ..search.mixed import Found, MixedFiles
from ..verify.latency import Stopwatch


@dataclass(frozen=True)
class Files:
    """What was made.

    Attributes:
        made: in the order of the modes, those of a search last.
        not_made: the modes that have no file, and why.
        judged: drift on the calibration images of what a search compared, by mode.
        search: what it tried; None without one.
        decisions: what was decided on the user's behalf.
    """

    made: tuple[Made, ...]
    not_made: tuple[NotMade, ...]
    judged: Mapping[str, Drift]
    search: SearchReport | None
    decisions: tuple[str, ...]


def find_half(request: Request, graph: FloatGraph, images: Source | None) -> HalfPrecision | None:
    """Whether devices may compute float files in half precision; None if there are none that it is about.

    Args:
        request: the modes.
        graph: the prepared float graph.
        images: on which it is tried; None if there are none.
    """
    return try_half(graph.flatbuffer, images, request.threads) if half_modes(request, graph) else None


def make_files(
    request: Request,
    graph: FloatGraph,
    plan: Int8Plan | None,
    maker: Maker,
    stopwatch: Stopwatch,
    *,
    recipe: Recipe | None = None,
    refused: CalibrationDataError | None = None,
) -> Files:
    """Make every mode's file, and search for layers that should not be int8 if that was asked for.

    Args:
        request: modes and limits.
        graph: the prepared float graph.
        plan: what int8 is made from; None without.
        maker: makes one mode's file.
        stopwatch: of the target that a search compares files on.
        recipe: which layers are not int8, by mode; None without.
        refused: why there are no ranges; None where there are, or none are needed.

    Raises:
        ConversionError, InterpreterFailedError: none can be made; it says why not the first.
    """
    precisions = {} if recipe is None else {mode: file.precision for mode, file in recipe.files.items()}
    able = [mode for mode in request.modes if refused is None or not takes_ranges(mode)]
    made, not_made = make_modes(able, maker, precisions)
    not_made = (*not_made, *(NotMade(mode, str(refused)) for mode in request.modes if mode not in able))
    decisions = tuple(text for item in made for text in item.decisions)
    found = Found()
    if request.searching and plan is not None and any(item.mode == "int8" for item in made):
        found = MixedFiles(request, graph, plan, maker, stopwatch).find(made)
    return Files((*made, *found.files), not_made, found.judged, found.report, (*decisions, *found.decisions))


def make_modes(
    modes: Sequence[str], maker: Maker, precisions: Mapping[str, Precision]
) -> tuple[tuple[Made, ...], tuple[NotMade, ...]]:
    """The files of all modes that can be made, and why the others cannot; one mode costs the others nothing."""
    made, not_made, first = list[Made](), list[NotMade](), None
    for mode in modes:
        try:
            made.append(maker.make(mode, precisions.get(mode)))
        except (ConversionError, InterpreterFailedError) as error:
            first = first or error
            not_made.append(NotMade(mode, str(error)))
    if first is not None and not made:
        raise first
    return tuple(made), tuple(not_made)
