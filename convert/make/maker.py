"""Making one mode's file from the prepared float graph: quantize, correct, package."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...calibration import Ranges
from ...runtime.errors import InterpreterFailedError
from ...runtime.images.source import Source
from ...runtime.model.contract import Contract, InputContract
from ...runtime.version import __version__
from ..errors import ConversionError
from ..graph.graph import Graph
from ..graph.loops import UNROLLED, has_loops, steps
from ..modes import CALIBRATED, MIXED, OLDER, Precision, is_mixed, takes_ranges
from ..normalization.prepare import FloatGraph
from ..quantize.correct import Corrected, Corrector
from ..quantize.floating.end import MEASURED, possible_ends
from ..quantize.int16x8 import quantize_wide
from ..quantize.litert import quantize
from ..quantize.plan import Int8Plan
from ..quantize.precision import Layer, by_operator, find_layers
from ..request import Request
from ..results import FineTuning
from ..tune.fine_tune import FineTuner, Tuned
from .allow_half import HalfPrecision, half_modes
from .package import package
from .placement import Ends, choose_ends
from .recipe import FileRecipe, Recipe
from .wide_output import Width, choose_width


@dataclass(frozen=True)
class Made:
    """One mode's file before it is written.

    Attributes:
        mode: its quantization mode.
        data: its bytes.
        contract: what it carries.
        graph: its float-in, float-out graph.
        recipe: what was decided by trying, so that it can be made again without.
        decisions: what was decided on the user's behalf, in words.
        fine_tuning: what it did; None where nothing was trained.
        untuned: the same file with the weights of the model; None where these are in it.
    """

    mode: str
    data: bytes
    contract: Contract
    graph: bytes
    recipe: FileRecipe = field(default_factory=FileRecipe)
    decisions: tuple[str, ...] = ()
    fine_tuning: FineTuning | None = None
    untuned: Made | None = None

    @property
    def precision(self) -> Precision:
        """Of those layers that are not what the mode says."""
        return self.recipe.precision


class Maker:
    """Makes the files of one export; it keeps nothing of those that it made."""

    def __init__(
        self,
        request: Request,
        contract: InputContract,
        origins: Mapping[str, str],
        graph: FloatGraph,
        plan: Int8Plan | None,
        recipe: Recipe | None,
        half: HalfPrecision | None = None,
        further: Source | None = None,
    ) -> None:
        """Prepare, without making anything.

        Args:
            request: types, placement, corrections.
            contract: of the input.
            origins: where each part of it comes from.
            graph: the float graph.
            plan: what int8 is made from; None where no file needs ranges.
            recipe: corrections to make without a trial; None tries.
            half: whether devices may compute float files in half precision; None if there are none that it is about.
            further: images for fine-tuning besides those for calibration.
        """
        self._request, self._contract, self._graph, self._plan, self._recipe = request, contract, graph, plan, recipe
        self._origins, self._half, self._further = origins, half, further
        self.older_runtime = OLDER in request.targets
        self._corrector = self._wide_corrector = None
        if plan is not None:
            self._corrector = self._corrects(plan, plan.flatbuffer)
            self._wide_corrector = self._corrects(plan, plan.wide[0])
        # Of int8 alone: 16 bits have steps to spare at the end, too.
        staying = graph.keep_float if plan is None else (*graph.keep_float, *plan.choices.floating)
        self._ends = possible_ends(graph, MEASURED) if request.fine_tune and self.ends().may_end_float else []
        self.layers: tuple[Layer, ...] = () if plan is None else find_layers(plan.flatbuffer, staying)

    def make(self, mode: str, precision: Precision | None = None, *, beside: int = 1) -> Made:
        """One file.

        Args:
            mode: one of :data:`embedlite.convert.modes.MODES`, or what a file with ``precision`` is called.
            precision: of the layers that are not int8.
            beside: how many files a search makes, which share the time for training; of no meaning for a mode.

        Raises:
            ConversionError: there is no such file of this model.
        """
        if mode != "float32" and has_loops(Graph(self._graph.flatbuffer)):
            raise _cannot_loop(mode, steps(Graph(self._graph.flatbuffer)))
        precision = (precision or {}) if takes_ranges(mode) else {}
        quantized = self._quantized(mode, precision)
        corrected = self._corrected(mode, quantized)
        tuned = self._tuned(mode, corrected.graph, precision, beside)
        made = self._finished(mode, tuned.graph, FileRecipe(corrected.steps, precision))
        made = replace(made, decisions=(*corrected.decisions, *tuned.decisions, *made.decisions))
        if tuned.report is None or not tuned.report.kept:
            return replace(made, fine_tuning=tuned.report)
        recipe = replace(made.recipe, tuned=tuned.report.sha256)
        untuned = self._finished(mode, corrected.graph, FileRecipe(corrected.steps, precision))
        return replace(made, recipe=recipe, fine_tuning=tuned.report, untuned=untuned)

    def draft(self, precision: Precision) -> tuple[bytes, bytes]:
        """An int8 file with given precisions and no corrections: its float-in, float-out graph, and the file.

        Raises:
            ConversionError: there is no such file.
        """
        quantized = self._mixed(precision)
        return quantized, package(quantized, self._described(MIXED), self._graph.raw_name)[0]

    def correct(self, precision: Precision) -> bytes:
        """The float-in, float-out graph with given precisions and corrections."""
        if self._corrector is None:
            return self._mixed(precision)
        # It is one of many that are tried; what was done to those that are shipped is told when they are made.
        return self._corrector.correct(self._mixed(precision), MIXED).graph

    def ends(self) -> Ends:
        """What the int8 file's ends hold."""
        return choose_ends(self._request, "int8", self._graph)

    def _corrects(self, plan: Int8Plan, original: bytes) -> Corrector | None:
        """Corrects what is made from a float graph; None without images to fit it on and to judge it by."""
        if plan.fitting is None or plan.trial is None:
            return None
        return Corrector(original, plan.fitting, plan.trial, self._request.corrections, self._request.threads)

    def _float(self, mode: str) -> FloatGraph:
        """The float graph of a mode: with loops in float32 alone."""
        looped = self._graph.looped
        return looped if looped is not None and mode == "float32" else self._graph

    def _quantized(self, mode: str, precision: Precision) -> bytes:
        if not takes_ranges(mode) or self._plan is None:
            return quantize(self._float(mode).flatbuffer, mode, None, (), older=self.older_runtime)
        if mode == "int16x8":
            return quantize_wide(*self._plan.wide, self._graph.keep_float, older=self.older_runtime)
        return self._mixed(precision)

    def _corrected(self, mode: str, quantized: bytes) -> Corrected:
        """The graph with the recipe's corrections, or those that prove themselves; a float graph as it is."""
        corrector = self._wide_corrector if mode == "int16x8" else self._corrector
        if corrector is None or not takes_ranges(mode):
            return Corrected(quantized, (), ())
        if self._recipe is not None:
            steps = self._recipe.files[mode].corrections
            return Corrected(corrector.apply(quantized, steps), steps, ())
        try:
            return corrector.correct(quantized, mode)
        except InterpreterFailedError as error:
            # Whether any interpreter runs it is found out with the others.
            return Corrected(quantized, (), (f"{mode} was not corrected: {error}",))

    def _tuned(self, mode: str, quantized: bytes, precision: Precision, beside: int) -> Tuned:
        """The graph with trained weights, if that was asked for and helps."""
        request, plan = self._request, self._plan
        if not takes_ranges(mode) or not request.fine_tune or plan is None:
            return Tuned(quantized)
        tuner = FineTuner(
            plan,
            self._graph.raw_name,
            self._further,
            self._training_time(mode, beside),
            request.seed,
            flips=request.fine_tune_flips,
            checkpoint=request.fine_tune_checkpoint,
            # The layers of a mixed file are chosen with the end that int8 has.
            ends=() if precision else self._ends,
        )
        if mode == "int16x8":
            return tuner.tune(quantized, mode, plan.wide[0])

        def remake(original: bytes, ranges: Ranges, end: tuple[str, ...]) -> bytes:
            choices = replace(plan.choices, float_end=end)
            other = replace(plan, flatbuffer=original, ranges=ranges, choices=choices)
            corrector, made = self._corrects(other, original), self._mixed(precision, other)
            return made if corrector is None else corrector.correct(made, mode).graph

        return tuner.tune(quantized, mode, plan.flatbuffer, remake)

    def _training_time(self, mode: str, beside: int) -> float:
        """Seconds of one file: the modes share the time, or half of it where a search makes further files."""
        share = 0.5 if self._request.searching else 1.0
        files = beside if is_mixed(mode) else len(set(CALIBRATED).intersection(self._request.modes))
        return self._request.fine_tune_time * share / files

    def _mixed(self, precision: Precision, other: Int8Plan | None = None) -> bytes:
        plan = other or self._plan
        assert plan is not None
        return quantize(
            plan.flatbuffer,
            "int8",
            plan.ranges,
            self._graph.keep_float,
            precision=by_operator(self.layers, precision),
            older=self.older_runtime,
            floating=plan.choices.floating,
        )

    def _finished(self, mode: str, quantized: bytes, recipe: FileRecipe) -> Made:
        """The file of a graph, with as many copies of the last layer as help."""
        data, contract, ends = self._packaged(mode, quantized)
        made = Made(mode, data, contract, quantized, recipe, ends)
        if contract.output_dtype != "int8":
            return made
        if contract.normalization.placement != "runtime":
            return self._narrow(made, "copies are added up before a normalization, and Encoder computes none")

        @functools.cache
        def wide(copies: int) -> tuple[bytes, Contract]:
            normalization = replace(contract.normalization, copies=copies)
            return package(quantized, replace(contract, normalization=normalization), self._graph.raw_name)

        if self._recipe is not None:
            width = Width(self._recipe.files[mode].copies)
        elif self._plan is not None and self._plan.trial is not None:
            request, trial = self._request, self._plan.trial
            try:
                width = choose_width(
                    mode, quantized, lambda copies: wide(copies)[0], trial, request.threads, asked=request.wide_output
                )
            except InterpreterFailedError as error:
                width = Width(decisions=(f"no copies of the last layer of {mode} were tried: {error}",))
        else:
            return self._narrow(made, "there are too few calibration images to judge copies of its last layer by")
        data, contract = wide(width.copies)
        recipe = replace(recipe, copies=width.copies)
        return Made(mode, data, contract, quantized, recipe, (*ends, *width.decisions))

    def _narrow(self, made: Made, why: str) -> Made:
        """The file, and a word on a wide output that was asked for."""
        if not self._request.wide_output:
            return made
        return replace(made, decisions=(*made.decisions, f"{made.mode} keeps its embedding in eight bits: {why}."))

    def _described(self, mode: str) -> Contract:
        plan, graph = self._plan, self._float(mode)
        ends = choose_ends(self._request, "int8" if is_mixed(mode) else mode, graph)
        facts: dict[str, Any] | None = None
        if plan is not None and takes_ranges(mode):
            method = "minmax" if mode == "int16x8" else plan.method
            facts = {"method": method, "samples": plan.ranges.samples, "fingerprint": plan.fingerprint}
            if plan.channel_means:
                facts["channel_means"] = list(plan.channel_means)
        return Contract(
            input=replace(self._contract, dtype=ends.input_type),
            output_shape=graph.output_shape,
            output_dtype=ends.output_type,
            normalization=replace(graph.spec, placement=ends.placement),
            mode=MIXED if is_mixed(mode) else mode,
            calibration=facts,
            tools=tool_versions(),
            origins=self._origins,
            half_precision=self._half_precision(mode),
        )

    def _half_precision(self, mode: str) -> dict[str, Any] | None:
        if self._half is None or mode not in half_modes(self._request, self._graph):
            return None
        return self._half.facts()

    def _packaged(self, mode: str, quantized: bytes) -> tuple[bytes, Contract, tuple[str, ...]]:
        """The file, its contract, and what was decided about its ends."""
        contract, ends = self._described(mode), self.ends()
        try:
            return *package(quantized, contract, self._float(mode).raw_name), ()
        except ConversionError:
            if ends.output_chosen or contract.output_dtype == "float32":
                raise
        data, contract = package(quantized, replace(contract, output_dtype="float32"), self._graph.raw_name)
        return data, contract, ("the encoder ends in float operators, so the output of the int8 file stays float32.",)


def _cannot_loop(mode: str, taken: int) -> ConversionError:
    if taken > UNROLLED:
        why = f"of {taken} steps, and up to {UNROLLED} could be laid out one after the other"
        way_out = f"Build the model for {UNROLLED} steps or fewer, or ship float32."
    else:
        why = "whose steps cannot be laid out one after the other"
        way_out = "Ship float32."
    return ConversionError(
        f"the model has a loop (a recurrent layer) {why}, and no quantizer enters one, so there is no {mode} of it. "
        f"{way_out}"
    )


@functools.cache
def tool_versions() -> dict[str, str]:
    """Versions of what makes the files."""
    others = ("tensorflow", "keras", "litert-quantizer")
    return {"embedlite": __version__, **{name: importlib.metadata.version(name) for name in others}}
