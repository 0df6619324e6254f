"""Time for many at once: one timer for all payments, not a task or a handle each.

Nearly every payment is over long before its deadline, so what costs little is to be put in and taken out again.
"""

from heapq import heappop, heappush
from typing import Generic, Protocol, TypeVar

SLOT_SECONDS = 0.05
"""How exact a deadline is."""


class HasSlot(Protocol):
    """Remembers where it was put."""

    slot: int


D = TypeVar("D", bound=HasSlot)
P = TypeVar("P")


class Deadlines(Generic[D]):
    """A timer wheel: what is due together lies in one slot. All times are monotonic seconds."""

    __slots__ = ("_order", "_slots")

    def __init__(self) -> None:
        self._slots: dict[int, dict[D, None]] = {}
        self._order: list[int] = []

    def add(self, item: D, when: float) -> None:
        """Put it in; never due before `when`."""
        slot = item.slot = int(when / SLOT_SECONDS) + 1
        items = self._slots.get(slot)
        if items is None:
            items = self._slots[slot] = {}
            heappush(self._order, slot)
        items[item] = None

    def remove(self, item: D) -> None:
        """Take it out, if it is still in."""
        items = self._slots.get(item.slot)
        if items is not None:
            items.pop(item, None)

    def due(self, now: float) -> list[D]:
        """Take out what is due."""
        due: list[D] = []
        while self._order and self._order[0] * SLOT_SECONDS <= now:
            due += self._slots.pop(heappop(self._order))
        return due

    def all(self) -> list[D]:
        """All that are in, earliest slot first."""
        return [item for slot in sorted(self._slots) for item in self._slots[slot]]


class Pauses(Generic[P]):
    """What is to be done again, after a pause that doubles with every try."""

    __slots__ = ("_count", "_heap", "_longest", "_shortest")

    def __init__(self, shortest: float, longest: float) -> None:
        self._shortest = shortest
        self._longest = longest
        self._heap: list[tuple[float, int, P]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, item: P, tries: int, now: float) -> None:
        """Pause an item that was tried `tries` times before."""
        pause = min(self._shortest * 2 ** min(tries, 32), self._longest)
        self._count += 1
        heappush(self._heap, (now + pause, self._count, item))

    def over(self, now: float) -> list[P]:
        """Items whose pause is over, taken out."""
        items = []
        while self._heap and self._heap[0][0] <= now:
            items.append(heappop(self._heap)[2])
        return items
