"""What is SQLite's own: its file, its faults, and what a payment costs (crash matrix S1, S5, F7, T10)."""

import asyncio
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from time import perf_counter

import pytest

from mas.errors import CorruptData, DatabaseUnavailable, DataDirectoryError, StorageError
from mas.storage.account_db_sqlite import SqliteAccountDB
from tests.storage.account_rows import Book, everything, payment_id, prepared

FLUSHING = """
import asyncio, sys
from pathlib import Path
from mas.storage.account_db_sqlite import SqliteAccountDB
from tests.storage.account_rows import Book, everything

async def main(path):
    database = SqliteAccountDB.connect(path, "test", 1)
    await database.open(1, b"child")
    book = everything()
    assert await database.flush(book.take(), before=0, writer=b"child")
    for number in range(100, 3_000):
        book.pay(number, payee=f"payee{number}")
    assert await database.flush(book.take(), before=1, writer=b"child")

asyncio.run(main(Path(sys.argv[1])))
"""
INSTALLING = """
import asyncio, sys
from pathlib import Path
from mas.storage.account_db_sqlite import SqliteAccountDB

async def main(path, snapshot):
    database = SqliteAccountDB.connect(path, "test", 1)
    await database.check(1, snapshot)
    await database.install(1, snapshot)

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def die(program: str, failpoint: str, *arguments: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "MAS_FAILPOINTS": failpoint},
        check=False,
    )
    assert child.returncode == -signal.SIGKILL


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("failpoint", "applied"),
    [("account_db.before_commit=kill@2", 1), ("account_db.after_commit=kill@2", 2)],
)
async def test_s1_a_kill_in_a_flush_leaves_all_of_it_or_nothing(
    tmp_path: Path, failpoint: str, applied: int
) -> None:
    path = tmp_path / "mas1.sqlite3"
    die(FLUSHING, failpoint, path)

    database = SqliteAccountDB.connect(path, "test", 1)
    assert (await database.open(1, b"me")).bucket.applied == applied
    postings = {1: 10, 2: 10 + 2 * 2_900}[applied]
    assert (await database.totals(1))[-1] == postings
    await database.export(1, tmp_path / "snapshot")
    await database.check(1, tmp_path / "snapshot")  # the rows have the index's state hash
    await database.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("failpoint", "is_new"),
    [
        ("account_db.install_emptied=kill", False),
        ("account_db.install_rows=kill@1", False),
        ("account_db.install_rows=kill@6", False),
        ("account_db.install_before_commit=kill", False),
        ("account_db.install_after_commit=kill", True),
    ],
)
async def test_f7_a_kill_in_an_installation_leaves_old_or_new(
    tmp_path: Path, failpoint: str, is_new: bool
) -> None:
    snapshot, path = tmp_path / "snapshot", tmp_path / "target.sqlite3"
    new = everything()
    for number in range(100, 2_200):
        new.pay(number, payee=f"payee{number}")
    source = SqliteAccountDB.connect(tmp_path / "source.sqlite3", "test", 1)
    await flushed(source, new)
    await source.export(1, snapshot)
    await source.close()
    old = Book()
    old.pay(7)
    target = SqliteAccountDB.connect(path, "test", 1)
    await flushed(target, old)
    await target.close()

    die(INSTALLING, failpoint, path, snapshot)

    target = SqliteAccountDB.connect(path, "test", 1)
    assert await target.bucket_row(1) == (new.row if is_new else old.row)
    await target.export(1, tmp_path / "after")
    await target.check(1, tmp_path / "after")  # no mix would have its state hash
    await target.close()


async def flushed(database: SqliteAccountDB, book: Book) -> None:
    await database.open(book.row.bucket, b"me")
    before = book.row.applied
    assert await database.flush(book.take(), before=before, writer=b"me")


@pytest.mark.asyncio
async def test_t10_a_database_that_went_back_in_time_is_noticed(tmp_path: Path) -> None:
    path, backup = tmp_path / "mas1.sqlite3", tmp_path / "backup.sqlite3"
    database = SqliteAccountDB.connect(path, "test", 1)
    book = everything()
    await flushed(database, book)
    with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(backup)) as copy:
        old.backup(copy)
    book.pay(60)
    assert await database.flush(book.take(), before=1, writer=b"me")

    with closing(sqlite3.connect(backup)) as old, closing(sqlite3.connect(path)) as now:
        old.backup(now)
    copy.close()
    old.close()
    now.close()
    book.pay(61)
    assert not await database.flush(book.take(), before=2, writer=b"me")
    assert (await database.open(1, b"me")).bucket.applied == 1
    await database.close()


@pytest.mark.asyncio
async def test_a_flush_that_failed_is_tried_again_with_the_same_write_set(tmp_path: Path) -> None:
    """S5: locked for a while, then full; nothing is lost, and the chunks' chain isn't broken."""
    path = tmp_path / "mas1.sqlite3"
    database = SqliteAccountDB.connect(path, "test", 1, busy_seconds=0.01)
    book = everything()
    await flushed(database, book)
    before = {number: row.__copy__() for number, row in book.accounts.items()}
    for number in range(100, 1_200):
        book.pay(number)
    writes = book.take()

    with_lock = sqlite3.connect(path, isolation_level=None)
    with_lock.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseUnavailable, match=r"locked.*nothing is lost"):
        await database.flush(writes, before=1, writer=b"me")
    with_lock.execute("ROLLBACK")
    with_lock.close()
    await database._writer.run(lambda each: each.execute("PRAGMA max_page_count = 40").fetchone())
    with pytest.raises(DatabaseUnavailable, match="full"):
        await database.flush(writes, before=1, writer=b"me")
    for number, row in before.items():
        assert (book.accounts[number].chunk, book.accounts[number].chunk64) == (
            row.chunk,
            row.chunk64,
        )
    await database._writer.run(
        lambda each: each.execute("PRAGMA max_page_count = 99999").fetchone()
    )

    assert await database.flush(writes, before=1, writer=b"me")
    _, lines = await database.postings(1, "alice", 0, 5_000)
    assert [line.sequence for line in lines] == list(range(1_105, 0, -1))
    await database.close()


@pytest.mark.asyncio
async def test_three_rows_a_payment(tmp_path: Path) -> None:
    """Rows are what a payment costs: two accounts, a record, and a thousandth of a chunk."""
    path = tmp_path / "mas1.sqlite3"
    database = SqliteAccountDB.connect(path, "test", 1)
    await flushed(database, Book())
    book = Book()
    book.row.applied = 1
    for number in range(500):
        book.pay(number, payer=f"payer{number}", payee=f"payee{number}")
        book.prepare(prepared(number))
        book.settle(prepared(number).xid)
        del book.writes.legs[prepared(number).xid]  # prepared and settled between two flushes
    writes, statements = book.take(), list[str]()

    changes = await database._writer.run(lambda each: each.total_changes)
    await database._writer.run(lambda each: each.set_trace_callback(statements.append))
    assert await database.flush(writes, before=1, writer=b"me")
    rows = await database._writer.run(lambda each: each.total_changes) - changes
    assert rows == 3 * 500 + 1 + 1  # a chunk, and the bucket's own row
    kinds = [statement.split()[0] for statement in statements]
    assert kinds == ["BEGIN", "UPDATE", "INSERT", "INSERT", "INSERT", "COMMIT"]
    await database.close()


@pytest.mark.asyncio
async def test_flushes_keep_up_beside_a_loop_that_is_always_busy(tmp_path: Path) -> None:
    """One flush at a time takes all that has come since the last; were it starved, it would never come to an end.

    How often a flush needs the interpreter doesn't grow with its rows: see `test_three_rows_a_payment`.
    """
    database = SqliteAccountDB.connect(tmp_path / "mas1.sqlite3", "test", 1)
    await flushed(database, Book())
    book = Book()
    book.row.applied = 1
    made = stored = taken = 0
    flush: asyncio.Future[bool] | None = None
    while stored < 2_000:
        turn = perf_counter()
        while perf_counter() - turn < 0.005 and made < 2_000:
            made += 1
            book.pay(made, payer=f"payer{made}", payee=f"payee{made}")
        await asyncio.sleep(0)
        if flush is None:
            taken, before = made, book.row.applied
            flush = asyncio.ensure_future(database.flush(book.take(), before=before, writer=b"me"))
        elif flush.done():
            assert await flush
            flush, stored = None, taken
    _, _, _, accounts, records, postings = await database.totals(1)
    assert (accounts, records, postings) == (4_000, 2_000, 4_000)
    await database.close()


@pytest.mark.asyncio
async def test_people_can_read_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "mas1.sqlite3"
    database = SqliteAccountDB.connect(path, "test", 1)
    await flushed(database, everything())
    await database.close()

    with closing(sqlite3.connect(path)) as connection, connection:
        account = "SELECT currency, balance, debits_pending FROM accounts WHERE number = 'alice'"
        assert connection.execute(account).fetchone() == ("USD", 2**62 - 500, 5)
        told = "SELECT counterparty, reference FROM posting WHERE number = 'alice' AND sequence = 1"
        assert connection.execute(told).fetchone() == ("bob", "invoice 1")
        sums = "SELECT number, sum(amount), count(*) FROM posting GROUP BY number ORDER BY number"
        assert connection.execute(sums).fetchall() == [("alice", -500, 5), ("bob", 500, 5)]
        paid = """
            SELECT count(*), min(outcome) FROM posting JOIN payments USING (bucket, payment_id)
        """
        assert connection.execute(paid).fetchone() == (10, 1)
    connection.close()


@pytest.mark.parametrize(
    ("cluster", "node", "says"), [("other", 1, "node 1 of cluster 'test'"), ("test", 2, "node 2")]
)
@pytest.mark.asyncio
async def test_anothers_file_is_refused(tmp_path: Path, cluster: str, node: int, says: str) -> None:
    path = tmp_path / "mas1.sqlite3"
    await SqliteAccountDB.connect(path, "test", 1).close()
    with pytest.raises(DataDirectoryError, match=says):
        SqliteAccountDB.connect(path, cluster, node)
    await SqliteAccountDB.connect(path, "test", 1).close()


@pytest.mark.asyncio
async def test_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mas1.sqlite3"
    await SqliteAccountDB.connect(path, "test", 1).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE identity SET schema = 99")
    connection.close()
    with pytest.raises(DataDirectoryError, match=r"schema 99.*schema 3"):
        SqliteAccountDB.connect(path, "test", 1)


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mas1.sqlite3"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    with pytest.raises(DataDirectoryError, match="another program"):
        SqliteAccountDB.connect(path, "test", 1)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mas1.sqlite3"
    path.write_bytes(b"not a database at all " * 100)
    with pytest.raises(CorruptData, match="mas admin replica rebuild"):
        SqliteAccountDB.connect(path, "test", 1)


def test_a_path_that_cant_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataDirectoryError, match=re.escape(str(tmp_path))):
        SqliteAccountDB.connect(tmp_path, "test", 1)


@pytest.mark.asyncio
async def test_a_damaged_page_is_an_error_and_not_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "mas1.sqlite3"
    database = SqliteAccountDB.connect(path, "test", 1)
    book = everything()
    for number in range(100, 1_100):
        book.pay(number, payee=f"payee{number}")
    await flushed(database, book)
    await database.close()
    data = bytearray(path.read_bytes())
    data[4096 * 12 :] = os.urandom(len(data) - 4096 * 12)
    path.write_bytes(data)

    database = SqliteAccountDB.connect(path, "test", 1)
    with pytest.raises(StorageError):
        await database.load(1, list(book.accounts), list(map(payment_id, range(1_100))), ["alice"])
    await database.close()


@pytest.mark.asyncio
async def test_a_snapshot_that_isnt_there_says_so(tmp_path: Path) -> None:
    database = SqliteAccountDB.connect(tmp_path / "mas1.sqlite3", "test", 1)
    with pytest.raises(StorageError, match="No such file"):
        await database.check(1, tmp_path / "missing")
    with pytest.raises(StorageError, match="nothing to export"):
        await database.export(1, tmp_path / "snapshot")
    await database.open(1, b"me")
    with pytest.raises(DatabaseUnavailable, match="can't be written"):
        await database.export(1, tmp_path / "missing" / "snapshot")
    await database.close()


@pytest.mark.asyncio
async def test_a_snapshot_that_finds_no_room_takes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had been written of it stayed for ever, and each further try added to it."""
    from mas.storage import snapshot_file

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    database = SqliteAccountDB.connect(tmp_path / "mas1.sqlite3", "test", 1)
    await database.open(1, b"me")
    with monkeypatch.context() as patch:
        patch.setattr(snapshot_file.os, "fsync", full)
        with pytest.raises(DatabaseUnavailable, match="No space left"):
            await database.export(1, tmp_path / "snapshot")
    assert list(tmp_path.glob("snapshot*")) == []
    await database.close()
