"""Who holds which lock: the heart of the Global Lock Service. Pure: time is handed in, nothing waits.

                 ask ──► waiting ──► held ──► gone
                            │          │ release, or its lease ran out
                            └──► gone  given up, or its time ran out

A request gets all of its locks or none, in the order of arrival; what it gets is a lease with a fencing token. Tokens,
(epoch, counter), only grow, so what holds a newer one can tell an older one's holder apart (rule 36, lock tokens). Nobody is
wounded: those that wait for each other in a circle, which only holders that ask again can, are parted by time.

Rule 34's priority of payments: an ESCROW request that waited is let in together with every other that waits for one
of its locks and is free to have the rest, and no other mode passes it before it has let go or its lease has run out.
An ESCROW request that comes after that doesn't pass a reader that waits: so neither side starves (T26).
"""

import heapq
from collections.abc import Container, Iterable, Sequence

import msgspec

from mas.ledger.instructions import LockMode, Token, compatible
from mas.locks.waits import Waiter, WaitQueues


class Grant(msgspec.Struct, frozen=True, gc=False):
    """A lease on some locks."""

    number: int
    """Of the request."""
    owner: bytes
    locks: tuple[str, ...]
    token: Token
    deadline: float
    """Monotonic seconds at which the lease runs out."""


class Granted(msgspec.Struct, frozen=True, gc=False):
    """A request has all its locks."""

    grant: Grant


class Ended(msgspec.Struct, frozen=True, gc=False):
    """A holder has let go of these locks."""

    grant: Grant


class Expired(msgspec.Struct, frozen=True, gc=False):
    """A holder's lease has run out."""

    grant: Grant


class TimedOut(msgspec.Struct, frozen=True, gc=False):
    """A request's time ran out before its turn came."""

    number: int


class Withdrawn(msgspec.Struct, frozen=True, gc=False):
    """A request has let go before its turn came."""

    number: int


Event = Granted | Ended | Expired | TimedOut | Withdrawn


class TableStatistics(msgspec.Struct, frozen=True):
    """What a table has seen since its start."""

    held: int
    """Leases now."""
    waiting: int
    granted: int
    timed_out: int
    expired: int


