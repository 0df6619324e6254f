"""A node's disk: its Raft log, its databases and its snapshot files, and what a power cut leaves of them.

The log is a sequence of records, one a batch. Synced ones stay; of the others a power cut leaves some bytes, and a record
that isn't whole is cut off by the next start. The databases commit durably or not at all, as an AccountDB does.

    SimLog          fits `multiraft.ports.RaftLog`
    SimWorker       fits `multiraft.ports.Worker`: does its work behind some virtual time
    SimDatabases    fits `multiraft.ports.SnapshotFiles`, and keeps the states of `sim.machine`
"""

import asyncio
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
import xxhash

from mas.errors import CorruptData, DatabaseUnavailable, MasError, StorageError
from mas.raft import ConfState, Entry, HardState, SnapshotMetadata, Storage
from mas.runtime import Dice
from mas.sim.machine import State
from mas.storage.raft_log.engine import ChangeBatch, GroupStorage
from mas.storage.raft_log.value import Change, Drop, GroupLog, SetNote, change_groups

T = TypeVar("T")
Groups = dict[int, GroupLog]

ROOM = 1 << 40
_TAIL_ENTRIES = 16
_TAIL_BYTES = 1 << 20
"""What of a log is kept in memory; the rest is read from the disk, where it may be damaged."""


class DiskWatcher(Protocol):
    """Who holds the disk's users to their promises."""

    def on_write(
        self, disk: "Disk", group: int, before: GroupLog | None, after: GroupLog, change: Change
    ) -> None:
        """A batch changes a group's log; its changes come one by one, before any is stored. Of a log that goes none comes."""

    def on_stored(self, disk: "Disk") -> None:
        """Log or databases hold something else now."""


class Disk:
    """What survives a node's death."""

    def __init__(
        self,
        node: int,
        folder: Path,
        dice: Dice,
        watcher: DiskWatcher,
        on_note: Callable[[], None],
    ) -> None:
        """`on_note`: the installation of a snapshot begins or ends (rule 28, snapshots)."""
        self.node = node
        self.folder = folder
        self.watcher = watcher
        self.durable: Groups = {}
        """The logs, as a power cut leaves them at least."""
        self.written: Groups = {}
        """The logs as they were last written."""
        self.databases: dict[int, State] = {}
        self.damaged: dict[int, int] = {}
        """Groups with a damaged record, and its index."""
        self.fails_next_sync = False
        self.is_database_away = False
        self.room = ROOM
        """Bytes for snapshots; the log has room of its own."""
        self.file_error = 0
        """The errno of whatever is done with a snapshot's file; 0: it works."""
        self.file_seconds = 0.0
        """What each such piece of work takes beyond its time."""
        self.hangs = False
        """No write of the log returns any more, in this life."""
        self._dice = dice
        self._on_note = on_note
        self._unsynced: list[Groups] = []
        """The logs with each record behind the last synced one."""

    def write(self, changes: list[tuple[int, Change]], *, sync: bool) -> None:
        """A record; raises StorageError where the sync fails, and nobody knows what is there."""
        groups = dict(self.written)
        for group, change in changes:
            before = groups.get(group)
            change_groups(groups, [(group, change)])
            if not isinstance(change, Drop):
                self.watcher.on_write(self, group, before, groups[group], change)
        self._unsynced.append(groups)
        if sync and self.fails_next_sync:
            raise StorageError("fsync failed (injected): the process must stop")
        self.written = groups
        if sync:
            self.durable = groups
            self._unsynced = []
        self.watcher.on_stored(self)
        if any(isinstance(change, SetNote) for _, change in changes):
            self._on_note()

    def cut_power(self) -> None:
        """Lose what wasn't synced, but for the records of which all bytes had reached the disk; a torn one is cut off."""
        whole = self._dice.randrange(len(self._unsynced) + 1)
        if whole:
            self.durable = self._unsynced[whole - 1]
        self.written = self.durable
        self._unsynced = []
        self.fails_next_sync = self.is_database_away = self.hangs = False

    def put_back(self, logs: Groups) -> None:
        """Of a node that is dead: hold the logs that were there some time ago."""
        self.durable = self.written = dict(logs)

    def mend_files(self) -> None:
        """There is room, and whatever is done with a file works, at once."""
        self.room, self.file_error, self.file_seconds = ROOM, 0, 0.0

    def check_files(self) -> None:
        """Before any work with a snapshot's file. Raises `OSError`."""
        if self.file_error:
            raise OSError(self.file_error, f"{os.strerror(self.file_error)} (injected)")

    def spoil_files(self) -> None:
        """Cut off what is being installed: a start that finds a note must do without the file."""
        for path in sorted(self.folder.glob("*.incoming")):
            data = path.read_bytes()
            path.write_bytes(data[: self._dice.randrange(len(data) + 1)])

    def damage(self, group: int, index: int) -> None:
        """Turn a bit of this entry's record over, for good."""
        self.damaged[group] = index

    def check(self, group: int) -> None:
        """Raises CorruptData where the log holds a damaged record."""
        log, index = self.written[group], self.damaged.get(group)
        if index is not None and log.start < index <= log.last:
            raise _damage(group, index)


