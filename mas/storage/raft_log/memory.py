"""A raft log in memory with a disk's faults, for the simulator: what isn't synced can be lost, and a sync can fail."""

import msgspec

from mas.errors import CorruptData, StorageError
from mas.raft import Entry, HardState, Storage
from mas.storage.raft_log.engine import ChangeBatch, GroupStorage
from mas.storage.raft_log.value import Change, GroupLog, change_groups, check_drops


class _Disk(msgspec.Struct, frozen=True):
    """What stands on the disk after a commit."""

    groups: dict[int, GroupLog]
    damaged: dict[int, HardState | None]
    """Groups whose entries can't be read, and what is left of them: the hard state, if that."""


class MemoryRaftLog:
    """The log of all groups of a node, for as long as the object lives.

    Fits `mas.multiraft.ports.RaftLog`.
    """

    def __init__(self) -> None:
        self._disk = self._durable = _Disk({}, {})
        self._unsynced: list[_Disk] = []
        """The state after each commit since the last synced one, oldest first."""
        self._fail_next_sync = False
        self._failed = False

    def groups(self) -> list[int]:
        """The groups that this node holds, ascending; the damaged ones too."""
        return sorted([*self._disk.groups, *self._disk.damaged])

    def storage(self, group: int) -> Storage:
        """Return what the core reads: the state after the last commit. Raises `CorruptData`."""
        self._view(group)
        return GroupStorage(lambda: self._view(group), _nothing_below_tail)

    def hard_state(self, group: int) -> HardState:
        """Term, vote and commit. Raises `CorruptData` where they are damaged too."""
        if group not in self._disk.damaged:
            return self._view(group).hard_state
        hard_state = self._disk.damaged[group]
        if hard_state is None:
            raise CorruptData(f"the hard state of bucket {group} is damaged (injected)")
        return hard_state

    def note(self, group: int) -> bytes | None:
        """The snapshot being installed (rule 28, snapshots). Raises `CorruptData`."""
        return self._view(group).note

    def removed_at(self, group: int) -> int:
        """Return where this node was removed, before the log began anew; 0: it was not. Raises `CorruptData`."""
        return self._view(group).removed_at

    def lost(self, group: int) -> str:
        """The proof that this log has lost what its node had acknowledged, if there is one. Raises `CorruptData`."""
        return self._view(group).lost

    def batch(self) -> "MemoryBatch":
        """Writes to come."""
        return MemoryBatch(self)

    def close(self) -> None:
        """Nothing: the object is the disk, and can be used again."""

    def crash(self, survivors: int = 0) -> None:
        """The power fails: unsynced commits are lost, but for the first `survivors`, which had reached the disk."""
        if survivors and self._unsynced:
            self._durable = self._unsynced[min(survivors, len(self._unsynced)) - 1]
        self._disk = self._durable
        self._unsynced = []
        self._fail_next_sync = self._failed = False

    @property
    def unsynced(self) -> int:
        """How many commits a crash would lose."""
        return len(self._unsynced)

    def fail_next_sync(self) -> None:
        """Let the next synced commit fail: nobody knows what of it is on the disk."""
        self._fail_next_sync = True

    def damage(self, group: int, *, hard_state: bool = False) -> None:
        """Let what was synced of this group be damaged, behind a crash: its entries, or its hard state too."""
        assert not self._unsynced, "a node finds damage when it starts"
        groups = dict(self._disk.groups)
        left = groups.pop(group).hard_state
        damaged = {**self._disk.damaged, group: None if hard_state else left}
        self._disk = self._durable = _Disk(groups, damaged)

    def write(self, changes: list[tuple[int, Change]], *, sync: bool) -> None:
        """A batch's commit."""
        if self._failed:
            raise StorageError("the log failed before: the process must stop")
        groups = dict(self._disk.groups)
        check_drops(changes, self._disk.damaged)
        change_groups(groups, changes)
        changed = {group for group, _ in changes}
        damaged = {g: left for g, left in self._disk.damaged.items() if g not in changed}
        disk = _Disk(groups, damaged)
        self._unsynced.append(disk)
        if sync:
            self._sync()
        self._disk = disk

    def _view(self, group: int) -> GroupLog:
        if group in self._disk.damaged:
            raise CorruptData(f"the raft log of bucket {group} is damaged (injected)")
        assert group in self._disk.groups, f"no group {group}"
        return self._disk.groups[group]

    def _sync(self) -> None:
        if self._fail_next_sync:
            self._failed = True
            raise StorageError("fsync failed (injected): the process must stop")
        self._durable = self._unsynced[-1]
        self._unsynced = []


class MemoryBatch(ChangeBatch):
    """Writes of one turn; nothing is stored before `commit`."""

    def __init__(self, log: MemoryRaftLog) -> None:
        super().__init__()
        self._log = log

    def commit(self, *, sync: bool) -> None:
        """Write it all at once. Raises `StorageError` where a fault was injected."""
        self._log.write(self.changes, sync=sync)


def _nothing_below_tail(lo: int, hi: int, _max_bytes: int | None) -> list[Entry]:
    raise AssertionError(f"entries [{lo}, {hi}) are not in the tail, which is all of the log")
