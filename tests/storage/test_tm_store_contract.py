"""What every TM store promises: the port's words are in `mas.coordinator.ports`. An engine joins by a line in `ENGINES`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from mas.coordinator.ports import PendingEntry, TxnCoordinatorDAO
from mas.storage.tm_store_rocksdb import RocksTmStore, StoredEntry

ENGINES: dict[str, Callable[[Path], RocksTmStore]] = {
    "rocksdb": lambda folder: RocksTmStore.open(folder / "tm", "test", 1)
}


class Shelf:
    """A store that can be closed and opened again, as a restart would."""

    def __init__(self, open_: Callable[[], RocksTmStore]) -> None:
        self._open = open_
        self.store = open_()

    async def restart(self) -> RocksTmStore:
        await self.store.close()
        self.store = self._open()
        return self.store


@pytest_asyncio.fixture(params=ENGINES)
async def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shelf]:
    shelf = Shelf(lambda: ENGINES[request.param](tmp_path))
    yield shelf
    await shelf.store.close()


def entry(number: int) -> PendingEntry:
    return PendingEntry(
        xid=number.to_bytes(16, "big"),
        payment_id=bytes(16),
        attempt=2,
        body_hash=b"hash",
        anchor=3,
        participants=(1, 300),
    )


def fields(found: object) -> tuple[object, ...]:
    return tuple(getattr(found, name) for name in PendingEntry.__struct_fields__)


@pytest.mark.asyncio
async def test_a_new_store_is_empty(shelf: Shelf) -> None:
    store: TxnCoordinatorDAO = shelf.store
    assert await store.get_max_id() == 0
    assert await store.get_peers_list() == {}
    assert await store.get_peer_bucket(["alice", "bob"]) == [0, 0]
    assert await store.get_peer_bucket([]) == []
    assert await store.pending_entries() == []
    assert await shelf.store.locks() == {}


@pytest.mark.asyncio
async def test_rule_19_max_id_gives_each_id_once(shelf: Shelf) -> None:
    store = shelf.store
    ends = await asyncio.gather(*(store.incr_max_id(count) for count in (1, 5, 2) * 20))
    assert len(set(ends)) == 60
    assert max(ends) == await store.get_max_id() == 160
    assert await (await shelf.restart()).incr_max_id() == 161


@pytest.mark.asyncio
async def test_the_directory_knows_what_it_was_told(shelf: Shelf) -> None:
    await shelf.store.insert_peer_bucket({"alice": 1, "zoë €": 70_000})
    await shelf.store.insert_peer_bucket({"alice": 2, "ali": 5})
    store = await shelf.restart()
    assert await store.get_peer_bucket(["zoë €", "nobody", "alice", "ali"]) == [70_000, 0, 2, 5]


@pytest.mark.asyncio
async def test_the_list_of_peers_is_replaced(shelf: Shelf) -> None:
    await shelf.store.set_peers_list({1: "a:1,b:2", 2: "c:3", 300: "d:4"})
    await shelf.store.set_peers_list({1: "b:2,a:1", 300: "d:4"})
    assert await (await shelf.restart()).get_peers_list() == {1: "b:2,a:1", 300: "d:4"}


@pytest.mark.asyncio
async def test_rule_40_transactions_under_way_are_found_after_a_restart(shelf: Shelf) -> None:
    await shelf.store.create_transaction_entries([entry(number) for number in range(1, 9)])
    await shelf.store.close_transaction_entries([entry(n).xid for n in (2, 5, 99)])
    await shelf.store.close_transaction_entries([])

    found = await (await shelf.restart()).pending_entries()
    assert list(map(fields, found)) == [fields(entry(n)) for n in (1, 3, 4, 6, 7, 8)]


def test_an_entry_is_stored_with_all_its_fields() -> None:
    """The store may not know the coordinator's struct; this test knows both."""
    assert StoredEntry.__struct_fields__ == PendingEntry.__struct_fields__


@pytest.mark.asyncio
async def test_rule_36_locks_are_kept(shelf: Shelf) -> None:
    await shelf.store.put_lock("account a", b"lease 1")
    await shelf.store.put_lock("account b", b"lease 2")
    await shelf.store.put_lock("account a", b"lease 3")
    await shelf.store.delete_lock("account b")
    await shelf.store.delete_lock("nothing")
    assert await (await shelf.restart()).locks() == {"account a": b"lease 3"}


@pytest.mark.asyncio
async def test_r3_a_lost_store_is_known_by_its_epoch(shelf: Shelf) -> None:
    assert await shelf.store.get_epoch() == b""
    await shelf.store.set_epoch(b"once")
    assert await (await shelf.restart()).get_epoch() == b"once"
