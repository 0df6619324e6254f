"""What every AccountDB promises, asked of each engine: the port's words are in `mas.resource.ports`.

An engine joins by its place in `ENGINES`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from mas.errors import CorruptData
from mas.ledger.instructions import Code, Reason, Token
from mas.ledger.rows import (
    Account,
    BucketRow,
    Incarnation,
    Loaded,
    NodeRow,
    Posting,
    PreparedLegs,
    Record,
)
from mas.ledger.totals import Totals
from mas.raft import ConfState, SnapshotMetadata
from mas.resource.ports import AccountDB
from mas.sim.disk import SimWorker
from mas.sim.system.account_db import DatabaseDisk, SimAccountDB
from mas.storage.account_db.rocksdb import RocksAccountDB
from tests.storage.account_rows import (
    INCARNATION,
    Book,
    everything,
    payment_id,
    prepared,
    record,
    undecided,
)
from tests.storage.mysql_databases import mysql_database

Engine = Callable[[Path], Awaitable[AccountDB]]
"""Opens the database of a folder."""


def rocksdb(_: pytest.FixtureRequest) -> Engine:
    async def open_(folder: Path) -> AccountDB:
        return RocksAccountDB.connect(folder / "mas.rocksdb", "test", 1)

    return open_


def simulated(_: pytest.FixtureRequest) -> Engine:
    async def open_(_: Path) -> AccountDB:
        return SimAccountDB(DatabaseDisk(), SimWorker(lambda: 0.0))

    return open_


def mariadb(request: pytest.FixtureRequest) -> Engine:
    return partial(mysql_database, request.getfixturevalue("mariadb_server"))


ENGINES = {engine.__name__: engine for engine in (rocksdb, simulated, mariadb)}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param](request)


@pytest_asyncio.fixture
async def database(engine: Engine, tmp_path: Path) -> AsyncIterator[AccountDB]:
    database = await engine(tmp_path)
    yield database
    await database.close()


@pytest_asyncio.fixture
async def other(engine: Engine, tmp_path: Path) -> AsyncIterator[AccountDB]:
    """Another node's database, to carry snapshots to."""
    database = await engine(tmp_path / "other")
    yield database
    await database.close()


async def flush(database: AccountDB, book: Book, writer: bytes = b"me") -> None:
    before = book.row.applied
    assert await database.flush(book.take(), before=before, writer=writer)


async def opened(database: AccountDB, book: Book) -> Book:
    await database.open(book.row.bucket, b"me")
    await flush(database, book)
    return book


@pytest.mark.asyncio
async def test_a_new_bucket_is_made_empty(database: AccountDB) -> None:
    assert await database.bucket_row(5) is None

    kept = await database.open(5, b"me")
    assert (kept.bucket, kept.legs, kept.incarnations) == (BucketRow(5), {}, {})
    assert await database.bucket_row(5) == BucketRow(5)
    assert await database.payment_ids(5, b"", 10) == []
    assert await database.totals(5) == Totals()
    assert await database.postings(5, "alice", 0, 10) == (0, [])


@pytest.mark.asyncio
async def test_rows_come_back_as_they_were(database: AccountDB) -> None:
    book = await opened(database, everything())
    ids = [payment_id(number) for number in (1, 2, 3, 4, 5, 90, 91)]

    numbers = [*book.accounts, "nobody"]
    loaded = await database.load(1, numbers, [*ids, payment_id(7)], ["alice", "zoë", "nobody"])
    assert loaded.applied == 1
    assert loaded.accounts == book.accounts
    assert loaded.records == {
        **{payment_id(number): record(number) for number in range(1, 6)},
        payment_id(91): undecided(91),
        payment_id(90): Record(
            payment_id(90), Code.REFUSED, reason=Reason.CANCELLED, detail="by hand", payer="alice"
        ),
    }
    assert loaded.claims == {"alice": 1, "zoë": 4}

    kept = await database.open(1, b"again")
    assert kept.bucket == book.row
    assert kept.legs == {legs.xid: legs for legs in (prepared(50), prepared(51))}
    assert kept.incarnations[INCARNATION].posted == {40: None, 19: None, 2**47: None}
    assert list(kept.incarnations[INCARNATION].posted) == [40, 19, 2**47]
    assert kept.incarnations[b"\xff" * 10] == Incarnation(b"\xff" * 10, closed=True)


