"""Brings a bucket's state to its AccountDB, behind everybody's back.

The Raft log is what makes a payment durable, so nobody waits for this: a flush takes all that has changed since the last
one, in one database transaction, and the more it lags the more it coalesces. What it must never do is skip forward
(rule 25, conditional flush) or let a row leave memory before it is stored (rule 22, eviction).
"""

import asyncio
import logging

from mas.errors import DatabaseUnavailable, StorageError
from mas.ledger import Ledger, WriteSet
from mas.resource.ports import AccountDB
from mas.runtime import Clock, Promise

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 0.5


class Flusher:
    """Writes the write sets of one ledger, one at a time and in order."""

    def __init__(
        self, ledger: Ledger, database: AccountDB, writer: bytes, clock: Clock, pause_seconds: float
    ) -> None:
        self._ledger = ledger
        self._database = database
        self._writer = writer
        self._clock = clock
        self._pause_seconds = pause_seconds
        self._dirty = asyncio.Event()
        self._hurry = asyncio.Event()
        self._dirty_since: float | None = None
        self._taken_since: float | None = None
        self._waiters: list[tuple[int, Promise[None]]] = []
        self.flushed = ledger.rows.bucket.applied
        """The index up to which the state is durable."""
        self.behind = 0
        """Instructions applied and not yet durable here."""
        self.failing_since: float | None = None
        """Monotonic seconds since which the database refuses, None while it works."""
        self._retired = asyncio.Event()
        self._progress = asyncio.Event()

    def wake(self) -> None:
        """Something has been applied."""
        if self._dirty_since is None:
            self._dirty_since = self._clock.monotonic()
        self._dirty.set()

    def lag_seconds(self) -> float:
        """Return how old the oldest change is that the database doesn't hold yet, in seconds."""
        oldest = self._taken_since if self._taken_since is not None else self._dirty_since
        return 0.0 if oldest is None else self._clock.monotonic() - oldest

    def retire(self) -> None:
        """A snapshot has taken the database's state away from under this flusher: another one takes over."""
        self._retired.set()
        self._progress.set()
        self._hurry.set()
        self._dirty.set()
        for _, waiter in self._waiters:
            waiter.set(None)

    async def wait_flushed(self) -> None:
        """Return once all that is applied now is durable."""
        applied = self._ledger.rows.bucket.applied
        if self.flushed >= applied:
            return
        waiter: Promise[None] = Promise()
        self._waiters.append((applied, waiter))
        self._hurry.set()
        self._dirty.set()
        await waiter

    async def wait_until_below(self, bound: int) -> None:
        """Return once fewer instructions than this are applied and not durable."""
        while self.behind >= bound and not self._retired.is_set():
            self._progress.clear()
            await self._progress.wait()

    async def flush(self) -> None:
        """Wait for something to flush, flush it, and pause: what comes meanwhile is the next flush.

        Raises:
            StorageError: the database isn't where this process left it (rule 25).
        """
        await self._dirty.wait()
        self._dirty.clear()
        await self._write()
        await self._pause()

    async def _write(self) -> None:
        self._taken_since, self._dirty_since = self._dirty_since, None
        if self._ledger.rows.bucket.applied == self.flushed or self._retired.is_set():
            self._taken_since = None
            return
        writes = self._ledger.rows.take_writes()
        applied = writes.bucket.applied
        taken = self.behind
        changed = await self._flush_until_answered(writes)
        if self._retired.is_set():
            return
        if not changed:
            raise StorageError(
                f"bucket {writes.bucket.bucket}: the database no longer holds index {self.flushed} of this process's "
                "writing: it went back in time, or another node writes to it. Start this node again to replay from "
                "what it holds; give each node a database of its own"
            )
        self.failing_since = self._taken_since = None
        self.flushed = applied
        self.behind -= taken
        self._progress.set()
        self._ledger.rows.flushed(writes)
        self._answer_waiters()

    async def _flush_until_answered(self, writes: WriteSet) -> bool:
        while True:
            try:
                return await self._database.flush(writes, before=self.flushed, writer=self._writer)
            except DatabaseUnavailable as error:
                self._on_failure(error)
                await self._clock.sleep(_RETRY_SECONDS)

    def _on_failure(self, error: DatabaseUnavailable) -> None:
        """The same write set is tried again: nothing accepted is lost, and new work is turned away meanwhile."""
        if self.failing_since is None:
            self.failing_since = self._clock.monotonic()
            _log.error("the AccountDB can't be written, flushes wait: %s", error)

    def _answer_waiters(self) -> None:
        waiting = []
        for index, waiter in self._waiters:
            if waiter.done():
                continue
            if index <= self.flushed:
                waiter.set(None)
            else:
                waiting.append((index, waiter))
        self._waiters = waiting
        if not waiting:
            self._hurry.clear()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._pause_seconds):
                await self._hurry.wait()
        except TimeoutError:
            return
