"""The one file that reads the time.

Whoever needs a clock takes one in its constructor, so that the simulator can hand it another.
"""

import asyncio
import time
from typing import Protocol

# Leases must run on while a machine is suspended (rule 32), which CLOCK_MONOTONIC doesn't on Linux.
_STEADY_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """Time, as an actor sees it."""

    def monotonic(self) -> float:
        """Return seconds since some fixed moment, which never run backwards and count suspension."""
        ...

    def now_us(self) -> int:
        """Return microseconds since the epoch, for people: it may jump, and decides nothing (rule 12, time decides no outcome)."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let others run for at least this long."""
        ...


class SystemClock:
    """The machine's time."""

    def monotonic(self) -> float:
        """Return seconds since the machine started, suspension included."""
        return time.clock_gettime(_STEADY_CLOCK)

    def now_us(self) -> int:
        """Return microseconds since the epoch."""
        return time.time_ns() // 1000

    async def sleep(self, seconds: float) -> None:
        """Let others run for at least this long."""
        await asyncio.sleep(seconds)
