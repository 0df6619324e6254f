"""What is RocksDB's own: its files, its faults, and what follows the flushes (crash matrix S1, S5, F7, T10)."""

import asyncio
import gc
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import perf_counter, thread_time

import pytest
from rocksdict import Rdict, WriteBatch

from mas.errors import CorruptData, DatabaseUnavailable, DataDirectoryError, StorageError
from mas.storage.account_db import buckets, files, flushes, rocksdb
from mas.storage.account_db import writes as module_of_writes
from mas.storage.account_db.buckets import Bucket
from mas.storage.account_db.files import database_options
from mas.storage.account_db.rocksdb import RocksAccountDB
from tests.storage.account_rows import Book, everything, payment_id, prepared, undecided

FLUSHING = """
import asyncio, sys
from pathlib import Path
from mas.storage.account_db.buckets import Bucket
from mas.storage.account_db.files import database_options
from mas.storage.account_db.rocksdb import RocksAccountDB
from tests.storage.account_rows import everything

async def main(path):
    database = RocksAccountDB.connect(path, "test", 1)
    await database.open(1, b"child")
    book = everything()
    assert await database.flush(book.take(), before=0, writer=b"child")
    for number in range(100, 3_000):
        book.pay(number, payee=f"payee{number}")
    assert await database.flush(book.take(), before=1, writer=b"child")
    await database.close()

asyncio.run(main(Path(sys.argv[1])))
"""
INSTALLING = """
import asyncio, sys
from pathlib import Path
from mas.storage.account_db.rocksdb import RocksAccountDB

async def main(path, snapshot):
    database = RocksAccountDB.connect(path, "test", 1)
    await database.check(1, snapshot)
    await database.install(1, snapshot)

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def connect(path: Path) -> RocksAccountDB:
    return RocksAccountDB.connect(path, "test", 1)


def die(program: str, failpoint: str, *arguments: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "MAS_FAILPOINTS": failpoint},
        check=False,
    )
    assert child.returncode == -signal.SIGKILL


async def flushed(database: RocksAccountDB, book: Book) -> None:
    await database.open(book.row.bucket, b"me")
    before = book.row.applied
    assert await database.flush(book.take(), before=before, writer=b"me")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("failpoint", "applied"),
    [
        ("account_db.before_commit=kill@2", 1),
        ("account_db.after_commit=kill@2", 2),
        ("account_db.index_before_mark=kill", 2),
    ],
)
async def test_s1_a_kill_leaves_all_of_a_flush_or_nothing(
    tmp_path: Path, failpoint: str, applied: int
) -> None:
    path = tmp_path / "db"
    die(FLUSHING, failpoint, path)

    database = connect(path)
    state = await database.open(1, b"me")
    assert state.bucket.applied == applied
    assert list(state.legs) == [prepared(50).xid, prepared(51).xid]
    postings = {1: 14, 2: 14 + 2 * 2_900}[applied]
    assert (await database.verify(1)).postings == postings  # the rows have the index's state hash
    book = Book()
    book.row.applied = applied
    book.settle_all(state)
    book.pay(99_999, "carol", "dave")
    assert await database.flush(book.take(), before=applied, writer=b"me")
    assert (await database.open(1, b"me")).legs == {}
    assert (await database.postings(1, "dave", 0, 9))[1][0].payment_id == payment_id(99_999)
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
    snapshot, path = tmp_path / "snapshot", tmp_path / "target"
    new = everything()
    for number in range(100, 2_200):
        new.pay(number, payee=f"payee{number}")
    source = connect(tmp_path / "source")
    await flushed(source, new)
    await source.export(1, snapshot)
    await source.close()
    old = Book()
    old.pay(7)
    target = connect(path)
    await flushed(target, old)
    await target.close()

    die(INSTALLING, failpoint, path, snapshot)

    target = connect(path)
    assert await target.bucket_row(1) == (new.row if is_new else old.row)
    await target.verify(1)  # no mix would have its state hash
    await target.close()
    generations = {key[:5] for key in keys(path) if key[4]}
    assert len(generations) == 1, "what was begun and never counted is gone"


def keys(path: Path) -> Iterator[bytes]:
    """All that the database holds of buckets."""
    database = Rdict(str(path), database_options())
    scan = database.iter()
    scan.seek(bytes((0, 0, 0, 1)))
    while scan.valid():
        yield scan.key()
        scan.next()
    del scan
    database.close()


@pytest.mark.asyncio
async def test_t10_a_database_that_went_back_in_time_is_noticed(tmp_path: Path) -> None:
    path, backup = tmp_path / "db", tmp_path / "backup"
    database = connect(path)
    book = everything()
    await flushed(database, book)
    await database.close()
    shutil.copytree(path, backup)
    database = connect(path)
    await database.open(1, b"me")
    book.pay(60)
    assert await database.flush(book.take(), before=1, writer=b"me")
    await database.close()

    shutil.rmtree(path)
    backup.rename(path)
    database = connect(path)
    book.pay(61)
    assert not await database.flush(book.take(), before=2, writer=b"me")
    assert (await database.open(1, b"me")).bucket.applied == 1
    await database.close()


# -- the index behind the flushes ------------------------------------------------------------------


@pytest.fixture
def small_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The index follows after few rows already."""
    monkeypatch.setattr(rocksdb, "_UNINDEXED_ROWS_MAX", 20)
    monkeypatch.setattr(files, "_MEMTABLE_BYTES_KEPT", 100_000)


