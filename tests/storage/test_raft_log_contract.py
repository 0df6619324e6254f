"""What every raft log promises, asked of both: the port's words are in `mas.multiraft.ports`."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct

import pytest
from rocksdict import Options, Rdict

from mas.errors import CorruptData, StorageError
from mas.raft import (
    Compacted,
    ConfState,
    Entry,
    EntryType,
    HardState,
    SnapshotMetadata,
    Unavailable,
)
from mas.storage.raft_log.memory import MemoryRaftLog
from mas.storage.raft_log.rocksdb import TAIL_BYTES_MAX, RocksRaftLog
from tests.storage.raft_log_writer import (
    FailingDatabase,
    cut_back_to_what_was_synced,
    write_and_die,
)

VOTERS = ConfState(voters=(1, 2, 3))


Log = MemoryRaftLog | RocksRaftLog


class Disk(ABC):
    """One node's disk: opens its log, and opens it again as a restart would; and its faults."""

    log: Log

    def __init__(self, *, loses_power: bool) -> None:
        """`loses_power`: each restart comes behind a power cut, which loses what wasn't synced."""
        self.loses_power = loses_power

    @abstractmethod
    def restart(self) -> Log:
        """Let the process or the machine go, and open the log again."""

    @abstractmethod
    def damage(self, group: int, *, hard_state: bool = False) -> Log:
        """Flip a bit in the newest entry of a group, or in its first record and its hard state; and restart."""

    @abstractmethod
    def crash_in_commit(self, point: str) -> Log:
        """Commit batches of an entry in groups 1 and 2, die at this point of the commit of entry 6, and restart."""

    @abstractmethod
    def fail_next_sync(self) -> None:
        """Let the disk say no once."""

    def before_and_after_a_restart(self) -> Iterator[Log]:
        yield self.log
        yield self.restart()


class MemoryDisk(Disk):
    """The object is the disk."""

    def __init__(self, *, loses_power: bool) -> None:
        super().__init__(loses_power=loses_power)
        self.log: MemoryRaftLog = MemoryRaftLog()

    def restart(self) -> Log:
        self.log.close()
        self.log.crash(0 if self.loses_power else self.log.unsynced)
        return self.log

    def damage(self, group: int, *, hard_state: bool = False) -> Log:
        self.restart()
        self.log.damage(group, hard_state=hard_state)
        return self.log

    def crash_in_commit(self, point: str) -> Log:
        batch = self.log.batch()
        for group in (1, 2):
            batch.create(group, VOTERS)
        batch.commit(sync=True)
        for index in range(1, 7):
            batch = self.log.batch()
            for group in (1, 2):
                batch.append(group, entries(index, index))
                batch.set_hard_state(group, HardState(1, 1, index))
            if index < 6 or point != "before_write":
                batch.commit(sync=index < 6 or point == "after_sync")
        return self.restart()

    def fail_next_sync(self) -> None:
        self.log.fail_next_sync()


class RocksDisk(Disk):
    """A directory, and how much of each log is kept in memory."""

    def __init__(
        self, path: Path, tail_bytes: int = TAIL_BYTES_MAX, *, loses_power: bool = False
    ) -> None:
        super().__init__(loses_power=loses_power)
        self._path = path
        self._tail_bytes = tail_bytes
        self.log: RocksRaftLog = self._open()

    def _open(self) -> RocksRaftLog:
        return RocksRaftLog.open(self._path, "test", 1, tail_bytes=self._tail_bytes)

    def restart(self) -> Log:
        if self.loses_power:
            self._path = copy_of_the_living(self._path)
            cut_back_to_what_was_synced(self._path)
        self.log.close()  # which keeps what wasn't synced too
        self.log = self._open()
        return self.log

    def damage(self, group: int, *, hard_state: bool = False) -> Log:
        self.log.close()
        database = Rdict(str(self._path), Options(raw_mode=True))
        start, state = record_key(group, 1), record_key(group, 2)
        keys = [start, state] if hard_state else [start]
        for key in keys:
            record = bytearray(database[key])
            record[-1] ^= 1
            database[key] = bytes(record)
        database.close()
        self.log = self._open()
        return self.log

    def crash_in_commit(self, point: str) -> Log:
        self._path = self._path.with_name("of another process")
        write_and_die(self._path, 9, f"raft_log.{point}=kill@7")
        return self.restart()

    def fail_next_sync(self) -> None:
        self.log._database = FailingDatabase(self.log._database)


def copy_of_the_living(path: Path) -> Path:
    """The files of a log that is open, as a power cut would leave them; a compaction may take some away meanwhile."""
    copy = path.with_name(path.name + "'")
    while True:
        try:
            return shutil.copytree(path, copy)
        except shutil.Error:
            shutil.rmtree(copy)


