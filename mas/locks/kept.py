"""Outsiders' leases in the TM store, so that a new lock service knows them (rule 36)."""

import logging
from collections.abc import Sequence

from mas.errors import DatabaseUnavailable
from mas.ledger.instructions import Token
from mas.limits import MAILBOX_ITEMS_MAX
from mas.locks.ports import LockEntry, LockStore
from mas.runtime import Clock, Mailbox

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 0.5
_FORGOTTEN_WAITING_MAX = MAILBOX_ITEMS_MAX


class KeptLocks:
    """What of the leases is kept. Keeping is waited for, forgetting isn't: what has ended by time needs none."""

    def __init__(self, store: LockStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._forgotten: Mailbox[tuple[str, Token]] = Mailbox(
            "locks.forgotten", _FORGOTTEN_WAITING_MAX
        )

    async def load(self) -> list[LockEntry]:
        """Every lock that is kept; waits for the store as long as it takes."""
        while True:
            try:
                return await self._store.locks()
            except DatabaseUnavailable as error:
                _log.warning("the lock service waits for the TM store: %s", error)
                await self._clock.sleep(_RETRY_SECONDS)

    async def keep(self, entries: Sequence[LockEntry]) -> None:
        """Keep these locks. Raises `DatabaseUnavailable`; some of them may be kept then."""
        for entry in entries:
            await self._store.put_lock(entry)

    def forget(self, lock_ids: Sequence[str], token: Token) -> None:
        """Forget these locks, sooner or later; at the next start, where too many wait for the store."""
        for lock_id in lock_ids:
            self._forgotten.offer((lock_id, token))

    async def run(self) -> None:
        """Forget until cancelled."""
        while True:
            for lock_id, token in await self._forgotten.drain():
                await self._forget(lock_id, token)

    async def _forget(self, lock_id: str, token: Token) -> None:
        while True:
            try:
                await self._store.delete_lock(lock_id, token)
            except DatabaseUnavailable:
                await self._clock.sleep(_RETRY_SECONDS)
            else:
                return
