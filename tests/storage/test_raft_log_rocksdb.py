"""Faults of the disk under the RocksDB raft log (crash matrix F14, F15, F16)."""

import re
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import pytest
from rocksdict import Options, Rdict

from mas.errors import CorruptData, DataDirectoryError, StorageError
from mas.raft import ConfState, Entry, EntryType, HardState
from mas.storage.raft_log.records import entry_key
from mas.storage.raft_log.rocksdb import RocksRaftLog
from tests.storage.raft_log_writer import FailingDatabase, write_and_die

VOTERS = ConfState(voters=(1, 2, 3))


def raw(path: Path) -> Rdict:
    return Rdict(str(path), Options(raw_mode=True))


def replace_record(path: Path, key: bytes, record: bytes | None) -> None:
    database = raw(path)
    if record is None:
        database.delete(key)
    else:
        database.put(key, record)
    database.close()


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (lambda record: record[:-1] + bytes((record[-1] ^ 1,)), "wrong checksum"),
        (lambda _record: None, "entry 4 is missing"),
        (lambda _record: b"", "wrong checksum"),
    ],
)
def test_f14_a_damaged_record_stops_its_group_only(
    tmp_path: Path, tamper: Callable[[bytes], bytes | None], says: str
) -> None:
    write_and_die(tmp_path, 8)
    database = raw(tmp_path)
    record = database.get(entry_key(2, 4))
    database.close()
    replace_record(tmp_path, entry_key(2, 4), tamper(record))

    log = RocksRaftLog.open(tmp_path, "test", 1)
    with pytest.raises(CorruptData, match=rf"bucket 2 .*{says}.*mas admin replica rebuild"):
        log.storage(2)
    assert log.storage(1).last_index() == 8
    log.close()


def test_f14_a_damaged_hard_state_asks_for_a_new_node(tmp_path: Path) -> None:
    """Without its term and vote a rebuilt replica could vote twice in one term."""
    write_and_die(tmp_path, 8)
    replace_record(tmp_path, (2).to_bytes(8, "big") + b"\2" + bytes(8), b"nonsense")

    log = RocksRaftLog.open(tmp_path, "test", 1)
    with pytest.raises(CorruptData, match=r"can't be rebuilt.*mas admin replica remove") as error:
        log.storage(2)
    assert "replica rebuild" not in str(error.value)
    log.close()


def test_f14_a_record_at_anothers_place_is_noticed(tmp_path: Path) -> None:
    write_and_die(tmp_path, 8)
    database = raw(tmp_path)
    database.put(entry_key(1, 5), database.get(entry_key(1, 6)))
    database.close()

    log = RocksRaftLog.open(tmp_path, "test", 1)
    with pytest.raises(CorruptData, match="wrong checksum"):
        log.storage(1)
    log.close()


def test_f14_a_log_that_ends_before_its_commit_is_refused(tmp_path: Path) -> None:
    write_and_die(tmp_path, 8)
    for index in (7, 8):
        replace_record(tmp_path, entry_key(1, index), None)

    log = RocksRaftLog.open(tmp_path, "test", 1)
    with pytest.raises(CorruptData, match="up to 8 were committed, and the log ends at 6"):
        log.storage(1)
    log.close()


def test_damage_met_by_a_late_read_is_refused(tmp_path: Path) -> None:
    write_and_die(tmp_path, 8)
    log = RocksRaftLog.open(tmp_path, "test", 1, tail_bytes=0)
    log._database.put(entry_key(1, 3), b"nonsense")

    assert [e.index for e in log.storage(1).entries(1, 3)] == [1, 2]
    with pytest.raises(CorruptData, match="bucket 1"):
        log.storage(1).entries(1, 9)
    log.close()


def test_f15_after_a_failed_fsync_nothing_is_written_any_more(tmp_path: Path) -> None:
    log = RocksRaftLog.open(tmp_path, "test", 1)
    log._database = failing = FailingDatabase(log._database)
    for _ in range(2):
        batch = log.batch()
        batch.create(1, VOTERS)
        with pytest.raises(StorageError, match=r"Input/output error.*must stop"):
            batch.commit(sync=True)
    assert failing.syncs == 1
    assert log.groups() == []
    log.close()


