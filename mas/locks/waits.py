"""Who waits for which locks, and in which order. Pure.

Every lock has its queue, first come first served; a request for several locks stands in all of their queues at once,
at the place of its arrival. So of two requests that stand in each other's way, the earlier never waits for the
later: no cycle of waiting requests can exist, in whatever order they name their locks.

Payments (ESCROW) may pass others in one case: where one that came before those is let in, all that wait for the lock
join it. So payments and readers that come in turn pass in two rounds, not in thousands; and whoever is passed is
passed no more often than payments were before it.
"""

from collections.abc import Container, Iterator, Sequence

import msgspec

from mas.ledger.instructions import LockMode, compatible


class Waiter(msgspec.Struct, frozen=True, gc=False):
    """One request that waits. `number` is the order of arrival."""

    number: int
    owner: bytes
    locks: tuple[str, ...]
    mode: LockMode
    until: float
    """Monotonic seconds at which it gives up."""
    lease: float
    """Seconds that it wants to hold them."""


class WaitQueues:
    """The queues of all locks."""

    def __init__(self) -> None:
        self._queues: dict[str, dict[int, LockMode]] = {}
        self._waiters: dict[int, Waiter] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    def __contains__(self, number: int) -> bool:
        return number in self._waiters

    def length(self, lock: str) -> int:
        """Count those that wait for this lock."""
        return len(self._queues.get(lock, ()))

    def get(self, number: int) -> Waiter | None:
        """The waiter with this number, if it still waits."""
        return self._waiters.get(number)

    def add(self, waiter: Waiter) -> None:
        """At the end of all its queues."""
        self._waiters[waiter.number] = waiter
        for lock in waiter.locks:
            self._queues.setdefault(lock, {})[waiter.number] = waiter.mode

    def remove(self, number: int) -> Waiter:
        """Out of all its queues."""
        waiter = self._waiters.pop(number)
        for lock in waiter.locks:
            queue = self._queues[lock]
            del queue[number]
            if not queue:
                del self._queues[lock]
        return waiter

    def is_next(self, waiter: Waiter, joined: Container[str] = ()) -> bool:
        """Tell whether nobody before it, in any of its queues, stands in its way.

        `joined` are the locks at which it joins payments that are being let in, past whoever is between.
        """
        return all(lock in joined or self._lets_pass(lock, waiter) for lock in waiter.locks)

    def candidates(self, locks: Sequence[str]) -> Iterator[Waiter]:
        """Those that the freeing of these locks may let in, in the order of their arrival.

        The caller may remove what is yielded.
        """
        numbers = {number: None for lock in locks for number in self._reachable(lock)}
        for number in sorted(numbers):
            yield self._waiters[number]

    def payments(self, lock: str) -> list[Waiter]:
        """Every payment that waits for this lock, in the order of arrival."""
        queue = self._queues.get(lock, {})
        return [self._waiters[each] for each, mode in queue.items() if mode is LockMode.ESCROW]

    def _lets_pass(self, lock: str, waiter: Waiter) -> bool:
        for number, mode in self._queues.get(lock, {}).items():
            if number >= waiter.number:
                return True
            if not compatible(mode, waiter.mode):
                return False
        return True

    def _reachable(self, lock: str) -> Iterator[int]:
        """From the front as far as all could hold the lock together: nobody behind can pass."""
        first: LockMode | None = None
        for number, mode in self._queues.get(lock, {}).items():
            if first is not None and not compatible(first, mode):
                return
            first = mode
            yield number
