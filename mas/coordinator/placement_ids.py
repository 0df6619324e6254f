"""Where new accounts are put: `max_id` modulo the number of buckets, from ids reserved in blocks (rule 19, placement).

An id only chooses a place. If the store is down, buckets are chosen at random, and only the balance of placement is
affected.
"""

import asyncio
import logging
from collections.abc import Callable

from mas.coordinator.ports import TransactionStore
from mas.errors import DatabaseUnavailable
from mas.runtime import Clock, Dice

BLOCK = 64
_PAUSE_SECONDS = 1.0
_PATIENCE_SECONDS = 2.0
"""For a store that doesn't answer."""

_log = logging.getLogger(__name__)


class PlacementIds:
    """Hands out ids, and reserves more behind."""

    def __init__(self, store: TransactionStore, clock: Clock, dice: Dice) -> None:
        self._store = store
        self._clock = clock
        self._dice = dice
        self._next = 0
        self._end = 0
        self._waiting: list[Callable[[int], None]] = []
        self._wanted = asyncio.Event()
        self._hangs = False

    def take(self, on_id: Callable[[int], None]) -> None:
        """Call back with an id, now if one is left or the store hangs."""
        if self._next < self._end:
            self._next += 1
            on_id(self._next)
        elif self._hangs:
            on_id(self._chance())
        else:
            self._waiting.append(on_id)
            self._wanted.set()

    async def run(self) -> None:
        """Reserve a block whenever somebody waits for one, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await self._reserve(max(BLOCK, len(self._waiting)))

    async def _reserve(self, count: int) -> None:
        patience = asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, self._on_hanging)
        try:
            self._end = await self._store.incr_max_id(count)
        except DatabaseUnavailable as error:
            _log.warning("no ids from the store, chance places new accounts: %s", error)
            self._place_by_chance()
            await self._clock.sleep(_PAUSE_SECONDS)
            return
        finally:
            patience.cancel()
            self._hangs = False
        self._next = self._end - count
        waiting, self._waiting = self._waiting, []
        for on_id in waiting:
            self.take(on_id)

    def _on_hanging(self) -> None:
        _log.warning("the store gives no ids, chance places new accounts")
        self._hangs = True
        self._place_by_chance()

    def _place_by_chance(self) -> None:
        waiting, self._waiting = self._waiting, []
        for on_id in waiting:
            on_id(self._chance())

    def _chance(self) -> int:
        return self._dice.randrange(1 << 32)