@pytest.mark.parametrize(("cluster", "node"), [("other", 1), ("test", 2)])
def test_anothers_directory_is_refused(tmp_path: Path, cluster: str, node: int) -> None:
    RocksRaftLog.open(tmp_path, "test", 1).close()

    with pytest.raises(DataDirectoryError, match=rf"node 1 of cluster 'test'.*node {node}"):
        RocksRaftLog.open(tmp_path, cluster, node)
    RocksRaftLog.open(tmp_path, "test", 1).close()


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    log = RocksRaftLog.open(tmp_path, "test", 1)
    with pytest.raises(DataDirectoryError, match="in use by another process"):
        RocksRaftLog.open(tmp_path, "test", 1)
    log.close()


def test_a_path_that_cant_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirectoryError, match=re.escape(str(tmp_path))):
        RocksRaftLog.open(tmp_path / "file" / "raft", "test", 1)


def test_a_database_without_an_identity_is_refused(tmp_path: Path) -> None:
    database = raw(tmp_path)
    database.put(b"somebody's", b"data")
    database.close()
    with pytest.raises(CorruptData, match="doesn't say whose"):
        RocksRaftLog.open(tmp_path, "test", 1)


def test_reads_of_recent_entries_dont_touch_the_database(tmp_path: Path) -> None:
    log = RocksRaftLog.open(tmp_path, "test", 1, tail_bytes=1000)
    batch = log.batch()
    batch.create(1, VOTERS)
    batch.append(1, [Entry(i, i // 10, EntryType.NORMAL, bytes(100)) for i in range(1, 31)])
    batch.commit(sync=True)
    storage = log.storage(1)
    assert [e.index for e in storage.entries(19, 23)] == [19, 20, 21, 22]  # across both
    log.close()

    assert len(storage.entries(21, 31)) == 10
    assert [storage.term(i) for i in (1, 10, 29, 30)] == [0, 1, 2, 3]


def test_the_cores_view_is_never_a_mix_while_commits_run(tmp_path: Path) -> None:
    """Reads on the loop's side while the log's thread appends, replaces and compacts."""
    log = RocksRaftLog.open(tmp_path, "test", 1, tail_bytes=2_000)
    batch = log.batch()
    batch.create(1, VOTERS)
    batch.append(1, [Entry(1, 1)])
    batch.commit(sync=True)
    storage, done = log.storage(1), Event()

    def write() -> None:
        for term in range(2, 120):
            last = log.storage(1).last_index()
            batch = log.batch()
            batch.append(1, [Entry(last + i, term, EntryType.NORMAL, bytes(90)) for i in range(9)])
            batch.set_hard_state(1, HardState(term, 0, last - 1))
            batch.commit(sync=True)
        done.set()

    writer = Thread(target=write)
    writer.start()
    reads = 0
    while not done.is_set() or not reads:
        # An entry whose successor was written is never replaced here, as a core never reads one that is.
        last = storage.last_index() - 1
        found = storage.entries(storage.first_index(), last) if last > 1 else []
        assert [entry.index for entry in found] == list(range(1, last)) if found else True
        assert [entry.term for entry in found] == [storage.term(e.index) for e in found]
        reads += 1
    writer.join()
    log.close()


def test_what_was_hidden_of_a_dropped_log_is_seen_of_the_next(tmp_path: Path) -> None:
    write_and_die(tmp_path, 8)
    log = RocksRaftLog.open(tmp_path, "test", 1)
    batch = log.batch()
    batch.compact(1, 5)
    batch.commit(sync=True)
    batch = log.batch()
    batch.drop(1)
    batch.create(1, VOTERS)
    batch.append(1, [Entry(1, 2)])
    batch.commit(sync=True)
    assert (log.storage(1).first_index(), log.storage(1).last_index()) == (1, 1)
    log.close()


def test_what_is_being_compacted_is_hidden_at_once(tmp_path: Path) -> None:
    """Else the log's beginning could move, from the log's thread, between two reads of the core."""
    write_and_die(tmp_path, 8)
    log = RocksRaftLog.open(tmp_path, "test", 1)
    storage = log.storage(1)
    batch = log.batch()
    batch.compact(1, 5)
    assert (storage.first_index(), storage.term(5)) == (6, 1)
    batch.commit(sync=False)
    assert (storage.first_index(), storage.term(5)) == (6, 1)
    log.close()
