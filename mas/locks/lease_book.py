"""Everybody's leases in one epoch: who asked for which, and has been answered what.

The table says who is next; the book answers those who asked, and has the marker mark what needs marks before it is
granted.
"""

import msgspec

from mas.errors import MasError, Overloaded, Unavailable
from mas.locks.commands import (
    Command,
    LockRequest,
    Marked,
    OnResult,
    Release,
    ReleaseLock,
    Tick,
    Withdraw,
)
from mas.locks.marker import Marker
from mas.locks.marks import Placed
from mas.locks.settings import LockSettings
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
from mas.runtime import Clock
from mas.transaction.stored import LockEntry


class _Lease(msgspec.Struct):
    """What the book knows of a request, beside what the table knows."""

    request: LockRequest | None
    """None where an earlier service granted it."""
    on_result: OnResult | None
    """None once it is called."""
    grant: Grant | None = None
    durable: bool = False
    placed: list[Placed] = []
    """Its accounts that are marked, or may be."""

    def answer(self, result: Grant | MasError) -> None:
        if self.on_result is not None:
            on_result, self.on_result = self.on_result, None
            on_result(result)


class LeaseBook:
    """Owns the table of one epoch, and the leases in it."""

    def __init__(self, epoch: int, marker: Marker, clock: Clock, settings: LockSettings) -> None:
        self._epoch = epoch
        self._marker = marker
        self._clock = clock
        self._requests_max = settings.requests_max
        self._waiters_max = settings.waiters_max
        self._table = LockTable(epoch, waiters_max=settings.waiters_max)
        self._leases: dict[int, _Lease] = {}
        self._numbers: dict[LockRequest, int] = {}
        # Their marks are on their way, and are taken away after that, not before: a late one would stay.
        self._marking: dict[int, _Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def statistics(self) -> TableStatistics:
        """Return what the table has seen so far."""
        return self._table.statistics()

    def restore(self, entry: LockEntry) -> None:
        """Take over what is left of a lease that an earlier service has granted to an outsider."""
        placed = self._marker.restore(entry)
        left = (entry.expires_us - self._clock.now_us()) / 1e6
        if left <= 0 or entry.token.epoch >= self._epoch:
            self._marker.take_away([entry.lock_id], placed, entry.token, durable=True)
            return
        deadline = self._clock.monotonic() + left
        grant = self._table.restore(entry.owner, entry.lock_id, entry.token, deadline)
        self._leases[grant.number] = _Lease(None, None, grant=grant, durable=True, placed=placed)

    def carry_out(self, command: Command) -> None:
        """Do this, behind all that has come to its time."""
        now = self._clock.monotonic()
        self._on_events(self._table.expire(now))
        match command:
            case LockRequest():
                self._on_request(command, now)
            case Release(owner, on_released):
                events = self._table.release(owner, now)
                self._on_events(events)
                if on_released is not None:
                    on_released(bool(events))
            case ReleaseLock(lock_id, owner, token, on_result):
                events = self._table.release_lock(lock_id, owner, token, now)
                self._on_events(events)
                on_result(bool(events))
            case Withdraw(request):
                if (number := self._numbers.get(request)) is not None:
                    self._on_events(self._table.cancel(number, now))
            case Marked():
                self._on_marked(command, now)
            case Tick():
                self._give_up_marking(now)

    def close(self, error: MasError) -> None:
        """Tell this to everybody who waits: the service stops."""
        for lease in self._leases.values():
            lease.answer(error)

    # -- requests ---------------------------------------------------------------------------------

    def _on_request(self, request: LockRequest, now: float) -> None:
        if len(self._leases) >= self._requests_max:
            most = self._requests_max
            request.on_result(Overloaded(f"{most} requests hold locks or wait for them: try again"))
            return
        if not self._table.has_room(request.lock_ids):
            most = self._waiters_max
            request.on_result(Overloaded(f"{most} requests wait for one lock: try again"))
            return
        number, events = self._table.ask(
            request.owner,
            request.lock_ids,
            request.mode,
            until=request.until,
            lease=request.lease,
            now=now,
        )
        if number in self._leases:
            self._on_asked_again(request, number)
            return
        self._leases[number] = _Lease(request, request.on_result, durable=request.durable)
        self._numbers[request] = number
        self._on_events(events)

    def _on_asked_again(self, request: LockRequest, number: int) -> None:
        """Its owner holds them already: it hasn't heard the first answer."""
        grant = self._leases[number].grant
        if number in self._marking or grant is None:
            request.on_result(Unavailable("these locks are being marked for you: try again"))
        else:
            request.on_result(grant)

    # -- what the table says ----------------------------------------------------------------------

    def _on_events(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Granted(grant):
                    self._on_granted(grant)
                case Ended(grant):
                    self._on_ended(grant, "released before they were marked")
                case Expired(grant):
                    self._on_ended(grant, "the lease ran out before they were marked")
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
            self._marking[grant.number] = lease
            self._marker.begin(request, grant, lambda: lease.on_result is not None)
        else:
            lease.answer(grant)

    def _on_ended(self, grant: Grant, why: str) -> None:
        """Some locks of a lease, or all of them, are somebody else's now."""
        lease = self._leases[grant.number]
        if grant.number not in self._marking:
            self._marker.take_away(grant.locks, lease.placed, grant.token, durable=lease.durable)
        if self._table.grant(grant.number) is None:
            self._forget(grant.number, why)

    def _forget(self, number: int, why: str) -> None:
        lease = self._leases.pop(number)
        if lease.request is not None:
            del self._numbers[lease.request]
        lease.answer(Unavailable(f"the locks were not had ({why}): try again"))

    # -- what the marker says ---------------------------------------------------------------------

    def _on_marked(self, marked: Marked, now: float) -> None:
        """The marks are set, or will never be."""
        grant, lease = marked.grant, self._marking.pop(marked.grant.number)
        held = self._table.grant(grant.number)
        if marked.error is None and held is not None and held.locks == grant.locks:
            lease.placed = marked.placed
            lease.answer(grant)
            return
        self._marker.take_away(grant.locks, marked.placed, grant.token, durable=lease.durable)
        lease.durable = False
        if marked.error is not None:
            lease.answer(marked.error)
        self._on_events(self._table.cancel(grant.number, now))

    def _give_up_marking(self, now: float) -> None:
        """Whoever asked waits no longer; the marks are taken away once their fate is known."""
        for number, lease in list(self._marking.items()):
            if lease.request is not None and lease.request.until <= now:
                lease.answer(Unavailable("the locks weren't marked in time: try again"))
                self._on_events(self._table.cancel(number, now))
