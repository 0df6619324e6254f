"""A full disk makes the database wait, and leaves the Raft log its room: the log can't wait, and its process ends."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mas.errors import DatabaseUnavailable
from mas.raft import ConfState, Entry
from mas.storage.account_db import files, rocksdb
from mas.storage.account_db.rocksdb import RocksAccountDB
from mas.storage.raft_log.rocksdb import RocksRaftLog
from tests.storage.account_rows import Book

if TYPE_CHECKING:
    from tests.storage.conftest import SmallDisk

pytestmark = pytest.mark.asyncio

MB = 1_000_000


def connect(folder: Path, reserve: int = 0) -> RocksAccountDB:
    return RocksAccountDB.connect(folder / "mas.rocksdb", "test", 1, reserve_bytes=reserve)


async def flush(database: RocksAccountDB, payments: int) -> Book:
    await database.open(1, b"me")
    book = Book()
    for number in range(payments):
        book.pay(number, payee=f"payee{number}")
    assert await database.flush(book.take(), before=0, writer=b"me")
    return book


async def snapshot(folder: Path, payments: int = 8_000) -> Path:
    """A file of some 400 bytes a payment."""
    folder.mkdir()
    source, path = connect(folder), folder / "snapshot"
    await flush(source, payments)
    await source.export(1, path)
    await source.close()
    return path


def wal_size(folder: Path) -> int:
    """Written bytes: the files are given their room beforehand."""
    return sum(file.stat().st_size for file in (folder / "mas.rocksdb").glob("*.log"))


def append(log: RocksRaftLog, first: int, size: int) -> None:
    batch = log.batch()
    if first == 1:
        batch.create(1, ConfState(voters=(1,)))
    batch.append(1, [Entry(first, 1, data=bytes(size))])
    batch.commit(sync=True)


async def test_an_installation_stops_before_the_reserve_and_gives_back_what_it_took(
    tmp_path: Path, small_disk: "SmallDisk", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room that was there at first is lost to somebody else."""
    snap = await snapshot(tmp_path / "source", 30_000)
    log = RocksRaftLog.open(small_disk.path / "raft", "test", 1)
    append(log, 1, 1000)
    target = connect(small_disk.path, reserve=4 * MB)
    await flush(target, 10)
    small_disk.fill(left=8 * MB)
    before = small_disk.free
    looks = [1 << 40]
    least = [before]

    def free_bytes(path: Path) -> int:
        least.append(small_disk.free)
        return looks.pop() if looks else rocksdb_free_bytes(path)

    rocksdb_free_bytes = files.free_bytes
    monkeypatch.setattr(files, "free_bytes", free_bytes)
    with pytest.raises(DatabaseUnavailable, match="4,000,000 are kept for the Raft log"):
        await target.install(1, snap)

    assert min(least) < before - MB // 2, "it had got as far as that"
    assert small_disk.free > before - MB // 4
    append(log, 2, 200_000)
    assert (await target.totals(1)).records == 10
    await target.verify(1)
    (small_disk.path / "filler").unlink()
    await target.install(1, snap)
    assert (await target.totals(1)).records == 30_000
    await target.close()
    log.close()


async def test_s5_a_flush_on_a_full_disk_waits_until_there_is_room(
    small_disk: "SmallDisk",
) -> None:
    """Nothing is lost, and nothing comes twice: the files say how far it got."""
    target = connect(small_disk.path)
    await flush(target, 10)
    small_disk.fill(left=0)
    book = Book()
    book.row.applied = 1
    for number in range(10_000, 20_000):
        book.pay(number, payee=f"late{number}")
    writes = book.take()
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable, match="make room"):
            await target.flush(writes, before=1, writer=b"me")

    (small_disk.path / "filler").unlink()
    assert await target.flush(writes, before=1, writer=b"me")
    assert (await target.totals(1)).records == 10_010
    await target.close()


async def test_an_installation_that_would_take_the_logs_reserve_isnt_begun(
    tmp_path: Path, small_disk: "SmallDisk"
) -> None:
    snap = await snapshot(tmp_path / "source")
    size = snap.stat().st_size
    target = connect(small_disk.path, reserve=4 * MB)
    await flush(target, 10)
    small_disk.fill(left=3 * size + 3 * MB)
    assert not target.room_for(size)

    with pytest.raises(DatabaseUnavailable, match=r"4,000,000 are kept for the Raft log"):
        await target.install(1, snap)

    (small_disk.path / "filler").unlink()
    assert target.room_for(size)
    await target.install(1, snap)
    assert (await target.totals(1)).records == 8_000
    await target.close()


async def test_exports_leave_the_log_its_reserve(small_disk: "SmallDisk") -> None:
    """A leader that was well lost its log to a snapshot for somebody else, and the next leader after it."""
    log = RocksRaftLog.open(small_disk.path / "raft", "test", 1)
    append(log, 1, 1000)
    reserve = 16 * MB
    database = connect(small_disk.path, reserve)
    await flush(database, 10_000)
    small_disk.fill(left=reserve + MB)
    for index in range(2, 6):
        with pytest.raises(DatabaseUnavailable, match="kept for the Raft log"):
            await database.export(1, small_disk.path / "snapshot")
        assert list(small_disk.path.glob("snapshot*")) == []
        append(log, index, MB)
    assert small_disk.free > reserve - 4 * MB, "the log alone has taken of it"
    await database.close()
    log.close()


async def test_room_is_looked_at_before_each_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = connect(tmp_path, reserve=MB)
    await flush(database, 5_000)
    looks: list[Path] = []

    def shrinking(path: Path) -> int:
        looks.append(path)
        return 3 * MB - len(looks) * MB // 2

    monkeypatch.setattr(files, "free_bytes", shrinking)
    with pytest.raises(DatabaseUnavailable, match="make room"):
        await database.export(1, tmp_path / "snapshot")
    assert len(looks) > 2
    assert list(tmp_path.glob("snapshot*")) == []
    await database.close()


async def test_a_flush_waits_for_the_reserve_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S5, before the disk is full: the write set is the same at the next try."""
    database = connect(tmp_path, reserve=10 * MB)
    await flush(database, 10)
    book = Book()
    book.row.applied = 1
    book.pay(77)
    writes = book.take()
    with monkeypatch.context() as patch:
        patch.setattr(files, "free_bytes", lambda _: 9 * MB)
        with pytest.raises(DatabaseUnavailable, match="9,000,000 bytes left, 10,000,000 are kept"):
            await database.flush(writes, before=1, writer=b"me")
        await database.open(1, b"me")  # a start needs no room to speak of
    assert await database.flush(writes, before=1, writer=b"me")
    await database.close()


async def test_the_write_ahead_log_shrinks_behind_what_made_it_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's stayed at 135 MB after an installation of 98, and at 396 for flushes beside one export."""
    monkeypatch.setattr(rocksdb, "_UNINDEXED_ROWS_MAX", 5_000)
    monkeypatch.setattr(files, "_MEMTABLE_BYTES_KEPT", MB)
    snap = await snapshot(tmp_path / "source")
    database = connect(tmp_path)
    await database.install(1, snap)
    assert wal_size(tmp_path) < 1_000

    state = await database.open(1, b"me")
    sizes = []
    for turn in range(20):
        book = Book()
        book.row.applied = before = state.bucket.applied + turn
        for each in range(1_000):
            book.pay(10_000_000 + turn * 1_000 + each, payee=f"payee{each}")
        assert await database.flush(book.take(), before=before, writer=b"me")
        sizes.append(wal_size(tmp_path))
    assert max(sizes) < 2 * MB
    assert sorted(sizes) != sizes
    await database.close()
