"""What the Global Lock Service needs of the world beside the buckets: a store for outsiders' leases."""

from collections.abc import Sequence
from typing import Protocol

from mas.ledger.instructions import Token
from mas.transaction.stored import LockEntry


class LockStore(Protocol):
    """The TM store's part for locks. One lock service writes it at a time; a lock_id and a token name a lock.

    A call is atomic, and sees what calls that returned before it have written. One that raises `DatabaseUnavailable`
    may have been done, or be done yet; doing it again changes nothing. Where the store is lost or put back to an
    earlier state, leases are lost or come back: safety rests on marks and tokens alone (rule 36, lock tokens).
    """

    async def put_locks(self, entries: Sequence[LockEntry]) -> None:
        """Store these locks, all or none; durable on return, as far as the store's own machine is."""

    async def delete_locks(self, names: Sequence[tuple[str, Token]]) -> None:
        """Delete the locks of these lock_ids and tokens; those that aren't there are passed over.

        Not synced: a power cut may bring them back.
        """

    async def locks(self) -> list[LockEntry]:
        """Every lock that is stored, ended or not, in no particular order."""