@pytest.mark.asyncio
@pytest.mark.usefixtures("small_turns")
async def test_rows_are_found_wherever_they_are(tmp_path: Path) -> None:
    """In memory, on their way to the index, or there: loads and statements beside flushes see one moment."""
    database = connect(tmp_path / "db")
    book = Book()
    await database.open(1, b"me")

    async def write() -> None:
        for index in range(1, 400):
            for number in ("a", "b", "c"):
                book.account(number, debits_pending=index)
            book.pay(index, payee=f"payee{index % 50}")
            book.record(undecided(10_000 + index))
            book.prepare(prepared(index))
            if index > 3:
                book.settle(prepared(index - 3).xid)
            await flush(database, book)

    writing = asyncio.ensure_future(write())
    while not writing.done():
        loaded = await database.load(1, ["a", "b", "c"], [payment_id(n) for n in range(1, 400)], [])
        pending = [row.debits_pending for row in loaded.accounts.values()]
        assert pending == [loaded.applied] * len(loaded.accounts)
        assert len(loaded.records) == loaded.applied
        applied, lines = await database.postings(1, "alice", 0, 500)
        assert [line.sequence for line in lines] == list(range(applied, 0, -1))
    await writing
    assert bucket_of(database).turns > 5
    assert (await database.verify(1)).records == 399
    state = await database.open(1, b"again")
    assert list(state.legs) == [prepared(number).xid for number in (397, 398, 399)]
    undecided_ids = [payment_id(10_000 + number) for number in range(1, 400)]
    assert len((await database.load(1, [], undecided_ids, [])).records) == 399
    await database.close()


def bucket_of(database: RocksAccountDB) -> Bucket:
    found = database._buckets.find(1)
    assert found is not None
    return found


async def flush(database: RocksAccountDB, book: Book) -> None:
    before = book.row.applied
    assert await database.flush(book.take(), before=before, writer=b"me")


@pytest.mark.asyncio
async def test_a_leg_that_was_settled_prepared_again_and_settled_is_gone(tmp_path: Path) -> None:
    """A late copy of its `Prepare` came behind its `Abort`, while the index had the first of them."""
    database = connect(tmp_path / "db")
    book = Book()
    book.prepare(prepared(7))
    await flushed(database, book)
    await database.open(1, b"me")  # brings the index to the present
    for change in (book.settle, lambda _: book.prepare(prepared(7)), book.settle):
        change(prepared(7).xid)
        await flush(database, book)
    assert (await database.open(1, b"again")).legs == {}
    await database.close()