class SimLog:
    """The Raft log as one life of a node opens it."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._tails: Groups = {}
        self._storages: dict[int, GroupStorage] = {}

    def groups(self) -> list[int]:
        """The groups that this node holds, ascending."""
        return sorted(self._disk.written)

    def storage(self, group: int) -> Storage:
        """Return what the core reads. Raises CorruptData where the opening finds a damaged record."""
        return self._storage(group)

    def hard_state(self, group: int) -> HardState:
        """Term, vote and commit: a damaged entry leaves them whole."""
        return self._disk.written[group].hard_state

    def note(self, group: int) -> bytes | None:
        """The snapshot being installed (rule 28). Raises `CorruptData`."""
        self._storage(group)
        return self._disk.written[group].note

    def removed_at(self, group: int) -> int:
        """Return where this node was removed, before the log began anew; 0: it was not. Raises `CorruptData`."""
        self._storage(group)
        return self._disk.written[group].removed_at

    def lost(self, group: int) -> str:
        """The proof that this log has lost what its node had acknowledged, if there is one. Raises `CorruptData`."""
        self._storage(group)
        return self._disk.written[group].lost

    def batch(self) -> "SimBatch":
        """Writes to come."""
        return SimBatch(self)

    def close(self) -> None:
        """Nothing: the disk stays."""

    def hide(self, group: int, index: int) -> None:
        """Entries up to and including `index` are being compacted."""
        self._storage(group).hide(index)

    def write(self, changes: list[tuple[int, Change]], *, sync: bool) -> None:
        """A batch's commit."""
        self._disk.write(changes, sync=sync)
        for group, change in changes:
            if isinstance(change, Drop):
                self._storages.pop(group, None)
        for group, _ in changes:
            if group in self._disk.written:
                self._tails[group] = _tail(self._disk.written[group])
            else:
                self._tails.pop(group, None)

    def _storage(self, group: int) -> GroupStorage:
        storage = self._storages.get(group)
        if storage is None:
            self._disk.check(group)
            self._tails[group] = _tail(self._disk.written[group])
            storage = GroupStorage(lambda: self._tails[group], partial(self._fetch, group))
            self._storages[group] = storage
        return storage

    def _fetch(self, group: int, lo: int, hi: int, max_bytes: int | None) -> list[Entry]:
        """Entries below the tail, from the disk: each is checked as it is read."""
        log, damaged = self._disk.written[group], self._disk.damaged.get(group)
        entries: list[Entry] = []
        size = 0
        for entry in log.tail[lo - log.tail_start : hi - log.tail_start]:
            if entry.index == damaged:
                raise _damage(group, damaged)
            size += len(entry.data)
            if entries and max_bytes is not None and size > max_bytes:
                break
            entries.append(entry)
        return entries


class SimBatch(ChangeBatch):
    """Writes of one turn."""

    def __init__(self, log: SimLog) -> None:
        super().__init__()
        self._log = log

    def compact(self, group: int, index: int) -> None:
        """Drop entries up to and including `index`; its term is still known. They are hidden at once."""
        self._log.hide(group, index)
        super().compact(group, index)

    def commit(self, *, sync: bool) -> None:
        """Write it all at once. Raises `StorageError` where a fault was injected."""
        self._log.write(self.changes, sync=sync)


