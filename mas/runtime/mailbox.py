"""The only way to reach an actor: a bounded queue that its owner empties in batches.

Many put, one drains. Everything here belongs to one event loop; another thread hands over with
`loop.call_soon_threadsafe(mailbox.put, item)`.
"""

import asyncio
from collections import deque
from typing import Generic, TypeVar

import msgspec

from mas.errors import MailboxClosed, MailboxFull

T = TypeVar("T")


class MailboxStatistics(msgspec.Struct, frozen=True):
    """What a mailbox has seen since its start."""

    name: str
    capacity: int
    waiting: int
    """Items inside now."""
    waiting_max: int
    """The most items that a drain has found."""
    taken: int
    """Items that its owner has drained."""
    refused: int
    """Items that found it full."""


class Mailbox(Generic[T]):
    """A bounded queue that answers at once when full, and is drained whole.

    What queues up while the owner works is its next batch, so batches grow with the load and
    nobody waits for one to fill.
    """

    __slots__ = (
        "_capacity",
        "_closed",
        "_items",
        "_refused",
        "_taken",
        "_waiter",
        "_waiting_max",
        "name",
    )

    def __init__(self, name: str, capacity: int) -> None:
        assert capacity > 0
        self.name = name
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self._waiting_max = 0
        self._taken = 0
        self._refused = 0

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Add an item, without waiting.

        Raises:
            MailboxFull: it holds `capacity` items (an `Overloaded`: try again later).
            MailboxClosed: the owner is stopping.
        """
        if not self.offer(item):
            raise MailboxFull(
                f"mailbox {self.name} is full ({self._capacity} wait): try again later"
            )

    def offer(self, item: T) -> bool:
        """Add an item if there is room: False, and not taken, when there is none.

        Raises:
            MailboxClosed: the owner is stopping.
        """
        if self._closed:
            raise self._closed_error()
        if len(self._items) >= self._capacity:
            self._refused += 1
            return False
        self._items.append(item)
        self._wake()
        return True

    async def drain(self, limit: int | None = None) -> list[T]:
        """Return all that waits, in order, at least one and at most `limit`.

        Every call lets other tasks run once, so an owner with a backlog starves nobody. A
        cancelled call has taken nothing.

        Raises:
            MailboxClosed: closed, and nothing is left.
        """
        if self._items:
            await asyncio.sleep(0)
        while not self._items:
            if self._closed:
                raise self._closed_error()
            await self._wait()
        return self.drain_nowait(limit)

    def drain_nowait(self, limit: int | None = None) -> list[T]:
        """Take what waits now, in order, at most `limit`: maybe nothing."""
        items = self._items
        waiting = len(items)
        self._waiting_max = max(self._waiting_max, waiting)
        if limit is None or waiting <= limit:
            batch = list(items)
            items.clear()
        else:
            batch = [items.popleft() for _ in range(limit)]
        self._taken += len(batch)
        return batch

    def close(self) -> None:
        """Take nothing more; what is inside can still be drained."""
        self._closed = True
        self._wake()

    def statistics(self) -> MailboxStatistics:
        """Return what it has seen so far."""
        return MailboxStatistics(
            name=self.name,
            capacity=self._capacity,
            waiting=len(self._items),
            waiting_max=max(self._waiting_max, len(self._items)),
            taken=self._taken,
            refused=self._refused,
        )

    async def _wait(self) -> None:
        assert self._waiter is None, f"mailbox {self.name} has two owners"
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _closed_error(self) -> MailboxClosed:
        return MailboxClosed(f"mailbox {self.name} is closed: its owner is stopping")