@pytest.mark.asyncio
async def test_the_filter_hears_of_all_records_there_at_the_opening(tmp_path: Path) -> None:
    """Rule 24: those that the index lacks too."""
    database = connect(tmp_path / "db")
    book = Book()
    await database.open(1, b"me")
    for number in range(1, 400):
        book.pay(number)
    book.record(undecided(500))
    await flush(database, book)
    assert bucket_of(database).unindexed

    await database.open(1, b"again")
    found = await database.payment_ids(1, b"", 1_000)
    assert set(found) == {payment_id(number) for number in (*range(1, 400), 500)}
    assert found == sorted(found)
    await database.close()


@pytest.mark.asyncio
async def test_an_index_that_leads_astray_is_found(tmp_path: Path) -> None:
    path = tmp_path / "db"
    database = connect(path)
    await flushed(database, everything())
    await database.close()
    raw = Rdict(str(path), database_options())
    one, other = (bytes((0, 0, 0, 1, 1, 2)) + payment_id(number) for number in (1, 2))
    raw[one] = raw[other]
    raw.close()

    database = connect(path)
    with pytest.raises(CorruptData, match="doesn't lead to the record"):
        await database.verify(1)
    with pytest.raises(CorruptData, match="leads to another"):
        await database.load(1, [], [payment_id(1)], [])
    await database.close()


@pytest.mark.asyncio
async def test_totals_that_arent_the_rows_are_found(tmp_path: Path) -> None:
    book = everything()
    book.account("alice", balance=1)  # without a posting: no ledger does that
    database = connect(tmp_path / "db")
    await flushed(database, book)
    with pytest.raises(CorruptData, match="totals"):
        await database.verify(1)
    await database.export(1, tmp_path / "snapshot")
    with pytest.raises(CorruptData, match="totals"):
        await database.check(1, tmp_path / "snapshot")
    await database.close()


# -- what a flush costs ----------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_no_write_holds_the_interpreter_for_many_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RocksDB's binding holds it for all of a write, and while RocksDB makes a write wait."""
    database = connect(tmp_path / "db")
    await flushed(database, Book())
    book = Book()
    book.row.applied = 1
    for number in range(5_000):
        book.pay(number, payer=f"payer{number}", payee=f"payee{number}")
    sizes: list[tuple[int, int]] = []

    def try_write(raw: Rdict, batch: WriteBatch) -> bool:
        sizes.append((batch.len(), batch.size_in_bytes()))
        return rocksdb_try_write(raw, batch)

    rocksdb_try_write = files.try_write
    monkeypatch.setattr(files, "try_write", try_write)
    assert await database.flush(book.take(), before=1, writer=b"me")
    appended = len(sizes)
    assert sum(rows for rows, _ in sizes) < 5_000 / 128 + 10_000 / 256 + 10_000 / 250 + 5
    await database.open(1, b"me")
    assert sum(rows for rows, _ in sizes[appended:]) > 15_000
    assert max(rows for rows, _ in sizes) <= 250
    assert max(size for _, size in sizes) < 200_000
    await database.close()