class LockTable:
    """All locks of one epoch. Every method that may let somebody in returns what happened, in its order."""

    def __init__(self, epoch: int, *, waiters_max: int) -> None:
        self._epoch = epoch
        self._waiters_max = waiters_max
        self._counter = 0
        self._last_number = 0
        self._waits = WaitQueues()
        self._grants: dict[int, Grant] = {}
        self._holders: dict[str, dict[int, Grant]] = {}
        self._numbers: dict[bytes, dict[int, None]] = {}
        self._times: list[tuple[float, int]] = []
        self._timed_out = 0
        self._expired = 0

    # -- asking and letting go --------------------------------------------------------------------

    def has_room(self, locks: Iterable[str]) -> bool:
        """Tell whether one more may wait for these locks."""
        return all(self._waits.length(lock) < self._waiters_max for lock in locks)

    def ask(
        self,
        owner: bytes,
        locks: Sequence[str],
        mode: LockMode,
        *,
        until: float,
        lease: float,
        now: float,
    ) -> tuple[int, list[Event]]:
        """Ask for these locks, and wait for them no longer than `until`. The request's number, and what happened.

        An owner that holds just these in this mode is granted what it holds: it didn't hear the first answer.
        """
        ordered = tuple(sorted(dict.fromkeys(locks)))
        held = self._held_already(owner, ordered, mode)
        if held is not None:
            return held.number, [Granted(held)]
        self._last_number += 1
        waiter = Waiter(self._last_number, owner, ordered, mode, until, lease)
        self._numbers.setdefault(owner, {})[waiter.number] = None
        self._waits.add(waiter)
        if self._is_free_for(waiter):
            return waiter.number, [self._grant(waiter, now)]
        heapq.heappush(self._times, (until, waiter.number))
        return waiter.number, []

    def release(self, owner: bytes, now: float) -> list[Event]:
        """Let go of all that this owner holds or waits for."""
        return self._end(list(self._numbers.get(owner, ())), now)

    def cancel(self, number: int, now: float) -> list[Event]:
        """Let go of one request, granted or not."""
        return self._end([number], now)

    def release_lock(self, lock: str, owner: bytes, token: Token, now: float) -> list[Event]:
        """Let go of one lock, if this owner holds it under this token; nothing happens otherwise."""
        for grant in self._holders.get(lock, {}).values():
            if grant.owner == owner and grant.token == token:
                return [Ended(self._shrink(grant, lock)), *self._let_in((lock,), now)]
        return []

    def expire(self, now: float) -> list[Event]:
        """End whatever has come to its time."""
        events: list[Event] = []
        freed: list[str] = []
        while self._times and self._times[0][0] <= now:
            _, number = heapq.heappop(self._times)
            grant = self._grants.get(number)
            if grant is not None and grant.deadline <= now:
                self._expired += 1
                self._drop_grant(grant)
                freed += grant.locks
                events.append(Expired(grant))
            elif grant is None and number in self._waits:
                self._timed_out += 1
                freed += self._drop_waiter(number).locks
                events.append(TimedOut(number))
        return events + self._let_in(freed, now)

    def restore(self, owner: bytes, lock: str, token: Token, deadline: float) -> Grant:
        """A lease that an earlier epoch has granted: it runs on, under its old token."""
        assert token.epoch < self._epoch, "a token of this epoch was granted by somebody else"
        self._last_number += 1
        grant = Grant(self._last_number, owner, (lock,), token, deadline)
        self._numbers.setdefault(owner, {})[grant.number] = None
        self._hold(grant)
        return grant

    # -- looking ----------------------------------------------------------------------------------

    def grant(self, number: int) -> Grant | None:
        """The lease of this request, if it holds one."""
        return self._grants.get(number)

    def holders(self, lock: str) -> list[Grant]:
        """The leases on this lock, the oldest first."""
        return list(self._holders.get(lock, {}).values())

    def statistics(self) -> TableStatistics:
        """Return what it has seen so far."""
        return TableStatistics(
            held=len(self._grants),
            waiting=len(self._waits),
            granted=self._counter,
            timed_out=self._timed_out,
            expired=self._expired,
        )

    # -- every change is below --------------------------------------------------------------------

    def _held_already(self, owner: bytes, locks: tuple[str, ...], mode: LockMode) -> Grant | None:
        for number in self._numbers.get(owner, ()):
            grant = self._grants.get(number)
            if grant is not None and grant.locks == locks and grant.token.mode is mode:
                return grant
        return None

    def _is_free_for(self, waiter: Waiter, joined: Container[str] = ()) -> bool:
        for lock in waiter.locks:
            for grant in self._holders.get(lock, {}).values():
                if not compatible(grant.token.mode, waiter.mode):
                    return False
                break  # those that hold a lock together are of one mode
        return self._waits.is_next(waiter, joined)

    def _let_in(self, locks: Sequence[str], now: float) -> list[Event]:
        """Grant what waits for these locks and is free to have them; payments take other payments along."""
        events: list[Event] = []
        joined: dict[str, None] = {}
        for waiter in self._waits.candidates(locks):
            if self._is_free_for(waiter):
                events.append(self._grant(waiter, now))
                if waiter.mode is LockMode.ESCROW:
                    joined.update(dict.fromkeys(waiter.locks))
        return events + self._join(joined, now)

    def _join(self, joined: dict[str, None], now: float) -> list[Event]:
        """Grant the payments that wait for these locks, at which others are being let in, and so on."""
        events: list[Event] = []
        locks = list(joined)
        for lock in locks:
            for waiter in self._waits.payments(lock):
                if self._is_free_for(waiter, joined):
                    events.append(self._grant(waiter, now))
                    # Whoever was not free to have these is looked at again, now that they are joined.
                    locks += [each for each in waiter.locks if each not in joined]
                    joined.update(dict.fromkeys(waiter.locks))
        return events

    def _grant(self, waiter: Waiter, now: float) -> Granted:
        self._waits.remove(waiter.number)
        self._counter += 1
        token = Token(self._epoch, self._counter, waiter.mode)
        grant = Grant(waiter.number, waiter.owner, waiter.locks, token, now + waiter.lease)
        self._hold(grant)
        return Granted(grant)

    def _hold(self, grant: Grant) -> None:
        self._grants[grant.number] = grant
        for lock in grant.locks:
            self._holders.setdefault(lock, {})[grant.number] = grant
        heapq.heappush(self._times, (grant.deadline, grant.number))

    def _end(self, numbers: Sequence[int], now: float) -> list[Event]:
        ended: list[Event] = []
        freed: list[str] = []
        for number in numbers:
            grant = self._grants.get(number)
            if grant is not None:
                self._drop_grant(grant)
                ended.append(Ended(grant))
                freed += grant.locks
            elif number in self._waits:
                freed += self._drop_waiter(number).locks
                ended.append(Withdrawn(number))
        return ended + self._let_in(freed, now)

    def _shrink(self, grant: Grant, lock: str) -> Grant:
        """Take one lock out of a lease; what was taken out, as a lease of its own."""
        self._drop_grant(grant)
        rest = tuple(each for each in grant.locks if each != lock)
        if rest:
            self._numbers.setdefault(grant.owner, {})[grant.number] = None
            self._hold(msgspec.structs.replace(grant, locks=rest))
        return msgspec.structs.replace(grant, locks=(lock,))

    def _drop_grant(self, grant: Grant) -> None:
        del self._grants[grant.number]
        for lock in grant.locks:
            holders = self._holders[lock]
            del holders[grant.number]
            if not holders:
                del self._holders[lock]
        self._forget(grant.owner, grant.number)

    def _drop_waiter(self, number: int) -> Waiter:
        waiter = self._waits.remove(number)
        self._forget(waiter.owner, number)
        return waiter

    def _forget(self, owner: bytes, number: int) -> None:
        numbers = self._numbers[owner]
        del numbers[number]
        if not numbers:
            del self._numbers[owner]
