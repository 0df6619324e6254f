"""Says how far a group's log may be cut: behind what the AccountDB durably has, with a margin (rule 26, durably applied).

The margin, in entries and in seconds, spares a follower that was away for a moment the whole snapshot.
"""

from mas.runtime import Clock

# A leader keeps for a slow follower what it lacks, up to so many margins; behind that it takes a snapshot.
_FOLLOWER_MARGINS = 10
# A cut is a write: it waits until this part of a margin is to be had.
_STEPS_PER_MARGIN = 8


class LogMargin:
    """Keeps one group's margin."""

    def __init__(self, entries: int, seconds: float, clock: Clock) -> None:
        self._entries = entries
        self._seconds = seconds
        self._clock = clock
        self._since = clock.monotonic()
        self._older = self._newer = 0

    def allows(self, first_index: int, flushed: int) -> int:
        """Return the last index that may be cut, 0 where it isn't worth a write. Called every few ticks."""
        self._age(flushed)
        cut = min(flushed - self._entries, self._older)
        step = max(1, self._entries // _STEPS_PER_MARGIN)
        return cut if cut - (first_index - 1) >= step else 0

    def spare(self, cut: int, flushed: int, needed: int) -> int:
        """Return `cut`, or less for followers that have only got to `needed`, within reason."""
        return min(cut, max(needed, flushed - _FOLLOWER_MARGINS * self._entries))

    def _age(self, flushed: int) -> None:
        """Keep in `_older` what was flushed at least `seconds` ago, and at most twice that."""
        now = self._clock.monotonic()
        if now - self._since >= self._seconds:
            self._older, self._newer, self._since = self._newer, flushed, now
