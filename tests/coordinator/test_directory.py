"""Where accounts are, asked for in batches; and where new ones go."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from mas.coordinator import directory as module
from mas.coordinator.directory import Directory
from mas.coordinator.pending import PendingWriter
from mas.coordinator.placement_ids import BLOCK, PlacementIds
from mas.runtime import Supervisor, SystemClock, SystemDice
from tests.coordinator.cluster import Buckets, Store, number_at

BUCKETS = 3


class World:
    def __init__(self, store: Store | None = None) -> None:
        self.buckets = Buckets(BUCKETS)
        self.store = store or Store()
        self.clock = SystemClock()
        self.notes = PendingWriter(self.store, self.clock)
        self.directory = Directory(self.buckets, self.store, self.notes, self.clock, BUCKETS)
        self.supervisor = Supervisor()

    async def find(self, numbers: Sequence[str], *, fresh: bool = False) -> dict[str, int]:
        found: list[dict[str, int]] = []
        self.directory.find(numbers, found.append, lambda: True, fresh=fresh)
        await until(lambda: bool(found))
        assert len(found) == 1
        return found[0]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


@pytest.mark.asyncio
async def test_memory_then_store_then_the_homes() -> None:
    world = World()
    at_home, in_store = number_at(2, BUCKETS, 0), number_at(2, BUCKETS, 1)
    world.buckets.open_account(at_home, 3, 0)
    world.store.directory[in_store] = 1
    async with world.supervisor:
        world.supervisor.spawn("directory", world.directory.run())

        found = await world.find([at_home, in_store, "nobody"])
        assert found == {at_home: 3, in_store: 1, "nobody": 0}
        asked = list(world.store.calls)
        assert await world.find([at_home, in_store]) == {at_home: 3, in_store: 1}

    assert world.store.calls == asked


class SlowStore(Store):
    """Says what it knows only when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def find_buckets(self, numbers: Sequence[str]) -> list[int]:
        buckets = await super().find_buckets(numbers)
        await self.gate.wait()
        return buckets


@pytest.mark.asyncio
async def test_rule_3_what_is_wanted_fresh_is_the_homes_word_alone() -> None:
    store = SlowStore()
    world = World(store)
    number = number_at(2, BUCKETS)
    world.buckets.open_account(number, 3, 0)
    world.store.directory[number] = 1
    async with world.supervisor:
        stale: list[dict[str, int]] = []
        fresh: list[dict[str, int]] = []
        world.directory.find([number], stale.append, lambda: True)
        world.supervisor.spawn("directory", world.directory.run())
        await until(lambda: "find_buckets" in world.store.calls)

        def on_fresh(found: dict[str, int]) -> None:
            fresh.append(dict(found))

        world.buckets.unreachable = {2}
        world.directory.find([number], on_fresh, lambda: True, fresh=True)
        store.gate.set()
        await until(lambda: bool(stale))
        assert stale == [{number: 1}]
        world.buckets.unreachable = set()
        await until(lambda: bool(fresh))

        assert fresh == [{number: 3}]
        assert await world.find([number]) == {number: 3}


@pytest.mark.asyncio
async def test_a_home_is_asked_one_question_at_a_time_and_for_all_that_wait() -> None:
    world = World()
    numbers = [number_at(2, BUCKETS, index) for index in range(20)]
    async with world.supervisor:
        world.supervisor.spawn("directory", world.directory.run())
        first = asyncio.ensure_future(world.find(numbers[:1]))
        await until(lambda: len(world.buckets.queries) == 1)
        rest = [asyncio.ensure_future(world.find([number])) for number in numbers[1:]]
        await asyncio.gather(first, *rest)

    assert [len(request.numbers) for _, request in world.buckets.queries] == [1, 19]


@pytest.mark.asyncio
async def test_what_nobody_waits_for_is_no_longer_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.001)
    world = World()
    world.buckets.unreachable = {2}
    number = number_at(2, BUCKETS)
    waits = [True]
    async with world.supervisor:
        world.supervisor.spawn("directory", world.directory.run())
        world.directory.find([number], lambda _: None, lambda: waits[0])
        await until(lambda: len(world.buckets.queries) > 3)

        waits[0] = False
        await until(lambda: not world.directory._asked_homes)

    assert not world.directory._lookups


@pytest.mark.asyncio
async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NUMBERS_MAX", 2)
    directory = World().directory
    for bucket, number in enumerate("ABC", 1):
        directory.learn(number, bucket)
    directory.learn("C", 1)

    assert directory.known((("A", 0), ("B", 0), ("C", 0))) == [0, 2, 1]


@pytest.mark.asyncio
async def test_rule_19_ids_are_reserved_in_blocks() -> None:
    store = Store()
    places = PlacementIds(store, SystemClock(), SystemDice())
    taken: list[int] = []
    async with Supervisor() as supervisor:
        supervisor.spawn("places", places.run())
        for _ in range(3 * BLOCK):
            places.take(taken.append)
        await until(lambda: len(taken) == 3 * BLOCK)
        places.take(taken.append)
        await until(lambda: len(taken) == 3 * BLOCK + 1)

    assert taken == list(range(1, 3 * BLOCK + 2))
    assert store.calls == ["incr_max_id"] * 2
