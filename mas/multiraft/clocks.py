"""Compares this node's clock with its peers', for the stamps of proposals (rule 12, time decides no outcome).

Clocks decide nothing: a stamp is for people. But one leader an hour ahead shouldn't spoil an hour of everybody's. So all
wall clocks, this node's own too, are kept against this node's monotonic clock, which doesn't jump: a wall clock that
does differs from the peers' at once, and not only once they are heard of again.
"""

from collections.abc import Sequence

from mas.runtime import Clock

_OFF_US = 1_000_000
_HEARD_SECONDS = 30.0


class PeerClocks:
    """Where each peer's wall clock stands above this node's monotonic clock, in microseconds."""

    def __init__(self, node: int, clock: Clock) -> None:
        self._node = node
        self._clock = clock
        self._offsets: dict[int, tuple[int, float]] = {}

    def heard(self, peer: int, clock_us: int) -> None:
        """Note a peer's clock that a frame has brought, neglecting its time on the way."""
        now = self._clock.monotonic()
        self._offsets[peer] = clock_us - int(now * 1e6), now

    def stamp_us(self, members: Sequence[int]) -> int:
        """Return this node's time, or the members' median where it is off by more than a second.

        Two clocks have no median: a third must have been heard of lately.
        """
        now, now_us = self._clock.monotonic(), self._clock.now_us()
        since = now - _HEARD_SECONDS
        own = now_us - int(now * 1e6)
        offsets = [own]
        for member in members:
            offset, heard = self._offsets.get(member, (0, since))
            if member != self._node and heard > since:
                offsets.append(offset)
        if len(offsets) < 3:
            return now_us
        offsets.sort()
        off = offsets[(len(offsets) - 1) // 2] - own
        return now_us + off if abs(off) > _OFF_US else now_us
