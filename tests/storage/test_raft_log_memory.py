"""The disk's faults that the simulator injects into the raft log in memory."""

import pytest

from mas.errors import StorageError
from mas.raft import ConfState, Entry, HardState
from mas.storage.raft_log.memory import MemoryRaftLog


def append(log: MemoryRaftLog, index: int, *, sync: bool) -> None:
    batch = log.batch()
    if 1 not in log.groups():
        batch.create(1, ConfState(voters=(1,)))
    batch.append(1, [Entry(index, 1)])
    batch.set_hard_state(1, HardState(1, 1, index))
    batch.commit(sync=sync)


@pytest.mark.parametrize(("survivors", "last"), [(0, 2), (1, 3), (2, 4), (9, 4)])
def test_a_crash_loses_what_wasnt_synced(survivors: int, last: int) -> None:
    log = MemoryRaftLog()
    append(log, 1, sync=True)
    append(log, 2, sync=True)
    append(log, 3, sync=False)
    append(log, 4, sync=False)
    assert log.unsynced == 2

    log.crash(survivors)
    assert log.storage(1).last_index() == last
    assert log.storage(1).initial_state()[0].commit == last
    assert log.unsynced == 0


def test_a_synced_commit_makes_those_before_it_durable() -> None:
    log = MemoryRaftLog()
    append(log, 1, sync=False)
    append(log, 2, sync=True)
    log.crash()
    assert log.storage(1).last_index() == 2


@pytest.mark.parametrize(("survivors", "last"), [(0, 1), (1, 2)])
def test_after_a_failed_sync_nothing_is_written_and_nobody_knows(survivors: int, last: int) -> None:
    log = MemoryRaftLog()
    append(log, 1, sync=True)
    log.fail_next_sync()
    for _ in range(2):
        with pytest.raises(StorageError):
            append(log, 2, sync=True)
    assert log.storage(1).last_index() == 1

    log.crash(survivors)
    assert log.storage(1).last_index() == last
    append(log, last + 1, sync=True)
