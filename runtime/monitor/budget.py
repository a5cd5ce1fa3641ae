"""How much of the time a monitor may take: a bucket that fills with a share of every second and pays for the work.

A token bucket (J. S. Turner, New Directions in Communications, IEEE Communications Magazine 24(10), 1986). It holds a
minute's worth at most, so after a quiet night a device is not busy with itself for an hour: in any stretch of T seconds
the work takes at most share x (T + 60) seconds, and since the start share x T, each but for one piece of work a thread
that took longer than the one before it. What was taken too much is paid back before anything else is done.
"""

from __future__ import annotations

from collections.abc import Callable

BURST_SECONDS = 60.0


class TimeBudget:
    """A share of the time; not safe to share between threads.

    Args:
        share: above 0, at most 1; None for no limit.
        clock: seconds that never go back.
        estimate: seconds that one piece of work is expected to take.
    """

    def __init__(self, share: float | None, clock: Callable[[], float], estimate: float) -> None:
        self._share = share
        self._clock = clock
        self._estimate = estimate
        self._credit = 0.0
        self._filled = clock()

    def reserve(self) -> float | None:
        """Pay for the next piece of work what the last one took; None if that is not there yet."""
        if self._share is None:
            return 0.0
        now = self._clock()
        most = max(self._share * BURST_SECONDS, self._estimate)
        self._credit = min(most, self._credit + self._share * (now - self._filled))
        self._filled = now
        if self._credit < self._estimate:
            return None
        self._credit -= self._estimate
        return self._estimate

    def settle(self, reserved: float, spent: float) -> None:
        """A piece of work is done: pay the rest, or get back what it did not take."""
        self._credit += reserved - spent
        self._estimate = spent

    def charge(self, spent: float) -> None:
        """Pay for what had to be done."""
        self._credit -= spent