def record_key(group: int, kind: int, index: int = 0) -> bytes:
    return Struct(">QBQ").pack(group, kind, index)


DISKS: dict[str, Callable[[Path], Disk]] = {
    "memory": lambda _: MemoryDisk(loses_power=False),
    "memory, power cuts": lambda _: MemoryDisk(loses_power=True),
    "rocksdb": RocksDisk,
    "rocksdb, power cuts": lambda path: RocksDisk(path, loses_power=True),
    "rocksdb without a tail": lambda path: RocksDisk(path, tail_bytes=0),
}


@pytest.fixture(params=DISKS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    disk = DISKS[request.param](tmp_path / "raft")
    yield disk
    disk.log.close()


def entries(first: int, last: int, term: int = 1) -> list[Entry]:
    return [Entry(i, term, EntryType.NORMAL, b"%d/%d" % (term, i)) for i in range(first, last + 1)]


def create(log: Log, group: int, count: int, term: int = 1) -> None:
    batch = log.batch()
    batch.create(group, VOTERS)
    batch.append(group, entries(1, count, term))
    batch.set_hard_state(group, HardState(term, 1, count))
    batch.commit(sync=True)


def held(log: Log, group: int) -> list[tuple[int, int]]:
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


def test_a_group_is_dropped_and_made_anew_in_one_batch(disk: Disk) -> None:
    create(disk.log, 1, 9)
    batch = disk.log.batch()
    batch.compact(1, 5)
    batch.set_note(1, b"old")
    batch.commit(sync=True)
    batch = disk.log.batch()
    batch.drop(1)
    batch.create(1, ConfState(voters=(7,)))
    batch.set_hard_state(1, HardState(3, 2, 0))
    batch.append(1, entries(1, 2, term=3))
    batch.commit(sync=True)

    for log in disk.before_and_after_a_restart():
        assert log.groups() == [1]
        assert log.note(1) is None
        assert log.storage(1).initial_state() == (HardState(3, 2, 0), ConfState(voters=(7,)))
        assert held(log, 1) == [(1, 3), (2, 3)]


def test_a_group_is_made_filled_and_cut_in_one_batch(disk: Disk) -> None:
    batch = disk.log.batch()
    batch.create(1, VOTERS)
    batch.append(1, entries(1, 5))
    batch.compact(1, 3)
    batch.commit(sync=True)

    for log in disk.before_and_after_a_restart():
        assert held(log, 1) == [(4, 1), (5, 1)]


def test_the_hard_state_is_read_of_whole_groups_too(disk: Disk) -> None:
    create(disk.log, 1, 3, term=4)
    for log in disk.before_and_after_a_restart():
        assert log.hard_state(1) == HardState(4, 1, 3)


def test_a_damaged_group_says_so_and_spares_the_others(disk: Disk) -> None:
    create(disk.log, 1, 3)
    create(disk.log, 2, 3, term=4)
    log = disk.damage(2)

    assert log.groups() == [1, 2]
    assert held(log, 1) == [(1, 1), (2, 1), (3, 1)]
    for read in (log.storage, log.note):
        with pytest.raises(CorruptData, match="bucket 2"):
            read(2)
    assert log.hard_state(2) == HardState(4, 1, 3)
    create(log, 3, 1)
    assert log.groups() == [1, 2, 3]


def test_a_damaged_group_can_only_be_dropped(disk: Disk) -> None:
    create(disk.log, 1, 3)
    log = disk.damage(1)
    for change in (
        lambda batch: batch.create(1, VOTERS),
        lambda batch: batch.append(1, entries(4, 4)),
        lambda batch: batch.set_hard_state(1, HardState()),
    ):
        batch = log.batch()
        change(batch)
        with pytest.raises(AssertionError, match="group 1 is damaged"):
            batch.commit(sync=True)
    batch = log.batch()
    batch.drop(1)
    batch.commit(sync=True)

    for log in disk.before_and_after_a_restart():
        assert log.groups() == []


def test_a_damaged_group_is_made_anew_with_its_term_and_vote(disk: Disk) -> None:
    """What `mas admin replica rebuild` needs: the entries come from the peers, the promises are this node's own."""
    create(disk.log, 1, 9, term=4)
    create(disk.log, 2, 2)
    log = disk.damage(1)
    kept = log.hard_state(1)
    batch = log.batch()
    batch.drop(1)
    batch.create(1, VOTERS, removed_at=7)
    batch.set_hard_state(1, HardState(kept.term, kept.vote, 0))
    batch.commit(sync=True)

    for log in disk.before_and_after_a_restart():
        assert log.groups() == [1, 2]
        assert (log.removed_at(1), log.removed_at(2)) == (7, 0)
        assert log.hard_state(1) == HardState(4, 1, 0)
        assert log.storage(1).initial_state() == (HardState(4, 1, 0), VOTERS)
        assert held(log, 1) == []
        assert held(log, 2) == [(1, 1), (2, 1)]
        batch = log.batch()
        batch.restore(1, SnapshotMetadata(20, 4, VOTERS))
        batch.append(1, entries(21, 22, term=5))
        batch.commit(sync=True)
        assert log.removed_at(1) == 7
        batch = log.batch()
        batch.drop(1)
        batch.create(1, VOTERS, removed_at=7)
        batch.set_hard_state(1, HardState(4, 1, 0))
        batch.commit(sync=True)


def test_the_proof_of_a_loss_is_kept_until_the_log_is_made_anew(disk: Disk) -> None:
    create(disk.log, 1, 9, term=4)
    create(disk.log, 2, 2)
    batch = disk.log.batch()
    batch.set_lost(1, "node 2 proves it: é")
    batch.restore(1, SnapshotMetadata(20, 4, VOTERS))
    batch.commit(sync=True)
    for log in disk.before_and_after_a_restart():
        assert (log.lost(1), log.lost(2)) == ("node 2 proves it: é", "")
    batch = log.batch()
    batch.drop(1)
    batch.create(1, VOTERS, removed_at=7)
    batch.commit(sync=True)
    for log in disk.before_and_after_a_restart():
        assert log.lost(1) == ""


def test_a_damaged_hard_state_is_never_made_up(disk: Disk) -> None:
    create(disk.log, 1, 3)
    log = disk.damage(1, hard_state=True)
    with pytest.raises(CorruptData, match=r"hard state.*bucket 1"):
        log.hard_state(1)
    assert log.groups() == [1]


def test_an_unsynced_commit_is_read_at_once(disk: Disk) -> None:
    create(disk.log, 1, 3)
    batch = disk.log.batch()
    batch.set_hard_state(1, HardState(2, 3, 3))
    batch.append(1, entries(4, 4, term=2))
    batch.commit(sync=False)
    assert held(disk.log, 1)[-1] == (4, 2)


def test_what_wasnt_synced_may_be_lost_and_nothing_before_it(disk: Disk) -> None:
    create(disk.log, 1, 3)
    batch = disk.log.batch()
    batch.append(1, entries(3, 5, term=2))
    batch.set_hard_state(1, HardState(2, 0, 3))
    batch.commit(sync=False)

    log = disk.restart()
    assert held(log, 1)[-1] == ((3, 1) if disk.loses_power else (5, 2))
    assert log.hard_state(1) == (HardState(1, 1, 3) if disk.loses_power else HardState(2, 0, 3))


def test_a_sync_covers_what_was_written_before_it(disk: Disk) -> None:
    create(disk.log, 1, 3)
    for index, sync in ((4, False), (5, True)):
        batch = disk.log.batch()
        batch.append(1, entries(index, index))
        batch.commit(sync=sync)
    assert held(disk.restart(), 1)[-1] == (5, 1)


@pytest.mark.parametrize("point", ["before_write", "before_sync", "after_sync"])
def test_f16_a_crash_in_a_commit_loses_nothing_synced_and_tears_no_batch(
    disk: Disk, point: str
) -> None:
    log = disk.crash_in_commit(point)

    kept = {"before_write": 5, "before_sync": 5 if disk.loses_power else 6, "after_sync": 6}[point]
    assert log.groups() == [1, 2]
    for group in log.groups():
        assert [index for index, _ in held(log, group)] == list(range(1, kept + 1))
        assert log.hard_state(group) == HardState(1, 1, kept)


def test_f15_behind_a_failed_sync_nothing_is_accepted_and_nothing_synced_is_lost(
    disk: Disk,
) -> None:
    create(disk.log, 1, 3)
    disk.fail_next_sync()
    for _ in range(2):  # the disk would say yes to the second
        batch = disk.log.batch()
        batch.append(1, entries(4, 4))
        with pytest.raises(StorageError):
            batch.commit(sync=True)
    assert held(disk.log, 1)[-1] == (3, 1)  # nobody acts on what may not be there

    log = disk.restart()
    assert held(log, 1)[-1] in ((3, 1), (4, 1))
    create(log, 2, 1)


def test_a_gap_is_a_broken_invariant(disk: Disk) -> None:
    create(disk.log, 1, 3)
    batch = disk.log.batch()
    batch.append(1, entries(5, 6))
    with pytest.raises(AssertionError, match="gap"):
        batch.commit(sync=True)
