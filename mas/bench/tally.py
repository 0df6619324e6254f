"""Callers that call for some seconds, each once its last call has been answered; how many answers came, and how fast."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence

from mas.runtime import SystemClock


def share(ordered: Sequence[float], percent: int) -> float:
    """The value that `percent` of an ascending sequence are not above, by the nearest rank; 0 where it is empty."""
    if not ordered:
        return 0.0
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(rank, 1) - 1]


class Tally:
    """Counts answers and how long they took."""

    def __init__(self, seconds: float) -> None:
        self.clock = SystemClock()
        self.answered = 0
        self.elapsed = 0.0
        self._seconds = seconds
        self._end = 0.0
        self._latencies: list[float] = []

    async def run(self, callers: Sequence[Callable[[], Awaitable[None]]]) -> None:
        """Have the callers call until the time is over; what is under way then is counted too."""
        started = self.clock.monotonic()
        self._end = started + self._seconds
        await asyncio.gather(*(caller() for caller in callers))
        self.elapsed = self.clock.monotonic() - started

    def goes_on(self) -> bool:
        """Tell whether there is time for another call."""
        return self.clock.monotonic() < self._end

    def heard(self, since: float, count: int = 1) -> None:
        """One answer has come, which stands for `count`, to a call made at `since`."""
        self._latencies.append(self.clock.monotonic() - since)
        self.answered += count

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return self.answered / self.elapsed

    def latency_ms(self, percent: int) -> float:
        """Return the time within which this share of the answers came."""
        return 1000 * share(sorted(self._latencies), percent)

    @staticmethod
    def cpu_s() -> float:
        """Return the CPU seconds that this process itself has used."""
        return sum(os.times()[:2])
