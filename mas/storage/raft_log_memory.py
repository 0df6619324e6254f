"""A raft log in memory with a disk's faults, for the simulator: what isn't synced can be lost, and a sync can fail."""

from mas.errors import StorageError
from mas.raft import Entry, Storage
from mas.storage.group_log import Change, ChangeBatch, GroupLog, GroupStorage, change_groups

_Groups = dict[int, GroupLog]


class MemoryRaftLog:
    """The log of all groups of a node, for as long as the object lives.

    Fits `mas.multiraft.ports.RaftLog`.
    """

    def __init__(self) -> None:
        self._groups: _Groups = {}
        self._durable: _Groups = {}
        self._unsynced: list[_Groups] = []
        """The state after each commit since the last synced one, oldest first."""
        self._fail_next_sync = False
        self._failed = False

    def groups(self) -> list[int]:
        """The groups that this node holds, ascending."""
        return sorted(self._groups)

    def storage(self, group: int) -> Storage:
        """What the core reads: the state after the last commit."""
        assert group in self._groups, f"no group {group}"
        return GroupStorage(lambda: self._groups[group], _nothing_below_tail)

    def note(self, group: int) -> bytes | None:
        """The snapshot being installed (rule 28)."""
        return self._groups[group].note

    def batch(self) -> "MemoryBatch":
        """Writes to come."""
        return MemoryBatch(self)

    def close(self) -> None:
        """Nothing: the object is the disk, and can be used again."""

    def crash(self, survivors: int = 0) -> None:
        """The power fails: unsynced commits are lost, but for the first `survivors`, which had reached the disk."""
        if survivors and self._unsynced:
            self._durable = self._unsynced[min(survivors, len(self._unsynced)) - 1]
        self._groups = self._durable
        self._unsynced = []
        self._fail_next_sync = self._failed = False

    @property
    def unsynced(self) -> int:
        """How many commits a crash would lose."""
        return len(self._unsynced)

    def fail_next_sync(self) -> None:
        """Let the next synced commit fail: nobody knows what of it is on the disk."""
        self._fail_next_sync = True

    def write(self, changes: list[tuple[int, Change]], *, sync: bool) -> None:
        """A batch's commit."""
        if self._failed:
            raise StorageError("the log failed before: the process must stop")
        groups = dict(self._groups)
        change_groups(groups, changes)
        self._unsynced.append(groups)
        if sync:
            self._sync()
        self._groups = groups

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
