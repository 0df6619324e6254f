"""Holds every TM store to its ports, `mas.coordinator.ports.TransactionStore` and `mas.locks.ports.LockStore`.

An engine joins by its place in `ENGINES`: it opens the store of one test anew, as a restarted process would.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol

import pytest
import pytest_asyncio

from mas.coordinator.ports import TransactionStore
from mas.ledger import Token
from mas.locks.ports import LockStore
from mas.runtime import SystemDice
from mas.storage.dsn import parse_dsn
from mas.storage.tm_store.redis import PORTS, RedisTmStore
from mas.storage.tm_store.rocksdb import RocksTmStore
from mas.testing import RedisServer
from mas.transaction.stored import LockEntry, PendingEntry


class Store(TransactionStore, LockStore, Protocol):
    """Both ports: one engine serves the coordinator and the lock service."""


Open = Callable[[], Awaitable[Store]]


def rocksdb(folder: Path, _: pytest.FixtureRequest) -> Open:
    async def open_() -> Store:
        return RocksTmStore.open(folder / "tm", "test", 1)

    return open_


def redis(folder: Path, request: pytest.FixtureRequest) -> Open:
    server: RedisServer = request.getfixturevalue("redis_server")
    dsn = parse_dsn("tm_store", server.url, PORTS)
    return lambda: RedisTmStore.connect(dsn, folder.name, SystemDice(), 4)


ENGINES = {engine.__name__: engine for engine in (rocksdb, redis)}

pytestmark = pytest.mark.asyncio


class Stored:
    """A store that can be closed and opened again, as a restart would."""

    def __init__(self, open_: Open, store: Store) -> None:
        self._open = open_
        self.store = store

    async def restart(self) -> Store:
        await self.store.close()
        self.store = await self._open()
        return self.store


@pytest.fixture(params=ENGINES)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    return ENGINES[request.param](tmp_path, request)


@pytest_asyncio.fixture
async def stored(open_store: Open) -> AsyncIterator[Stored]:
    stored = Stored(open_store, await open_store())
    yield stored
    await stored.store.close()


@pytest.fixture
def store(stored: Stored) -> Store:
    return stored.store


def entry(number: int, attempt: int = 2) -> PendingEntry:
    return PendingEntry(
        xid=number.to_bytes(16, "big"),
        payment_id=bytes(16),
        attempt=attempt,
        body_hash=b"hash",
        anchor=3,
        participants=(1, 300),
    )


def lock(lock_id: str, token: Token, bucket: int = 0) -> LockEntry:
    return LockEntry(lock_id, b"owner", token, 1_700_000_000_000_000, bucket)


async def test_a_new_store_is_empty(store: Store) -> None:
    assert await store.find_buckets(["alice", "bob"]) == [0, 0]
    assert await store.pending_entries() == []
    assert await store.locks() == []
    assert await store.incr_max_id() == 1


async def test_nothing_may_be_asked_and_written(store: Store) -> None:
    await store.insert_buckets({})
    await store.create_transaction_entries([])
    await store.close_transaction_entries([])
    await store.put_locks([])
    await store.delete_locks([])
    assert await store.find_buckets([]) == []
    assert await store.pending_entries() == []
    assert await store.locks() == []


# -- ids ------------------------------------------------------------------------------------------


async def test_rule_19_callers_at_the_same_time_never_share_an_id(stored: Stored) -> None:
    counts = (1, 5, 2) * 20
    greatest = await asyncio.gather(*(stored.store.incr_max_id(count) for count in counts))
    ids = [
        each
        for end, count in zip(greatest, counts, strict=True)
        for each in range(end - count + 1, end + 1)
    ]
    assert sorted(ids) == list(range(1, sum(counts) + 1))
    assert await (await stored.restart()).incr_max_id() == 161


# -- directory ------------------------------------------------------------------------------------


async def test_the_directory_answers_in_the_order_of_the_question(stored: Stored) -> None:
    await stored.store.insert_buckets({"alice": 1, "zoë €": 70_000})
    store = await stored.restart()
    numbers = ["zoë €", "nobody", "alice", "ali", "alice"]
    assert await store.find_buckets(numbers) == [70_000, 0, 1, 0, 1]


async def test_the_last_word_on_an_account_counts(stored: Stored) -> None:
    await stored.store.insert_buckets({"alice": 1, "bob": 1})
    await stored.store.insert_buckets({"alice": 2, "ali": 5})
    await stored.store.insert_buckets({"alice": 2})
    assert await stored.store.find_buckets(["alice", "bob", "ali"]) == [2, 1, 5]
    assert await (await stored.restart()).find_buckets(["alice", "bob", "ali"]) == [2, 1, 5]


# -- transactions under way -----------------------------------------------------------------------


async def test_rule_40_transactions_under_way_are_found_after_a_restart(stored: Stored) -> None:
    await stored.store.create_transaction_entries([entry(number) for number in range(8, 0, -1)])
    await stored.store.close_transaction_entries([entry(n).xid for n in (2, 5, 99)])

    left = [entry(n) for n in (1, 3, 4, 6, 7, 8)]
    assert await stored.store.pending_entries() == left
    assert await (await stored.restart()).pending_entries() == left


async def test_a_transaction_may_be_noted_and_closed_twice(store: Store) -> None:
    await store.create_transaction_entries([entry(1), entry(2)])
    await store.create_transaction_entries([entry(2, attempt=3), entry(1)])
    assert await store.pending_entries() == [entry(1), entry(2, attempt=3)]
    for _ in range(2):
        await store.close_transaction_entries([entry(1).xid])
    assert await store.pending_entries() == [entry(2, attempt=3)]


async def test_callers_at_the_same_time_lose_none_of_each_others_entries(store: Store) -> None:
    every = [entry(number) for number in range(1, 101)]
    await asyncio.gather(*(store.create_transaction_entries([each]) for each in every))
    assert await store.pending_entries() == every
    await asyncio.gather(*(store.close_transaction_entries([each.xid]) for each in every[::2]))
    assert await store.pending_entries() == every[1::2]


# -- locks ----------------------------------------------------------------------------------------


async def test_rule_36_locks_outlive_the_service(stored: Stored) -> None:
    alice, bob = lock("account:alice", Token(1, 1), 7), lock("bob's \N{LOCK}", Token(1, 1))
    await stored.store.put_locks([alice, bob])
    await stored.store.put_locks([bob])
    store = await stored.restart()
    assert sorted(await store.locks(), key=lambda each: each.lock_id) == [alice, bob]


async def test_a_lock_is_named_by_its_id_and_token(store: Store) -> None:
    first, second, third = (
        lock("printer", token) for token in (Token(1, 9), Token(1, 10), Token(2, 9))
    )
    await store.put_locks([first, second, third])
    await store.delete_locks(
        [("printer", second.token), ("printer", Token(1, 1)), ("x", first.token)]
    )
    for _ in range(2):
        assert sorted(await store.locks(), key=lambda each: each.token) == [first, third]
        await store.delete_locks([("printer", second.token)])


# -- one store, several kinds of rows -------------------------------------------------------------


async def test_names_of_one_kind_are_nothing_to_another(store: Store) -> None:
    await store.insert_buckets({"T": 1, "L": 2, "M": 3, "": 4, "\0": 5})
    await store.put_locks([lock("", Token(1, 1)), lock("D alice", Token(1, 1))])
    await store.create_transaction_entries([entry(0)])
    assert await store.find_buckets(["T", "L", "M", "", "\0", "alice"]) == [1, 2, 3, 4, 5, 0]
    assert {each.lock_id for each in await store.locks()} == {"", "D alice"}
    assert await store.pending_entries() == [entry(0)]
    assert await store.incr_max_id() == 1
