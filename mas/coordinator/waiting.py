"""Waiting for the buckets on behalf of one caller: no longer than the caller does, and with pauses that grow."""

from collections.abc import Sequence
from typing import TypeVar

from mas.coordinator.directory import Directory
from mas.errors import Unavailable
from mas.runtime import Clock, Promise

Waited = TypeVar("Waited")

_LAST_WORD_SECONDS = 2.0
_PAUSE_SHORTEST_SECONDS = 0.02
_PAUSE_LONGEST_SECONDS = 1.0


def last_word(seconds: float) -> float:
    """Return how much of a caller's time is kept for hearing what became of it, so that the answer need not be UNKNOWN."""
    return min(seconds / 4, _LAST_WORD_SECONDS)


class Wait:
    """One caller's time, in monotonic seconds, and how often it was tried."""

    def __init__(self, clock: Clock, timeout: float) -> None:
        self._clock = clock
        self.deadline = clock.monotonic() + timeout
        self._tries = 0

    def left(self) -> float:
        """Seconds that are left. Raises `Unavailable` where there are none."""
        left = self.deadline - self._clock.monotonic()
        if left <= 0:
            raise Unavailable("no bucket has answered in time: try again")
        return left

    def part(self, seconds: float) -> "Wait":
        """So many seconds of what is left, which may be none."""
        return Wait(self._clock, min(self.deadline - self._clock.monotonic(), seconds))

    async def result(self, promise: Promise[Waited]) -> Waited:
        """Wait for what it brings. Raises `Unavailable` when time is up."""
        try:
            return await promise.wait(self.left())
        except TimeoutError:
            raise Unavailable("no bucket has answered in time: try again") from None

    async def pause(self) -> None:
        """Between two tries: not at all the first time, and then twice as long each time. Raises `Unavailable`."""
        if self._tries:
            pause = _PAUSE_SHORTEST_SECONDS * 2 ** min(self._tries - 1, 16)
            await self._clock.sleep(min(pause, _PAUSE_LONGEST_SECONDS, self.left()))
        self._tries += 1
        self.left()


async def find(
    directory: Directory, numbers: Sequence[str], wait: Wait, *, fresh: bool
) -> dict[str, int]:
    """The bucket of each number, 0 where its home says that nobody has claimed it. Raises `Unavailable`."""
    found: Promise[dict[str, int]] = Promise()
    directory.find(numbers, found.set, lambda: not found.done(), fresh=fresh)
    return await wait.result(found)
