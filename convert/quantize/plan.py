"""What the int8 file is made from: which float graph, with which ranges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from ...calibration import (
    Assessment,
    CalibrationCache,
    Ranges,
    Statistics,
    TensorGroup,
    assess,
    choose_ranges,
    collect_ranges,
    collect_statistics,
    merge,
    parse_method,
    tensor_groups,
)
from ...calibration.auto import AutoChoice, all_if_better, choose_methods
from ...calibration.engine import LocalEngine, list_images
from ...calibration.images import channel_means, check_unchanged
from ...calibration.methods import MINMAX
from ...calibration.statistics import SparseStatistics, merge_on_demand, sparse
from ...runtime.drift.wording import gained
from ...runtime.errors import InterpreterFailedError
from ...runtime.images.source import Source
from ...runtime.model.contract import InputContract
from ...runtime.progress import progress
from ..errors import ConversionError
from ..graph.graph import Graph
from ..graph.run import give_back
from ..modes import AUTO
from ..normalization.prepare import FloatGraph
from .absorb import absorb, absorbable_pairs
from .choices import BACKWARDS, FORWARDS, NO_EQUALIZATION, CalibrationOptions, PlanChoices
from .equalize import equalizable, equalize
from .flat_tensors import explain_flat
from .floating.end import try_float_end
from .floating.islands import may_have_islands, try_islands, within
from .folds import (
    LARGE,
    LEAST_TO_COMPARE,
    MOST_JUDGED_BYTES,
    check_different,
    make_folds,
    merged,
    most_trials,
    without_each,
)
from .int16x8 import choose_wide, equalized_wide
from .known_ranges import pixel_range, told_of_pixels
from .trial import CrossTrial, ReadyImages, Trial, unmeasured

_OTHER_ORDER = 3
"""Standard errors by which equalization backwards must be better than forwards, or none, to be taken."""

_ABSORBING = 2
"""Standard errors by which moved offsets must be better: with a ReLU they are exact for most images only."""

_LOOKED_AT = 8
"""Images whose embeddings tell whether a network with flat tensors still tells images apart."""

_PILOT_IMAGES = 256
"""Images whose channels decide the equalization: any scale is exact, so a sample does, and memory stays bounded."""


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
        fitting: the images that corrections are fitted on; None where there are none.
        trial: the first fold, which judges them; None where the images are too few.
        choices: what was found by trying.
        minmax: minimum and maximum of every activation of the float graph as it is: what anything that was chosen for
            int8 must not be worse than.
        wide: the float graph that ``int16x8`` is made from, and minimum and maximum of its activations.
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
    choices: PlanChoices = field(default_factory=lambda: PlanChoices(NO_EQUALIZATION, False, "minmax", {}))
    minmax: Ranges = field(default_factory=Ranges)
    wide: tuple[bytes, Ranges] = (b"", Ranges())


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
        self._graph, self._calibration, self._options, self._contract = graph, calibration, options, contract
        self._choices, self._equalization, self._absorbed = choices, NO_EQUALIZATION, False
        self._islands: tuple[str, ...] = ()
        self._decisions: list[str] = []
        self._pixels: dict[str, tuple[float, float]] = {}
        if calibration.pixels or raw_pixels:
            self._pixels = {graph.input_name: pixel_range(contract)}
            self._decisions.append(told_of_pixels(contract))
        # Parts are chosen by content, so that the order of the images does not matter.
        self._engine = options.engine or LocalEngine(options.threads)
        self._listing = list_images(calibration, self._engine)
        digests = [self._listing.digest(index) for index in range(len(calibration))]
        check_different(calibration, digests)
        order = sorted(range(len(calibration)), key=digests.__getitem__)
        self._folds = make_folds(order)
        self._without = unmeasured(graph)
        self._plain: Ranges | None = None
        self._channels: Ranges | None = None
        self._trial = self._first = None
        if len(self._folds) > 1:
            most = max(1, MOST_JUDGED_BYTES // (4 * calibration.ready(0).size * len(self._folds)))
            # What corrects is judged by the first fold; the others only where ranges are compared.
            self._first = self._judged(self._folds[0][:most])
            if self._compares:
                others = [self._judged(fold[:most]) for fold in self._folds[1:]]
                self._trial = CrossTrial([self._first, *others])
        equalizes = choices.wide_equalized if choices is not None else self._first is not None
        self._wide_may_be_equalized = equalizes and options.equalize and "int16x8" in options.modes

    def _judged(self, indices: Sequence[int]) -> Trial:
        return Trial(self._graph, ReadyImages(self._calibration, indices), self._options.threads)

    @property
    def _compares(self) -> bool:
        """Whether anything is to be found out by trying: for int8, which has steps to spare for nothing."""
        asked = self._options.equalize or self._options.method == AUTO
        return asked and self._choices is None and "int8" in self._options.modes

    @property
    def _may_float(self) -> bool:
        return self._options.may_float and len(self._calibration) >= LEAST_TO_COMPARE

    def plan(self) -> Int8Plan:
        """Equalize if it helps, collect, choose."""
        try:
            self._islands = self._with_islands()
            flatbuffer = self._with_absorbed(self._equalized())
        except (ConversionError, InterpreterFailedError) as error:
            self._decisions.append(f"nothing was tried for int8: {error}")  # the other modes lose nothing by it
            flatbuffer, self._trial = self._graph.flatbuffer, None
            self._equalization, self._absorbed, self._islands = NO_EQUALIZATION, False, ()
        give_back()
        parts = self._collect(flatbuffer)
        whole = merge(parts)
        groups = tensor_groups(flatbuffer, self._without)
        some = [self._calibration.ready(index) for index in self._folds[0][:_LOOKED_AT]]
        self._decisions += explain_flat(self._graph, whole, groups, self._contract, some)
        try:
            choice = self._choose(flatbuffer, parts)
        except (ConversionError, InterpreterFailedError) as error:
            self._decisions.append(f"no ranges were tried for int8: {error}")
            choice = AutoChoice(MINMAX, {}, 0, 0, 0)
        ranges = self._with_pixels(choose_ranges(whole, groups, choice.method, choice.only))
        end = self._float_end(flatbuffer, ranges)
        judged = tuple(group for group in groups if not self._pixels.keys() & set(group.members))
        fit, held = (merge_on_demand(parts[1:]), merge(parts[:1])) if len(parts) > 1 else (whole, None)
        assessment = assess(fit, held, whole, judged, choice.method, choice.only)
        fitting = self._calibration.subset([index for fold in self._folds[1:] or self._folds for index in fold])
        wide, wide_equalized = self._wide(minmax := self._minmax(flatbuffer, whole, groups))
        return Int8Plan(
            flatbuffer,
            ranges,
            self._options.method,
            self._listing.fingerprint(self._calibration.ids),
            channel_means(self._calibration),
            assessment,
            tuple(self._decisions),
            fitting,
            self._first,
            PlanChoices(
                self._equalization,
                self._absorbed,
                str(choice.method),
                {name: str(method) for name, method in choice.only.items()},
                end,
                wide_equalized,
                self._islands,
            ),
            minmax,
            wide,
        )

    def _float_end(self, flatbuffer: bytes, ranges: Ranges) -> tuple[str, ...]:
        if self._choices is not None:
            return tuple(self._choices.float_end)
        if not self._may_float or self._trial is None:
            return ()
        end, decision = try_float_end(self._graph, flatbuffer, ranges, self._trial)
        self._decisions += [] if decision is None else [decision]
        return end

    def _minmax(self, flatbuffer: bytes, whole: Statistics, groups: tuple[TensorGroup, ...]) -> Ranges:
        """Minimum and maximum of the float graph as it is."""
        if flatbuffer is self._graph.flatbuffer:
            return self._with_pixels(choose_ranges(whole, groups, MINMAX))
        if self._plain is None or self._plain.samples < len(self._calibration):
            everything = self._engine.counted(range(len(self._calibration)), len(self._calibration), "ranges")
            self._plain = collect_ranges(
                self._graph.flatbuffer,
                self._calibration,
                engine=self._engine,
                without=self._without,
                indices=everything,
            )
        return self._with_pixels(replace(self._plain, channels={}))

    def _wide(self, minmax: Ranges) -> tuple[tuple[bytes, Ranges], bool]:
        """What int16x8 is made from, and whether that is equalized."""
        plain = self._graph.flatbuffer, minmax
        if not self._wide_may_be_equalized or self._channels is None:
            return plain, False
        other, trial, keep = equalized_wide(*plain, self._channels), self._first, self._graph.keep_float
        chosen = self._choices is not None or choose_wide(plain, other, keep, trial, self._decisions)
        return other if chosen else plain, chosen

    def _with_islands(self) -> tuple[str, ...]:
        """What is float in islands; whatever is tried after that, is tried with them."""
        original, trial = self._graph.flatbuffer, self._trial
        if self._choices is not None:
            return tuple(self._choices.islands)
        if not self._may_float or trial is None or not may_have_islands(self._graph):
            return ()
        parts = self._by_channel(original, set(), "comparing operators")
        ranges, others = merged(parts), without_each(parts)
        islands, decision = try_islands(original, ranges, others, trial, self._options.integer_input)
        self._decisions += [] if decision is None else [decision]
        for fold in trial.folds:
            fold.floating = islands
        give_back()
        return islands

    def _equalized(self) -> bytes:
        """The float graph with its channels equalized, unless int8 comes closer to float without that."""
        original, trial = self._graph.flatbuffer, self._trial
        names = equalizable(Graph(original))
        decided = None if self._choices is None else self._choices.equalization
        untried = decided == NO_EQUALIZATION or (decided is None and trial is None)
        if not self._options.equalize or not names or (untried and not self._wide_may_be_equalized):
            return original
        parts = self._by_channel(original, names, "equalizing")
        self._plain = self._channels = whole = merged(parts)
        if untried:
            return original
        if decided is not None:
            self._equalization = decided
            return equalize(original, whole, backwards=decided == BACKWARDS)[0]
        assert trial is not None
        others = without_each(parts)
        plain = best = np.concatenate(list(trial.errors((original, ranges) for ranges in others)))
        direction = NO_EQUALIZATION
        large = most_trials(original, len(trial), len(parts)) <= LARGE
        # Equalization changes nothing in float and costs nothing, but for images unlike those that it balances it may
        # be a loss all the same, so it has to prove itself.
        for tried, gain in ((FORWARDS, 1), *(() if large else ((BACKWARDS, _OTHER_ORDER),))):
            give_back()
            made = (equalize(original, ranges, backwards=tried == BACKWARDS) for ranges in others)
            errors = all_if_better(trial.errors(made), best, gain)
            if errors is not None:
                direction, best = tried, errors
        if direction == NO_EQUALIZATION:
            return original
        self._equalization = direction
        self._decisions.append(
            f"channels of {len(names)} activation(s) were equalized for int8: "
            f"{gained(trial.sqnr(plain), trial.sqnr(best))} on {len(trial)} calibration images, each judged "
            "with ranges of others. --no-equalize leaves them as they are."
        )
        return equalize(original, whole, backwards=direction == BACKWARDS)[0]

    def _with_absorbed(self, flatbuffer: bytes) -> bytes:
        """The float graph with offsets moved into biases, if int8 comes clearly closer to float by that."""
        graph, trial = Graph(flatbuffer), self._trial
        pairs = absorbable_pairs(graph)
        decided = None if self._choices is None else self._choices.absorbed
        if not self._options.equalize or not pairs or decided is False or (decided is None and trial is None):
            return flatbuffer
        if decided is None and trial is not None and most_trials(flatbuffer, len(trial), len(self._folds)) <= LARGE:
            return flatbuffer
        names = {graph.tensor_name(pair.between) for pair in pairs}
        parts = self._by_channel(flatbuffer, names, "absorbing")
        absorbed, _, count = absorb(flatbuffer, merged(parts))
        if decided is None:
            if not count:
                return flatbuffer
            assert trial is not None
            others = without_each(parts)
            plain = np.concatenate(list(trial.errors((flatbuffer, ranges) for ranges in others)))
            made = (absorb(flatbuffer, ranges)[:2] for ranges in others)
            errors = all_if_better(trial.errors(made), plain, _ABSORBING)
            if errors is None:
                return flatbuffer
            self._decisions.append(
                f"offsets of {count} activation(s) were moved into the biases that read them: "
                f"{gained(trial.sqnr(plain), trial.sqnr(errors))} on {len(trial)} calibration images, each "
                "judged with ranges of others. --no-equalize leaves them there."
            )
        self._absorbed = True
        return absorbed

    def _by_channel(self, flatbuffer: bytes, names: set[str], label: str) -> list[Ranges]:
        """Ranges over some images of each fold, with the channels of some activations."""
        pilots = [fold[: max(1, _PILOT_IMAGES // len(self._folds))] for fold in self._folds]
        total = sum(map(len, pilots))
        shown = self._engine.counted([index for pilot in pilots for index in pilot], total, label)
        return [
            self._with_pixels(
                collect_ranges(
                    flatbuffer,
                    self._calibration,
                    by_channel=names,
                    engine=self._engine,
                    without=self._without,
                    indices=islice(shown, len(pilot)),
                )
            )
            for pilot in pilots
        ]

    def _collect(self, flatbuffer: bytes) -> list[SparseStatistics]:
        """Statistics of each fold."""
        parts = list(map(sparse, self._observed(flatbuffer)))
        for part, indices in zip(parts, self._folds, strict=True):
            check_unchanged(part.plain, self._calibration, indices, self._listing, self._engine)
        return parts

    def _observed(self, flatbuffer: bytes) -> Iterator[Statistics]:
        options, calibration, engine = self._options, self._calibration, self._engine
        shown = engine.counted([index for fold in self._folds for index in fold], len(calibration), "calibrating")
        if options.cache is not None:
            cache = CalibrationCache(
                options.cache, flatbuffer, calibration, self._without, engine=engine, listing=self._listing
            )
            for place, fold in enumerate(self._folds):
                yield cache.collect(f"fold{place}", fold, threads=options.threads, shown=islice(shown, len(fold)))
            return
        # Minimum and maximum need no counts; the first fold's tell how much of it the others' ranges would clip.
        counted = [place == 0 or options.method != "minmax" for place in range(len(self._folds))]
        for fold, histograms in zip(self._folds, counted, strict=True):
            yield collect_statistics(
                flatbuffer,
                calibration,
                histograms=histograms,
                engine=engine,
                without=self._without,
                indices=islice(shown, len(fold)),
            )
            give_back()

    def _choose(self, flatbuffer: bytes, parts: Sequence[SparseStatistics]) -> AutoChoice:
        """The method of each group."""
        if self._choices is not None:
            only = {name: parse_method(method) for name, method in self._choices.only.items()}
            return AutoChoice(parse_method(self._choices.method), only, 0, 0, 0)
        if self._options.method != AUTO:
            return AutoChoice(parse_method(self._options.method), {}, 0, 0, 0)
        trial, count = self._trial, len(self._calibration)
        minmax = AutoChoice(MINMAX, {}, 0, 0, 0)
        if trial is None or count < LEAST_TO_COMPARE:
            if "int8" in self._options.modes:
                self._decisions.append(
                    f"ranges are minimum and maximum: {count} calibration images are too few to compare methods on."
                )
            return minmax
        inside = within(flatbuffer, self._islands)
        choice = choose_methods(
            [merge_on_demand([*parts[:place], *parts[place + 1 :]]) for place in range(len(parts))],
            [group for group in tensor_groups(flatbuffer, self._without) if not inside.issuperset(group.members)],
            lambda ranges: trial.errors((flatbuffer, self._with_pixels(item)) for item in ranges),
            lambda numbers: progress(numbers, len(list(numbers)), "comparing ranges"),
            most_trials(flatbuffer, len(trial), len(parts)),
        )
        self._decisions.append(choice.told(len(trial)))
        return choice

    def _with_pixels(self, ranges: Ranges) -> Ranges:
        return replace(ranges, limits={**ranges.limits, **self._pixels})
