"""What the Transaction Coordinator needs of the world beside the buckets: a store for hints, and locks."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from mas.ledger.instructions import LockMode, Token
from mas.transaction.stored import PendingEntry


class TransactionStore(Protocol):
    """The TM store's part for coordinators: hints and caches, nothing that can't be rebuilt (rules 19, 40).

    Several coordinators may use one store. A call is atomic, and sees what calls that returned before it have written,
    whoever made them; no two calls are atomic together. Every method raises `DatabaseUnavailable`: the call may have
    been done, or be done yet. All but `incr_max_id` may be called again then: doing it twice changes nothing.

    What a returned call has written survives the coordinator's death. A power cut at the store, its loss or its return
    to an earlier state may take back anything: then buckets are asked instead.
    """

    async def incr_max_id(self, count: int = 1) -> int:
        """Reserve `count` ids, 1 or more, for the caller alone; returns the greatest of them, the others are below it.

        A store that was lost or put back may give ids again; they only place new accounts (rule 19, placement).
        """

    async def find_buckets(self, numbers: Sequence[str]) -> list[int]:
        """Look each number up in the directory: its bucket, or 0 where none was inserted; in the order of `numbers`."""

    async def insert_buckets(self, placements: Mapping[str, int]) -> None:
        """Put the bucket of each number in the directory, in place of the one before."""

    async def create_transaction_entries(self, entries: Sequence[PendingEntry]) -> None:
        """Note these as PENDING, each in place of one with the same xid (rule 40, pending notes)."""

    async def close_transaction_entries(self, xids: Sequence[bytes]) -> None:
        """Delete the entries of these transactions, which are settled at every participant; unknown xids are passed over."""

    async def pending_entries(self) -> list[PendingEntry]:
        """Every entry that is created and not closed, ascending by xid."""

    async def close(self) -> None:
        """Finish the calls under way and let the store go; no call may follow."""


class Locks(Protocol):
    """The Global Lock Service, for what needs it (rules 34, 35)."""

    async def acquire(
        self, owner: bytes, numbers: Sequence[str], mode: LockMode, timeout: float
    ) -> dict[str, Token]:
        """All or none, in sorted order, first come first served. Raises `Unavailable` when not had in time."""

    async def hold(self, owner: bytes, number: str, timeout: float) -> Token:
        """One account's `EXCLUSIVE` lock, marked in the account (rule 33, locks and marks). Raises `Unavailable` or
        `NotFound`.
        """

    def release(self, owner: bytes) -> None:
        """Release this owner's locks: what carries its tokens has ended, or the request for them is over."""
