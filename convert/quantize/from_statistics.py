"""What the int8 file is made from where there are only statistics of the calibration images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...calibration import Statistics, StatisticsMismatchError, TensorGroup, assess, choose_ranges, parse_method
from ...calibration.methods import MINMAX
from ...calibration.statistics import plain_contract
from ...calibration.tensors import model_fingerprint, tensor_groups
from ...runtime.model.contract import InputContract
from ..modes import AUTO
from ..normalization.prepare import FloatGraph
from .choices import NO_EQUALIZATION, CalibrationOptions, PlanChoices
from .flat_tensors import explain_flat
from .known_ranges import pixel_range
from .plan import Int8Plan
from .trial import unmeasured


def plan_from_statistics(
    graph: FloatGraph, statistics: Statistics, contract: InputContract, options: CalibrationOptions, *, raw_pixels: bool
) -> Int8Plan:
    """Take ranges from statistics that were collected elsewhere, on the very float file that is exported now.

    There are no images to try anything on: no equalization, no corrections, minimum and maximum in place of ``auto``.

    Raises:
        StatisticsMismatchError: they are of another model or other preprocessing.
        CalibrationDataError: the embedding is flat in them.
    """
    without = unmeasured(graph)
    groups = tensor_groups(graph.flatbuffer, without)
    _check_belonging(graph, statistics, contract, groups)
    method = parse_method("minmax" if options.method == AUTO else options.method)
    ranges = choose_ranges(statistics, groups, method)
    decisions = [
        f"ranges by {method} from statistics of {statistics.samples} images; without the images neither equalization, "
        "nor other methods, nor corrections were tried.",
        *explain_flat(graph, statistics, groups, contract),
    ]
    if raw_pixels:
        ranges = replace(ranges, limits={**ranges.limits, graph.input_name: pixel_range(contract)})
    assessment = assess(statistics, None, statistics, groups, method)
    choices = PlanChoices(NO_EQUALIZATION, False, str(method), {})
    fingerprint = f"{statistics.images:064x}"
    minmax = choose_ranges(statistics, groups, MINMAX)
    return Int8Plan(
        graph.flatbuffer,
        ranges,
        str(method),
        fingerprint,
        (),
        assessment,
        tuple(decisions),
        choices=choices,
        minmax=minmax,
        wide=(graph.flatbuffer, minmax),
    )


def _check_belonging(
    graph: FloatGraph, statistics: Statistics, contract: InputContract, groups: Sequence[TensorGroup]
) -> None:
    advice = "Collect them on the float32 file that embedlite writes, and export that file."
    if statistics.model != (model := model_fingerprint(graph.flatbuffer)):
        raise StatisticsMismatchError(
            f"the statistics are of another model: weights {statistics.model[:12]}, here {model[:12]}. {advice}"
        )
    missing = [group.name for group in groups if group.name not in statistics.tensors]
    if missing:
        raise StatisticsMismatchError(
            f"the statistics have nothing of the tensor {missing[0]!r}, so they were collected on another file of this "
            f"model. {advice}"
        )
    now = plain_contract(contract)
    different = sorted(key for key in now if key != "dtype" and now[key] != statistics.input.get(key))
    if different:
        raise StatisticsMismatchError(
            f"the statistics are of other preprocessing: {different[0]} was {statistics.input.get(different[0])} and "
            f"is {now[different[0]]} here. Give the same settings."
        )
