"""The clock of a simulated node: virtual time that may run fast or slow, and a calendar that may be wrong."""

import asyncio

EPOCH_US = 1_800_000_000_000_000
"""What the calendar says when a virtual loop begins, in microseconds: 15 January 2027."""


class VirtualClock:
    """A node's view of the loop's time."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, ahead_us: int = 0, speed: float = 1.0
    ) -> None:
        self._loop = loop
        self.speed = speed
        """Seconds that this clock counts in one of the loop's."""
        self.ahead_us = ahead_us
        """How far the calendar is ahead of the others'; may jump at any time (rule 12, time decides no outcome)."""

    def monotonic(self) -> float:
        """Seconds since the loop was made, as this clock counts them."""
        return self._loop.time() * self.speed

    def now_us(self) -> int:
        """Microseconds since the epoch, as this node believes."""
        return EPOCH_US + int(self._loop.time() * 1_000_000) + self.ahead_us

    async def sleep(self, seconds: float) -> None:
        """Let others run for this long, by this clock."""
        await asyncio.sleep(seconds / self.speed)
