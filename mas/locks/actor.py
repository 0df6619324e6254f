"""The Global Lock Service: one at a time in a cluster, and nothing's safety depends on it.

Payments ask for ESCROW or EXCLUSIVE tokens, which travel in their legs; readers and outsiders get locks that are marked
in the accounts as well, and outsiders' leases are kept in the TM store, so that a new service knows them. A service
that starts takes its epoch by an entry of a bucket first: so no token ever repeats, whatever the store has lost
(rules 33 to 36).
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from mas import limits
from mas.errors import DatabaseUnavailable, MasError, Overloaded, Unavailable
from mas.ledger.instructions import Answer, Code, LockMode, TakeEpoch, Token
from mas.locks.lease_store import LeaseStore
from mas.locks.leases import ACCOUNT, Leases
from mas.locks.marks import Marks, Placed
from mas.locks.ports import LockStore
from mas.locks.table import (
    Ended,
    Event,
    Expired,
    Grant,
    Granted,
    LockTable,
    TableStatistics,
    TimedOut,
    Withdrawn,
)
from mas.rpc.ports import Buckets
from mas.rpc.submit_one import submit_one
from mas.runtime import Actor, Clock, Mailbox, Promise, Supervisor
from mas.transaction.stored import LockEntry

_log = logging.getLogger(__name__)

T = TypeVar("T")
OnResult = Callable[[Grant | MasError], None]
OnReleased = Callable[[bool | MasError], None]
"""Takes whether anything was held."""

_EPOCH_BUCKET = 1
_RETRY_SECONDS = 0.25
_TICK_SECONDS = 0.05


class LockSettings(msgspec.Struct, frozen=True):
    """How locks are given."""

    buckets: int
    """The bucket count at the cluster's creation: where an account's home is (rule 20)."""
    lease: float = 10.0
    """Seconds that a lock is held without being released."""
    waiters_max: int = 4_096
    """Requests that may wait for one lock."""
    requests_max: int = limits.MAILBOX_ITEMS_MAX
    """Requests that may wait or hold in all."""


class LockRequest(msgspec.Struct, frozen=True, eq=False):
    """Somebody asks for locks."""

    owner: bytes
    lock_ids: tuple[str, ...]
    mode: LockMode
    until: float
    """Monotonic seconds at which it gives up."""
    lease: float
    on_result: OnResult
    marked: bool = False
    """Its accounts are marked before it is granted (rule 33)."""
    durable: bool = False
    """Its leases are kept in the TM store (rule 36)."""


class _Release(msgspec.Struct, frozen=True):
    owner: bytes
    on_result: OnReleased | None = None


class _ReleaseLock(msgspec.Struct, frozen=True):
    lock_id: str
    owner: bytes
    token: Token
    on_result: OnReleased


class _Withdraw(msgspec.Struct, frozen=True, eq=False):
    """Whoever asked is gone."""

    request: LockRequest


class _Tick(msgspec.Struct, frozen=True, gc=False):
    """Time has passed."""


class _Lease(msgspec.Struct):
    """What this service knows of a request, beside what the table knows."""

    request: LockRequest | None
    """None where an earlier service granted it."""
    on_result: OnResult | None
    """None once it is called."""
    grant: Grant | None = None
    durable: bool = False
    placed: list[Placed] = []
    """Its accounts that are marked, or may be."""
    marking: bool = False
    """Its marks are on their way. They are taken away after that, not before: a late one would stay."""

    def answer(self, result: Grant | MasError) -> None:
        if self.on_result is not None:
            on_result, self.on_result = self.on_result, None
            on_result(result)


class _Marked(msgspec.Struct, frozen=True, eq=False):
    """A lease's marks are set, and it is kept; or not, and some of them may be."""

    grant: Grant
    lease: _Lease
    error: MasError | None


_Command = LockRequest | _Release | _ReleaseLock | _Withdraw | _Marked | _Tick


