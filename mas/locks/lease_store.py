"""Keeps durable leases, those of outsiders, in the TM store, so that a new lock service knows them (rule 36, lock
tokens).
"""

import logging
from collections.abc import Sequence

from mas.errors import DatabaseUnavailable
from mas.ledger.instructions import Token
from mas.limits import MAILBOX_ITEMS_MAX
from mas.locks.ports import LockStore
from mas.runtime import Clock, Mailbox
from mas.transaction.stored import LockEntry

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 0.5


class LeaseStore:
    """Writes what is granted before it is used, and deletes what has ended behind: a lease that ended by time needs no delete."""

    def __init__(self, store: LockStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._ended: Mailbox[tuple[str, Token]] = Mailbox("locks.ended", MAILBOX_ITEMS_MAX)

    async def load(self) -> list[LockEntry]:
        """Every lock in the store; waits for the store as long as it takes."""
        while True:
            try:
                return await self._store.locks()
            except DatabaseUnavailable as error:
                _log.warning("the lock service waits for the TM store: %s", error)
                await self._clock.sleep(_RETRY_SECONDS)

    async def keep(self, entries: Sequence[LockEntry]) -> None:
        """Store these locks, synced. Raises `DatabaseUnavailable`; they may be stored then."""
        await self._store.put_locks(entries)

    def forget(self, lock_id: str, token: Token) -> None:
        """Delete this lock sooner or later; a new service does where too many wait for the store."""
        self._ended.offer((lock_id, token))

    async def run(self) -> None:
        """Delete until cancelled."""
        while True:
            await self._delete(await self._ended.drain())

    async def _delete(self, ended: Sequence[tuple[str, Token]]) -> None:
        while True:
            try:
                await self._store.delete_locks(ended)
            except DatabaseUnavailable:
                await self._clock.sleep(_RETRY_SECONDS)
            else:
                return
