"""Where accounts are: memory first, then the TM store's directory, then the claims at the numbers' homes.

Memory and store are caches: a bucket that lacks an account says so, and then only its home's word counts (rule 3,
anchor and record). Every question is a batch: one call of the store a turn, and one query at a time to each home.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

import msgspec

from mas.coordinator.pending import PendingWriter
from mas.coordinator.ports import TransactionStore
from mas.errors import DatabaseUnavailable, Unavailable
from mas.ids import home_bucket
from mas.ledger.instructions import Legs
from mas.rpc.messages import Claims, ReadClaims
from mas.rpc.ports import Buckets
from mas.runtime import Clock, Supervisor

NUMBERS_MAX = 1_000_000
"""Accounts whose buckets are kept in memory; the longest known goes first."""
_NUMBERS_PER_QUERY = 1_000
_QUERY_SECONDS = 2.0
_RETRY_SECONDS = 0.1

_log = logging.getLogger(__name__)

Found = Callable[[dict[str, int]], None]
"""Takes the bucket of each number asked for, 0 where nobody has claimed it."""


class Lookup(msgspec.Struct, eq=False):
    """Somebody who waits for several numbers."""

    left: int
    found: dict[str, int]
    on_found: Found
    is_wanted: Callable[[], bool]
    fresh: bool


class Directory:
    """Finds the buckets of accounts."""

    def __init__(
        self,
        buckets: Buckets,
        store: TransactionStore,
        notes: PendingWriter,
        clock: Clock,
        homes: int,
    ) -> None:
        """`homes`: the bucket count at the cluster's creation (rule 20, genesis)."""
        self.homes = homes
        self._buckets = buckets
        self._store = store
        self._notes = notes
        self._clock = clock
        self._known: dict[str, int] = {}
        self._lookups: dict[str, list[Lookup]] = {}
        self._for_store: dict[str, None] = {}
        self._for_home: dict[int, dict[str, None]] = {}
        self._asked_homes: dict[int, None] = {}
        self._store_wanted = asyncio.Event()
        self._home_wanted = asyncio.Event()

    def known(self, legs: Legs) -> list[int]:
        """The bucket of each leg's account, 0 where memory doesn't know it."""
        get = self._known.get
        return [get(number, 0) for number, _ in legs]

    def learn(self, number: str, bucket: int) -> None:
        """The number's home has said so, or its creation has just been committed."""
        known = self._known
        if len(known) >= NUMBERS_MAX and number not in known:
            del known[next(iter(known))]
        known[number] = bucket

    def find(
        self,
        numbers: Iterable[str],
        on_found: Found,
        is_wanted: Callable[[], bool],
        *,
        fresh: bool = False,
    ) -> None:
        """Find all these numbers, and then call back once; never, if it is no longer wanted.

        `fresh`: what memory and store say was wrong; only the homes' word counts.
        """
        found = dict.fromkeys(numbers, 0)
        lookup = Lookup(0, found, on_found, is_wanted, fresh)
        for number in found:
            if fresh:
                self._known.pop(number, None)
            elif bucket := self._known.get(number, 0):
                found[number] = bucket
                continue
            lookup.left += 1
            self._ask(number, lookup)
        if not lookup.left:
            on_found(found)

    def _ask(self, number: str, lookup: Lookup) -> None:
        is_asked = number in self._lookups
        self._lookups.setdefault(number, []).append(lookup)
        if lookup.fresh:
            self._for_store.pop(number, None)
            self._ask_home(number)
        elif not is_asked:
            self._for_store[number] = None
            self._store_wanted.set()

    def _ask_home(self, number: str) -> None:
        home = home_bucket(number, self.homes)
        self._for_home.setdefault(home, {})[number] = None
        self._home_wanted.set()

    async def run(self) -> None:
        """Ask until cancelled."""
        async with Supervisor() as supervisor:
            supervisor.spawn("directory.store", self._ask_store_forever())
            supervisor.spawn("directory.homes", self._ask_homes_forever(supervisor))
            await supervisor.wait()

    async def _ask_store_forever(self) -> None:
        while True:
            await self._store_wanted.wait()
            self._store_wanted.clear()
            if self._for_store:
                await self._ask_store()

    async def _ask_homes_forever(self, supervisor: Supervisor) -> None:
        """Every home has a task of its own while something waits for it: a slow one holds up no other (rule 37, batches)."""
        while True:
            await self._home_wanted.wait()
            self._home_wanted.clear()
            for home in sorted(self._for_home):
                if home not in self._asked_homes:
                    self._asked_homes[home] = None
                    supervisor.spawn(f"directory.home-{home}", self._ask_claims(home))

    async def _ask_store(self) -> None:
        numbers, self._for_store = list(self._for_store), {}
        try:
            buckets = await self._store.find_buckets(numbers)
        except DatabaseUnavailable as error:
            _log.warning("the directory is away, the accounts' homes are asked: %s", error)
            buckets = [0] * len(numbers)
        existing = self._buckets.replicas()
        for number, bucket in zip(numbers, buckets, strict=True):
            if bucket in existing:
                self._answer_for(number, bucket, fresh=False)
            else:
                self._ask_home(number)

    async def _ask_claims(self, home: int) -> None:
        """Ask one home until nothing waits for it."""
        while waiting := self._for_home.pop(home, None):
            numbers = [number for number in waiting if self._is_wanted(number)]
            for start in range(0, len(numbers), _NUMBERS_PER_QUERY):
                part = tuple(numbers[start : start + _NUMBERS_PER_QUERY])
                try:
                    reply = await self._buckets.query(
                        home, ReadClaims(0, home, part), _QUERY_SECONDS
                    )
                except Unavailable:
                    self._for_home.setdefault(home, {}).update(dict.fromkeys(part))
                    await self._clock.sleep(_RETRY_SECONDS)
                    continue
                assert isinstance(reply, Claims), f"{reply} in answer to a question for claims"
                for number, bucket in zip(part, reply.buckets, strict=True):
                    self._answer_for(number, bucket, fresh=True)
                    if bucket:
                        self._notes.placed(number, bucket)
        del self._asked_homes[home]

    def _is_wanted(self, number: str) -> bool:
        """Tell whether anybody still waits for it; forgets those who don't."""
        wanted = [lookup for lookup in self._lookups.get(number, ()) if lookup.is_wanted()]
        if wanted:
            self._lookups[number] = wanted
        else:
            self._lookups.pop(number, None)
        return bool(wanted)

    def _answer_for(self, number: str, bucket: int, *, fresh: bool) -> None:
        """Answer those who wait for this number; whoever wants the home's word waits on where this is only the store's."""
        lookups = self._lookups.pop(number, [])
        waiting = [lookup for lookup in lookups if lookup.fresh and not fresh]
        if waiting:
            self._lookups[number] = waiting
        elif bucket:
            self.learn(number, bucket)
        for lookup in lookups:
            if fresh or not lookup.fresh:
                lookup.found[number] = bucket
                lookup.left -= 1
                if not lookup.left:
                    lookup.on_found(lookup.found)