class GlobalLockService(Leases, Actor):
    """Owns the table of this epoch, and everybody's leases in it."""

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
        # Twice the room: what ends a request is never turned away for those that begin (rule 16).
        self._commands: Mailbox[_Command] = Mailbox("locks.commands", 2 * settings.requests_max)
        self._table: LockTable | None = None
        self._leases: dict[int, _Lease] = {}
        self._numbers: dict[LockRequest, int] = {}
        self._marking: dict[int, _Lease] = {}

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
        if self._table is None:
            raise Unavailable("the lock service isn't at work yet: try again")
        if len(self._commands) >= self._settings.requests_max:
            raise Overloaded(f"{len(self._commands)} requests wait for the lock service: try again")
        self._commands.put(request)

    def withdraw(self, request: LockRequest) -> None:
        """Whoever asked is gone. Not heard, the request or its lease ends by itself."""
        self._commands.offer(_Withdraw(request))

    def release(self, owner: bytes) -> None:
        """See `Leases`."""
        if self._table is not None:
            self._commands.offer(_Release(owner))

    async def release_owner(self, owner: bytes) -> bool:
        """See `Leases`."""
        result: Promise[bool] = Promise()
        self.ask_release_owner(owner, lambda answer: _settle(result, answer))
        return await result

    def ask_release_owner(self, owner: bytes, on_result: OnReleased) -> None:
        """`release_owner` without waiting: `on_result` is called once."""
        self._ask_release(_Release(owner, on_result), on_result)

    async def release_lock(self, lock_id: str, owner: bytes, token: Token) -> bool:
        """See `Leases`."""
        result: Promise[bool] = Promise()
        self.ask_release(lock_id, owner, token, lambda answer: _settle(result, answer))
        return await result

    def ask_release(self, lock_id: str, owner: bytes, token: Token, on_result: OnReleased) -> None:
        """`release_lock` without waiting: `on_result` is called once."""
        self._ask_release(_ReleaseLock(lock_id, owner, token, on_result), on_result)

    def _ask_release(self, command: "_Release | _ReleaseLock", on_result: OnReleased) -> None:
        if self._table is None:
            on_result(Unavailable("the lock service isn't at work: the lock ends by itself"))
        else:
            self._commands.put(command)

    @property
    def lease(self) -> float:
        """Seconds that a lock is held unless its request says otherwise."""
        return self._settings.lease

    def statistics(self) -> TableStatistics:
        """What the table has seen; all zero before the service has its epoch."""
        if self._table is None:
            return TableStatistics(held=0, waiting=0, granted=0, timed_out=0, expired=0)
        return self._table.statistics()

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
        self._table = None
        stopping = Unavailable("the lock service is stopping: try again")
        for lease in self._leases.values():
            lease.answer(stopping)
        for command in self._commands.drain_nowait():
            match command:
                case LockRequest():
                    command.on_result(stopping)
                case _ReleaseLock() | _Release():
                    if command.on_result is not None:
                        command.on_result(stopping)
                case _:
                    continue

    async def _serve(self) -> None:
        epoch = await self._take_epoch()
        table = LockTable(epoch, waiters_max=self._settings.waiters_max)
        for entry in await self._lease_store.load():
            self._restore(table, entry, epoch)
        self._table = table
        _log.info("the lock service is at work, epoch %d", epoch)
        self._supervisor.spawn("locks.tick", self._tick())
        while True:
            for command in await self._commands.drain():
                self._on_command(table, command)

    async def _tick(self) -> None:
        """A look at the clock now and then, while anybody holds or waits."""
        while True:
            await self._clock.sleep(_TICK_SECONDS)
            if self._leases and not self._commands:
                self._commands.put(_Tick())

    async def _take_epoch(self) -> int:
        """An epoch that was taken and lost sight of is never used: the next one is greater."""
        while True:
            taken = await submit_one(self._buckets, _EPOCH_BUCKET, TakeEpoch(self._holder))
            if isinstance(taken, Answer) and taken.code is Code.DONE:
                return taken.value
            await self._clock.sleep(_RETRY_SECONDS)

    def _restore(self, table: LockTable, entry: LockEntry, epoch: int) -> None:
        """What is left of a lease that an earlier service has granted to an outsider."""
        placed = [(entry.lock_id.removeprefix(ACCOUNT), entry.bucket)] if entry.bucket else []
        for each in placed:
            self._marks.lose_sight(each, entry.token)
        left = (entry.expires_us - self._clock.now_us()) / 1e6
        if left <= 0 or entry.token.epoch >= epoch:
            self._take_away([entry.lock_id], placed, entry.token, durable=True)
            return
        deadline = self._clock.monotonic() + left
        grant = table.restore(entry.owner, entry.lock_id, entry.token, deadline)
        self._leases[grant.number] = _Lease(None, None, grant=grant, durable=True, placed=placed)

    def _on_command(self, table: LockTable, command: _Command) -> None:
        now = self._clock.monotonic()
        self._on_events(table, table.expire(now))
        match command:
            case LockRequest():
                self._on_request(table, command, now)
            case _Release(owner, on_released):
                events = table.release(owner, now)
                self._on_events(table, events)
                if on_released is not None:
                    on_released(bool(events))
            case _ReleaseLock(lock_id, owner, token, on_result):
                events = table.release_lock(lock_id, owner, token, now)
                self._on_events(table, events)
                on_result(bool(events))
            case _Withdraw(request):
                if (number := self._numbers.get(request)) is not None:
                    self._on_events(table, table.cancel(number, now))
            case _Marked():
                self._on_marked(table, command, now)
            case _Tick():
                self._give_up_marking(table, now)

    # -- requests and leases ----------------------------------------------------------------------

    def _on_request(self, table: LockTable, request: LockRequest, now: float) -> None:
        if len(self._leases) >= self._settings.requests_max:
            most = self._settings.requests_max
            request.on_result(Overloaded(f"{most} requests hold locks or wait for them: try again"))
            return
        if not table.has_room(request.lock_ids):
            most = self._settings.waiters_max
            request.on_result(Overloaded(f"{most} requests wait for one lock: try again"))
            return
        number, events = table.ask(
            request.owner,
            request.lock_ids,
            request.mode,
            until=request.until,
            lease=request.lease,
            now=now,
        )
        if number in self._leases:
            self._on_asked_again(request, self._leases[number])
            return
        self._leases[number] = _Lease(request, request.on_result, durable=request.durable)
        self._numbers[request] = number
        self._on_events(table, events)

    def _on_asked_again(self, request: LockRequest, lease: _Lease) -> None:
        """Its owner holds them already: it hasn't heard the first answer."""
        if lease.marking or lease.grant is None:
            request.on_result(Unavailable("these locks are being marked for you: try again"))
        else:
            request.on_result(lease.grant)

    def _on_events(self, table: LockTable, events: list[Event]) -> None:
        for event in events:
            match event:
                case Granted(grant):
                    self._on_granted(grant)
                case Ended(grant):
                    self._on_ended(table, grant, "released before they were marked")
                case Expired(grant):
                    self._on_ended(table, grant, "the lease ran out before they were marked")
                case TimedOut(number):
                    self._forget(number, "not free in time")
                case Withdrawn(number):
                    self._forget(number, "withdrawn")

    def _on_granted(self, grant: Grant) -> None:
        lease = self._leases[grant.number]
        request = lease.request
        assert request is not None
        lease.grant = grant
        if request.marked or request.durable:
            lease.marking = True
            self._marking[grant.number] = lease
            self._supervisor.spawn("locks.mark", self._mark(lease, request, grant))
        else:
            lease.answer(grant)

    def _on_ended(self, table: LockTable, grant: Grant, why: str) -> None:
        """Some locks of a lease, or all of them, are somebody else's now."""
        lease = self._leases[grant.number]
        if not lease.marking:
            self._take_away(grant.locks, lease.placed, grant.token, durable=lease.durable)
        if table.grant(grant.number) is None:
            self._forget(grant.number, why)

    def _forget(self, number: int, why: str) -> None:
        lease = self._leases.pop(number)
        if lease.request is not None:
            del self._numbers[lease.request]
        lease.answer(Unavailable(f"the locks were not had ({why}): try again"))

    # -- marks ------------------------------------------------------------------------------------

    async def _mark(self, lease: _Lease, request: LockRequest, grant: Grant) -> None:
        """Keep and mark what was granted; the rest of this service doesn't wait for it."""
        error: MasError | None = None
        try:
            placed = await self._locate(request, grant)
            # Before its marks are set, so that whatever becomes of this service, the next one takes them away.
            if request.durable:
                await self._lease_store.keep(self._entries(grant, placed))
            lease.placed = placed
            await self._marks.set(placed, grant.token, lambda: lease.on_result is not None)
        except DatabaseUnavailable as failure:
            error = Unavailable(f"the lock can't be kept: {failure}")
        except MasError as failure:
            error = failure
        self._commands.put(_Marked(grant, lease, error))

    async def _locate(self, request: LockRequest, grant: Grant) -> list[Placed]:
        """The accounts that are to be marked."""
        if not request.marked:
            return []
        accounts = [each.removeprefix(ACCOUNT) for each in grant.locks if each.startswith(ACCOUNT)]
        left = max(request.until - self._clock.monotonic(), 0.0)
        return await self._marks.locate(accounts, left)

    def _entries(self, grant: Grant, placed: list[Placed]) -> list[LockEntry]:
        left_us = int((grant.deadline - self._clock.monotonic()) * 1e6)
        expires_us = self._clock.now_us() + left_us
        buckets = {ACCOUNT + account: bucket for account, bucket in placed}
        return [
            LockEntry(lock, grant.owner, grant.token, expires_us, buckets.get(lock, 0))
            for lock in grant.locks
        ]

    def _on_marked(self, table: LockTable, marked: _Marked, now: float) -> None:
        """The marks are set, or will never be."""
        grant, lease = marked.grant, marked.lease
        lease.marking = False
        self._marking.pop(grant.number, None)
        held = table.grant(grant.number)
        if marked.error is None and held is not None and held.locks == grant.locks:
            lease.answer(grant)
            return
        self._take_away(grant.locks, lease.placed, grant.token, durable=lease.durable)
        lease.placed, lease.durable = [], False
        if marked.error is not None:
            lease.answer(marked.error)
        self._on_events(table, table.cancel(grant.number, now))

    def _take_away(
        self, locks: Sequence[str], placed: list[Placed], token: Token, *, durable: bool
    ) -> None:
        """Take away the marks of these locks; each is forgotten only once its mark is gone."""
        marked = {ACCOUNT + each[0]: each for each in placed}
        for lock in locks:
            forget = partial(self._lease_store.forget, lock, token) if durable else None
            if lock in marked:
                self._marks.remove(marked[lock], token, forget)
            elif forget is not None:
                forget()

    def _give_up_marking(self, table: LockTable, now: float) -> None:
        """Whoever asked waits no longer; the marks are taken away once their fate is known."""
        for number, lease in list(self._marking.items()):
            if lease.request is not None and lease.request.until <= now:
                lease.answer(Unavailable("the locks weren't marked in time: try again"))
                self._on_events(table, table.cancel(number, now))


def _settle(promise: Promise[T], result: T | MasError) -> None:
    if isinstance(result, MasError):
        promise.fail(result)
    else:
        promise.set(result)