@pytest.mark.asyncio
async def test_a_large_flush_gives_up_the_interpreter_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CPU time between two moments at which the loop can run: in one piece a flush of these rows would take 100 ms."""
    database = connect(tmp_path / "db")
    await flushed(database, Book())
    book = Book()
    book.row.applied = 1
    for number in range(8_000):
        book.pay(number, payer=f"payer{number}", payee=f"payee{number}")
    writes = book.take()
    marks: list[float] = []

    def marking(work: Callable[..., object]) -> Callable[..., object]:
        def marked(*arguments: object) -> object:
            marks.append(thread_time())
            result = work(*arguments)
            marks.append(thread_time())
            return result

        return marked

    monkeypatch.setattr(flushes, "pack", marking(flushes.pack))
    for module in (flushes, buckets, module_of_writes):
        monkeypatch.setattr(module, "breathe", marking(module.breathe))
    gc.disable()  # a collection of all that the tests have left would count as the flush's
    try:
        assert await database.flush(writes, before=1, writer=b"me")
    finally:
        gc.enable()

    held = [end - start for start, end in zip(marks[1::2], marks[2::2], strict=False)]
    assert len(held) > 100
    assert max(held) < 0.25 * sum(held), "no piece is as long as a quarter of all"
    assert max(held) < 0.025
    await database.close()


@pytest.mark.asyncio
async def test_flushes_keep_up_beside_a_loop_that_is_always_busy(tmp_path: Path) -> None:
    """One flush at a time takes all that has come since the last; were it starved, it would never come to an end."""
    database = connect(tmp_path / "db")
    await flushed(database, Book())
    book = Book()
    book.row.applied = 1
    made = stored = taken = 0
    under_way: asyncio.Future[bool] | None = None
    while stored < 2_000:
        turn = perf_counter()
        while perf_counter() - turn < 0.005 and made < 2_000:
            made += 1
            book.pay(made, payer=f"payer{made}", payee=f"payee{made}")
        await asyncio.sleep(0)
        if under_way is None:
            taken, before = made, book.row.applied
            writes = book.take()
            under_way = asyncio.ensure_future(database.flush(writes, before=before, writer=b"me"))
        elif under_way.done():
            assert await under_way
            under_way, stored = None, taken
    totals = await database.totals(1)
    assert (totals.accounts, totals.records, totals.postings) == (4_000, 2_000, 4_000)
    await database.close()


# -- whose files they are --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cluster", "node", "says"), [("other", 1, "node 1 of cluster 'test'"), ("test", 2, "node 2")]
)
@pytest.mark.asyncio
async def test_anothers_database_is_refused(
    tmp_path: Path, cluster: str, node: int, says: str
) -> None:
    await connect(tmp_path / "db").close()
    with pytest.raises(DataDirectoryError, match=says):
        RocksAccountDB.connect(tmp_path / "db", cluster, node)
    await connect(tmp_path / "db").close()


@pytest.mark.asyncio
async def test_another_schema_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files, "SCHEMA_VERSION", 99)
        await connect(tmp_path / "db").close()
    with pytest.raises(DataDirectoryError, match=r"format 99.*format 4"):
        connect(tmp_path / "db")


@pytest.mark.asyncio
async def test_a_database_in_use_is_refused(tmp_path: Path) -> None:
    database = connect(tmp_path / "db")
    with pytest.raises(DataDirectoryError, match="in use"):
        connect(tmp_path / "db")
    await database.close()


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    database = Rdict(str(tmp_path / "db"), database_options())
    database[b"song"] = b"title"
    database.close()
    with pytest.raises(CorruptData, match="another program"):
        connect(tmp_path / "db")


def test_a_path_that_cant_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "db").write_text("a file")
    with pytest.raises(DataDirectoryError, match=re.escape(str(tmp_path))):
        connect(tmp_path / "db")


@pytest.mark.asyncio
async def test_nobody_else_can_read_the_files(tmp_path: Path) -> None:
    database = connect(tmp_path / "db")
    await flushed(database, everything())
    await database.close()
    assert stat.S_IMODE((tmp_path / "db").stat().st_mode) == 0o700


# -- damage ----------------------------------------------------------------------------------------


async def filled(path: Path) -> Book:
    """A database with chunks in a blob file, rows in a table, and flushes behind them in the write-ahead log."""
    live = path.with_name("live")
    database = connect(live)
    book = everything()
    for number in range(100, 1_100):
        book.pay(number, payee=f"payee{number}")
    await flushed(database, book)
    await database.close()
    database = connect(live)
    await database.open(1, b"me")
    for number in range(2_000, 2_020):
        book.pay(number, payee=f"late{number}")
        await flush(database, book)
    # As a kill leaves it: closing it empties the log.
    shutil.copytree(live, path)
    await database.close()
    return book


async def read_all(path: Path) -> int:
    """The applied index, once every row was read and found right."""
    database = connect(path)
    try:
        applied = (await database.open(1, b"me")).bucket.applied
        await database.verify(1)
        return applied
    finally:
        with suppress(StorageError):
            await database.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["*.sst", "*.blob"])
async def test_a_flipped_byte_in_a_table_is_an_error_and_not_an_answer(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "db"
    await filled(path)
    file = max(path.glob(kind), key=lambda each: each.stat().st_size)
    whole = file.read_bytes()
    assert await read_all(copied(path, tmp_path / "whole")) == 21
    for at in range(100, len(whole) - 200, len(whole) // 9):
        damaged = copied(path, tmp_path / f"{at}")
        flip(damaged / file.name, at)
        with pytest.raises(CorruptData):
            await read_all(damaged)


@pytest.mark.asyncio
async def test_a_flipped_byte_in_the_write_ahead_log_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "db"
    await filled(path)
    log = write_ahead_log(path)
    size = len(log.read_bytes().rstrip(b"\0"))
    for at in range(20, size - 20, size // 25):
        damaged = copied(path, tmp_path / f"{at}")
        flip(damaged / log.name, at)
        with pytest.raises(CorruptData, match="move the directory away"):
            await read_all(damaged)


@pytest.mark.asyncio
async def test_a_synced_flush_that_is_missing_is_refused(tmp_path: Path) -> None:
    """The log is cut behind what the database said it has (rule 26): to go on without would skip what is gone."""
    path = tmp_path / "db"
    await filled(path)
    log = write_ahead_log(path)
    size = len(log.read_bytes().rstrip(b"\0"))
    os.truncate(log, size - 100)
    with pytest.raises(CorruptData, match="was synced up to change"):
        connect(path)


@pytest.mark.asyncio
async def test_a_write_torn_by_a_power_cut_leaves_the_flush_before(tmp_path: Path) -> None:
    """What was never synced was promised to nobody."""
    path = tmp_path / "db"
    await filled(path)
    (path / "SYNCED").unlink()  # as if the last flush had been about to be synced
    log = write_ahead_log(path)
    size = len(log.read_bytes().rstrip(b"\0"))
    for cut in range(size - 1, size - 250, -57):
        torn = copied(path, tmp_path / f"{cut}")
        os.truncate(torn / log.name, cut)
        assert await read_all(torn) == 20


def write_ahead_log(path: Path) -> Path:
    return max(path.glob("*.log"), key=lambda each: each.stat().st_size)


def copied(path: Path, to: Path) -> Path:
    shutil.copytree(path, to)
    return to


def flip(file: Path, at: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes((byte ^ 0x10,)))


@pytest.mark.asyncio
async def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "db"
    await filled(path)
    for kind in ("*.sst", "*.blob", "MANIFEST-*", "CURRENT"):
        damaged = copied(path, tmp_path / kind.strip("*.-"))
        max(damaged.glob(kind)).unlink()
        with pytest.raises((CorruptData, DataDirectoryError), match=r"gone|No such file"):
            await read_all(damaged)


# -- failing writes --------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("nth", [1, 2])
async def test_a_flush_that_failed_is_tried_again_with_the_same_write_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """S5: nothing is lost, nothing comes twice, and the chunks' chain isn't broken."""
    database = connect(tmp_path / "db")
    book = everything()
    await flushed(database, book)
    before = {number: (row.chunk, row.chunk64) for number, row in book.accounts.items()}
    for number in range(100, 1_200):
        book.pay(number)
    writes = book.take()

    with monkeypatch.context() as patch:
        patch.setattr(files, "try_write", failing(nth))
        with pytest.raises(DatabaseUnavailable, match=r"No space.*nothing is lost"):
            await database.flush(writes, before=1, writer=b"me")
        assert {n: (row.chunk, row.chunk64) for n, row in book.accounts.items()} == before
        assert (await database.load(1, ["alice"], [], [])).applied == 1
    assert await database.flush(writes, before=1, writer=b"me")
    assert await database.flush(writes, before=1, writer=b"me"), "of a lost answer"

    _, lines = await database.postings(1, "alice", 0, 5_000)
    assert [line.sequence for line in lines] == list(range(1_107, 0, -1))
    await database.verify(1)
    await database.close()


def failing(nth: int) -> Callable[[Rdict, WriteBatch], bool]:
    """A write that fails from the nth on, as RocksDB says it."""
    writes = 0
    real = files.try_write

    def try_write(raw: Rdict, batch: WriteBatch) -> bool:
        nonlocal writes
        writes += 1
        if writes >= nth:
            raise Exception("IO error: No space left on device: While appending to file")  # noqa: TRY002 - as it does
        return real(raw, batch)

    return try_write


@pytest.mark.asyncio
async def test_a_flush_whose_sync_failed_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second sync may say "fine" about what the first has lost, so the files are read anew."""
    database = connect(tmp_path / "db")
    book = everything()
    await flushed(database, book)
    book.pay(100)
    writes = book.take()

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(database._files._mark, "write", fail)
        with pytest.raises(StorageError):
            await database.flush(writes, before=1, writer=b"me")
    assert await database.flush(writes, before=1, writer=b"me")
    assert (await database.load(1, ["alice"], [], [])).applied == 2
    assert (await database.verify(1)).postings == 16
    await database.close()


