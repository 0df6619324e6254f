"""A group's log as its core reads it: the stored one, with the snapshots that the host has at hand."""

from collections.abc import Callable

from mas.errors import CorruptData
from mas.raft import ConfState, Entry, HardState, Snapshot, Storage, Unavailable


def lost_acknowledged(group: int, node: int, proof: str) -> CorruptData:
    """Return the error of a log that ends before what its node has acknowledged, as an older copy of a directory does."""
    return CorruptData(
        f"bucket {group}: this replica has lost entries that it had acknowledged, and takes no part any more ({proof}). "
        f"Build it anew from the others: `mas admin replica rebuild {group} {node}`"
    )


class GroupLog:
    """Reads one group's log, as a `raft.Storage`."""

    def __init__(
        self,
        storage: Storage,
        conf_state: ConfState,
        newest_snapshot: Callable[[], Snapshot | None],
    ) -> None:
        self._storage = storage
        self._conf_state = conf_state
        self._newest_snapshot = newest_snapshot

    def initial_state(self) -> tuple[HardState, ConfState]:
        """Return the hard state as stored, and the membership as of what is applied."""
        return self._storage.initial_state()[0], self._conf_state

    def entries(self, lo: int, hi: int, max_bytes: int | None = None) -> list[Entry]:
        """Return it as stored."""
        return self._storage.entries(lo, hi, max_bytes)

    def term(self, index: int) -> int:
        """Return it as stored."""
        return self._storage.term(index)

    def first_index(self) -> int:
        """Return it as stored."""
        return self._storage.first_index()

    def last_index(self) -> int:
        """Return it as stored."""
        return self._storage.last_index()

    def snapshot(self) -> Snapshot:
        """Return a snapshot to send; raise Unavailable while it is being exported."""
        snapshot = self._newest_snapshot()
        if snapshot is None:
            raise Unavailable("a snapshot is being exported: the core asks again")
        return snapshot
