"""Makes a lease good outside the lock table: in the TM store, for the next lock service, and as marks in accounts.

A lease is stored before its marks are set, so that whatever becomes of this service, the next one takes them away; and it
is deleted only once its marks are gone.
"""

from collections.abc import Callable, Sequence
from functools import partial

from mas.errors import DatabaseUnavailable, MasError, Unavailable
from mas.ledger.instructions import Token
from mas.locks.commands import LockRequest, Marked
from mas.locks.lease_store import LeaseStore
from mas.locks.leases import ACCOUNT
from mas.locks.marks import Marks, Placed
from mas.locks.table import Grant
from mas.runtime import Clock, Supervisor
from mas.transaction.stored import LockEntry


class Marker:
    """Marks and stores what is granted, and takes that away, beside the service's own loop."""

    def __init__(
        self,
        marks: Marks,
        lease_store: LeaseStore,
        clock: Clock,
        supervisor: Supervisor,
        on_marked: Callable[[Marked], None],
    ) -> None:
        """`on_marked` is told once of each `begin`."""
        self._marks = marks
        self._lease_store = lease_store
        self._clock = clock
        self._supervisor = supervisor
        self._on_marked = on_marked

    def begin(self, request: LockRequest, grant: Grant, is_wanted: Callable[[], bool]) -> None:
        """Store and mark what was granted to this request, as long as it is wanted."""
        self._supervisor.spawn("locks.mark", self._mark(request, grant, is_wanted))

    async def _mark(
        self, request: LockRequest, grant: Grant, is_wanted: Callable[[], bool]
    ) -> None:
        error: MasError | None = None
        placed: list[Placed] = []
        try:
            located = await self._locate(request, grant)
            if request.durable:
                await self._lease_store.keep(self._entries(grant, located))
            placed = located
            await self._marks.set(placed, grant.token, is_wanted)
        except DatabaseUnavailable as failure:
            error = Unavailable(f"the lock can't be kept: {failure}")
        except MasError as failure:
            error = failure
        self._on_marked(Marked(grant, placed, error))

    async def _locate(self, request: LockRequest, grant: Grant) -> list[Placed]:
        """Find the accounts that are to be marked."""
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

    def restore(self, entry: LockEntry) -> list[Placed]:
        """The mark that an earlier service has set for this lock, or was about to."""
        placed = [(entry.lock_id.removeprefix(ACCOUNT), entry.bucket)] if entry.bucket else []
        for each in placed:
            self._marks.lose_sight(each, entry.token)
        return placed

    def take_away(
        self, locks: Sequence[str], placed: Sequence[Placed], token: Token, *, durable: bool
    ) -> None:
        """Take away the marks of these locks; delete each from the store once its mark is gone."""
        marked = {ACCOUNT + each[0]: each for each in placed}
        for lock in locks:
            forget = partial(self._lease_store.forget, lock, token) if durable else None
            if lock in marked:
                self._marks.remove(marked[lock], token, forget)
            elif forget is not None:
                forget()