@pytest.mark.asyncio
async def test_a_flush_replaces_rows_and_deletes_settled_legs(database: AccountDB) -> None:
    book = await opened(database, everything())
    book.settle(prepared(50).xid)
    book.account("bob", debits_pending=77)
    book.claim("alice", 2)
    book.record(undecided(92))
    await flush(database, book)
    book.record(undecided(92, attempt=9))
    book.record(msgspec.structs.replace(record(91), attempt=2))
    book.remember(Incarnation(INCARNATION, 41))
    book.register(NodeRow(4, "moved:1", ("rm",)), index=2)
    await flush(database, book)

    kept = await database.open(1, b"me")
    assert (kept.bucket.nodes, kept.bucket.nodes_index) == ((NodeRow(4, "moved:1", ("rm",)),), 2)
    assert list(kept.legs) == [prepared(51).xid]
    assert kept.incarnations[INCARNATION] == Incarnation(INCARNATION, 41)
    loaded = await database.load(1, ["alice", "bob"], [payment_id(91), payment_id(92)], ["alice"])
    assert loaded.applied == 3
    assert (loaded.accounts["bob"].debits_pending, loaded.accounts["alice"].debits_pending) == (
        77,
        5,
    )
    assert loaded.records[payment_id(91)].outcome is Code.COMMITTED
    assert loaded.records[payment_id(92)].attempt == 9
    assert loaded.claims == {"alice": 2}
    assert (await database.verify(1)).records == 6


@pytest.mark.asyncio
async def test_buckets_dont_see_each_other(database: AccountDB) -> None:
    await opened(database, everything(1))
    await opened(database, Book(2))
    assert await database.load(2, ["alice"], [payment_id(1)], ["alice"]) == Loaded(1, {}, {}, {})
    assert await database.payment_ids(2, b"", 10) == []
    assert await database.totals(2) == Totals(applied=1)
    assert (await database.open(2, b"me")).legs == {}


@pytest.mark.asyncio
async def test_rule_25_a_flush_from_another_index_or_writer_changes_nothing(
    database: AccountDB,
) -> None:
    book = await opened(database, everything())
    before = await database.load(1, ["alice"], [], [])
    for index, writer in ((0, b"me"), (2, b"me"), (1, b"another")):
        book.account("alice", debits_pending=99)
        writes = msgspec.structs.replace(book.take(), bucket=BucketRow(1, applied=9))
        book.row.applied = 1
        assert not await database.flush(writes, before=index, writer=writer)
    assert await database.load(1, ["alice"], [], []) == before


@pytest.mark.asyncio
async def test_rule_25_a_bucket_has_one_writer_at_a_time(database: AccountDB) -> None:
    book = await opened(database, Book())
    await database.open(1, b"another")
    assert not await database.flush(book.take(), before=1, writer=b"me")


@pytest.mark.asyncio
async def test_s2_a_flush_whose_answer_was_lost_is_not_done_twice(
    database: AccountDB,
) -> None:
    book = await opened(database, Book())
    book.pay(1)
    writes = book.take()
    assert await database.flush(writes, before=1, writer=b"me")
    accounts = {number: row.__copy__() for number, row in writes.accounts.items()}
    for account in writes.accounts.values():
        account.chunk = account.chunk64 = 0  # as the failed try has left them

    assert await database.flush(writes, before=1, writer=b"me")
    assert writes.accounts == accounts
    assert (await database.totals(1)).postings == 2


@pytest.mark.asyncio
async def test_totals_are_of_the_rows(database: AccountDB) -> None:
    book = everything()
    for number in range(3):
        book.open(f"rich{number}", 2**62, "XAU")
    book.open("poor", -7, "XAU")
    book.open("@external/XAU", -(2**63), "XAU")
    await opened(database, book)

    totals = Totals(
        applied=1,
        balances={"USD": 2**62, "XAU": 3 * 2**62 - 7},
        external={"USD": -(2**62), "XAU": -(2**63)},
        accounts=7,
        records=5,
        postings=14 + 10,
    )
    assert await database.totals(1) == totals
    assert await database.verify(1) == totals


