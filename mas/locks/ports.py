"""What the Global Lock Service needs of the world: the buckets, a store for outsiders' leases, and other nodes."""

from collections.abc import Callable
from typing import Protocol

import msgspec

from mas.ledger.instructions import Answer, Batch, Token
from mas.rpc.messages import Rejected, Reply, Request


class Buckets(Protocol):
    """Whichever node leads a bucket; see `mas.coordinator.ports.Buckets`."""

    def submit(
        self,
        bucket: int,
        batch: Batch,
        on_answer: Callable[[int, Answer | Rejected], None],
    ) -> None:
        """Calls back once for each position, in any order, on the loop."""

    async def query(self, bucket: int, request: Request, timeout: float) -> Reply:
        """A read at the bucket's leader. Raises `Unavailable`."""


class LockEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One lock of an outsider, as the TM store keeps it (rule 36)."""

    lock_id: str
    owner: bytes
    token: Token
    expires_us: int
    """Microseconds since the epoch; a clock that jumps ends a lease early or late, and no more than that."""
    bucket: int = 0
    """Where the account is marked; 0 where nothing is."""


class LockStore(Protocol):
    """The TM store's part for locks. Raises `DatabaseUnavailable`."""

    async def put_lock(self, entry: LockEntry) -> None:
        """Keep a lock; its lock_id and token name it."""

    async def delete_lock(self, lock_id: str, token: Token) -> None:
        """Forget a lock; nothing happens where there is none."""

    async def locks(self) -> list[LockEntry]:
        """Every lock that is kept, ended or not."""


class Peers(Protocol):
    """Frames to other nodes; see `mas.multiraft.ports.Peers`."""

    def send(self, peer: int, channel: int, payload: bytes) -> bool: ...
