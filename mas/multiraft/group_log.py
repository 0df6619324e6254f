"""A group's log as its core reads it: the stored one, with the snapshots that the host has at hand."""

from collections.abc import Callable

from mas.errors import CorruptData, LostLog
from mas.raft import ConfState, Entry, HardState, Snapshot, Storage, Unavailable


def lost_log(group: int, applied: int, last: int) -> LostLog:
    """The database is ahead of the log."""
    return LostLog(
        f"bucket {group}: the AccountDB has applied index {applied}, and the log ends at {last}: "
        "the log was lost, and what this node has promised with it. Remove the node from the "
        "bucket, clear its data and add it again under a new id"
    )


def lost_acknowledged(group: int, node: int, proof: str) -> CorruptData:
    """The log ends before what this node has acknowledged: the directory, or a part of it, is an older copy."""
    return CorruptData(
        f"bucket {group}: this replica has lost entries that it had acknowledged, and takes no part any more ({proof}). "
        f"Build it anew from the others: `mas admin replica rebuild {group} {node}`"
    )


def check_founders(group: int, storage: Storage, founders: ConfState) -> None:
    """Whether a log that holds all since the group's beginning began with these.

    Raises:
        CorruptData: it began with others, and is another group's.
    """
    began = storage.initial_state()[1]
    if storage.first_index() == 1 and began != founders:
        raise CorruptData(
            f"bucket {group}: its log began with the voters {list(began.voters)}, and the cluster was founded with "
            f"{list(founders.voters)}: this isn't a log of this cluster. Give this node the data directory that it had"
        )


def check_database(group: int, storage: Storage, applied: int, applied_term: int) -> None:
    """Whether the log can be the one that the AccountDB's state came from (rule 28).

    Raises:
        LostLog: the database is ahead of the log.
        CorruptData: they hold different entries at the same index.
    """
    last = storage.last_index()
    if applied > last:
        raise lost_log(group, applied, last)
    held = storage.first_index() - 1 <= applied
    if held and applied_term and storage.term(applied) != applied_term:
        raise CorruptData(
            f"bucket {group}: the AccountDB has applied index {applied} of term {applied_term}, and the "
            f"log holds it with term {storage.term(applied)}: they don't belong together. Give "
            "this node the database or the data directory that it had"
        )


class GroupLog:
    """A `raft.Storage`."""

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
        """The hard state as stored, and the membership as of what is applied."""
        return self._storage.initial_state()[0], self._conf_state

    def entries(self, lo: int, hi: int, max_bytes: int | None = None) -> list[Entry]:
        """As stored."""
        return self._storage.entries(lo, hi, max_bytes)

    def term(self, index: int) -> int:
        """As stored."""
        return self._storage.term(index)

    def first_index(self) -> int:
        """As stored."""
        return self._storage.first_index()

    def last_index(self) -> int:
        """As stored."""
        return self._storage.last_index()

    def snapshot(self) -> Snapshot:
        """A snapshot to send; raises Unavailable while it is being exported."""
        snapshot = self._newest_snapshot()
        if snapshot is None:
            raise Unavailable("a snapshot is being exported: the core asks again")
        return snapshot
