"""What is persisted, as the core reads it, and the same in memory for tests and simulations."""

from collections.abc import Sequence
from typing import Protocol

from mas.raft.errors import Compacted, Unavailable
from mas.raft.messages import ConfState, Entry, HardState, Snapshot, SnapshotMetadata


class Storage(Protocol):
    """Read access to a node's persisted log and state.

    Raises Compacted below first_index and Unavailable above last_index.
    """

    def initial_state(self) -> tuple[HardState, ConfState]:
        """Return the hard state, and the configuration as of Config.applied."""
        ...

    def entries(self, lo: int, hi: int, max_bytes: int | None = None) -> list[Entry]:
        """Return the entries [lo, hi), as many as fit into max_bytes of data, at least one."""
        ...

    def term(self, index: int) -> int:
        """Return the term of an entry; of first_index - 1 too, which is 0 where that is 0."""
        ...

    def first_index(self) -> int:
        """Return the first index whose entry is held, or would be."""
        ...

    def last_index(self) -> int:
        """Return the last index held, first_index - 1 where there is none."""
        ...

    def snapshot(self) -> Snapshot:
        """Return the newest snapshot; raises Unavailable where none can be given out now."""
        ...


def within(entries: list[Entry], max_bytes: int | None) -> list[Entry]:
    """Return the longest beginning of `entries` with at most max_bytes of data, at least one entry; 0: that one."""
    if max_bytes is None:
        return entries
    if not max_bytes:
        return entries[:1]
    size = 0
    for position, entry in enumerate(entries):
        size += len(entry.data)
        if size > max_bytes and position:
            return entries[:position]
    return entries


class MemoryStorage:
    """A Storage in memory, with the writes that a host does."""

    def __init__(self, conf_state: ConfState | None = None) -> None:
        """An empty log; `conf_state` names the members of a group that starts."""
        self._hard_state = HardState()
        self._conf_state: ConfState | None = None  # what the host has set since the snapshot came
        self._snapshot = Snapshot(
            SnapshotMetadata(0, 0, ConfState() if conf_state is None else conf_state)
        )
        self._entries: list[Entry] = []
        self._compacted = 0
        self._compacted_term = 0

    def initial_state(self) -> tuple[HardState, ConfState]:
        """Return the hard state, and the configuration that was set last, or else the snapshot's."""
        if self._conf_state is not None:
            return self._hard_state, self._conf_state
        return self._hard_state, self._snapshot.metadata.conf_state

    def first_index(self) -> int:
        """Return the index behind what was compacted."""
        return self._compacted + 1

    def last_index(self) -> int:
        """Return the index of the last entry."""
        return self._compacted + len(self._entries)

    def term(self, index: int) -> int:
        """Return the term of an entry, or of the last one compacted."""
        if index == self._compacted:
            return self._compacted_term
        return self._entries[self._position(index)].term

    def entries(self, lo: int, hi: int, max_bytes: int | None = None) -> list[Entry]:
        """Return the entries [lo, hi), at least one, within max_bytes."""
        if lo > self._compacted and hi <= lo:
            return []
        first, last = self._position(lo), self._position(hi - 1)
        return within(self._entries[first : last + 1], max_bytes)

    def snapshot(self) -> Snapshot:
        """Return the snapshot last created or applied; index 0 where there was none."""
        return self._snapshot

    def append(self, entries: Sequence[Entry]) -> None:
        """Write entries, replacing what is held from the first one on; raises Unavailable at a gap."""
        fresh = [entry for entry in entries if entry.index > self._compacted]
        if not fresh:
            return
        first = fresh[0].index
        if first > self.last_index() + 1:
            raise Unavailable(
                f"appending at {first} would leave a gap; the log ends at {self.last_index()}"
            )
        self._entries[first - self._compacted - 1 :] = fresh

    def set_hard_state(self, hard_state: HardState) -> None:
        """Write the hard state."""
        self._hard_state = hard_state

    def set_conf_state(self, conf_state: ConfState) -> None:
        """Write the configuration, as of what the host has applied."""
        self._conf_state = conf_state

    def apply_snapshot(self, snapshot: Snapshot) -> None:
        """Replace log and configuration by a snapshot; raises Compacted where it is an older one."""
        metadata = snapshot.metadata
        self._refuse_older(metadata.index)
        self._snapshot = snapshot
        self._conf_state = None
        self._entries = []
        self._compacted, self._compacted_term = metadata.index, metadata.term

    def create_snapshot(self, index: int, conf_state: ConfState, data: bytes = b"") -> Snapshot:
        """Take a snapshot as of `index`, the log staying as it is.

        Raises Compacted where a newer one is held, Unavailable above the last index.
        """
        self._refuse_older(index)
        self._snapshot = Snapshot(SnapshotMetadata(index, self.term(index), conf_state), data)
        return self._snapshot

    def compact(self, index: int) -> None:
        """Drop entries up to and including `index`; raises Compacted or Unavailable."""
        position = self._position(index)
        term = self._entries[position].term
        del self._entries[: position + 1]
        self._compacted, self._compacted_term = index, term

    def _position(self, index: int) -> int:
        if index <= self._compacted:
            raise Compacted(f"index {index} is compacted; the log begins at {self.first_index()}")
        if index > self.last_index():
            raise Unavailable(f"index {index} isn't there; the log ends at {self.last_index()}")
        return index - self._compacted - 1

    def _refuse_older(self, index: int) -> None:
        current = self._snapshot.metadata.index
        if index < current:
            raise Compacted(f"a snapshot at {index} is older than the one at {current}")
