"""The Global Lock Service: one at a time in a cluster, and nothing's safety depends on it.

Payments ask for ESCROW or EXCLUSIVE tokens, which travel in their legs; readers and outsiders get locks that are marked
in the accounts as well, and outsiders' leases are kept in the TM store, so that a new service knows them. A service
that starts takes its epoch by an entry of a bucket first: so no token ever repeats, whatever the store has lost
(rules 33 to 36).
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import TypeVar

from mas.errors import MasError, Overloaded, Unavailable
from mas.ledger.instructions import Answer, Code, LockMode, TakeEpoch, Token
from mas.locks.commands import (
    Command,
    LockRequest,
    OnReleased,
    Release,
    ReleaseLock,
    Tick,
    Withdraw,
)
from mas.locks.lease_book import LeaseBook
from mas.locks.lease_store import LeaseStore
from mas.locks.leases import Leases
from mas.locks.marker import Marker
from mas.locks.marks import Marks
from mas.locks.ports import LockStore
from mas.locks.settings import LockSettings
from mas.locks.table import Grant, TableStatistics
from mas.rpc.ports import Buckets
from mas.rpc.submit_one import submit_one
from mas.runtime import Actor, Clock, Mailbox, Promise, Supervisor

_log = logging.getLogger(__name__)

T = TypeVar("T")

_EPOCH_BUCKET = 1
_RETRY_SECONDS = 0.25
_TICK_SECONDS = 0.05


class GlobalLockService(Leases, Actor):
    """Takes an epoch, and has its lease book carry out what it is asked, one command after the other."""

    name = "global-lock-service"

    def __init__(
        self,
        holder: str,
        *,
        buckets: Buckets,
        store: LockStore,
        clock: Clock,
        settings: LockSettings,
    ) -> None:
        self._holder = holder
        self._buckets = buckets
        self._clock = clock
        self._settings = settings
        self._marks = Marks(buckets, settings.buckets, clock)
        self._lease_store = LeaseStore(store, clock)
        self._supervisor = Supervisor()
        # Twice the room: what ends a request is never turned away for those that begin (rule 16, admission).
        self._commands: Mailbox[Command] = Mailbox("locks.commands", 2 * settings.requests_max)
        self._marker = Marker(
            self._marks, self._lease_store, clock, self._supervisor, self._commands.put
        )
        self._book: LeaseBook | None = None

    # -- asking, from anywhere on the loop --------------------------------------------------------

    async def acquire_locks(
        self,
        owner: bytes,
        lock_ids: Sequence[str],
        mode: LockMode,
        timeout: float,
        *,
        marked: bool = False,
        durable: bool = False,
        lease: float = 0.0,
    ) -> Grant:
        """See `Leases`."""
        result: Promise[Grant] = Promise()
        request = LockRequest(
            owner,
            tuple(lock_ids),
            mode,
            until=self._clock.monotonic() + timeout,
            lease=lease or self._settings.lease,
            on_result=lambda answer: _settle(result, answer),
            marked=marked,
            durable=durable,
        )
        self.ask(request)
        try:
            return await result
        except asyncio.CancelledError:
            self.withdraw(request)
            raise

    def ask(self, request: LockRequest) -> None:
        """Ask without waiting: `request.on_result` is called once.

        Raises:
            Unavailable: no lock service is at work here, or too many requests wait for it.
        """
        if self._book is None:
            raise Unavailable("the lock service isn't at work yet: try again")
        if len(self._commands) >= self._settings.requests_max:
            raise Overloaded(f"{len(self._commands)} requests wait for the lock service: try again")
        self._commands.put(request)

    def withdraw(self, request: LockRequest) -> None:
        """Whoever asked is gone. Not heard, the request or its lease ends by itself."""
        self._commands.offer(Withdraw(request))

    def release(self, owner: bytes) -> None:
        """See `Leases`."""
        if self._book is not None:
            self._commands.offer(Release(owner))

    async def release_owner(self, owner: bytes) -> bool:
        """See `Leases`."""
        result: Promise[bool] = Promise()
        self.ask_release_owner(owner, lambda answer: _settle(result, answer))
        return await result

    def ask_release_owner(self, owner: bytes, on_result: OnReleased) -> None:
        """`release_owner` without waiting: `on_result` is called once."""
        self._ask_release(Release(owner, on_result), on_result)

    async def release_lock(self, lock_id: str, owner: bytes, token: Token) -> bool:
        """See `Leases`."""
        result: Promise[bool] = Promise()
        self.ask_release(lock_id, owner, token, lambda answer: _settle(result, answer))
        return await result

    def ask_release(self, lock_id: str, owner: bytes, token: Token, on_result: OnReleased) -> None:
        """`release_lock` without waiting: `on_result` is called once."""
        self._ask_release(ReleaseLock(lock_id, owner, token, on_result), on_result)

    def _ask_release(self, command: Release | ReleaseLock, on_result: OnReleased) -> None:
        if self._book is None:
            on_result(Unavailable("the lock service isn't at work: the lock ends by itself"))
        else:
            self._commands.put(command)

    @property
    def lease(self) -> float:
        """Seconds that a lock is held unless its request says otherwise."""
        return self._settings.lease

    def statistics(self) -> TableStatistics:
        """Return what the table has seen; all zero before the service has its epoch."""
        if self._book is None:
            return TableStatistics(held=0, waiting=0, granted=0, timed_out=0, expired=0)
        return self._book.statistics()

    # -- the actor --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take an epoch, take over what earlier services granted, and serve until cancelled."""
        try:
            async with self._supervisor as supervisor:
                supervisor.spawn("locks.marks", self._marks.run())
                supervisor.spawn("locks.store", self._lease_store.run())
                supervisor.spawn("locks.serve", self._serve())
                await supervisor.wait()
        finally:
            self._stop()

    def _stop(self) -> None:
        stopping = Unavailable("the lock service is stopping: try again")
        book, self._book = self._book, None
        if book is not None:
            book.close(stopping)
        for command in self._commands.drain_nowait():
            match command:
                case LockRequest():
                    command.on_result(stopping)
                case ReleaseLock() | Release():
                    if command.on_result is not None:
                        command.on_result(stopping)
                case _:
                    continue

    async def _serve(self) -> None:
        epoch = await self._take_epoch()
        book = LeaseBook(epoch, self._marker, self._clock, self._settings)
        for entry in await self._lease_store.load():
            book.restore(entry)
        self._book = book
        _log.info("the lock service is at work, epoch %d", epoch)
        self._supervisor.spawn("locks.tick", self._tick(book))
        while True:
            for command in await self._commands.drain():
                book.carry_out(command)

    async def _tick(self, book: LeaseBook) -> None:
        """A look at the clock now and then, while anybody holds or waits."""
        while True:
            await self._clock.sleep(_TICK_SECONDS)
            if book and not self._commands:
                self._commands.put(Tick())

    async def _take_epoch(self) -> int:
        """An epoch that was taken and lost sight of is never used: the next one is greater."""
        while True:
            taken = await submit_one(self._buckets, _EPOCH_BUCKET, TakeEpoch(self._holder))
            if isinstance(taken, Answer) and taken.code is Code.DONE:
                return taken.value
            await self._clock.sleep(_RETRY_SECONDS)


def _settle(promise: Promise[T], result: T | MasError) -> None:
    if isinstance(result, MasError):
        promise.fail(result)
    else:
        promise.set(result)
