"""Where new accounts are put: `max_id` modulo the number of buckets, from ids reserved in blocks (rule 19).

An id only chooses a place. Without the store, chance chooses: nothing but evenness suffers.
"""

import asyncio
import logging
from collections.abc import Callable

from mas.coordinator.ports import TxnCoordinatorDAO
from mas.errors import DatabaseUnavailable
from mas.runtime import Clock, Dice

BLOCK = 64
_PAUSE_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Places:
    """Hands out ids, and reserves more behind."""

    def __init__(self, store: TxnCoordinatorDAO, clock: Clock, dice: Dice) -> None:
        self._store = store
        self._clock = clock
        self._dice = dice
        self._next = 0
        self._end = 0
        self._waiting: list[Callable[[int], None]] = []
        self._wanted = asyncio.Event()

    def take(self, on_id: Callable[[int], None]) -> None:
        """Call back with an id, now if one is left."""
        if self._next < self._end:
            self._next += 1
            on_id(self._next)
        else:
            self._waiting.append(on_id)
            self._wanted.set()

    async def run(self) -> None:
        """Reserve a block whenever somebody waits for one, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            count = max(BLOCK, len(self._waiting))
            try:
                self._end = await self._store.incr_max_id(count)
                self._next = self._end - count
            except DatabaseUnavailable as error:
                _log.warning("no ids from the store, chance places new accounts: %s", error)
                waiting, self._waiting = self._waiting, []
                for on_id in waiting:
                    on_id(self._dice.randrange(1 << 32))
                await self._clock.sleep(_PAUSE_SECONDS)
                continue
            waiting, self._waiting = self._waiting, []
            for on_id in waiting:
                self.take(on_id)
