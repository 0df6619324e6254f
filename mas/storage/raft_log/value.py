"""One group's log as a value, and the changes that a batch makes to it.

Every change gives a new `GroupLog`: whoever reads one while the log's thread writes sees the state before a commit or
behind it, never a mix, and no lock is taken.
"""

from bisect import bisect_right
from collections.abc import Container, Sequence

import msgspec
from msgspec.structs import replace

from mas.raft import (
    Compacted,
    ConfState,
    Entry,
    HardState,
    SnapshotMetadata,
    Unavailable,
)


class Create(msgspec.Struct, frozen=True):
    """A new group with an empty log."""

    conf_state: ConfState
    removed_at: int = 0


class Append(msgspec.Struct, frozen=True):
    """Entries, in place of whatever stands at their indexes and behind them."""

    entries: Sequence[Entry]


class SetHardState(msgspec.Struct, frozen=True):
    """Term, vote and commit."""

    hard_state: HardState


class SetConfState(msgspec.Struct, frozen=True):
    """The configuration as of what is applied."""

    conf_state: ConfState


class Restore(msgspec.Struct, frozen=True):
    """The log begins behind a snapshot."""

    metadata: SnapshotMetadata


class Compact(msgspec.Struct, frozen=True):
    """Entries up to and including `index` are dropped."""

    index: int


class SetNote(msgspec.Struct, frozen=True):
    """A snapshot being installed (rule 28, snapshots)."""

    note: bytes | None


class SetLost(msgspec.Struct, frozen=True):
    """This log has lost what its node had acknowledged."""

    proof: str


class Drop(msgspec.Struct, frozen=True):
    """The group leaves this node, or its replica is built anew."""


Change = (
    Create | Append | SetHardState | SetConfState | Restore | Compact | SetNote | SetLost | Drop
)


