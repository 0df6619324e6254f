"""The TM store in RocksDB: hints and caches for one coordinator and lock service, nothing that can't be rebuilt.

    M                            max_id
    D number                     a number's bucket (the directory)
    T xid                        a transaction under way
    L lock_id epoch counter      a lock granted to an outsider

A call is one write for all that it carries, in the store's own thread. Only locks are synced, because nobody could give
them again; a process that is killed loses nothing of the rest either, a power cut may. It may also leave what looks like
damage, pages written out of order: such a store is put aside, and begun anew.
"""

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

import msgspec
from rocksdict import Rdict, WriteBatch

from mas.decoding import msgpack_decoder
from mas.errors import CorruptData, DatabaseUnavailable, DataDirectoryError
from mas.files import sync_directory
from mas.ledger.instructions import Token
from mas.runtime import failpoint
from mas.storage.rocksdb import open_database, seal, unseal
from mas.transaction.stored import LockEntry, PendingEntry

_log = logging.getLogger(__name__)

_MAX_ID = b"M"
_DIRECTORY = b"D"
_TRANSACTION = b"T"
_LOCK = b"L"

_T = TypeVar("_T")
_encode = msgspec.msgpack.Encoder().encode
_decode_int = msgpack_decoder(int, "a number", CorruptData)
_decode_pending = msgpack_decoder(PendingEntry, "a transaction", CorruptData)
_decode_lock = msgpack_decoder(LockEntry, "a lock", CorruptData)


class RocksTmStore:
    """The TM store of one process. Fits `mas.coordinator.ports.TransactionStore` and `mas.locks.ports.LockStore`."""

    def __init__(self, path: Path, database: Rdict) -> None:
        """Use `open`."""
        self._path = path
        self._database = database
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tm-store")

    @classmethod
    def open(cls, path: Path, cluster: str, node: int) -> Self:
        """Open or create the store in this directory. A damaged one is put aside, and begun anew.

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
        """Reserve `count` ids; returns the greatest of them."""

        def increase() -> int:
            max_id = self._read_int(_MAX_ID) + count
            self._write({_MAX_ID: _encode(max_id)})
            return max_id

        return await self._run(increase)

    async def find_buckets(self, numbers: Sequence[str]) -> list[int]:
        """Look each number up in the directory; 0 where it isn't there."""
        keys = [_DIRECTORY + number.encode() for number in numbers]
        return await self._run(lambda: [self._read_int(key) for key in keys])

    async def insert_buckets(self, placements: Mapping[str, int]) -> None:
        """Put the bucket of each number in the directory."""
        rows = {_DIRECTORY + number.encode(): _encode(b) for number, b in placements.items()}
        await self._run(lambda: self._write(rows))

    # -- transactions --------------------------------------------------------------------------

    async def create_transaction_entries(self, entries: Sequence[PendingEntry]) -> None:
        """Note these as PENDING (rule 40, pending notes)."""
        rows = {_TRANSACTION + entry.xid: _encode(entry) for entry in entries}
        await self._run(lambda: self._write(rows))

    async def close_transaction_entries(self, xids: Sequence[bytes]) -> None:
        """Delete the entries of these transactions."""
        keys = [_TRANSACTION + xid for xid in xids]
        await self._run(lambda: self._write({}, keys))

    async def pending_entries(self) -> list[PendingEntry]:
        """Read the transactions under way, ascending by xid."""
        return await self._run(
            lambda: [_decode_pending(value) for value in self._scan(_TRANSACTION)]
        )

    # -- locks ---------------------------------------------------------------------------------

    async def put_locks(self, entries: Sequence[LockEntry]) -> None:
        """Store these locks, granted to outsiders; synced (rule 36, lock tokens)."""
        rows = {_lock_key(entry.lock_id, entry.token): _encode(entry) for entry in entries}
        await self._run(lambda: self._write(rows, sync=True))

    async def delete_locks(self, names: Sequence[tuple[str, Token]]) -> None:
        """Delete the locks of these ids and tokens."""
        keys = [_lock_key(lock_id, token) for lock_id, token in names]
        await self._run(lambda: self._write({}, keys))

    async def locks(self) -> list[LockEntry]:
        """Read every lock that is stored."""
        return await self._run(lambda: [_decode_lock(value) for value in self._scan(_LOCK)])

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

    def _scan(self, prefix: bytes) -> Iterator[bytes]:
        scan = self._database.iter()
        scan.seek(prefix)
        while scan.valid() and (key := scan.key()).startswith(prefix):
            yield unseal(key, scan.value())
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


def _lock_key(lock_id: str, token: Token) -> bytes:
    return _LOCK + f"{lock_id} {token.epoch} {token.counter}".encode()


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
