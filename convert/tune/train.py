"""The training: Adam from the file as it is, at the rate that a short probe finds, judged by the real int8 file."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...calibration.auto import better
from ...runtime.errors import InterpreterFailedError
from .images import Batches
from .network import Network
from .operators import Tensor
from .parameters import Parameters, Values

RATES = (0.0005, 0.002, 0.008)
"""Steps of a weight that one step of the training moves it by, at most."""

_PROBED, _JUDGED = 0.3, 12
"""Share of the time for the probe, and how often the file is judged in the rest."""

_STANDARD_ERRORS = 3.0
"""Some fifteen files are judged: what is kept must be better by more than the luckiest of so many is by chance."""

_LEAST_SECONDS = 0.1
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
        failures: how often the training stepped back because the loss was not a number.
        ended: ``time``, ``interrupted`` or ``failed``.
        score: the mean logarithm of the best file's errors.
    """

    best: Values | None
    errors: Errors
    before: Errors
    rate: float = RATES[0]
    steps: int = 0
    failures: int = 0
    ended: str = "time"
    score: float = math.inf


class Training:
    """Trains one network; the state of Adam is in it."""

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


def _distance(found: Tensor, expected: Tensor) -> Tensor:
    """Noise over signal."""
    import tensorflow as tf

    noise, signal = tf.reduce_sum(tf.square(found - expected)), tf.reduce_sum(tf.square(expected))
    return noise / tf.maximum(signal, _TINY)


def train(
    training: Training,
    parameters: Parameters,
    judge: Judge,
    seconds: float,
    stopped: Callable[[], bool],
    shown: Callable[[float, Trained], None],
) -> Trained:
    """Train for a time.

    Args:
        training: what makes a step.
        parameters: its parameters.
        judge: errors of held-out images with a file, see :func:`embedlite.calibration.auto.better`.
        seconds: how long.
        stopped: whether to end now, with what is best by then.
        shown: called after each step with the share of the time that is gone and what is best.
    """
    before = judge(parameters.file(parameters.start))
    end = time.monotonic() + seconds
    # The first step builds the graph, which takes a while; the shares are of what is left.
    training.reset(parameters.start)
    training.step(0.0)
    started = time.monotonic()
    left = max(end - started, _LEAST_SECONDS)
    run = _Run(training, parameters, judge, Trained(None, before, before), started, left, stopped, shown)
    scores = []
    for place, rate in enumerate(RATES):
        run.result.rate = rate
        training.reset(parameters.start)
        share = _PROBED / len(RATES)
        if not run.until(share * (place + 1), rate, share * place):
            return run.result
        scores.append(run.judged())
    run.result.rate = rate = RATES[int(np.argmin(scores))]
    training.reset(parameters.start)
    for share in np.linspace(_PROBED, 1, _JUDGED + 1)[1:]:
        if not run.until(float(share), rate, _PROBED, whole=1.0):
            break
        run.judged()
        rate = run.result.rate
        if run.gone() >= 1:
            break
    return run.result


@dataclass
class _Run:
    training: Training
    parameters: Parameters
    judge: Judge
    result: Trained
    started: float
    seconds: float
    stopped: Callable[[], bool]
    shown: Callable[[float, Trained], None]

    def gone(self) -> float:
        """The share of the time that is gone."""
        return (time.monotonic() - self.started) / self.seconds

    def until(self, share: float, rate: float, since: float, whole: float | None = None) -> bool:
        """Steps until a share of the time is gone, the rate falling as a cosine; False if the training is over."""
        first = True
        while first or self.gone() < share:
            first = False
            if self.stopped():
                self.result.ended = "interrupted"
                return False
            part = min(max((self.gone() - since) / ((whole or share) - since), 0.0), 1.0)
            loss = self.training.step(rate * 0.5 * (1 + math.cos(math.pi * part)))
            self.result.steps += 1
            if not math.isfinite(loss):
                self.result.failures += 1
                rate = self.result.rate = rate * _LOWER
                self.training.reset(self.result.best or self.parameters.start)
                if self.result.failures > _MOST_FAILURES:
                    self.result.ended = "failed"
                    return False
            self.shown(min(self.gone(), 1.0), self.result)
        return True

    def _errors(self, values: Values) -> Errors:
        if not all(np.isfinite(value).all() for value in values):
            return np.array([np.inf])
        try:
            return self.judge(self.parameters.file(values))
        except InterpreterFailedError:
            # Step sizes so far from each other that a kernel refuses them.
            return np.array([np.inf])

    def judged(self) -> float:
        """The file as it is now, kept if it is the best: the mean logarithm of its errors."""
        values = self.training.values()
        errors = self._errors(values)
        score = float(np.log(np.maximum(errors.reshape(len(errors), -1)[:, 0], 1e-30)).mean())
        if score < self.result.score and better(errors, self.result.before, _STANDARD_ERRORS):
            self.result.best, self.result.errors, self.result.score = values, errors, score
        return score
