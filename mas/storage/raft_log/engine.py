"""What all engines of the raft log share: how the core reads a group, and the batch that collects a turn's changes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

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
from mas.storage.raft_log.value import (
    Append,
    Change,
    Compact,
    Create,
    Drop,
    GroupLog,
    Restore,
    SetConfState,
    SetHardState,
    SetLost,
    SetNote,
)


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
        """Return what stands for the compacted entries: a place in the log only, the host sends the file."""
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
        """The log begins behind this snapshot; term, vote and note stay (rule 28, snapshots)."""
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
