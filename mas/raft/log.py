"""The log as the core sees it: what storage holds, continued by what is in memory.

    storage:   first_index ............ stable            (what the host has persisted)
    memory:                 offset .... stable ... last_index
    indexes:     applied <= committed <= last_index

Entries stay in memory until they are persisted and applied, so that the way of an entry from
proposal to apply reads nothing from storage.
"""

from collections.abc import Sequence

from mas.raft.errors import Compacted, Unavailable
from mas.raft.messages import Entry, Snapshot
from mas.raft.storage import Storage, within


class Log:
    """Entries, and how far they are persisted (`stable`), committed and applied."""

    __slots__ = (
        "_memory",
        "_offset",
        "applied",
        "committed",
        "last_index",
        "last_term",
        "snapshot",
        "stable",
        "storage",
    )

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.last_index = storage.last_index()
        self.last_term = storage.term(self.last_index)
        self.stable = self.last_index
        self.committed = self.applied = storage.first_index() - 1
        self.snapshot: Snapshot | None = None  # received, and not yet persisted
        self._memory: list[Entry] = []
        self._offset = self.last_index + 1

    @property
    def first_index(self) -> int:
        """The first index whose entry can be read."""
        if self.snapshot is not None:
            return self.snapshot.metadata.index + 1
        return self.storage.first_index()

    def term(self, index: int) -> int:
        """Return the term of an entry, or of the one before the first; raises Compacted, Unavailable."""
        if index == self.last_index:
            return self.last_term
        if index >= self._offset:
            if index > self.last_index:
                raise Unavailable(f"index {index} isn't there; the log ends at {self.last_index}")
            return self._memory[index - self._offset].term
        if self.snapshot is None:
            return self.storage.term(index)
        if index == self.snapshot.metadata.index:
            return self.snapshot.metadata.term
        raise Compacted(f"index {index} is behind the snapshot of {self.first_index - 1}")

    def matches(self, index: int, term: int) -> bool:
        """Tell whether the log holds an entry of this index and term."""
        try:
            return self.term(index) == term
        except (Compacted, Unavailable):
            return False

    def is_up_to_date(self, last_term: int, last_index: int) -> bool:
        """Tell whether a log that ends so is at least as up-to-date as this one (Raft, 5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def slice(self, lo: int, hi: int, max_bytes: int | None = None) -> list[Entry]:
        """Return the entries [lo, hi) within max_bytes of data, at least one; raises Compacted."""
        offset = self._offset
        if lo >= offset:
            return within(self._memory[lo - offset : hi - offset], max_bytes)
        if self.snapshot is not None:
            raise Compacted(f"index {lo} is behind the snapshot of {self.first_index - 1}")
        stored_hi = min(hi, offset)
        entries = self.storage.entries(lo, stored_hi, max_bytes)
        if hi > offset and len(entries) == stored_hi - lo:
            entries = within(entries + self._memory[: hi - offset], max_bytes)
        return entries

    def agreement_at_most(self, index: int, term: int) -> tuple[int, int]:
        """Return the last entry up to `index` whose term is at most `term`, as (index, its term).

        Another log that has `term` at `index` can agree with this one nowhere behind that entry, so
        that one answer skips a whole term (Raft, end of 5.3). The term is 0 where it isn't known.
        """
        while index > 0:
            try:
                own = self.term(index)
            except (Compacted, Unavailable):
                return index, 0
            if own <= term:
                return index, own
            index -= 1
        return 0, 0

    def append_own(self, entry: Entry) -> None:
        """Append a leader's next entry."""
        self._memory.append(entry)
        self.last_index = entry.index
        self.last_term = entry.term

    def append_after(self, index: int, entries: Sequence[Entry]) -> int:
        """Take over a leader's entries behind `index`, which matches; the last index they reach.

        What is there already stays; the first conflict replaces everything from it on (Raft, 5.3).
        """
        reached = index + len(entries)
        held = self._count_held(index, entries)
        if held == len(entries):
            return reached
        fresh = entries[held:]
        first = fresh[0].index
        assert first > self.committed, f"entry {first} would replace a committed one"
        if first <= self.last_index:
            self._truncate(first)
        self._memory.extend(fresh)
        self.last_index = reached
        self.last_term = fresh[-1].term
        return reached

    def commit_to(self, index: int) -> bool:
        """Raise the commit index; whether that is news."""
        if index <= self.committed:
            return False
        assert index <= self.last_index, f"commit {index} above the last index {self.last_index}"
        self.committed = index
        return True

    def unstable(self) -> list[Entry]:
        """Return the entries that are not persisted."""
        return self._memory[self.stable + 1 - self._offset :]

    def has_unstable(self) -> bool:
        """Tell whether there are entries that are not persisted."""
        return self.last_index > self.stable

    def has_unapplied(self) -> bool:
        """Tell whether there are committed entries to hand out."""
        return self.committed > self.applied and self.snapshot is None

    def unapplied(self, max_bytes: int) -> list[Entry]:
        """Return the committed entries to apply next; behind a snapshot that isn't applied, none."""
        if not self.has_unapplied():
            return []
        return self.slice(self.applied + 1, self.committed + 1, max_bytes)

    def persisted(self, last: Entry) -> None:
        """Note that entries up to `last` were written; what replaced them meanwhile was not."""
        if self.stable < last.index <= self.last_index and self.matches(last.index, last.term):
            self.stable = last.index

    def snapshot_persisted(self) -> None:
        """Note that the snapshot was written and applied."""
        assert self.snapshot is not None
        self.applied = max(self.applied, self.snapshot.metadata.index)
        self.snapshot = None

    def applied_to(self, index: int) -> None:
        """Note that entries up to `index` are applied."""
        assert self.applied <= index <= self.committed
        self.applied = index

    def trim_memory(self) -> None:
        """Let go of what is both persisted and applied."""
        surplus = min(self.stable, self.applied) + 1 - self._offset
        if surplus > 0:
            del self._memory[:surplus]
            self._offset += surplus

    def restore(self, snapshot: Snapshot) -> None:
        """Begin again behind a snapshot."""
        metadata = snapshot.metadata
        self.snapshot = snapshot
        self.last_index = self.stable = self.committed = metadata.index
        self.last_term = metadata.term
        self._memory = []
        self._offset = metadata.index + 1

    def _count_held(self, index: int, entries: Sequence[Entry]) -> int:
        if index == self.last_index:
            return 0
        for held, entry in enumerate(entries):
            if not self.matches(entry.index, entry.term):
                return held
        return len(entries)

    def _truncate(self, first: int) -> None:
        if first < self._offset:
            self._memory = []
            self._offset = first
        else:
            del self._memory[first - self._offset :]
        self.stable = min(self.stable, first - 1)
