"""The training: Adam from the file as it is, at the rate that a short probe finds, judged by the real int8 file."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...calibration.auto import better
from ...runtime.errors import InterpreterFailedError
from .checkpoint import Checkpoint, Saved
from .images import Batches
from .network import Network
from .operators import Tensor
from .parameters import Parameters, Values

RATES = (0.0005, 0.002, 0.008)
"""Steps of a weight that one step of the training moves it by, at most."""

_PROBED, _JUDGED = 0.3, 12
"""Share of the steps for the probe, and how often the file is judged in the rest."""

_STANDARD_ERRORS = 3.0
"""Some fifteen files are judged: what is kept must be better by more than the luckiest of so many is by chance."""

_TIMED, _USED = 5, 0.9
"""Steps whose median duration says how many fit into the time, and how much of it they may take."""

_BUILDING = 0.06
"""Seconds to build the first step for each operator, as measured on one core: nothing ends that once it has begun."""

_MOST_FAILURES = 3
_LOWER = 0.25
_FIRST_MOMENT, _SECOND_MOMENT, _TINY = 0.9, 0.999, 1e-12
_AVERAGED = 0.02
"""Weight of the newest in the running mean of the parameters, which is judged: single steps are mostly noise of the
rounding."""

Errors = NDArray[np.float64]
Judge = Callable[[bytes], Errors]
Answers = Sequence[tuple[int, int]]
"""Pairs of tensors that should be alike: of the quantized network and of the float one."""


@dataclass
class Trained:
    """What came of it.

    Attributes:
        best: the parameters of the best file that is clearly better than the one at the start; None without.
        errors: of that file, or of the one at the start.
        before: errors of the one at the start.
        rate: the one that was trained at.
        steps: of the whole training, the probe's included.
        resumed: how many of them an earlier run had made.
        failures: how often the training stepped back because the loss was not a number.
        ended: ``finished``, ``time`` (before all planned steps were made), ``interrupted`` or ``failed``.
        score: the mean logarithm of the best file's errors.
    """

    best: Values | None
    errors: Errors
    before: Errors
    rate: float = RATES[0]
    steps: int = 0
    resumed: int = 0
    failures: int = 0
    ended: str = "finished"
    score: float = math.inf


class Training:
    """Trains one network; the state of Adam is in it.

    Attributes:
        building: seconds that the first step takes to be built, about.
    """

    def __init__(
        self, student: Network, teacher: Network, answers: Answers, parameters: Parameters, batches: Batches
    ) -> None:
        """Build what computes one step.

        Args:
            student: the quantized graph.
            teacher: the float graph.
            answers: see :data:`Answers`.
            parameters: of the student.
            batches: what is trained on.
        """
        import tensorflow as tf

        self._parameters, self._batches = parameters, batches
        self.building = _BUILDING * len(student.graph.operators)
        self._values = [tf.Variable(values) for values in parameters.start]
        self._means = [tf.Variable(values) for values in parameters.start]
        self._moments = [tuple(tf.Variable(tf.zeros_like(value)) for _ in range(2)) for value in self._values]

        def step(images: Tensor, rate: Tensor, number: Tensor) -> Tensor:
            expected = teacher(images)
            with tf.GradientTape() as tape:
                constants, scales = parameters.replaced([tf.convert_to_tensor(value) for value in self._values])
                found = student(images, constants, scales)
                losses = [_distance(found[mine], tf.stop_gradient(expected[true])) for mine, true in answers]
                loss = tf.add_n(losses)
            for place, gradient in enumerate(tape.gradient(loss, self._values, unconnected_gradients="zero")):
                self._move(place, gradient, rate, number)
            return loss

        # AutoGraph would tell an operator that is refused as a failure of its own, with pages of text.
        self._step = tf.function(step, autograph=False)

    def _move(self, place: int, gradient: Tensor, rate: Tensor, number: Tensor) -> None:
        """Adam (Kingma and Ba, arXiv:1412.6980)."""
        import tensorflow as tf

        first, second = self._moments[place]
        first.assign(_FIRST_MOMENT * first + (1 - _FIRST_MOMENT) * gradient)
        second.assign(_SECOND_MOMENT * second + (1 - _SECOND_MOMENT) * tf.square(gradient))
        mean = first / (1 - tf.pow(_FIRST_MOMENT, number))
        spread = tf.sqrt(second / (1 - tf.pow(_SECOND_MOMENT, number)))
        rate = rate * self._parameters.rates[place]
        value = self._values[place].assign_sub(rate * mean / (spread + _TINY))
        self._means[place].assign_add(_AVERAGED * (value - self._means[place]))

    def reset(self, values: Values) -> None:
        """Start again from given parameters."""
        for variable, average, moments, value in zip(self._values, self._means, self._moments, values, strict=True):
            variable.assign(value)
            average.assign(value)
            for moment in moments:
                moment.assign(np.zeros_like(value))
        self._number = 0

    def step(self, rate: float) -> float:
        """One step; the loss before it.

        Raises:
            UnsupportedError: an operator is of a form that there is no gradient for.
        """
        self._number += 1
        images = self._batches.draw()
        loss = self._step(images, np.float32(rate), np.float32(self._number))
        return float(loss)

    def values(self) -> Values:
        """The running mean of the parameters."""
        return [np.array(variable.numpy()) for variable in self._means]

    def saved(self) -> Saved:
        """What it takes to go on from here."""
        return Saved({"number": self._number, "drawn": self._batches.state}, _named("state", self._state()))

    def restore(self, saved: Saved) -> None:
        """Go on from there.

        Raises:
            ValueError, KeyError, TypeError: it is not the state of such a training.
        """
        for place, variable in enumerate(self._state()):
            variable.assign(saved.arrays[f"state{place}"])
        self._number, self._batches.state = int(saved.facts["number"]), saved.facts["drawn"]

    def _state(self) -> list[Any]:
        moments = [moment for pair in self._moments for moment in pair]
        return [*self._values, *self._means, *moments]


def _named(name: str, values: Iterable[Any]) -> dict[str, NDArray[Any]]:
    return {f"{name}{place}": np.asarray(value) for place, value in enumerate(values)}


def _distance(found: Tensor, expected: Tensor) -> Tensor:
    """Noise over signal."""
    import tensorflow as tf

    noise, signal = tf.reduce_sum(tf.square(found - expected)), tf.reduce_sum(tf.square(expected))
    return noise / tf.maximum(signal, _TINY)


_PARTS = len(RATES) + _JUDGED


class Run:
    """One training for a time: parts of some steps, with a judgement after each; the probe's first.

    How many steps fit into the time is measured and rounded down to one of ten numbers a decade, so that the same
    machine makes the same ones again.
    """

    def __init__(
        self,
        training: Training,
        parameters: Parameters,
        judge: Judge,
        seconds: float,
        stopped: Callable[[], bool],
        shown: Callable[[float, Trained], None],
        checkpoint: Checkpoint,
    ) -> None:
        """Judge the file as it is.

        Args:
            training: what makes a step.
            parameters: its parameters.
            judge: errors of held-out images with a file, see :func:`embedlite.calibration.auto.better`.
            seconds: how long, what an earlier run took included.
            stopped: whether to end now, with what is best by then.
            shown: called after each step with the share of the steps that are made and what is best.
            checkpoint: where the state is kept, and taken from.
        """
        self._training, self._parameters, self._judge = training, parameters, judge
        self._seconds, self._stopped, self._shown, self._checkpoint = seconds, stopped, shown, checkpoint
        self._began = time.monotonic()
        self._earlier = 0.0
        before = judge(parameters.file(parameters.start))
        self._judging = time.monotonic() - self._began
        self.result = Trained(None, before, before)
        self.part, self._planned, self._made, self._scores = 0, _PARTS, 0, list[float]()

    def train(self) -> Trained:
        """All parts that time allows, or those that an earlier run left."""
        if not self.resume():
            if self._seconds - self._elapsed() < self._training.building:
                self.result.ended = "building"
                return self.result
            self.plan()
        going_on = True
        while going_on and self.part < _PARTS:
            going_on = self.next()
            # What was interrupted in the middle of a part goes on at its beginning.
            if going_on or self.result.ended == "time":
                self.keep()
        return self.result

    def plan(self) -> None:
        """Measure a step, and say how many there are to be."""
        training = self._training
        training.reset(self._parameters.start)
        # The first step builds the graph, which takes a while.
        training.step(0.0)
        took = []
        for _ in range(_TIMED):
            since = time.monotonic()
            training.step(0.0)
            took.append(time.monotonic() - since)
        left = _USED * (self._seconds - self._elapsed()) - _PARTS * self._judging
        self._planned = _preferred(max(int(left / max(float(np.median(took)), _TINY)), _PARTS))

    def resume(self) -> bool:
        """Go on from the checkpoint; False if there is none that helps."""
        saved = self._checkpoint.read()
        if saved is None:
            return False
        fresh = self.result
        try:
            self._take(saved)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            self._checkpoint.useless(f"is damaged ({error})")
            self.result, self.part, self._made, self._scores, self._earlier = fresh, 0, 0, [], 0.0
            return False
        return True

    def _take(self, saved: Saved) -> None:
        facts, arrays, before = saved.facts, saved.arrays, self.result.before
        best, errors = None, before
        if facts["kept"]:
            best = [arrays[f"best{place}"].reshape(value.shape) for place, value in enumerate(self._parameters.start)]
            errors = arrays["errors"].reshape(before.shape)
        steps = int(facts["steps"])
        self.result = Trained(
            best,
            errors,
            before,
            float(facts["rate"]),
            steps,
            steps,
            int(facts["failures"]),
            score=float(facts["score"]),
        )
        self.part, self._planned, self._made = int(facts["part"]), int(facts["planned"]), int(facts["made"])
        self._earlier, self._scores = float(facts["seconds"]), [float(score) for score in facts["scores"]]
        self._training.restore(saved)

    def keep(self) -> None:
        """Write the checkpoint."""
        result = self.result
        facts = {
            "part": self.part,
            "planned": self._planned,
            "made": self._made,
            "seconds": self._elapsed(),
            "scores": self._scores,
            "kept": result.best is not None,
            **{name: getattr(result, name) for name in ("rate", "steps", "failures", "score")},
        }
        state = self._training.saved()
        arrays = {**state.arrays, **_named("best", result.best or []), "errors": result.errors}
        self._checkpoint.write(Saved({**facts, **state.facts}, arrays))

    def next(self) -> bool:
        """One part; False if the training is over."""
        probed = self.part < len(RATES)
        if probed:
            self.result.rate = RATES[self.part]
        elif self.part == len(RATES):
            self.result.rate = RATES[int(np.argmin(self._scores))]
        if self.part <= len(RATES):
            self._training.reset(self._parameters.start)
            self._made = 0
        whole = self._count(probed=probed)
        going_on = self._steps(whole, whole if probed else whole * _JUDGED)
        if not going_on and self.result.ended != "time":
            return False
        score = self._judged()
        self.part += 1
        if probed:
            self._scores.append(score)
        return going_on

    def _count(self, *, probed: bool) -> int:
        """Steps of one part."""
        return max(round(self._planned * (_PROBED / len(RATES) if probed else (1 - _PROBED) / _JUDGED)), 1)

    @property
    def _whole(self) -> int:
        return len(RATES) * self._count(probed=True) + _JUDGED * self._count(probed=False)

    def _elapsed(self) -> float:
        return self._earlier + time.monotonic() - self._began

    def _steps(self, count: int, whole: int) -> bool:
        """Some steps of so many, the rate falling as a cosine over all of them; False if the training is over."""
        result = self.result
        for _ in range(count):
            if self._stopped():
                result.ended = "interrupted"
                return False
            if self._elapsed() >= self._seconds and result.steps:
                result.ended = "time"
                return False
            loss = self._training.step(result.rate * 0.5 * (1 + math.cos(math.pi * min(self._made / whole, 1.0))))
            self._made += 1
            result.steps += 1
            if not math.isfinite(loss):
                result.failures += 1
                result.rate *= _LOWER
                self._training.reset(result.best or self._parameters.start)
                if result.failures > _MOST_FAILURES:
                    result.ended = "failed"
                    return False
            self._shown(result.steps / max(self._whole, result.steps), result)
        return True

    def _errors(self, values: Values) -> Errors:
        if not all(np.isfinite(value).all() for value in values):
            return np.array([np.inf])
        try:
            return self._judge(self._parameters.file(values))
        except InterpreterFailedError:
            # Step sizes so far from each other that a kernel refuses them.
            return np.array([np.inf])

    def _judged(self) -> float:
        """The file as it is now, kept if it is the best: the mean logarithm of its errors."""
        values = self._training.values()
        errors = self._errors(values)
        score = float(np.log(np.maximum(errors.reshape(len(errors), -1)[:, 0], 1e-30)).mean())
        if score < self.result.score and better(errors, self.result.before, _STANDARD_ERRORS):
            self.result.best, self.result.errors, self.result.score = values, errors, score
        return score


def _preferred(count: int) -> int:
    """The largest of ten numbers a decade (R10 of ISO 3, but whole) that is not above a count."""
    return int(10 ** (math.floor(10 * math.log10(count) + 1e-9) / 10) + 1e-6)
