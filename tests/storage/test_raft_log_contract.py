"""What every raft log promises, asked of both: the port's words are in `mas.multiraft.ports`."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mas.raft import (
    Compacted,
    ConfState,
    Entry,
    EntryType,
    HardState,
    SnapshotMetadata,
    Unavailable,
)
from mas.storage.raft_log_memory import MemoryRaftLog
from mas.storage.raft_log_rocksdb import RocksRaftLog

VOTERS = ConfState(voters=(1, 2, 3))


class Disk:
    """One node's disk: opens its log, and opens it again as a restart would."""

    def __init__(self, open_: Callable[[], MemoryRaftLog | RocksRaftLog]) -> None:
        self._open = open_
        self.log = open_()

    def restart(self) -> MemoryRaftLog | RocksRaftLog:
        self.log.close()
        self.log = self._open()
        return self.log

    def before_and_after_a_restart(self) -> Iterator[MemoryRaftLog | RocksRaftLog]:
        yield self.log
        yield self.restart()


@pytest.fixture(params=["memory", "rocksdb", "rocksdb without a tail"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    memory = MemoryRaftLog()
    engines: dict[str, Callable[[], MemoryRaftLog | RocksRaftLog]] = {
        "memory": lambda: memory,
        "rocksdb": lambda: RocksRaftLog.open(tmp_path / "raft", "test", 1),
        "rocksdb without a tail": lambda: RocksRaftLog.open(
            tmp_path / "raft", "test", 1, tail_bytes=0
        ),
    }
    disk = Disk(engines[request.param])
    yield disk
    disk.log.close()


def entries(first: int, last: int, term: int = 1) -> list[Entry]:
    return [Entry(i, term, EntryType.NORMAL, b"%d/%d" % (term, i)) for i in range(first, last + 1)]


def create(log: MemoryRaftLog | RocksRaftLog, group: int, count: int, term: int = 1) -> None:
    batch = log.batch()
    batch.create(group, VOTERS)
    batch.append(group, entries(1, count, term))
    batch.set_hard_state(group, HardState(term, 1, count))
    batch.commit(sync=True)


def held(log: MemoryRaftLog | RocksRaftLog, group: int) -> list[tuple[int, int]]:
    storage = log.storage(group)
    first, last = storage.first_index(), storage.last_index()
    return [(e.index, e.term) for e in storage.entries(first, last + 1)]


def test_a_new_group_is_empty(disk: Disk) -> None:
    batch = disk.log.batch()
    batch.create(7, VOTERS)
    batch.commit(sync=True)

    for log in disk.before_and_after_a_restart():
        storage = log.storage(7)
        assert log.groups() == [7]
        assert log.note(7) is None
        assert storage.initial_state() == (HardState(), VOTERS)
        assert (storage.first_index(), storage.last_index(), storage.term(0)) == (1, 0, 0)
        assert storage.snapshot().metadata == SnapshotMetadata(0, 0, VOTERS)


def test_nothing_is_stored_before_commit(disk: Disk) -> None:
    batch = disk.log.batch()
    batch.create(1, VOTERS)
    batch.append(1, entries(1, 3))
    assert disk.log.groups() == []

    batch.commit(sync=True)
    assert held(disk.log, 1) == [(1, 1), (2, 1), (3, 1)]


def test_everything_is_there_after_a_restart(disk: Disk) -> None:
    create(disk.log, 1, 5)
    create(disk.log, 2, 2, term=4)
    batch = disk.log.batch()
    batch.append(2, [Entry(3, 5, EntryType.CONF_CHANGE, b"change")])
    batch.set_hard_state(2, HardState(5, 3, 2))
    batch.set_conf_state(2, ConfState(voters=(1, 2), learners=(9,)))
    batch.set_note(2, b"installing")
    batch.commit(sync=True)

    log = disk.restart()
    assert log.groups() == [1, 2]
    assert log.storage(1).entries(1, 6) == entries(1, 5)
    assert log.storage(2).initial_state() == (
        HardState(5, 3, 2),
        ConfState(voters=(1, 2), learners=(9,)),
    )
    assert log.storage(2).entries(3, 4) == [Entry(3, 5, EntryType.CONF_CHANGE, b"change")]
    assert log.note(2) == b"installing"
    assert [log.storage(2).term(i) for i in range(4)] == [0, 4, 4, 5]


def test_entries_replace_what_stands_at_their_indexes_and_behind(disk: Disk) -> None:
    create(disk.log, 1, 10)
    batch = disk.log.batch()
    batch.append(1, entries(4, 5, term=2))
    batch.set_hard_state(1, HardState(2, 0, 3))
    batch.commit(sync=True)

    for log in disk.before_and_after_a_restart():
        assert held(log, 1) == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)]
        assert [log.storage(1).term(i) for i in (3, 4, 5)] == [1, 2, 2]
        with pytest.raises(Unavailable):
            log.storage(1).term(6)


def test_one_batch_may_append_twice(disk: Disk) -> None:
    create(disk.log, 1, 2)
    batch = disk.log.batch()
    batch.append(1, entries(3, 9, term=2))
    batch.append(1, entries(5, 6, term=3))
    batch.commit(sync=True)

    for log in disk.before_and_after_a_restart():
        assert held(log, 1) == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3)]


