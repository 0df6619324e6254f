"""Pauses before what has failed is tried again: each twice as long as the one before, up to a bound."""

from collections.abc import Hashable
from typing import Generic, TypeVar

import msgspec

from mas.runtime import Clock

K = TypeVar("K", bound=Hashable)


class _Pause(msgspec.Struct):
    seconds: float
    until: float


class Pauses(Generic[K]):
    """Keeps a pause for each thing that fails."""

    def __init__(self, clock: Clock, least: float, most: float) -> None:
        self._clock = clock
        self._least = least
        self._most = most
        self._pauses: dict[K, _Pause] = {}

    def failed(self, key: K) -> float:
        """Note that it has failed again, and return the seconds until it may be tried."""
        before = self._pauses.get(key)
        seconds = self._least if before is None else min(2 * before.seconds, self._most)
        self._pauses[key] = _Pause(seconds, self._clock.monotonic() + seconds)
        return seconds

    def is_over(self, key: K) -> bool:
        """Return whether it may be tried now."""
        pause = self._pauses.get(key)
        return pause is None or pause.until <= self._clock.monotonic()

    def end(self, key: K) -> None:
        """End the pause, because it has worked or there is a reason to try it now; the next pause is a short one."""
        self._pauses.pop(key, None)

    def failing(self) -> list[K]:
        """Return all that have failed and not worked since."""
        return list(self._pauses)
