"""What the Transaction Coordinator needs of the world: buckets, a store for hints, and locks."""

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from mas.ledger.instructions import Answer, Batch, LockMode, Token
from mas.rpc.messages import Rejected, Reply, Request


class Buckets(Protocol):
    """Whichever node leads a bucket. One live copy of what is sent, never two (rule 6)."""

    def submit(
        self,
        bucket: int,
        batch: Batch,
        on_answer: Callable[[int, Answer | Rejected], None],
    ) -> None:
        """Send once to the bucket's leader, following NOT_LEADING hints while nothing can have happened.

        Calls back once for each position, in any order, on the loop. `Rejected.why` UNKNOWN: it was sent and
        lost sight of; anything else: it has done nothing and never will.
        """

    async def query(
        self, bucket: int, request: Request, timeout: float, *, replica: int = 0
    ) -> Reply:
        """A read at the bucket's leader, or at the named replica alone, tried again until `timeout` seconds are over.

        The router numbers the request by itself. Raises `Unavailable`.
        """

    def all(self) -> list[int]:
        """Every bucket of the cluster, ascending."""

    def replicas(self) -> dict[int, list[int]]:
        """Every bucket of the cluster, ascending, and the nodes that hold its replicas."""


class PendingEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A transaction under way, as the TM store notes it: what a restart needs to ask the anchor (rules 11, 40)."""

    xid: bytes
    payment_id: bytes
    attempt: int
    body_hash: bytes
    anchor: int
    participants: tuple[int, ...]


class TxnCoordinatorDAO(Protocol):
    """The TM store: hints and caches, nothing that can't be rebuilt (rules 19, 40). Raises `DatabaseUnavailable`."""

    async def incr_max_id(self, count: int = 1) -> int:
        """Reserve `count` ids; the greatest of them. Only places new accounts (rule 19)."""

    async def get_max_id(self) -> int: ...

    async def get_peers_list(self) -> dict[int, str]:
        """Bucket -> the addresses of its replicas, comma-separated, leader first where known."""

    async def set_peers_list(self, peers: dict[int, str]) -> None: ...

    async def get_peer_bucket(self, numbers: Sequence[str]) -> list[int]:
        """The directory: each number's bucket, 0 where unknown."""

    async def insert_peer_bucket(self, placements: dict[str, int]) -> None: ...

    async def create_transaction_entries(self, entries: Sequence[PendingEntry]) -> None:
        """Note these as PENDING; one write, not synced (rule 40)."""

    async def close_transaction_entries(self, xids: Sequence[bytes]) -> None:
        """They have ended: COMMITTED or ABORTED, and settled at every participant."""

    async def pending_entries(self) -> list[PendingEntry]: ...

    async def close(self) -> None: ...


class Locks(Protocol):
    """The Global Lock Service, for what needs it (rules 34, 35)."""

    async def acquire(
        self, owner: bytes, numbers: Sequence[str], mode: LockMode, timeout: float
    ) -> dict[str, Token]:
        """All or none, in sorted order, first come first served. Raises `Unavailable` when not had in time."""

    async def hold(self, owner: bytes, number: str, timeout: float) -> Token:
        """One account's `EXCLUSIVE` lock, marked in the account (rule 33). Raises `Unavailable` or `NotFound`."""

    def release(self, owner: bytes) -> None:
        """What carries this owner's tokens has ended, or the request for them is over."""
