"""What the Raft host needs of the world: a log, peers, and somebody who keeps each bucket's state."""

from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mas.raft import ConfState, Entry, HardState, SnapshotMetadata, Storage

T = TypeVar("T")

Spawn = Callable[[str, Coroutine[Any, Any, None]], object]
"""Starts a named task of the supervisor's."""


class Worker(Protocol):
    """Where blocking work is done: a thread of its own, or in the simulator the loop after some virtual time."""

    async def run(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, or raise what it raises. One at a time, in the order of the calls."""


class LogBatch(Protocol):
    """Writes of one turn, for all groups; nothing is stored before `commit`. Used by one thread at a time."""

    def create(self, group: int, conf_state: ConfState, *, removed_at: int = 0) -> None:
        """Make a new group with an empty log: first index 1, this configuration.

        `removed_at`: this node's log was erased, behind the change at this index that had removed it from the group.
        """

    def append(self, group: int, entries: Sequence[Entry]) -> None:
        """Write entries without a gap in place of whatever stood at their indexes and behind them."""

    def set_hard_state(self, group: int, hard_state: HardState) -> None: ...

    def set_conf_state(self, group: int, conf_state: ConfState) -> None: ...

    def restore(self, group: int, metadata: SnapshotMetadata) -> None:
        """Begin the log behind this snapshot. Entries behind it stay where the log holds its (index, term) (rule 28,
        snapshots).
        """

    def compact(self, group: int, index: int) -> None:
        """Drop entries up to and including `index`; its term is still known."""

    def set_note(self, group: int, note: bytes | None) -> None:
        """Keep a note of a snapshot that is being installed, None for none (rule 28, snapshots)."""

    def set_lost(self, group: int, proof: str) -> None:
        """Note that this log has lost what its node had acknowledged: no life of this node takes part by it any more."""

    def drop(self, group: int) -> None:
        """Forget the group, a damaged one too: it leaves this node, or is created anew, perhaps in the same batch.

        Whoever drops a group that takes part again has to set the hard state that it had: it promised by it.
        """

    def commit(self, *, sync: bool) -> None:
        """Write it all at once. Blocks; runs in the log's own thread. After it returns with `sync`, it is durable.

        Raises `StorageError`: the process must stop, since nobody knows what is on the disk.
        """


class RaftLog(Protocol):
    """The log of all groups of a node."""

    def groups(self) -> list[int]:
        """Return the groups that this node holds, ascending; those with a damaged log too."""

    def storage(self, group: int) -> Storage:
        """Return what the core reads. It sees a batch's writes once `commit` has been called (see `LogBatch`).

        To be asked for again once the group has been dropped. Raises `CorruptData`: this group's log is damaged; the
        others can go on.
        """

    def hard_state(self, group: int) -> HardState:
        """Return term, vote and commit, also where the rest of the group's log is damaged: a rebuilt replica keeps them.

        Raises `CorruptData` where this very record is damaged: what the node has promised is lost, and only another
        node, with an id of its own, can take its place.
        """

    def note(self, group: int) -> bytes | None: ...

    def removed_at(self, group: int) -> int:
        """Return what `LogBatch.create` was given. Raises `CorruptData`."""

    def lost(self, group: int) -> str:
        """Return what `LogBatch.set_lost` wrote, empty where it didn't. Raises `CorruptData`."""

    def batch(self) -> LogBatch: ...

    def close(self) -> None: ...


class Peers(Protocol):
    """Frames to other nodes. A frame is delivered once, in order, or never; never copied to another connection."""

    def send(self, peer: int, channel: int, payload: bytes) -> bool:
        """Send a frame without waiting. False: nothing was sent, since the peer isn't connected or its bounded queue is full."""

    def is_connected(self, peer: int) -> bool: ...


class SnapshotFiles(Protocol):
    """Snapshots of the AccountDB as files (rule 28); they take as long as a file takes, off the loop.

    Raises `DatabaseUnavailable` where it may be tried again, another `StorageError` where a file can't be read.
    """

    def room_for(self, size: int) -> bool:
        """Return whether so many bytes of snapshots can be received and installed, and the Raft log keeps its reserve."""

    async def export(self, group: int, path: Path) -> SnapshotMetadata:
        """Write the rows of one read transaction, with the applied index, term and membership that it read."""

    async def check(self, group: int, path: Path) -> SnapshotMetadata:
        """Check a file; raise `CorruptData` where its state hash isn't that of its rows."""

    async def install(self, group: int, path: Path) -> None:
        """Swap rows and applied index in one transaction."""
