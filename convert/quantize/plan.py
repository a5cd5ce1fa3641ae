"""What the int8 file is made from: which float graph, with which ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from ...calibration import (
    Assessment,
    CalibrationCache,
    Method,
    Ranges,
    Statistics,
    StatisticsMismatchError,
    TensorGroup,
    assess,
    choose_ranges,
    collect_ranges,
    collect_statistics,
    merge,
    parse_method,
    tensor_groups,
)
from ...calibration.assess import check_not_flat
from ...calibration.auto import AutoChoice, better, choose_methods
from ...calibration.engine import Engine, LocalEngine, list_images
from ...calibration.errors import CalibrationDataError
from ...calibration.images import channel_means, check_unchanged, hold_out
from ...calibration.methods import MINMAX
from ...calibration.statistics import plain_contract
from ...calibration.tensors import model_fingerprint
from ...runtime.images.source import Source
from ...runtime.model.contract import InputContract
from ...runtime.progress import progress
from ..graph.graph import Graph
from ..modes import AUTO, CALIBRATED
from ..normalization.prepare import FloatGraph
from .absorb import absorb, absorbable_pairs
from .equalize import Pair, equalizable_pairs, equalize
from .trial import Trial, only_float

NO_EQUALIZATION, FORWARDS, BACKWARDS = "none", "forwards", "backwards"

_OTHER_ORDER = 3
"""Standard errors by which equalization backwards must be better than forwards to be taken."""

_ABSORBING = 2
"""Standard errors by which moved offsets must be better: with a ReLU they are exact for most images only."""

_PILOT_IMAGES = 256
"""Images whose channels decide the equalization: any scale is exact, so a sample does, and memory stays bounded."""


@dataclass(frozen=True)
class CalibrationOptions:
    """How calibration is to be done.

    Attributes:
        method: ``auto``, or see :func:`embedlite.calibration.parse_method`.
        cache: where statistics are kept; None keeps none.
        equalize: whether to try equalization.
        threads: processors; default all.
        engine: what runs the calibration images; default these processors.
        modes: those that are to be made.
    """

    method: str
    cache: Path | None
    equalize: bool
    threads: int | None
    engine: Engine | None = None
    modes: tuple[str, ...] = CALIBRATED


@dataclass(frozen=True)
class PlanChoices:
    """What was found by trying, so that it can be done again without.

    Attributes:
        equalization: ``none``, ``forwards`` or ``backwards``.
        absorbed: whether offsets were moved into the biases of the layers that read them.
        method: of the ranges, as text.
        only: the method of those tensor groups that have another one, by name.
    """

    equalization: str
    absorbed: bool
    method: str
    only: Mapping[str, str]


@dataclass(frozen=True)
class Int8Plan:
    """What int8 is made from.

    Attributes:
        flatbuffer: the float graph.
        ranges: of its activations.
        method: how they were taken, ``auto`` included.
        fingerprint: of the images, SHA-256 in hexadecimal.
        channel_means: of the images, see :func:`embedlite.calibration.images.channel_means`.
        assessment: whether the images are enough.
        decisions: what was decided on the user's behalf.
        fitting: the images that are not held out; None where there are none.
        trial: those that are held out to judge by; None where there are none.
        choices: what was found by trying.
        wide: minimum and maximum of every activation of the float graph as it is, for ``int16x8``.
    """

    flatbuffer: bytes
    ranges: Ranges
    method: str
    fingerprint: str
    channel_means: tuple[float, ...]
    assessment: Assessment
    decisions: tuple[str, ...]
    fitting: Source | None = None
    trial: Trial | None = None
    choices: PlanChoices = PlanChoices(NO_EQUALIZATION, False, "minmax", {})
    wide: Ranges = field(default_factory=Ranges)


def plan_int8(
    graph: FloatGraph,
    calibration: Source,
    contract: InputContract,
    options: CalibrationOptions,
    *,
    raw_pixels: bool,
    choices: PlanChoices | None = None,
) -> Int8Plan:
    """Choose the float graph and the ranges that bring the int8 file closest to the float one.

    Args:
        graph: the prepared float graph.
        calibration: the images that set the ranges.
        contract: mean and std of the input.
        options: see :class:`CalibrationOptions`.
        raw_pixels: whether the file's input holds pixels, whatever the calibration data are.
        choices: of an earlier plan for the same graph and images, to be done again; None tries.

    Raises:
        CalibrationDataError: the data give no ranges.
    """
    return _Planner(graph, calibration, contract, options, raw_pixels, choices).plan()


def plan_from_statistics(
    graph: FloatGraph, statistics: Statistics, contract: InputContract, options: CalibrationOptions, *, raw_pixels: bool
) -> Int8Plan:
    """Take ranges from statistics that were collected elsewhere, on the very float file that is exported now.

    There are no images to try anything on: no equalization, no corrections, minimum and maximum in place of ``auto``.

    Raises:
        StatisticsMismatchError: they are of another model or other preprocessing.
        CalibrationDataError: a tensor is flat in them.
    """
    without = only_float(graph)
    groups = tensor_groups(graph.flatbuffer, without)
    _check_belonging(graph, statistics, contract, groups)
    check_not_flat(statistics, groups)
    method = parse_method("minmax" if options.method == AUTO else options.method)
    ranges = choose_ranges(statistics, groups, method)
    decisions = [
        f"ranges by {method} from statistics of {statistics.samples} images; without the images neither equalization, "
        "nor other methods, nor corrections were tried."
    ]
    if raw_pixels:
        ranges = replace(ranges, limits={**ranges.limits, graph.input_name: _pixel_range(contract)})
    assessment = assess(statistics, None, statistics, groups, method)
    choices = PlanChoices(NO_EQUALIZATION, False, str(method), {})
    fingerprint = f"{statistics.images:064x}"
    return Int8Plan(
        graph.flatbuffer,
        ranges,
        str(method),
        fingerprint,
        (),
        assessment,
        tuple(decisions),
        choices=choices,
        wide=choose_ranges(statistics, groups, MINMAX),
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


class _Planner:
    """One plan; holds what its steps share."""

    def __init__(
        self,
        graph: FloatGraph,
        calibration: Source,
        contract: InputContract,
        options: CalibrationOptions,
        raw_pixels: bool,
        choices: PlanChoices | None,
    ) -> None:
        self._graph, self._calibration, self._options = graph, calibration, options
        self._choices, self._equalization, self._absorbed = choices, NO_EQUALIZATION, False
        self._decisions: list[str] = []
        self._pixels: dict[str, tuple[float, float]] = {}
        if calibration.pixels or raw_pixels:
            self._pixels = {graph.input_name: _pixel_range(contract)}
            self._decisions.append("the int8 input covers all pixels 0-255, so that each keeps a step of its own.")
        # Parts are chosen by content, so that the order of the images does not matter.
        self._engine = options.engine or LocalEngine(options.threads)
        self._listing = list_images(calibration, self._engine)
        digests = [self._listing.digest(index) for index in range(len(calibration))]
        _check_different(calibration, digests)
        order = sorted(range(len(calibration)), key=digests.__getitem__)
        self._fit, self._held = ([order[i] for i in part] for part in hold_out(len(calibration), seed=0))
        self._without = only_float(graph)
        held = [calibration.ready(index) for index in self._held]
        self._trial = Trial(graph, held, options.threads) if held else None

    def plan(self) -> Int8Plan:
        """Equalize if it helps, collect, choose."""
        flatbuffer = self._graph.flatbuffer
        if self._options.equalize and self._trial is not None:
            flatbuffer = self._with_absorbed(self._equalized(self._trial), self._trial)
        fit, held = self._collect(flatbuffer)
        whole = fit if held is None else merge([fit, held])
        groups = tensor_groups(flatbuffer, self._without)
        check_not_flat(whole, groups)
        choice = self._choose(flatbuffer, fit)
        ranges = self._with_pixels(choose_ranges(whole, groups, choice.method, choice.only))
        judged = tuple(group for group in groups if not self._pixels.keys() & set(group.members))
        assessment = assess(fit, held, whole, judged, choice.method, choice.only)
        return Int8Plan(
            flatbuffer,
            ranges,
            self._options.method,
            self._listing.fingerprint(self._calibration.ids),
            channel_means(self._calibration),
            assessment,
            tuple(self._decisions),
            self._calibration.subset(self._fit),
            self._trial,
            PlanChoices(
                self._equalization,
                self._absorbed,
                str(choice.method),
                {name: str(method) for name, method in choice.only.items()},
            ),
            self._wide(flatbuffer, whole, groups),
        )

    def _wide(self, flatbuffer: bytes, whole: Statistics, groups: tuple[TensorGroup, ...]) -> Ranges:
        """What ``int16x8`` is made with."""
        if "int16x8" not in self._options.modes:
            return Ranges()
        if flatbuffer is self._graph.flatbuffer:
            return choose_ranges(whole, groups, MINMAX)
        everything = self._engine.counted(range(len(self._calibration)), len(self._calibration), "ranges of int16x8")
        return collect_ranges(
            self._graph.flatbuffer, self._calibration, engine=self._engine, without=self._without, indices=everything
        )

    def _equalized(self, trial: Trial) -> bytes:
        """The float graph with its convolutions equalized, unless int8 comes closer to float without that."""
        graph = Graph(self._graph.flatbuffer)
        pairs = equalizable_pairs(graph)
        decided = None if self._choices is None else self._choices.equalization
        if not pairs or decided == NO_EQUALIZATION:
            return self._graph.flatbuffer
        ranges = self._by_channel(graph, pairs, "equalizing")
        # Equalization changes nothing in float and costs nothing, so only proof against it rules it out. On images that
        # are not in the ranges: those that are show no clipping, which it helps with most.
        if decided is not None:
            self._equalization = decided
            return equalize(self._graph.flatbuffer, ranges, backwards=decided == BACKWARDS)[0]
        plain = trial.errors(self._graph.flatbuffer, ranges)
        direction = FORWARDS
        flatbuffer, scaled = equalize(self._graph.flatbuffer, ranges)
        equalized = trial.errors(flatbuffer, scaled)
        other, scaled = equalize(self._graph.flatbuffer, ranges, backwards=True)
        if better(backwards := trial.errors(other, scaled), equalized, _OTHER_ORDER):
            flatbuffer, equalized, direction = other, backwards, BACKWARDS
        if better(plain, equalized):
            return self._graph.flatbuffer
        self._equalization = direction
        self._decisions.append(
            f"{len(pairs)} pairs of convolutions were equalized for int8: {trial.sqnr(plain):.1f} -> "
            f"{trial.sqnr(equalized):.1f} dB on {len(trial)} calibration images held out for that. --no-equalize "
            "leaves them as they are."
        )
        return flatbuffer

    def _with_absorbed(self, flatbuffer: bytes, trial: Trial) -> bytes:
        """The float graph with offsets moved into biases, if int8 comes clearly closer to float by that."""
        graph = Graph(flatbuffer)
        pairs = absorbable_pairs(graph)
        decided = None if self._choices is None else self._choices.absorbed
        if not pairs or decided is False:
            return flatbuffer
        ranges = self._by_channel(graph, pairs, "absorbing")
        absorbed, narrower, count = absorb(flatbuffer, ranges)
        if decided is None:
            if not count:
                return flatbuffer
            plain, errors = trial.errors(flatbuffer, ranges), trial.errors(absorbed, narrower)
            if not better(errors, plain, _ABSORBING):
                return flatbuffer
            gained = f"{trial.sqnr(plain):.1f} -> {trial.sqnr(errors):.1f} dB"
            self._decisions.append(
                f"offsets of {count} activation(s) were moved into the biases that read them: {gained} on {len(trial)} "
                "calibration images held out for that. --no-equalize leaves them where they are."
            )
        self._absorbed = True
        return absorbed

    def _by_channel(self, graph: Graph, pairs: Sequence[Pair], label: str) -> Ranges:
        """Ranges over some images, with the channels of the activations between pairs."""
        pilot = self._fit[:_PILOT_IMAGES]
        return self._with_pixels(
            collect_ranges(
                graph.to_bytes(),
                self._calibration,
                by_channel={graph.tensor_name(pair.between) for pair in pairs},
                engine=self._engine,
                without=self._without,
                indices=self._engine.counted(pilot, len(pilot), label),
            )
        )

    def _collect(self, flatbuffer: bytes) -> tuple[Statistics, Statistics | None]:
        fit, held = self._observed(flatbuffer)
        for statistics, indices in ((fit, self._fit), (held, self._held)):
            if statistics is not None:
                check_unchanged(statistics, self._calibration, indices, self._listing, self._engine)
        return fit, held

    def _observed(self, flatbuffer: bytes) -> tuple[Statistics, Statistics | None]:
        options, calibration, engine = self._options, self._calibration, self._engine
        shown = engine.counted([*self._fit, *self._held], len(calibration), "calibrating")
        if options.cache is not None:
            cache = CalibrationCache(
                options.cache, flatbuffer, calibration, self._without, engine=engine, listing=self._listing
            )
            fit = cache.collect("fit", self._fit, threads=options.threads, shown=islice(shown, len(self._fit)))
            if not self._held:
                return fit, None
            return fit, cache.collect("held", self._held, threads=options.threads, shown=shown)
        collect = partial(collect_statistics, flatbuffer, calibration, engine=engine, without=self._without)
        fit = collect(histograms=options.method != "minmax", indices=islice(shown, len(self._fit)))
        return fit, collect(indices=shown) if self._held else None

    def _choose(self, flatbuffer: bytes, fit: Statistics) -> AutoChoice:
        """The method of each group, from the images that are not held out."""
        if self._choices is not None:
            only = {name: parse_method(method) for name, method in self._choices.only.items()}
            return AutoChoice(parse_method(self._choices.method), only, 0, 0, 0)
        if self._options.method != AUTO:
            return AutoChoice(parse_method(self._options.method), {}, 0, 0, 0)
        trial = self._trial
        if trial is None:
            self._decisions.append(
                f"ranges are minimum and maximum: {len(self._fit)} calibration images are too few to hold some out and "
                "compare methods on them."
            )
            return AutoChoice(Method("minmax"), {}, 0, 0, 0)
        choice = choose_methods(
            fit,
            tensor_groups(flatbuffer, self._without),
            lambda ranges: trial.errors(flatbuffer, self._with_pixels(ranges)),
            lambda numbers: progress(numbers, len(list(numbers)), "comparing ranges"),
        )
        if choice.method == Method("minmax") and not choice.only:
            self._decisions.append(
                f"ranges are minimum and maximum: of {choice.trials} sets of ranges that were tried none was clearly "
                f"better on {len(trial)} held-out calibration images."
            )
            return choice
        others = f", and {len(choice.only)} tensor(s) otherwise" if choice.only else ""
        gained = 10 * np.log10(choice.before / choice.after) if choice.after else np.inf
        self._decisions.append(
            f"ranges by {choice.method}{others}: {gained:+.1f} dB over minimum and maximum on {len(trial)} "
            f"held-out calibration images, the best of {choice.trials} tried."
        )
        return choice

    def _with_pixels(self, ranges: Ranges) -> Ranges:
        return replace(ranges, limits={**ranges.limits, **self._pixels})


def _check_different(calibration: Source, digests: Sequence[bytes]) -> None:
    advice = "Pass some hundred images like those the encoder will see."
    if len(digests) == 1:
        raise CalibrationDataError(
            f"{calibration.name} holds one calibration image, and ranges from it would clip every other. {advice}"
        )
    if len(set(digests)) == 1:
        raise CalibrationDataError(
            f"all {len(digests)} calibration images of {calibration.name} are the same, and ranges from them would "
            f"clip every other. {advice}"
        )


def _pixel_range(contract: InputContract) -> tuple[float, float]:
    mean, std = np.asarray(contract.mean), np.asarray(contract.std)
    return float(((0 - mean) / std).min()), float(((255 - mean) / std).max())