@pytest.mark.asyncio
async def test_payment_ids_come_in_pages(database: AccountDB) -> None:
    book = Book()
    for number in range(1, 24):
        book.record(record(number))
    await opened(database, book)

    await database.open(1, b"again")
    pages: list[list[bytes]] = []
    after = b""
    while page := await database.payment_ids(1, after, 5):
        pages.append(page)
        after = page[-1]
    assert [len(page) for page in pages] == [5, 5, 5, 5, 3]
    assert sorted(each for page in pages for each in page) == sorted(
        payment_id(number) for number in range(1, 24)
    )


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [1, 3, 64, 700])
async def test_postings_come_newest_first_from_any_place(database: AccountDB, size: int) -> None:
    """Flushes of so many payments each; between alice's postings lie others'."""
    book = Book()
    await database.open(1, b"me")
    count = 200 if size == 1 else 700
    for number in range(1, count + 1):
        book.pay(number, payee=f"payee{number % 7}")
        if number % size == 0 or number == count:
            await flush(database, book)

    for before, limit in ((0, 10), (0, 2_000), (count, 5), (130, 70), (66, 3), (65, 1), (2, 9)):
        applied, lines = await database.postings(1, "alice", before, limit)
        newest = before - 1 if before else count
        wanted = list(range(newest, max(newest - limit, 0), -1))
        assert [line.sequence for line in lines] == wanted
        assert [line.payment_id for line in lines] == [payment_id(each) for each in wanted]
        assert [line.balance for line in lines] == [-100 * each for each in wanted]
        told = [(f"payee{each % 7}", f"invoice {each}") for each in wanted]
        assert [(line.counterparty, line.reference) for line in lines] == told
        assert applied == book.row.applied
    assert (await database.postings(1, "alice", 1, 10))[1] == []
    assert (await database.postings(1, "payee3", 0, 1))[1][0].amount == 100
    assert (await database.postings(1, "nobody", 0, 1))[1] == []


@pytest.mark.asyncio
async def test_f5_a_snapshot_carries_everything(
    database: AccountDB, other: AccountDB, tmp_path: Path
) -> None:
    book = everything()
    book.row.members = msgspec.msgpack.encode(ConfState(voters=(1, 2), learners=(3,)))
    book.row.version, book.row.epoch = 3, 4
    await opened(database, book)
    for number in range(100, 2_600):
        book.pay(number, payee=f"payee{number}")
    await flush(database, book)
    await opened(database, everything(2))  # not in the snapshot
    path = tmp_path / "snapshot"
    metadata = SnapshotMetadata(2, 7, ConfState(voters=(1, 2), learners=(3,)))

    assert await database.export(1, path) == metadata
    await opened(other, something_else())
    await opened(other, everything(2))
    assert await other.check(1, path) == metadata
    await other.install(1, path)

    assert await other.bucket_row(1) == await database.bucket_row(1)
    assert await other.totals(1) == await database.totals(1)
    assert await other.postings(1, "alice", 0, 90) == await database.postings(1, "alice", 0, 90)
    numbers, ids = ["mallory", *book.accounts], [payment_id(number) for number in range(9_002)]
    claims = ["alice", "zoë", "mallory"]
    assert await other.load(1, numbers, ids, claims) == await database.load(1, numbers, ids, claims)
    assert await other.open(1, b"new") == await database.open(1, b"new")
    assert (await other.totals(2)).postings == 14
    again = tmp_path / "again"
    await other.export(1, again)
    assert again.read_bytes() == path.read_bytes()


def something_else() -> Book:
    """Rows at keys of their own and at those of `everything`, which a snapshot must take away."""
    book = Book(1)
    book.account("mallory", balance=5, debits_pending=3)
    book.account("bob", balance=-3, frozen=True, fence=Token(9, 9))
    for number in range(9_000, 9_003):
        book.pay(number, "mallory", "bob")
    book.prepare(prepared(60))
    book.claim("mallory", 1)
    book.claim("zoë", 2)
    book.remember(Incarnation(b"another on", 5, {7: None}))
    book.remember(Incarnation(INCARNATION, 99, {200: None}))
    return book


def test_everything_has_a_value_in_every_field() -> None:
    """Else a snapshot could leave a field behind, and no test would see."""
    book = everything()
    writes = book.take()
    rows: list[msgspec.Struct] = [
        *book.accounts.values(),
        *writes.records.values(),
        *writes.postings,
        *(legs for legs in writes.legs.values() if legs is not None),
        *writes.incarnations.values(),
    ]
    kinds = {type(row) for row in rows}
    assert kinds == {Account, Record, Posting, PreparedLegs, Incarnation}
    for kind in kinds:
        for field in msgspec.structs.fields(kind):
            values = [getattr(row, field.name) for row in rows if type(row) is kind]
            # Where chunks are cut, and so the chunks' numbers, is the database's own.
            assert any(values) or field.name in ("chunk", "chunk64"), (kind, field.name)


@pytest.mark.asyncio
async def test_rule_25_after_an_installation_nobody_is_the_writer(
    database: AccountDB, other: AccountDB, tmp_path: Path
) -> None:
    await opened(database, everything())
    await database.export(1, tmp_path / "snapshot")
    book = await opened(other, Book(1))
    await other.install(1, tmp_path / "snapshot")

    book.account("mallory", balance=1)
    assert not await other.flush(book.take(), before=1, writer=b"me")
    await other.open(1, b"me")
    book.account("mallory", balance=1)
    assert await other.flush(book.take(), before=1, writer=b"me")