@pytest.mark.asyncio
async def test_an_installation_beside_a_failure_starts_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files were opened anew while its rows were written: some of them may be gone."""
    snapshot = tmp_path / "snapshot"
    source = connect(tmp_path / "source")
    await flushed(source, everything())
    await source.export(1, snapshot)
    await source.close()
    database = connect(tmp_path / "db")
    old = Book()
    old.pay(7)
    await flushed(database, old)
    other = Book(2)
    await flushed(database, other)
    real = database._write_rows

    def write_rows(bucket: int, path: Path) -> object:
        head = real(bucket, path)
        database._files.has_failed = True
        database._buckets.begin_anew()
        return head

    with monkeypatch.context() as patch:
        patch.setattr(database, "_write_rows", write_rows)
        with pytest.raises(DatabaseUnavailable, match="try again"):
            await database.install(1, snapshot)
    assert await database.bucket_row(1) == old.row
    await database.install(1, snapshot)
    assert (await database.verify(1)).records == 5
    await database.close()


@pytest.mark.asyncio
async def test_a_snapshot_that_isnt_there_says_so(tmp_path: Path) -> None:
    database = connect(tmp_path / "db")
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
    from mas.storage.account_db import snapshot

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    database = connect(tmp_path / "db")
    await database.open(1, b"me")
    with monkeypatch.context() as patch:
        patch.setattr(snapshot.os, "fsync", full)
        with pytest.raises(DatabaseUnavailable, match="No space left"):
            await database.export(1, tmp_path / "snapshot")
    assert list(tmp_path.glob("snapshot*")) == []
    await database.close()


@pytest.mark.asyncio
async def test_an_erased_bucket_gives_its_room_back(tmp_path: Path) -> None:
    """What it had in one file with another bucket too, which stays as it is."""
    path = tmp_path / "db"
    database = connect(path)
    books = [Book(1), Book(2)]
    for book in books:
        for number in range(20_000):
            book.pay(number, payee=f"payee{number % 1000}")
        await flushed(database, book)
    await database.close()
    database = connect(path)
    size = tables_size(path)
    await database.erase(1)
    assert await database.bucket_row(1) is None
    assert tables_size(path) < 0.6 * size
    assert await database.verify(2) == await database.totals(2)
    await database.open(1, b"me")
    assert (await database.verify(1)).postings == 0
    await database.close()


def tables_size(path: Path) -> int:
    return sum(file.stat().st_size for kind in ("*.sst", "*.blob") for file in path.glob(kind))
