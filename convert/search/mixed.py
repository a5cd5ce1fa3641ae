"""The files some layers of which are not int8: the search for them in one export, and which of them are made."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ...calibration.auto import better
from ...runtime.backends.interpreters import package_version
from ...runtime.backends.registry import BACKENDS
from ...runtime.drift import Drift
from ...runtime.drift.metrics import ranked_db
from ...runtime.drift.wording import gained
from ...runtime.errors import InterpreterFailedError
from ...runtime.files import sha256
from ...runtime.machine import describe_environment
from ..errors import ConversionError
from ..graph.graph import Graph
from ..make.maker import Made, Maker, tool_versions
from ..max_drift import Budget
from ..modes import FLOAT, MIXED, Precision
from ..normalization.prepare import FloatGraph
from ..quantize.plan import Int8Plan
from ..quantize.precision import Layer
from ..quantize.trial import Trial
from ..request import Request
from ..results import LayerSensitivity, SearchReport, TriedFile
from ..verify.latency import Stopwatch
from .search import PrecisionSearch, Search
from .trial_cache import SearchCache, fingerprint
from .trials import FINISHED, OUT_OF_TIME, Trials, Tried, UntimedError

MOST_IMAGES = 256
"""Calibration images that judge, those first that are held out from the ranges."""

ALLOWANCES = ((1.03, 1.02), (1.15, 1.5), (1.5, math.inf))
"""Without limits, the file with the least noise is made for each of these latencies and sizes, by int8's: the same, a
little more, and what a float file may not undercut anyway."""

_LEAST_GAIN_DB = 0.5
"""What a further file must bring to be made."""


@dataclass(frozen=True)
class Found:
    """What a search gave.

    Attributes:
        files: further files, none of which is in the modes.
        judged: drift of each file on the calibration images, by mode.
        report: what was tried, for export.json; None if nothing was.
        decisions: what was decided on the user's behalf.
    """

    files: tuple[Made, ...] = ()
    judged: Mapping[str, Drift] = field(default_factory=dict)
    report: SearchReport | None = None
    decisions: tuple[str, ...] = ()


class MixedFiles:
    """One search, from the modes' files to the further ones."""

    def __init__(self, request: Request, graph: FloatGraph, plan: Int8Plan, maker: Maker, stopwatch: Stopwatch) -> None:
        """Prepare, without trying anything.

        Args:
            request: target, limits, time budget, cache.
            graph: the float graph.
            plan: the ranges, and the images that judge.
            maker: made the modes' files.
            stopwatch: of the target.
        """
        assert plan.trial is not None
        assert plan.fitting is not None
        self._request, self._graph, self._plan, self._maker = request, graph, plan, maker
        # Inner layers hurt a few images most, those with the least contrast, and forty may hold none of them. No layer
        # is fitted to the images that set the ranges, so these may judge too, unless weights are trained on them.
        held_out = plan.trial.images[:MOST_IMAGES]
        further = 0 if request.fine_tune else min(len(plan.fitting), MOST_IMAGES - len(held_out))
        judges = [*held_out, *(plan.fitting.ready(index) for index in range(further))]
        self._trial = Trial(graph, judges, request.threads)
        self._target, self._stopwatch = request.timed_on, stopwatch
        self._budget: Budget | None = request.budget
        self._corrected: dict[str, Tried] = {}

    def find(self, made: Sequence[Made]) -> Found:
        """Search, and make the files that are worth it.

        Args:
            made: the modes' files, int8 among them.

        Returns:
            Files that keep the limits; without limits, those that the images that judge prefer to int8, corrections
            included. What cannot be made or run ends the search, and what was found until then is kept.
        """
        cache, judged = SearchCache(self._request.search_cache, self._key()), dict[str, Drift]()
        try:
            # What was made without a search is only judged by limits; a mode on reference kernels would take long.
            modes = [item for item in made if item.mode == "int8" or self._budget is not None]
            measured = {item.mode: self._trial.measure(item.graph) for item in modes}
            judged = {mode: drift for mode, (_, drift) in measured.items()}
            self._trials = Trials(self._maker.draft, self._trial, self._stopwatch, cache, self._request.time_budget)
            search = PrecisionSearch(
                self._free_layers(),
                BACKENDS[self._target].precisions,
                self._trials,
                None if self._budget is None else self._meets,
                None if self._budget is None else self._keeps,
                self._ceiling(made, judged),
            )
            found = search.run()
        except UntimedError as error:
            return Found((), judged, None, (f"no layers were searched that should not be int8: {error}.",))
        except (ConversionError, InterpreterFailedError) as error:
            return Found((), judged, None, (_ended_early(error),))
        ended: tuple[str, ...] = ()
        if found.ended != FINISHED:
            why = "its time was up" if found.ended == OUT_OF_TIME else "it was interrupted"
            ended = (
                f"the search for layers that should not be int8 tried {len(self._trials.all) - 1} files until {why}; "
                "what follows is the best of these.",
            )
        report = self._report(search, found)
        try:
            files = self._made(self._chosen(found), measured["int8"][0], judged)
        except (ConversionError, InterpreterFailedError) as error:
            return Found((), judged, report, (*ended, _ended_early(error)))
        return replace(files, report=report, decisions=(*ended, *files.decisions))

    def _made(self, chosen: Sequence[Tried], int8: NDArray[np.float64], judged: Mapping[str, Drift]) -> Found:
        """The chosen files, corrected, without those that are not clearly better than int8 then.

        Args:
            chosen: the fastest first.
            int8: errors of the int8 file.
            judged: its drift, and that of the other modes.
        """
        files, left_out = list[tuple[Made, Tried, Drift]](), list[str]()
        for number, tried in enumerate(chosen, 1):
            item = self._maker.make(f"{MIXED}{number}", tried.precision, beside=len(chosen))
            errors, drift = self._trial.measure(item.graph)
            # One that keeps the limits is wanted for that.
            if self._budget is None and not better(errors, int8):
                left_out.append(
                    f"{self._explain('a mixed file', tried, drift, judged)} Corrected as int8 is, it was not clearly "
                    "better than that, so it is not written."
                )
                continue
            files.append((item, tried, drift))
        names = [MIXED] if len(files) == 1 else [f"{MIXED}{number}" for number in range(1, len(files) + 1)]
        named = [(_called(item, name), tried, drift) for name, (item, tried, drift) in zip(names, files, strict=True)]
        return Found(
            # What was done to a file is told once, here.
            tuple(replace(item, decisions=()) for item, _, _ in named),
            {**judged, **{item.mode: drift for item, _, drift in named}},
            None,
            (
                *(text for item, _, _ in named for text in item.decisions),
                *left_out,
                *(self._explain(item.mode, tried, drift, judged) for item, tried, drift in named),
            ),
        )

    def _meets(self, tried: Tried) -> bool:
        """Whether a file keeps the limits, corrected if that is needed."""
        assert self._budget is not None
        if self._keeps(tried):
            return True
        key = repr(sorted(tried.precision.items()))
        if key not in self._corrected:
            corrected = self._maker.correct(tried.precision)
            self._corrected[key] = self._trials.judge(tried.precision, corrected)
        return self._budget.kept(self._corrected[key].drift)

    def _keeps(self, tried: Tried) -> bool:
        """Whether a file keeps the limits without corrections."""
        assert self._budget is not None
        return self._budget.kept(tried.drift)

    def _ceiling(self, made: Sequence[Made], judged: Mapping[str, Drift]) -> float:
        """Relative latency of the fastest mode that keeps the limits; without limits none."""
        if self._budget is None:
            return math.inf
        target = BACKENDS[self._target]
        keeping = [
            item for item in made if self._budget.kept(judged[item.mode]) and target.runs(item.mode, item.precision)
        ]
        timings = self._stopwatch.time([self._maker.draft({})[1], *(item.data for item in keeping)])[1:]
        return min((timing.relative for timing in timings if timing.relative is not None), default=math.inf)

    def _chosen(self, found: Search) -> list[Tried]:
        """The files to make, the fastest first."""
        wanted = []
        if self._budget is not None:
            wanted = [found.best or found.reached]
        if self._request.pareto:
            wanted += self._least_noise()
        kept = {repr(sorted(tried.precision.items())): tried for tried in wanted if self._is_mixed(tried)}
        return sorted(kept.values(), key=lambda tried: (tried.relative or math.inf, tried.noise))

    def _is_mixed(self, tried: Tried) -> bool:
        """Whether it is neither the int8 file nor the float one."""
        whole = len(tried.precision) == len(self._maker.layers) and set(tried.precision.values()) == {FLOAT}
        return bool(tried.precision) and not whole

    def _least_noise(self) -> list[Tried]:
        """The file with the least noise for each allowance, where it brings something over the one before."""
        chosen, base = [], self._trials.base
        last = base
        for latency, size in ALLOWANCES:
            within = [
                tried
                for tried in self._trials.all
                if not tried.precision or self._is_mixed(tried)
                if (tried.relative or math.inf) <= latency and tried.bytes <= size * base.bytes
            ]
            best = min(within, key=lambda tried: tried.noise)
            if ranked_db(self._trials.sqnr(best)) >= ranked_db(self._trials.sqnr(last)) + _LEAST_GAIN_DB:
                chosen.append(best)
                last = best
        return chosen

    def _free_layers(self) -> tuple[Layer, ...]:
        """The layers that may change: not those at an end of the file that holds integers."""
        graph, ends = Graph(self._plan.flatbuffer), self._maker.ends()
        fixed: set[str] = set()
        if ends.input_type != "float32":
            readers = graph.consumers(int(graph.subgraph.inputs[0]))
            fixed |= {graph.tensor_name(int(operator.outputs[0])) for operator in readers}
        if ends.output_type != "float32":
            fixed.add(self._graph.raw_name or graph.tensor_name(int(graph.subgraph.outputs[0])))
        return tuple(layer for layer in self._maker.layers if not fixed.intersection(layer.tensors))

    def _key(self) -> str:
        plan, ends = self._plan, self._maker.ends()
        return fingerprint(
            {
                "graph": sha256(plan.flatbuffer),
                "ranges": sorted(plan.ranges.limits.items()),
                "images": self._trial.fingerprint,
                "keep_float": [*self._graph.keep_float, *plan.choices.floating],
                "ends": [ends.placement, ends.input_type, ends.output_type],
                "runtime": [self._stopwatch.package, package_version(self._stopwatch.package)],
                "threads": self._stopwatch.threads,
                "tools": tool_versions(),
                "older_runtime": self._maker.older_runtime,
                "device": describe_environment(),
            }
        )

    def _report(self, search: PrecisionSearch, found: Search) -> SearchReport:
        trials = self._trials
        base_db, base_us = trials.sqnr(trials.base), trials.base_us
        layers = {layer.name: layer for layer in self._maker.layers}
        rows = []
        for (name, option), tried in search.sensitivity().items():
            sqnr, latency = trials.sqnr(tried), base_us * (tried.relative or math.nan)
            gain = None if sqnr is None or base_db is None else sqnr - base_db
            kinds = layers[name].operators
            rows.append(LayerSensitivity(name, kinds, option, sqnr, gain, latency, latency - base_us))
        rows.sort(key=lambda row: (-(row.gained_db or 0), row.layer, row.precision))
        return SearchReport(
            self._target,
            self._stopwatch.package,
            self._stopwatch.threads,
            len(self._trial),
            found.seconds,
            found.ended,
            tuple(
                TriedFile(tried.precision, base_us * (tried.relative or math.nan), trials.sqnr(tried))
                for tried in trials.all
            ),
            tuple(rows),
        )

    def _explain(self, name: str, tried: Tried, drift: Drift, judged: Mapping[str, Drift]) -> str:
        layers = {layer.name: layer for layer in self._maker.layers}
        changed = ", ".join(f"{layers[key].short_name} {value}" for key, value in _ordered(tried.precision, layers))
        now, base = drift.sqnr_db, judged.get("int8", self._trials.base.drift).sqnr_db
        gain = f"{gained(base, now)} on {len(self._trial)} calibration images"
        return (
            f"{name} is int8 but for {len(tried.precision)} of {len(layers)} layers ({changed}): {gain}, at "
            f"{tried.relative:.2f} of int8's latency on {self._stopwatch.package}."
        )


def _called(made: Made, name: str) -> Made:
    """A file by another name, in what is told of it too: only when all are made is it known how many stay."""
    tuning = None if made.fine_tuning is None else replace(made.fine_tuning, mode=name)
    decisions = tuple(re.sub(rf"\b{made.mode}\b", name, text) for text in made.decisions)
    untuned = None if made.untuned is None else _called(made.untuned, name)
    return replace(made, mode=name, fine_tuning=tuning, decisions=decisions, untuned=untuned)


def _ended_early(error: Exception) -> str:
    return f"the search for layers that should not be int8 ended early: {error}"


def _ordered(precision: Precision, layers: dict[str, Layer]) -> list[tuple[str, str]]:
    places = {name: place for place, name in enumerate(layers)}
    return sorted(precision.items(), key=lambda item: places[item[0]])
