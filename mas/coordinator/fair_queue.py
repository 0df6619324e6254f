"""What waits to be begun, taken in turns between callers, so that nobody stands behind another's thousands.

The room that there is gets divided evenly between all who wait; what one of them doesn't need, the others have. So each of
them is served at once unless there are more callers than there is room, and those left out come first the next time. It is
round robin as in "On packet switches with infinite storage" (Nagle, 1985, RFC 970), with a share of the room in place of
one packet. Everything costs by the batch, nothing by the item.
"""

from collections import deque
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class _Part(msgspec.Struct, Generic[T], gc=False):
    """A batch, and which of its items still wait."""

    batch: T
    items: range


class FairQueue(Generic[T]):
    """Batches of items: in order for each caller, in turns between callers."""

    __slots__ = ("_lines", "_turns", "_waiting")

    def __init__(self) -> None:
        self._lines: dict[str, deque[_Part[T]]] = {}
        self._turns: deque[str] = deque()
        """Every caller who has a line; the next one first."""
        self._waiting = 0

    def __len__(self) -> int:
        """The items that wait."""
        return self._waiting

    def put(self, caller: str, batch: T, size: int) -> None:
        """Let the items 0 to `size` - 1 of a batch wait behind what the same caller has put before."""
        assert size > 0
        line = self._lines.get(caller)
        if line is None:
            line = self._lines[caller] = deque()
            self._turns.append(caller)
        line.append(_Part(batch, range(size)))
        self._waiting += size

    def take(self, room: int) -> list[tuple[T, range]]:
        """At most `room` items, by the batches that they are of."""
        taken: list[tuple[T, range]] = []
        while room > 0 and self._turns:
            each = max(room // len(self._turns), 1)
            for _ in range(min(len(self._turns), room)):
                caller = self._turns.popleft()
                room -= self._take_from(self._lines[caller], each, taken)
                if self._lines[caller]:
                    self._turns.append(caller)
                else:
                    del self._lines[caller]
        return taken

    def _take_from(self, line: deque[_Part[T]], most: int, taken: list[tuple[T, range]]) -> int:
        left = most
        while left and line:
            part = line[0]
            items, part.items = part.items[:left], part.items[left:]
            if not part.items:
                line.popleft()
            taken.append((part.batch, items))
            left -= len(items)
        self._waiting -= most - left
        return most - left