def test_entries_stop_at_max_bytes_and_give_at_least_one(disk: Disk) -> None:
    create(disk.log, 1, 9)
    storage = disk.log.storage(1)

    assert storage.entries(2, 9, 3 * 3) == entries(2, 4)
    assert storage.entries(2, 9, 3 * 3 - 1) == entries(2, 3)
    assert storage.entries(2, 9, 0) == entries(2, 2)
    assert storage.entries(2, 9, None) == entries(2, 8)
    assert storage.entries(5, 5) == []


def test_reads_outside_the_log_say_which_side(disk: Disk) -> None:
    create(disk.log, 1, 6)
    batch = disk.log.batch()
    batch.compact(1, 3)
    batch.commit(sync=True)
    storage = disk.log.storage(1)

    with pytest.raises(Compacted):
        storage.entries(3, 5)
    with pytest.raises(Compacted):
        storage.term(2)
    with pytest.raises(Unavailable):
        storage.entries(5, 8)


def test_compaction_keeps_the_term_of_the_last_entry_dropped(disk: Disk) -> None:
    create(disk.log, 1, 4)
    batch = disk.log.batch()
    batch.append(1, entries(5, 8, term=3))
    batch.compact(1, 6)
    batch.commit(sync=True)

    for log in disk.before_and_after_a_restart():
        storage = log.storage(1)
        assert (storage.first_index(), storage.last_index()) == (7, 8)
        assert [storage.term(i) for i in (6, 7, 8)] == [3, 3, 3]
        assert storage.snapshot().metadata == SnapshotMetadata(6, 3, VOTERS)


def test_compaction_of_everything_leaves_a_log_to_append_to(disk: Disk) -> None:
    create(disk.log, 1, 4)
    batch = disk.log.batch()
    batch.compact(1, 4)
    batch.compact(1, 2)  # an older wish changes nothing
    batch.append(1, entries(5, 5, term=2))
    batch.commit(sync=True)

    for log in disk.before_and_after_a_restart():
        assert held(log, 1) == [(5, 2)]
        assert log.storage(1).term(4) == 1


def test_restore_drops_a_log_that_lacks_the_snapshots_last_entry(disk: Disk) -> None:
    create(disk.log, 1, 10)
    members = ConfState(voters=(1, 2, 4))
    for index in (8, 20):
        batch = disk.log.batch()
        batch.set_hard_state(1, HardState(5, 2, 3))
        batch.restore(1, SnapshotMetadata(index, 5, members))
        batch.commit(sync=True)

        for log in disk.before_and_after_a_restart():
            storage = log.storage(1)
            assert (storage.first_index(), storage.last_index()) == (index + 1, index)
            assert storage.term(index) == 5
            assert storage.initial_state()[1] == members
        batch = disk.log.batch()
        batch.set_hard_state(1, HardState(5, 2, index))
        batch.append(1, entries(index + 1, index + 2, 5))
        batch.commit(sync=True)


def test_restore_keeps_what_was_acknowledged_behind_the_snapshot(disk: Disk) -> None:
    """Rule 28: a voter never forgets what it acknowledged."""
    create(disk.log, 1, 10)
    batch = disk.log.batch()
    batch.set_note(1, b"snapshot")
    batch.restore(1, SnapshotMetadata(7, 1, VOTERS))
    batch.commit(sync=True)

    for log in disk.before_and_after_a_restart():
        assert held(log, 1) == [(8, 1), (9, 1), (10, 1)]
        assert log.storage(1).initial_state()[0] == HardState(1, 1, 10)
        assert log.note(1) == b"snapshot"


def test_a_note_is_cleared(disk: Disk) -> None:
    create(disk.log, 1, 1)
    for note in (b"one", None):
        batch = disk.log.batch()
        batch.set_note(1, note)
        batch.commit(sync=True)
        assert disk.log.note(1) == note
    assert disk.restart().note(1) is None


def test_a_dropped_group_leaves_nothing_and_can_be_made_anew(disk: Disk) -> None:
    create(disk.log, 1, 3)
    create(disk.log, 2, 3)
    batch = disk.log.batch()
    batch.drop(1)
    batch.commit(sync=True)
    assert disk.restart().groups() == [2]

    create(disk.log, 1, 1, term=9)
    assert held(disk.restart(), 1) == [(1, 9)]


def test_an_unsynced_commit_is_read_at_once(disk: Disk) -> None:
    create(disk.log, 1, 3)
    batch = disk.log.batch()
    batch.set_hard_state(1, HardState(2, 3, 3))
    batch.append(1, entries(4, 4, term=2))
    batch.commit(sync=False)
    assert held(disk.log, 1)[-1] == (4, 2)


def test_a_gap_is_a_broken_invariant(disk: Disk) -> None:
    create(disk.log, 1, 3)
    batch = disk.log.batch()
    batch.append(1, entries(5, 6))
    with pytest.raises(AssertionError, match="gap"):
        batch.commit(sync=True)