class GroupLog(msgspec.Struct, frozen=True):
    """The entries (start, last], of which the newest are here as `tail`, and what else a group persists."""

    conf_state: ConfState = ConfState()
    hard_state: HardState = HardState()
    note: bytes | None = None
    start: int = 0
    """The index before the first entry."""
    start_term: int = 0
    last: int = 0
    terms: tuple[tuple[int, int], ...] = ()
    """(first index, term) of each run of entries of one term: terms change seldom."""
    tail: tuple[Entry, ...] = ()
    tail_bytes: int = 0
    removed_at: int = 0
    """Of a log that begins anew: the index of the change that had removed this node; else 0."""
    lost: str = ""
    """The proof that this log has lost what its node had acknowledged; empty where there is none."""

    @property
    def tail_start(self) -> int:
        """The index of the tail's first entry; behind the last index where the tail is empty."""
        return self.last + 1 - len(self.tail)

    def term(self, index: int) -> int:
        """The term of an entry, or of the one before the first; raises Compacted, Unavailable."""
        if index < self.start:
            raise Compacted(f"index {index} is compacted: the log begins at {self.start + 1}")
        if index > self.last:
            raise Unavailable(f"index {index} isn't there: the log ends at {self.last}")
        if index == self.start:
            return self.start_term
        return self.terms[bisect_right(self.terms, index, key=_first) - 1][1]

    def holds(self, index: int, term: int) -> bool:
        """Tell whether the log has this entry, or begins behind it."""
        return self.start <= index <= self.last and self.term(index) == term

    def change(self, change: Change) -> "GroupLog":
        """The log after a change that isn't `Create` or `Drop`."""
        match change:
            case Append():
                return self.append(change.entries)
            case SetHardState():
                return replace(self, hard_state=change.hard_state)
            case SetConfState():
                return replace(self, conf_state=change.conf_state)
            case Restore():
                return self.restore(change.metadata)
            case Compact():
                return self.compact(change.index)
            case SetNote():
                return replace(self, note=change.note)
            case SetLost():
                return replace(self, lost=change.proof)
            case Create() | Drop():
                raise AssertionError(f"{change} makes or ends a group")

    def append(self, entries: Sequence[Entry]) -> "GroupLog":
        """Entries without a gap, in place of what stands at their indexes and behind them."""
        first, last = entries[0].index, entries[-1].index
        assert self.start < first <= self.last + 1, f"a gap at {first} behind {self.last}"
        assert last - first == len(entries) - 1, "entries are not consecutive"
        kept = self.tail[: max(first - self.tail_start, 0)]
        dropped = self.tail[len(kept) :]
        return replace(
            self,
            last=last,
            terms=_with_terms(self.terms, entries),
            tail=(*kept, *entries),
            tail_bytes=self.tail_bytes - _size(dropped) + _size(entries),
        )

    def compact(self, index: int) -> "GroupLog":
        """Without the entries up to and including `index`; nothing where they are gone already."""
        if index <= self.start:
            return self
        term = self.term(index)
        following = bisect_right(self.terms, index + 1, key=_first)
        terms = self.terms[following:]
        if index < self.last:
            terms = ((index + 1, self.terms[following - 1][1]), *terms)
        dropped = self.tail[: max(index + 1 - self.tail_start, 0)]
        return replace(
            self,
            start=index,
            start_term=term,
            terms=terms,
            tail=self.tail[len(dropped) :],
            tail_bytes=self.tail_bytes - _size(dropped),
        )

    def restore(self, metadata: SnapshotMetadata) -> "GroupLog":
        """Beginning behind a snapshot; entries behind it stay where the log holds its last one (rule 28)."""
        assert metadata.index >= self.start, "a snapshot older than the log's beginning"
        if self.holds(metadata.index, metadata.term):
            return replace(self.compact(metadata.index), conf_state=metadata.conf_state)
        return GroupLog(
            conf_state=metadata.conf_state,
            hard_state=self.hard_state,
            note=self.note,
            start=metadata.index,
            start_term=metadata.term,
            last=metadata.index,
            removed_at=self.removed_at,
            lost=self.lost,
        )

    def trim(self, entries: int, size: int) -> "GroupLog":
        """With no more than this in the tail: so many entries, and bytes of their data."""
        if len(self.tail) <= entries and self.tail_bytes <= size:
            return self
        tail_bytes = self.tail_bytes
        over = 0
        while len(self.tail) - over > entries or tail_bytes > size:
            tail_bytes -= len(self.tail[over].data)
            over += 1
        return replace(self, tail=self.tail[over:], tail_bytes=tail_bytes)


def change_groups(groups: dict[int, GroupLog], changes: list[tuple[int, Change]]) -> None:
    """Make these changes in `groups`, in their order."""
    for group, change in changes:
        match change:
            case Create():
                assert group not in groups, f"group {group} exists"
                groups[group] = GroupLog(change.conf_state, removed_at=change.removed_at)
            case Drop():
                groups.pop(group, None)
            case _:
                groups[group] = groups[group].change(change)


def check_drops(changes: list[tuple[int, Change]], damaged: Container[int]) -> None:
    """A damaged group can only be dropped: whatever else is done to it comes behind that."""
    for group, change in dict(reversed(changes)).items():
        assert group not in damaged or isinstance(change, Drop), f"group {group} is damaged"


def _with_terms(
    terms: tuple[tuple[int, int], ...], entries: Sequence[Entry]
) -> tuple[tuple[int, int], ...]:
    first, term = entries[0].index, entries[0].term
    if terms and terms[-1][0] < first and entries[-1].term == term:
        # The way of almost every append: terms never fall within a log, so all of these are of one.
        return terms if terms[-1][1] == term else (*terms, (first, term))
    runs = list(terms[: bisect_right(terms, first - 1, key=_first)])
    for entry in entries:
        if not runs or runs[-1][1] != entry.term:
            runs.append((entry.index, entry.term))
    return tuple(runs)


def _first(run: tuple[int, int]) -> int:
    return run[0]


def _size(entries: Sequence[Entry]) -> int:
    return sum(len(entry.data) for entry in entries)
