"""What may not grow: a log beyond what its database and its peers have a right to, and what waits while a disk hangs."""

from collections import deque

import msgspec

from mas.multiraft import RaftGroup

MESSAGES_MAX = 512
"""That the core has to say: the host takes nothing more in long before that."""
_MARGINS = 10
"""Kept for a slow follower."""
_SPARED_SECONDS = 16.0
"""An export, a transfer that gets on, and the next look at the log: so long nothing may be cut behind a snapshot."""


class _Past(msgspec.Struct):
    life: int
    flushed: deque[tuple[float, int]]


class Growth:
    """Looks at every replica now and again."""

    def __init__(self, margin: int) -> None:
        """`margin` is what the logs keep behind what is flushed, in entries."""
        self._margin = margin
        self._pasts: dict[tuple[int, int], _Past] = {}

    def look(self, node: int, life: int, group: RaftGroup, now: float) -> str:
        """Find what has grown too much; empty where nothing has."""
        waiting = group.messages_waiting
        if waiting > MESSAGES_MAX:
            return f"has {waiting} messages waiting, and {MESSAGES_MAX} are a lot"
        status = group.status()
        before = self._flushed_before(node, life, status.group, status.flushed, now)
        length = status.raft.last_index - status.first_index + 1
        spared = status.flushed - before
        allowed = status.raft.last_index - status.flushed + _MARGINS * self._margin + spared
        if length <= allowed + 1 or before == 0:
            return ""
        return (
            f"keeps {length} entries: {status.raft.last_index - status.flushed} aren't flushed, {_MARGINS} margins of "
            f"{self._margin} are its peers', and {spared} may be spared for a snapshot"
        )

    def _flushed_before(self, node: int, life: int, group: int, flushed: int, now: float) -> int:
        """Return how far it was flushed when the last cut must have been thought of, 0 where it hasn't lived so long."""
        past = self._pasts.get((node, group))
        if past is None or past.life != life:
            past = self._pasts[node, group] = _Past(life, deque())
        past.flushed.append((now, flushed))
        before = 0
        while past.flushed[0][0] <= now - _SPARED_SECONDS:
            before = past.flushed.popleft()[1]
        if before:
            past.flushed.appendleft((now - _SPARED_SECONDS, before))
        return before
