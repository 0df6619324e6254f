"""What coordinators that are gone have left under way: found in the TM store, and handed on at a bounded rate."""

import logging
from collections.abc import Callable

from mas.coordinator.ports import TransactionStore
from mas.errors import DatabaseUnavailable
from mas.runtime import Clock
from mas.transaction.stored import PendingEntry

_ENTRIES_PER_STEP = 200
_STEP_SECONDS = 0.1

_log = logging.getLogger(__name__)


class Recovery:
    """Has every attempt of a coordinator that is gone taken over, once."""

    def __init__(
        self,
        store: TransactionStore,
        clock: Clock,
        pause_seconds: float,
        is_own: Callable[[bytes], bool],
        take_over: Callable[[list[PendingEntry]], None],
    ) -> None:
        """`is_own` says whether an xid is of this life: what it has noted meanwhile is under way."""
        self._store = store
        self._clock = clock
        self._pause_seconds = pause_seconds
        self._is_own = is_own
        self._take_over = take_over

    async def run(self) -> None:
        """Redo or undo what was left, as the anchors say (rule 11, the resolver)."""
        entries = await self._entries()
        if entries and self._pause_seconds:
            found = {entry.xid for entry in entries}
            await self._clock.sleep(self._pause_seconds)
            entries = [entry for entry in await self._entries() if entry.xid in found]
        if entries:
            _log.info("%d transactions were under way at the last stop", len(entries))
        for start in range(0, len(entries), _ENTRIES_PER_STEP):
            self._take_over(entries[start : start + _ENTRIES_PER_STEP])
            await self._clock.sleep(_STEP_SECONDS)

    async def _entries(self) -> list[PendingEntry]:
        try:
            entries = await self._store.pending_entries()
        except DatabaseUnavailable as error:
            _log.warning("no hints for recovery, the buckets resolve by themselves: %s", error)
            return []
        return [entry for entry in entries if not self._is_own(entry.xid)]
