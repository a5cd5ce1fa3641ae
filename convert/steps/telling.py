"""What an export tells of itself: export.json, the recipe in it, and what was decided on the user's behalf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...runtime.files import sha256
from ...runtime.options import given
from ..contract_decision import Decided
from ..data import ExportData
from ..load.original import Original
from ..make.allow_half import HalfPrecision, explain_half, half_modes
from ..make.maker import tool_versions
from ..make.recipe import Recipe, deciding_options
from ..modes import missing_runtimes
from ..normalization.prepare import FloatGraph
from ..outcome.explain import (
    explain_alike,
    explain_conditioning,
    explain_contradiction,
    explain_fine_tuning,
    explain_placement,
    explain_silent,
)
from ..outcome.reading import explain_reading
from ..outcome.recommend import recommend
from ..request import Request
from ..results import ExportResult
from .calibrating import Calibrated
from .choosing import Chosen
from .measuring import Ran
from .quantizing import Files
from .writing import Contents


@dataclass(frozen=True)
class Steps:
    """What the steps of an export returned, in their order."""

    original: Original
    contract: Decided
    data: ExportData
    graph: FloatGraph
    calibrated: Calibrated
    half: HalfPrecision | None
    files: Files
    ran: Ran
    chosen: Chosen
    contents: Contents


def tell(request: Request, source: Mapping[str, Any], steps: Steps, seconds: Mapping[str, float]) -> ExportResult:
    """The content of export.json.

    Args:
        request: what was asked.
        source: path and SHA-256 of the model.
        steps: what they returned.
        seconds: how long each stage took.
    """
    contract, data, graph, plan = steps.contract.contract, steps.data, steps.graph, steps.calibrated.plan
    entries, chosen, conditioning = steps.ran.measured.files, steps.chosen, steps.calibrated.conditioning
    ill, cause = explain_conditioning(conditioning, entries)
    decisions = (
        *steps.original.decisions,
        *steps.contract.decisions,
        *data.decisions,
        *graph.decisions,
        *steps.calibrated.decisions,
        *(() if steps.half is None else (explain_half(steps.half, half_modes(request, steps.graph)),)),
        *steps.files.decisions,
        *explain_placement(request, graph, steps.files.made),
        *explain_reading(request, contract, graph, data.test),
        *steps.ran.decisions,
        *explain_alike(request, graph, plan, data.test),
        *explain_contradiction(request, graph, plan, steps.files.made, entries, data.test),
        *explain_fine_tuning(entries),
        *ill,
        *explain_silent(entries),
        *chosen.decisions,
        *steps.contents.decisions,
    )
    recommended = recommend(
        chosen.shipped,
        chosen.measured_on.runtime,
        missed=bool(chosen.missed),
        chosen=request.chooses_one,
        budget=request.budget,
        cause=cause,
    )
    return ExportResult(
        source=source,
        options=given(request),
        normalization=steps.ran.report,
        conditioning=conditioning,
        batch_coupling=steps.ran.coupling,
        calibration=None if plan is None else plan.assessment,
        fine_tuning=tuple(item.fine_tuning for item in steps.files.made if item.fine_tuning is not None),
        measured_on=chosen.measured_on if request.measure else None,
        search=steps.files.search,
        limits=None if request.budget is None else request.budget.limits,
        missed=chosen.missed,
        recipe=_recipe(request, steps).to_json(),
        not_checked=missing_runtimes(),
        failed_targets=chosen.failed_targets,
        not_made=steps.files.not_made,
        seconds=seconds,
        failed_modes=chosen.failed_modes,
        skipped=data.skipped,
        files=chosen.files,
        decisions=decisions,
        ship=(*chosen.kept, *recommended.ship),
        why=recommended.why,
    )


def _recipe(request: Request, steps: Steps) -> Recipe:
    """What the written files can be made from again."""
    plan, made = steps.calibrated.plan, {item.mode: item for item in steps.files.made}
    return Recipe(
        sha256(steps.graph.flatbuffer),
        None if plan is None else plan.fingerprint,
        steps.ran.golden,
        deciding_options(request, steps.contract.contract),
        tool_versions(),
        None if plan is None else plan.choices,
        {file.mode: made[file.mode].recipe for file in steps.chosen.files},
    )
