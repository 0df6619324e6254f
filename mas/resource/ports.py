"""What a Resource Manager needs of the world beside other buckets: a Raft group for each bucket, and a database."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mas.ledger.rows import BucketRow, Loaded, Posting, ResidentState, WriteSet
from mas.ledger.totals import Totals
from mas.multiraft.events import CommitEvent, Refused
from mas.raft import SnapshotMetadata
from mas.runtime import Mailbox


class Group(Protocol):
    """One Raft group of this node, as the AccountService sees it."""

    commit_c: Mailbox[CommitEvent]
    error_c: Mailbox[Refused]

    def propose(self, number: int, data: bytes) -> None:
        """Onto propose_c. `number` comes back over error_c if the group doesn't take it. Raises `Overloaded`."""

    def read_index(self, number: int) -> None:
        """Comes back as a `ReadReady`, or over error_c. Raises `Overloaded`."""

    def set_applied(self, applied: int, flushed: int) -> None:
        """Tell how far the state is applied in memory, and durably (rule 26, durably applied): the log is cut behind the
        latter.
        """

    def stamp_us(self) -> int:
        """The time to stamp a proposal with: this node's clock, or its peers' median where it is off by a second (rule
        12, time decides no outcome).
        """


class AccountDB(Protocol):
    """The materialised state of this node's buckets. Everything runs off the loop. Raises `DatabaseUnavailable`."""

    async def open(self, bucket: int, writer: bytes) -> ResidentState:
        """Become the bucket's writer (rule 25, conditional flush) and read what is always kept in memory; a new bucket
        is made with applied 0.
        """

    async def load(
        self, bucket: int, accounts: Sequence[str], records: Sequence[bytes], claims: Sequence[str]
    ) -> Loaded:
        """One autocommit query that reads the applied index with the rows (rule 23, loads)."""

    async def flush(self, writes: WriteSet, *, before: int, writer: bytes) -> bool:
        """One transaction, conditional on the applied index `before` and the writer; False: no row changed (rule 25).

        Sets `chunk` and `chunk64` of the accounts it writes, and returns once it is synced (rule 26).
        """

    async def payment_ids(self, bucket: int, after: bytes, limit: int) -> list[bytes]:
        """A page, in ascending order, of the ids of the records that were there when the bucket was opened (rule 24,
        record filter).

        Of later ones some may be missing: whoever has flushed them knows them.
        """

    async def postings(
        self, bucket: int, number: str, before: int, limit: int
    ) -> tuple[int, list[Posting]]:
        """Newest first below sequence `before` (0: from the newest), and the applied index they were read at (rule 29,
        database reads).
        """

    async def totals(self, bucket: int) -> Totals:
        """Read what the bucket's rows add up to, kept with its own row: no scan."""

    async def verify(self, bucket: int) -> Totals:
        """Read all rows, and hold them to the bucket's totals and state hash. Raises `CorruptData`."""

    async def export(self, bucket: int, path: Path) -> SnapshotMetadata: ...

    async def check(self, bucket: int, path: Path) -> SnapshotMetadata: ...

    async def install(self, bucket: int, path: Path) -> None: ...

    async def erase(self, bucket: int) -> None:
        """Forget all of a bucket that this node holds no more."""

    async def bucket_row(self, bucket: int) -> BucketRow | None: ...

    async def close(self) -> None: ...
