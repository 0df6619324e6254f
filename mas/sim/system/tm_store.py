"""The TM store of a simulated manager: hints and caches that may be away, be lost, or be put back to an earlier state."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from mas.coordinator import PendingEntry
from mas.errors import DatabaseUnavailable
from mas.multiraft.ports import Worker

T = TypeVar("T")


class Shelf(msgspec.Struct):
    """All that it holds."""

    max_id: int = 0
    peers: dict[int, str] = {}
    directory: dict[str, int] = {}
    entries: dict[bytes, PendingEntry] = {}
    locks: dict[str, bytes] = {}


encode_shelf = msgspec.msgpack.Encoder().encode
decode_shelf = msgspec.msgpack.Decoder(Shelf).decode


class StoreDisk:
    """What survives the manager's death: what is synced, and of the rest what a power cut leaves."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self.synced = b""
        self.is_away = False
        self.has_lost = False
        """Something that was synced: locks that nobody knows of any more are marked in accounts, perhaps."""

    def sync(self) -> None:
        """A power cut leaves what is here now."""
        self.synced = encode_shelf(self.shelf)

    def cut_power(self) -> None:
        """Lose what wasn't synced."""
        self.shelf = decode_shelf(self.synced) if self.synced else Shelf()
        self.is_away = False

    def lose(self) -> None:
        """Hold nothing any more."""
        self.has_lost = True
        self.shelf = Shelf()
        self.sync()

    def restore(self, backup: bytes) -> None:
        """Hold what it held."""
        self.has_lost = True
        self.shelf = decode_shelf(backup)
        self.sync()


class SimTmStore:
    """The store as one life of its process opens it. Fits `mas.coordinator.ports.TxnCoordinatorDAO`, and a shelf for locks."""

    def __init__(self, disk: StoreDisk, worker: Worker) -> None:
        self._disk = disk
        self._worker = worker

    async def incr_max_id(self, count: int = 1) -> int:
        """Reserve `count` ids; the greatest of them."""

        def increase(shelf: Shelf) -> int:
            shelf.max_id += count
            return shelf.max_id

        return await self._do(increase)

    async def get_max_id(self) -> int:
        """The greatest id reserved, 0 where none is."""
        return await self._do(lambda shelf: shelf.max_id)

    async def get_peers_list(self) -> dict[int, str]:
        """Bucket -> the addresses of its replicas."""
        return await self._do(lambda shelf: dict(shelf.peers))

    async def set_peers_list(self, peers: dict[int, str]) -> None:
        """Replace the list."""

        def replace(shelf: Shelf) -> None:
            shelf.peers = dict(peers)

        await self._do(replace)

    async def get_peer_bucket(self, numbers: Sequence[str]) -> list[int]:
        """The directory: each number's bucket, 0 where unknown."""
        return await self._do(lambda shelf: [shelf.directory.get(each, 0) for each in numbers])

    async def insert_peer_bucket(self, placements: dict[str, int]) -> None:
        """Remember where these numbers are."""
        await self._do(lambda shelf: shelf.directory.update(placements))

    async def create_transaction_entries(self, entries: Sequence[PendingEntry]) -> None:
        """Note these as PENDING."""
        await self._do(lambda shelf: shelf.entries.update({each.xid: each for each in entries}))

    async def close_transaction_entries(self, xids: Sequence[bytes]) -> None:
        """They have ended, and are settled at every participant."""

        def close(shelf: Shelf) -> None:
            for xid in xids:
                shelf.entries.pop(xid, None)

        await self._do(close)

    async def pending_entries(self) -> list[PendingEntry]:
        """The transactions under way, by xid."""
        return await self._do(lambda shelf: [each for _, each in sorted(shelf.entries.items())])

    async def put_lock(self, lock_id: str, data: bytes) -> None:
        """Keep a lock that was granted to an outsider (rule 36); synced."""
        await self._do(partial(_put_lock, lock_id, data), sync=True)

    async def delete_lock(self, lock_id: str) -> None:
        """Forget a lock; nothing where there is none."""
        await self._do(lambda shelf: shelf.locks.pop(lock_id, None))

    async def locks(self) -> dict[str, bytes]:
        """All locks kept, by their ids."""
        return await self._do(lambda shelf: dict(sorted(shelf.locks.items())))

    async def close(self) -> None:
        """Nothing: the disk stays."""

    async def _do(self, work: Callable[[Shelf], T], *, sync: bool = False) -> T:
        return await self._worker.run(partial(self._at_work, work, sync))

    def _at_work(self, work: Callable[[Shelf], T], sync: bool) -> T:  # noqa: FBT001  (a partial's)
        if self._disk.is_away:
            raise DatabaseUnavailable("the TM store is away (injected): try again")
        result = work(self._disk.shelf)
        if sync:
            self._disk.sync()
        return result


def _put_lock(lock_id: str, data: bytes, shelf: Shelf) -> None:
    shelf.locks[lock_id] = data
