"""The PENDING entries of the TM store: a hint for recovery, written beside phase 1 and not waited for (rule 40, pending
notes).

What is noted and closed while a write is on its way is never written at all.
"""

import asyncio
import logging

from mas.coordinator.ports import TransactionStore
from mas.errors import DatabaseUnavailable
from mas.runtime import Clock
from mas.transaction.machine import NotePending
from mas.transaction.stored import PendingEntry

NOTES_MAX = 65_536
"""Notes that wait for a store that is away; more are dropped: the legs name their anchors all the same."""
_RETRY_SECONDS = 1.0

_log = logging.getLogger(__name__)


class PendingWriter:
    """Writes what waits in one call a kind, again and again."""

    def __init__(self, store: TransactionStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._noted: dict[bytes, NotePending] = {}
        self._settled: list[bytes] = []
        self._placed: dict[str, int] = {}
        self._waiting = asyncio.Event()
        self.dropped = 0
        """Hints that were not written, because the store was away for too long."""

    def note(self, note: NotePending) -> None:
        """An attempt has begun that has legs outside its anchor."""
        if len(self._noted) < NOTES_MAX:
            self._noted[note.attempt.xid] = note
            self._waiting.set()
        else:
            self.dropped += 1

    def settled(self, xid: bytes) -> None:
        """Every leg of the attempt has its outcome."""
        if self._noted.pop(xid, None) is not None:
            return
        if len(self._settled) < NOTES_MAX:
            self._settled.append(xid)
            self._waiting.set()
        else:
            self.dropped += 1

    def placed(self, number: str, bucket: int) -> None:
        """The directory may know where this account is."""
        if len(self._placed) < NOTES_MAX:
            self._placed[number] = bucket
            self._waiting.set()
        else:
            self.dropped += 1

    async def run(self) -> None:
        """Write until cancelled; what a failed call would have written is dropped."""
        while True:
            await self._waiting.wait()
            self._waiting.clear()
            try:
                await self._write()
            except DatabaseUnavailable as error:
                _log.warning("hints for recovery were not written: %s", error)
                await self._clock.sleep(_RETRY_SECONDS)

    async def _write(self) -> None:
        noted, self._noted = self._noted, {}
        settled, self._settled = self._settled, []
        placed, self._placed = self._placed, {}
        if noted:
            await self._store.create_transaction_entries([_entry(note) for note in noted.values()])
        if settled:
            await self._store.close_transaction_entries(settled)
        if placed:
            await self._store.insert_buckets(placed)


def _entry(note: NotePending) -> PendingEntry:
    transaction, attempt = note.transaction, note.attempt
    return PendingEntry(
        attempt.xid,
        transaction.payment_id,
        attempt.number,
        transaction.body_hash,
        attempt.anchor,
        tuple([part.bucket for part in attempt.locals]),
    )
