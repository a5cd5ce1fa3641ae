"""What each worker of a cluster did."""

from __future__ import annotations

import time
from dataclasses import dataclass

from .worker import Done


@dataclass
class _Share:
    shards: int = 0
    images: int = 0
    seconds: float = 0.0


class Summary:
    """Images and time of each worker, while they come in."""

    def __init__(self) -> None:
        self._shares: dict[str, _Share] = {}
        self._started: float | None = None
        self._last = 0.0

    @property
    def images(self) -> int:
        """Images of which the result is here; one that is run through several models counts for each."""
        return sum(share.images for share in self._shares.values())

    @property
    def workers(self) -> int:
        """Workers that gave a result."""
        return len(self._shares)

    def add(self, done: Done) -> None:
        """Count a shard that is done."""
        self._last = time.monotonic()
        if self._started is None:
            self._started = self._last - done.seconds
        share = self._shares.setdefault(done.worker, _Share())
        share.shards += 1
        share.images += done.images
        share.seconds += done.seconds

    def rate(self) -> float:
        """Images a second of all workers together, from the first shard on."""
        passed = 0.0 if self._started is None else self._last - self._started
        return self.images / passed if passed > 0 else 0.0

    def render(self) -> str:
        """A table for people, ending in a newline."""
        lines = [f"{self.images} images on {self.workers} worker(s), {self.rate():.0f} images/s:"]
        for name, share in sorted(self._shares.items()):
            busy = share.images / share.seconds if share.seconds else 0.0
            lines.append(
                f"  {name:>24}  {share.images:>9} images  {share.shards:>6} shards  {busy:>8.0f} images/s at work"
            )
        return "\n".join(lines) + "\n"
