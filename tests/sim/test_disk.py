"""What a power cut leaves of a simulated disk."""

import asyncio
from pathlib import Path
from random import Random

import pytest

from mas.errors import CorruptData, StorageError
from mas.raft import ConfState, Entry, HardState
from mas.sim import run_virtual
from mas.sim.disk import Disk, SimDatabases, SimLog, SimWorker
from mas.sim.machine import State
from mas.storage.raft_log.value import Change, GroupLog


class Nobody:
    """Watches nothing."""

    def on_write(
        self, disk: Disk, group: int, before: GroupLog | None, after: GroupLog, change: Change
    ) -> None: ...

    def on_stored(self, disk: Disk) -> None: ...


def make(folder: Path, seed: int = 1) -> tuple[Disk, SimLog]:
    disk = Disk(1, folder, Random(seed), Nobody(), on_note=lambda: None)
    log = SimLog(disk)
    batch = log.batch()
    batch.create(1, ConfState(voters=(1, 2, 3)))
    batch.commit(sync=True)
    return disk, log


def append(log: SimLog, first: int, last: int, *, sync: bool) -> None:
    batch = log.batch()
    batch.append(1, [Entry(index, 1, data=b"x" * 20) for index in range(first, last + 1)])
    batch.set_hard_state(1, HardState(1, 1, 0))
    batch.commit(sync=sync)


def test_synced_records_stay_and_a_beginning_of_the_others(tmp_path: Path) -> None:
    survivors = set()
    for seed in range(40):
        disk, log = make(tmp_path, seed)
        append(log, 1, 2, sync=True)
        append(log, 3, 4, sync=False)
        append(log, 5, 6, sync=False)
        assert log.storage(1).last_index() == 6
        disk.cut_power()
        survivors.add(SimLog(disk).storage(1).last_index())
    assert survivors == {2, 4, 6}  # whole records, never a part of one


def test_after_a_failed_sync_nobody_knows(tmp_path: Path) -> None:
    survivors = set()
    for seed in range(40):
        disk, log = make(tmp_path, seed)
        disk.fails_next_sync = True
        with pytest.raises(StorageError):
            append(log, 1, 2, sync=True)
        disk.cut_power()
        survivors.add(SimLog(disk).storage(1).last_index())
    assert survivors == {0, 2}


def test_a_damaged_record_is_found_by_the_next_start_and_by_who_reads_it(tmp_path: Path) -> None:
    disk, log = make(tmp_path)
    append(log, 1, 40, sync=True)
    storage = log.storage(1)
    disk.damage(1, 3)
    assert [entry.index for entry in storage.entries(39, 41)] == [39, 40]
    with pytest.raises(CorruptData, match="entry 3"):
        storage.entries(1, 10)
    again = SimLog(disk)
    assert again.groups() == [1]
    for question in (again.storage, again.note):
        with pytest.raises(CorruptData, match="entry 3"):
            question(1)


def test_damage_that_is_cut_away_hurts_nobody(tmp_path: Path) -> None:
    disk, log = make(tmp_path)
    append(log, 1, 40, sync=True)
    log.storage(1)
    disk.damage(1, 3)
    batch = log.batch()
    batch.compact(1, 5)
    batch.commit(sync=True)
    assert SimLog(disk).storage(1).first_index() == 6


def test_what_is_compacted_is_hidden_at_once(tmp_path: Path) -> None:
    _, log = make(tmp_path)
    append(log, 1, 9, sync=True)
    log.batch().compact(1, 4)
    assert log.storage(1).first_index() == 5


def test_a_worker_does_one_thing_after_the_other_in_virtual_time() -> None:
    async def main() -> None:
        worker = SimWorker(lambda: 0.5)
        done: list[tuple[str, float]] = []
        loop = asyncio.get_running_loop()

        def work(name: str) -> None:
            done.append((name, round(loop.time(), 2)))

        await asyncio.gather(*(worker.run(lambda name=name: work(name)) for name in "ab"))
        assert done == [("a", 0.5), ("b", 1.0)]

    run_virtual(main())


def test_work_under_way_at_a_death_is_done_or_isnt() -> None:
    async def main(seed: int) -> bool:
        worker = SimWorker(lambda: 0.5)
        done: list[bool] = []
        task = asyncio.get_running_loop().create_task(worker.run(lambda: done.append(True)))
        await asyncio.sleep(0.1)
        worker.die(Random(seed))
        worker.die(Random(seed))  # it is done once at most
        task.cancel()
        return bool(done)

    assert {run_virtual(main(seed)) for seed in range(10)} == {True, False}


def test_a_snapshot_is_what_was_flushed_and_a_spoilt_file_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        disk, _ = make(tmp_path)
        worker = SimWorker(lambda: 0.01)
        databases = SimDatabases(disk, worker, Random(1), lambda: 1_000, lambda *_: None)
        state = State(7, 2, 5, 99)
        assert await databases.flush(1, 0, state)
        assert not await databases.flush(1, 6, State(8, 2, 6, 98))
        path = tmp_path / "bucket-1.incoming"
        metadata = await databases.export(1, path)
        assert (metadata.index, metadata.term) == (7, 2)
        assert await databases.flush(1, 7, State(9, 2, 6, 98))
        await databases.install(1, path)
        assert databases.read(1) == state
        disk.spoil_files()
        with pytest.raises(CorruptData):
            await databases.check(1, path)

    run_virtual(main())