@pytest.mark.asyncio
async def test_a_snapshot_is_of_one_moment(database: AccountDB, tmp_path: Path) -> None:
    """Rule 28: flushes go on while it is written."""
    book = await opened(database, everything())
    for number in range(1_000, 4_000):
        book.pay(number, payee=f"payee{number}")
    await flush(database, book)

    export = asyncio.ensure_future(database.export(1, tmp_path / "snapshot"))
    while not export.done():
        book.pay(5_000 + book.row.applied)
        await flush(database, book)
    index = (await export).index
    assert index < book.row.applied
    assert (await database.check(1, tmp_path / "snapshot")).index == index


@pytest.mark.asyncio
async def test_a_damaged_snapshot_is_refused(database: AccountDB, tmp_path: Path) -> None:
    await opened(database, everything())
    path = tmp_path / "snapshot"
    await database.export(1, path)
    whole = path.read_bytes()

    for damaged in (
        whole[:-1],
        whole + b"\0",
        whole[: len(whole) // 2],
        whole[:200] + bytes((whole[200] ^ 1,)) + whole[201:],
        b"",
        b"MAS snapshot 9\n" + whole[15:],
    ):
        path.write_bytes(damaged)
        with pytest.raises(CorruptData):
            await database.check(1, path)
    path.write_bytes(whole)
    with pytest.raises(CorruptData, match="bucket 1, not of 2"):
        await database.check(2, path)
    await database.check(1, path)


@pytest.mark.asyncio
async def test_a_snapshot_whose_rows_arent_its_hash_is_refused(
    database: AccountDB, tmp_path: Path
) -> None:
    """A sender whose state has diverged doesn't spread it."""
    book = everything()
    book.digests["another state"] = 1
    await opened(database, book)
    await database.export(1, tmp_path / "snapshot")
    with pytest.raises(CorruptData, match="state hash"):
        await database.check(1, tmp_path / "snapshot")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("nodes", "index"), [((), 2**40), ((NodeRow(3, "mallory:1"),), 2**40), (None, 1)]
)
async def test_a_snapshot_whose_register_isnt_its_hash_is_refused(
    database: AccountDB, tmp_path: Path, nodes: tuple[NodeRow, ...] | None, index: int
) -> None:
    book = everything()
    book.row.nodes_index = index
    book.row.nodes = book.row.nodes if nodes is None else nodes
    await opened(database, book)
    await database.export(1, tmp_path / "snapshot")
    with pytest.raises(CorruptData, match="state hash"):
        await database.check(1, tmp_path / "snapshot")


@pytest.mark.asyncio
async def test_the_state_hash_doesnt_depend_on_where_chunks_are_cut(
    database: AccountDB, other: AccountDB, tmp_path: Path
) -> None:
    one, many = Book(), Book()
    await database.open(1, b"me")
    await other.open(1, b"me")
    for number in range(1, 130):
        one.pay(number)
        many.pay(number)
        await flush(other, many)
    one.row.applied = 128
    writes = one.take()
    assert not await database.flush(writes, before=128, writer=b"me")
    assert await database.flush(writes, before=0, writer=b"me")

    await database.export(1, tmp_path / "one")
    await other.export(1, tmp_path / "many")
    assert (await database.check(1, tmp_path / "one")).index == 129
    assert (await database.check(1, tmp_path / "many")).index == 129
    rows = [await each.bucket_row(1) for each in (database, other)]
    assert rows[0] is not None
    assert rows[1] is not None
    assert rows[0].state_hash == rows[1].state_hash


@pytest.mark.asyncio
async def test_t11_a_load_beside_flushes_has_the_index_of_its_rows(
    database: AccountDB,
) -> None:
    """Rule 23: `held` grows with the applied index; a load that mixed two moments would tell."""
    book = Book()
    await database.open(1, b"me")

    async def write() -> None:
        for index in range(1, 150):
            for number in ("a", "b", "c"):
                book.account(number, debits_pending=index)
            await flush(database, book)

    writing = asyncio.ensure_future(write())
    seen: list[int] = []
    while not writing.done():
        loaded = await database.load(1, ["a", "b", "c"], [], [])
        assert [row.debits_pending for row in loaded.accounts.values()] == [loaded.applied] * len(
            loaded.accounts
        )
        seen.append(loaded.applied)
    await writing
    assert seen == sorted(seen)
    assert len(set(seen)) > 5


def test_accounts_are_compared_whole() -> None:
    """The comparisons above would say nothing if rows were equal by their names."""
    assert Account("a", "1", "USD") != Account("a", "1", "USD", balance=1)