class SimWorker:
    """Does one piece of work after the other, each once its virtual time is over."""

    def __init__(
        self, seconds: Callable[[], float], check: Callable[[], None] = lambda: None
    ) -> None:
        """`check` comes before each piece, and what it raises is what comes of it."""
        self._seconds = seconds
        self._check = check
        self._turn = asyncio.Lock()
        self._under_way: Callable[[], object] | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, or raise what it raises."""
        async with self._turn:
            self._under_way = work
            await asyncio.sleep(self._seconds())
            self._under_way = None
            self._check()
            return work()

    def die(self, dice: Dice) -> None:
        """Carry out what was under way, or don't: its process will never know."""
        work, self._under_way = self._under_way, None
        if work is not None and dice.randrange(2):
            try:
                work()
            except (MasError, OSError):
                return  # nobody is there to hear of it


class SimDatabases:
    """One node's databases, as one life of the node opens them; their files are real ones, in its own folder."""

    def __init__(
        self,
        disk: Disk,
        worker: SimWorker,
        dice: Dice,
        padding: Callable[[], int],
        tell: Callable[[str, int, int], None],
    ) -> None:
        """`padding`: bytes that fill a snapshot's file up. `tell` hears what was done, to which group, at which index."""
        self._disk = disk
        self._worker = worker
        self._dice = dice
        self._padding = padding
        self._tell = tell

    def read(self, group: int) -> State:
        """A group's state, as it was last flushed or installed."""
        return self._disk.databases.get(group, State())

    async def open(self, group: int) -> State:
        """The same, for whoever takes the database over. Raises `DatabaseUnavailable`."""
        return await self._worker.run(partial(self._read, group))

    async def flush(self, group: int, before: int, state: State) -> bool:
        """Swap the state, if it is still at the applied index `before` (rule 25, conditional flush). Raises
        `DatabaseUnavailable`.
        """
        return await self._worker.run(partial(self._flush, group, before, state))

    def room_for(self, size: int) -> bool:
        """Tell whether there is room for files of so many bytes."""
        return self._disk.room >= size

    async def export(self, group: int, path: Path) -> SnapshotMetadata:
        """Write the state that one read transaction saw, in two goes. Raises `DatabaseUnavailable`."""
        state = await self._worker.run(partial(self._read, group))
        data = msgspec.msgpack.encode((state, bytes(self._padding())))
        data += xxhash.xxh3_64_digest(data)
        half = self._dice.randrange(len(data))
        await self._worker.run(partial(path.write_bytes, data[:half]))
        await self._worker.run(partial(path.write_bytes, data))
        self._tell("exports a snapshot", group, state.applied)
        return SnapshotMetadata(state.applied, state.term, ConfState())

    async def check(self, group: int, path: Path) -> SnapshotMetadata:
        """Raises `CorruptData` where the file isn't what was exported, `DatabaseUnavailable`."""
        state = await self._worker.run(lambda: self._load(group, path))
        return SnapshotMetadata(state.applied, state.term, ConfState())

    async def install(self, group: int, path: Path) -> None:
        """Swap the state for the file's. Raises `DatabaseUnavailable`."""
        await self._worker.run(lambda: self._install(group, path))

    def _read(self, group: int) -> State:
        self._check_there()
        return self.read(group)

    def _flush(self, group: int, before: int, state: State) -> bool:
        self._check_there()
        if self.read(group).applied != before:
            return False
        self._store(group, state)
        return True

    def _install(self, group: int, path: Path) -> None:
        state = self._load(group, path)
        self._store(group, state)
        self._tell("installs a snapshot", group, state.applied)

    def _load(self, group: int, path: Path) -> State:
        self._check_there()
        data = path.read_bytes()
        if xxhash.xxh3_64_digest(data[:-8]) != data[-8:]:
            raise CorruptData(f"group {group}: {path} isn't what was exported")
        return msgspec.msgpack.decode(data[:-8], type=tuple[State, bytes])[0]

    def _store(self, group: int, state: State) -> None:
        self._disk.databases[group] = state
        self._disk.watcher.on_stored(self._disk)

    def _check_there(self) -> None:
        if self._disk.is_database_away:
            raise DatabaseUnavailable("the database is away (injected): try again")


def _tail(log: GroupLog) -> GroupLog:
    return log.trim(_TAIL_ENTRIES, _TAIL_BYTES)


def _damage(group: int, index: int) -> CorruptData:
    return CorruptData(
        f"group {group}: entry {index} of the log is damaged (injected): this replica takes no part any more"
    )
