"""The TM store in RocksDB: hints and caches for one coordinator and lock service, nothing that can't be rebuilt.

    M                max_id
    E                epoch: set once the store is filled, so an empty store is known as such (R3)
    P bucket         the addresses of a bucket's replicas
    D number         a number's bucket (the directory)
    T xid            a transaction under way
    L lock_id        a lock granted to an outsider

A call is one write for all that it carries, in the store's own thread. Only what nobody could give again, locks and the
epoch, is synced; a process that is killed loses nothing of the rest either, a power cut may. It may also leave what looks
like damage, pages written out of order: such a store is put aside, and begun anew.
"""

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import msgspec
from rocksdict import Rdict, WriteBatch

from mas.decoding import msgpack_decoder
from mas.errors import CorruptData, DatabaseUnavailable, DataDirectoryError
from mas.files import sync_directory
from mas.runtime import failpoint
from mas.storage.rocksdb import open_database, seal, unseal

_log = logging.getLogger(__name__)

_MAX_ID = b"M"
_EPOCH = b"E"
_PEERS = b"P"
_DIRECTORY = b"D"
_TRANSACTION = b"T"
_LOCK = b"L"

_T = TypeVar("_T")


class TransactionEntry(Protocol):
    """A `mas.coordinator.ports.PendingEntry`, as far as the store looks into it."""

    @property
    def xid(self) -> bytes:
        """Names it."""


class StoredEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A transaction under way, field by field the `PendingEntry` that was noted."""

    xid: bytes
    payment_id: bytes
    attempt: int
    body_hash: bytes
    anchor: int
    participants: tuple[int, ...]


_encode = msgspec.msgpack.Encoder().encode
_decode_int = msgpack_decoder(int, "a number", CorruptData)
_decode_entry = msgpack_decoder(StoredEntry, "a transaction", CorruptData)


class RocksTmStore:
    """The TM store of one process. Fits `mas.coordinator.ports.TxnCoordinatorDAO`; and a shelf for locks."""

    def __init__(self, path: Path, database: Rdict) -> None:
        """Use `open`."""
        self._path = path
        self._database = database
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tm-store")

    @classmethod
    def open(cls, path: Path, cluster: str, node: int) -> Self:
        """Open or create the store in this directory. A damaged one is put aside, and begun anew (R3).

        Raises:
            DataDirectoryError: it can't be written, another process uses it, or it belongs to another cluster or node.
        """
        try:
            return cls(path, _open(path, cluster, node))
        except CorruptData as error:
            aside = _put_aside(path)
            _log.error(
                "%s. It is kept as %s, and a new one is filled from the buckets", error, aside
            )
            return cls(path, _open(path, cluster, node))

    # -- placement and directory ---------------------------------------------------------------

    async def incr_max_id(self, count: int = 1) -> int:
        """Reserve `count` ids; the greatest of them."""

        def increase() -> int:
            max_id = self._read_int(_MAX_ID) + count
            self._write({_MAX_ID: _encode(max_id)})
            return max_id

        return await self._run(increase)

    async def get_max_id(self) -> int:
        """The greatest id reserved, 0 where none is."""
        return await self._run(lambda: self._read_int(_MAX_ID))

    async def get_peers_list(self) -> dict[int, str]:
        """Bucket -> the addresses of its replicas, comma-separated."""
        rows = await self._run(lambda: list(self._scan(_PEERS)))
        return {int.from_bytes(key, "big"): value.decode() for key, value in rows}

    async def set_peers_list(self, peers: dict[int, str]) -> None:
        """Replace the list."""
        fresh = {
            _PEERS + bucket.to_bytes(8, "big"): text.encode() for bucket, text in peers.items()
        }

        def replace() -> None:
            gone = [_PEERS + key for key, _ in self._scan(_PEERS) if _PEERS + key not in fresh]
            self._write(fresh, gone)

        await self._run(replace)

    async def get_peer_bucket(self, numbers: Sequence[str]) -> list[int]:
        """The directory: each number's bucket, 0 where unknown."""
        keys = [_DIRECTORY + number.encode() for number in numbers]
        return await self._run(lambda: [self._read_int(key) for key in keys])

    async def insert_peer_bucket(self, placements: dict[str, int]) -> None:
        """Remember where these numbers are."""
        rows = {_DIRECTORY + number.encode(): _encode(b) for number, b in placements.items()}
        await self._run(lambda: self._write(rows))

    # -- transactions --------------------------------------------------------------------------

    async def create_transaction_entries(self, entries: Sequence[TransactionEntry]) -> None:
        """Note these as PENDING; one write, not synced (rule 40)."""
        rows = {_TRANSACTION + entry.xid: _encode(entry) for entry in entries}
        await self._run(lambda: self._write(rows))

    async def close_transaction_entries(self, xids: Sequence[bytes]) -> None:
        """They have ended, and are settled at every participant."""
        keys = [_TRANSACTION + xid for xid in xids]
        await self._run(lambda: self._write({}, keys))

    async def pending_entries(self) -> list[Any]:
        """The transactions under way, by xid: each has the fields of the `PendingEntry` that was noted."""
        return await self._run(
            lambda: [_decode_entry(value) for _, value in self._scan(_TRANSACTION)]
        )

    # -- locks, and whether the store was lost -------------------------------------------------

    async def put_lock(self, lock_id: str, data: bytes) -> None:
        """Keep a lock that was granted to an outsider (rule 36); synced."""
        await self._run(lambda: self._write({_LOCK + lock_id.encode(): data}, sync=True))

    async def delete_lock(self, lock_id: str) -> None:
        """Forget a lock; nothing where there is none."""
        await self._run(lambda: self._write({}, [_LOCK + lock_id.encode()]))

    async def locks(self) -> dict[str, bytes]:
        """All locks kept, by their ids."""
        return await self._run(lambda: {key.decode(): value for key, value in self._scan(_LOCK)})

    async def get_epoch(self) -> bytes:
        """What `set_epoch` was told; empty where the store is new or was lost (R3).

        Until it is filled again from the buckets, a missing row doesn't say that there never was one.
        """
        return await self._run(lambda: self._read(_EPOCH) or b"")

    async def set_epoch(self, epoch: bytes) -> None:
        """The store is filled; synced, so that it isn't rebuilt at every start."""
        await self._run(lambda: self._write({_EPOCH: epoch}, sync=True))

    async def close(self) -> None:
        """Finish what is under way and close the database."""
        await self._run(self._database.close)
        self._thread.shutdown()

    # -- in the store's thread -----------------------------------------------------------------

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, work)

    def _guarded(self, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except CorruptData as error:
            raise CorruptData(
                f"the TM store {self._path} is damaged: {error}. Stop this node and remove the directory: it holds "
                "nothing that isn't rebuilt from the buckets"
            ) from error
        except Exception as error:
            raise DatabaseUnavailable(
                f"the TM store {self._path} failed: {error}. No money depends on it; look at the disk, and start this "
                "node again if it goes on"
            ) from error

    def _read(self, key: bytes) -> bytes | None:
        record = self._database.get(key)
        return None if record is None else unseal(key, record)

    def _read_int(self, key: bytes) -> int:
        payload = self._read(key)
        return 0 if payload is None else _decode_int(payload)

    def _scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        scan = self._database.iter()
        scan.seek(prefix)
        while scan.valid() and (key := scan.key()).startswith(prefix):
            yield key[len(prefix) :], unseal(key, scan.value())
            scan.next()
        scan.status()

    def _write(
        self, rows: Mapping[bytes, bytes], gone: Sequence[bytes] = (), *, sync: bool = False
    ) -> None:
        batch = WriteBatch(raw_mode=True)
        for key, payload in rows.items():
            batch.put(key, seal(key, payload))
        for key in gone:
            batch.delete(key)
        self._database.write(batch)
        failpoint("tm_store.after_write")
        if sync:
            self._database.flush_wal(sync=True)


def _open(path: Path, cluster: str, node: int) -> Rdict:
    return open_database(
        path,
        kind="TM store",
        cluster=cluster,
        node=node,
        remedy="remove the directory: it holds nothing that isn't rebuilt from the buckets",
    )


def _put_aside(path: Path) -> Path:
    """The last damaged one is enough for whoever wants to look."""
    aside = path.with_name(path.name + ".damaged")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        sync_directory(path.parent)
    except OSError as error:
        raise DataDirectoryError(
            f"{path} is damaged and can't be put aside ({error.strerror}): remove it, it holds nothing that isn't "
            "rebuilt from the buckets"
        ) from error
    return aside
