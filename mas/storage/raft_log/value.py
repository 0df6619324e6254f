"""One group's log as a value, and the changes that a batch makes to it.

Every change gives a new `GroupLog`: whoever reads one while the log's thread writes sees the state before a commit or
behind it, never a mix, and no lock is taken.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Container, Sequence

import msgspec
from msgspec.structs import replace

from mas.raft import (
    Compacted,
    ConfState,
    Entry,
    HardState,
    Snapshot,
    SnapshotMetadata,
    Unavailable,
)
from mas.raft.storage import within


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
    """A snapshot being installed (rule 28)."""

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
        """Whether the log has this entry, or begins behind it."""
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


class GroupStorage:
    """A group's log as the core reads it, on the loop's side: the state after the last commit.

    Fits `mas.raft.Storage`. What is asked to be compacted is hidden at once, on the loop, so that the log's beginning
    never moves between two reads of the core.
    """

    def __init__(
        self,
        view: Callable[[], GroupLog],
        fetch: Callable[[int, int, int | None], list[Entry]],
    ) -> None:
        """`fetch` reads entries [lo, hi) below the tail, within max_bytes, from the disk."""
        self._view = view
        self._fetch = fetch
        self._hidden = 0

    def hide(self, index: int) -> None:
        """Entries up to and including `index` are being compacted."""
        self._hidden = max(self._hidden, index)

    def initial_state(self) -> tuple[HardState, ConfState]:
        """The states as they were last set."""
        view = self._view()
        return view.hard_state, view.conf_state

    def entries(self, lo: int, hi: int, max_bytes: int | None = None) -> list[Entry]:
        """The entries [lo, hi), at least one, within max_bytes."""
        if hi <= lo:
            return []
        view = self._view()
        if lo <= self._start(view):
            raise Compacted(f"index {lo} is compacted: the log begins at {self._start(view) + 1}")
        if hi > view.last + 1:
            raise Unavailable(f"index {hi - 1} isn't there: the log ends at {view.last}")
        tail_start = view.tail_start
        if lo >= tail_start:
            return within(list(view.tail[lo - tail_start : hi - tail_start]), max_bytes)
        entries = self._fetch(lo, min(hi, tail_start), max_bytes)
        if hi > tail_start == lo + len(entries):
            entries = within([*entries, *view.tail[: hi - tail_start]], max_bytes)
        return entries

    def term(self, index: int) -> int:
        """The term of an entry, or of the last one compacted."""
        view = self._view()
        if index < self._start(view):
            raise Compacted(
                f"index {index} is compacted: the log begins at {self._start(view) + 1}"
            )
        return view.term(index)

    def first_index(self) -> int:
        """The index behind what was compacted."""
        return self._start(self._view()) + 1

    def last_index(self) -> int:
        """The index of the last entry."""
        return self._view().last

    def snapshot(self) -> Snapshot:
        """What stands for the compacted entries: a place in the log only, the host sends the file."""
        view = self._view()
        return Snapshot(SnapshotMetadata(view.start, view.start_term, view.conf_state))

    def _start(self, view: GroupLog) -> int:
        return max(view.start, self._hidden)


class ChangeBatch(ABC):
    """Collects a turn's changes in their order; an engine says what `commit` does with them."""

    def __init__(self) -> None:
        self.changes: list[tuple[int, Change]] = []

    def create(self, group: int, conf_state: ConfState, *, removed_at: int = 0) -> None:
        """A new group with an empty log: first index 1, this configuration."""
        self.changes.append((group, Create(conf_state, removed_at)))

    def append(self, group: int, entries: Sequence[Entry]) -> None:
        """Entries without a gap; whatever stood at their indexes and behind them is gone."""
        if entries:
            self.changes.append((group, Append(entries)))

    def set_hard_state(self, group: int, hard_state: HardState) -> None:
        """Term, vote and commit."""
        self.changes.append((group, SetHardState(hard_state)))

    def set_conf_state(self, group: int, conf_state: ConfState) -> None:
        """The configuration as of what is applied."""
        self.changes.append((group, SetConfState(conf_state)))

    def restore(self, group: int, metadata: SnapshotMetadata) -> None:
        """The log begins behind this snapshot; term, vote and note stay (rule 28)."""
        self.changes.append((group, Restore(metadata)))

    def compact(self, group: int, index: int) -> None:
        """Drop entries up to and including `index`; its term is still known."""
        self.changes.append((group, Compact(index)))

    def set_note(self, group: int, note: bytes | None) -> None:
        """A snapshot being installed (rule 28)."""
        self.changes.append((group, SetNote(note)))

    def set_lost(self, group: int, proof: str) -> None:
        """This log has lost what its node had acknowledged: no life of this node takes part by it any more."""
        self.changes.append((group, SetLost(proof)))

    def drop(self, group: int) -> None:
        """Forget the group, a damaged one too: it leaves this node, or its replica is built anew."""
        self.changes.append((group, Drop()))

    @abstractmethod
    def commit(self, *, sync: bool) -> None:
        """Write it all at once; with `sync` it is durable on return. Raises `StorageError`."""


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
