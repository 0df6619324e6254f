"""The peers' clocks as their frames tell them, for the stamps of proposals (rule 12).

They decide nothing: a stamp is for people. But one leader an hour ahead shouldn't spoil an hour of everybody's.
"""

from collections.abc import Sequence

from mas.runtime import Clock

_OFF_US = 1_000_000
_HEARD_SECONDS = 30.0


class PeerClocks:
    """How far each peer's clock is from this node's."""

    def __init__(self, node: int, clock: Clock) -> None:
        self._node = node
        self._clock = clock
        self._offsets: dict[int, tuple[int, float]] = {}

    def heard(self, peer: int, clock_us: int) -> None:
        """A frame has brought the peer's clock; its time on the way is neglected."""
        offset = clock_us - self._clock.now_us()
        self._offsets[peer] = offset, self._clock.monotonic()

    def stamp_us(self, members: Sequence[int]) -> int:
        """This node's time, or the members' median where it is off by more than a second.

        Two clocks have no median: a third must have been heard of lately.
        """
        since = self._clock.monotonic() - _HEARD_SECONDS
        offsets = [0]
        for member in members:
            offset, heard = self._offsets.get(member, (0, since))
            if member != self._node and heard > since:
                offsets.append(offset)
        now_us = self._clock.now_us()
        if len(offsets) < 3:
            return now_us
        offsets.sort()
        median = offsets[(len(offsets) - 1) // 2]
        return now_us + median if abs(median) > _OFF_US else now_us
