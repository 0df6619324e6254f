"""The TM store of a simulated manager: hints and caches that may be away, be lost, or be put back to an earlier state."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from mas.errors import DatabaseUnavailable
from mas.ledger.instructions import Token
from mas.multiraft.ports import Worker
from mas.transaction.stored import LockEntry, PendingEntry

T = TypeVar("T")


class Rows(msgspec.Struct):
    """All that it holds."""

    max_id: int = 0
    directory: dict[str, int] = {}
    entries: dict[bytes, PendingEntry] = {}
    locks: dict[tuple[str, Token], LockEntry] = {}


encode_rows = msgspec.msgpack.Encoder().encode
decode_rows = msgspec.msgpack.Decoder(Rows).decode


class StoreDisk:
    """What survives the manager's death: what is synced, and of the rest what a power cut leaves."""

    def __init__(self) -> None:
        self.rows = Rows()
        self.synced = b""
        self.is_away = False
        self.has_lost = False
        """Something that was synced: locks that nobody knows of any more are marked in accounts, perhaps."""

    def sync(self) -> None:
        """A power cut leaves what is here now."""
        self.synced = encode_rows(self.rows)

    def cut_power(self) -> None:
        """Lose what wasn't synced."""
        self.rows = decode_rows(self.synced) if self.synced else Rows()
        self.is_away = False

    def lose(self) -> None:
        """Hold nothing any more."""
        self.has_lost = True
        self.rows = Rows()
        self.sync()

    def restore(self, backup: bytes) -> None:
        """Hold what it held."""
        self.has_lost = True
        self.rows = decode_rows(backup)
        self.sync()


class SimTmStore:
    """The store as one life of its process opens it. Fits `mas.coordinator.ports.TransactionStore` and `mas.locks.ports.LockStore`."""

    def __init__(self, disk: StoreDisk, worker: Worker) -> None:
        self._disk = disk
        self._worker = worker

    async def incr_max_id(self, count: int = 1) -> int:
        """Reserve `count` ids; the greatest of them."""

        def increase(rows: Rows) -> int:
            rows.max_id += count
            return rows.max_id

        return await self._do(increase)

    async def find_buckets(self, numbers: Sequence[str]) -> list[int]:
        """The directory: each number's bucket, 0 where unknown."""
        return await self._do(lambda rows: [rows.directory.get(each, 0) for each in numbers])

    async def insert_buckets(self, placements: Mapping[str, int]) -> None:
        """Remember where these numbers are."""
        await self._do(lambda rows: rows.directory.update(placements))

    async def create_transaction_entries(self, entries: Sequence[PendingEntry]) -> None:
        """Note these as PENDING."""
        await self._do(lambda rows: rows.entries.update({each.xid: each for each in entries}))

    async def close_transaction_entries(self, xids: Sequence[bytes]) -> None:
        """They have ended, and are settled at every participant."""

        def close(rows: Rows) -> None:
            for xid in xids:
                rows.entries.pop(xid, None)

        await self._do(close)

    async def pending_entries(self) -> list[PendingEntry]:
        """The transactions under way, by xid."""
        return await self._do(lambda rows: [each for _, each in sorted(rows.entries.items())])

    async def put_locks(self, entries: Sequence[LockEntry]) -> None:
        """Store these locks; synced."""
        fresh = {(each.lock_id, each.token): each for each in entries}
        await self._do(lambda rows: rows.locks.update(fresh), sync=True)

    async def delete_locks(self, names: Sequence[tuple[str, Token]]) -> None:
        """Delete these locks."""

        def delete(rows: Rows) -> None:
            for name in names:
                rows.locks.pop(name, None)

        await self._do(delete)

    async def locks(self) -> list[LockEntry]:
        """Every lock that is stored."""
        return await self._do(lambda rows: [each for _, each in sorted(rows.locks.items())])

    async def close(self) -> None:
        """Nothing: the disk stays."""

    async def _do(self, work: Callable[[Rows], T], *, sync: bool = False) -> T:
        return await self._worker.run(partial(self._at_work, work, sync))

    def _at_work(self, work: Callable[[Rows], T], sync: bool) -> T:  # noqa: FBT001  (a partial's)
        if self._disk.is_away:
            raise DatabaseUnavailable("the TM store is away (injected): try again")
        result = work(self._disk.rows)
        if sync:
            self._disk.sync()
        return result
