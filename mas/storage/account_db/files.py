"""The files of a `RocksAccountDB`: opened, written with an eye on the disk, and opened anew where a write has failed.

The disk is the Raft log's before it is the database's: a log that finds no room ends the process, a flush only waits. So
nothing is begun here that would leave less than a reserve. A write that failed has left nobody knows what: only the files
tell, so they are opened anew before the next one.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from rocksdict import (
    BlockBasedOptions,
    BottommostLevelCompaction,
    Cache,
    CompactOptions,
    DbClosedError,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
)

from mas.errors import DatabaseUnavailable, DataDirectoryError, MasError, StorageError
from mas.files import free_bytes
from mas.storage.account_db.layout import drop_unfinished, find_buckets
from mas.storage.account_db.writes import breathe, try_write
from mas.storage.rocksdb import common_options, damaged, open_database
from mas.storage.rocksdb_files import SyncedMark

_log = logging.getLogger(__name__)

SCHEMA_VERSION = 4
"""3 was the last one in SQLite."""
REMEDY = (
    "move the directory away and start this node again: its replicas take what they lack from its Raft log or from the "
    "other nodes"
)

_STALL_SECONDS = 0.01
"""Before a write is tried again that RocksDB would have made wait."""
_MEMTABLE_BYTES_MAX = 64 * 1024 * 1024
_MEMTABLE_BYTES_KEPT = 24 * 1024 * 1024
_CACHE_BYTES = 32 * 1024 * 1024
_TABLES_PER_COMPACTION = 20
"""Tables of a few MB that are merged into the index at once: it is written anew each time, all 90 MB at 3 million records."""
_BLOB_BYTES_MIN = 1024
"""Values of this size are kept out of the tree: they are appended once, and never sorted again."""
_GARBAGE_COLLECTION = "enable_blob_garbage_collection"
"""Off but when something was erased: it would write all chunks anew, again and again."""

_T = TypeVar("_T")


class DatabaseFiles:
    """The RocksDB of one AccountDB, whichever thread works on it."""

    def __init__(self, path: Path, cluster: str, node: int, reserve_bytes: int) -> None:
        """Open or create it. Raises as `RocksAccountDB.connect` does."""
        self.path = path
        self.has_failed = False
        """A write has failed: none is tried before the files are opened anew."""
        self.opened = 0
        """How often they were opened."""
        self._cluster = cluster
        self._node = node
        self._reserve_bytes = reserve_bytes
        self._mark = SyncedMark(path)
        self.database = self._open()

    def write(self, batch: WriteBatch) -> None:
        """Write it, unsynced. Raises what RocksDB raises: see `translate`."""
        if self.has_failed:
            raise DatabaseUnavailable(f"{self.path} has failed and is about to be opened anew")
        try:
            while not try_write(self.database, batch):
                breathe(_STALL_SECONDS)
        except BaseException:
            self.has_failed = True
            raise

    def sync(self) -> None:
        """Have all that was written durable. Raises what RocksDB raises."""
        # Read before: what another thread writes meanwhile may not be synced.
        newest = self.database.latest_sequence_number()
        try:
            self.database.flush_wal(sync=True)
            self._mark.write(newest)
        except BaseException:
            self.has_failed = True
            raise

    def open_anew(self) -> None:
        """Go on from what the files say. Nobody else may use the database meanwhile.

        Raises:
            DatabaseUnavailable: there is no room, or somebody still reads from it: try again.
            CorruptData: they are damaged.
        """
        self.check_room(0)
        with suppress(DbClosedError):
            self.database.close()
        try:
            self.database = self._open()
        except DataDirectoryError as error:
            raise DatabaseUnavailable(str(error)) from error
        self.has_failed = False
        _log.warning("%s was opened anew, since a write to it had failed", self.path)

    def close(self) -> None:
        """Close the database; what was written is in its tables then, so that the next start finds an empty log."""
        try:
            if not self.has_failed:
                self.database.flush(wait=True)
        finally:
            with suppress(DbClosedError):
                self.database.close()
            self._mark.close()

    def shrink_log(self) -> None:
        """Write the memtable out where it is large. When the index has just caught up, most of the journal is deleted."""
        if self._read("rocksdb.cur-size-active-mem-table") > _MEMTABLE_BYTES_KEPT:
            self.database.flush(wait=True)

    def reclaim(self, begin: bytes, end: bytes) -> None:
        """Give back the room of what was deleted between these keys."""
        self.database.flush(wait=True)
        self.database.compact_range(begin, end)
        # Chunks of other buckets are in the same files, which are written anew without the garbage.
        live = self._read("rocksdb.live-blob-file-size")
        garbage = self._read("rocksdb.live-blob-file-garbage-size")
        if garbage and self.room() > self.owed_bytes() + live:
            self.database.set_options({_GARBAGE_COLLECTION: "true"})
            self.database.compact_range(None, None, _whole_compaction())
            self.database.set_options({_GARBAGE_COLLECTION: "false"})

    def room(self) -> int:
        """Bytes of the disk that aren't the Raft log's reserve."""
        return free_bytes(self.path.parent) - self._reserve_bytes

    def check_room(self, size: int) -> None:
        """Raises `DatabaseUnavailable` where so many bytes would take of the reserve."""
        room = self.room()
        if room < size:
            raise DatabaseUnavailable(
                f"{self.path.parent} has {room + self._reserve_bytes:,} bytes left, {self._reserve_bytes:,} are kept for "
                f"the Raft log, and {size:,} are needed: make room; what waits goes on by itself"
            )

    def owed_bytes(self) -> int:
        """What RocksDB may write by itself: memtables, and the tables that a compaction reads before it deletes them."""
        memtables = self._read("rocksdb.cur-size-all-mem-tables")
        return memtables + self._read("rocksdb.live-sst-files-size")

    def translate(self, work: Callable[[], _T]) -> _T:
        """What `work` returns.

        Raises:
            CorruptData: what RocksDB says is damage.
            DatabaseUnavailable: what it says may pass.
            StorageError: another file can't be read.
        """
        try:
            return work()
        except MasError:
            raise
        except OSError as error:
            raise StorageError(f"{error.filename} can't be read: {error.strerror}") from error
        except Exception as error:
            if type(error) not in (Exception, DbClosedError):
                raise  # not RocksDB's
            if "Corruption" in str(error) or "No such file" in str(error):
                raise damaged(self.path, str(error), REMEDY) from error
            raise DatabaseUnavailable(
                f"{self.path}: {error}. Flushes wait and nothing is lost: make room on the disk, or mend it; this node "
                "goes on by itself"
            ) from error

    def _open(self) -> Rdict:
        database = open_database(
            self.path,
            kind="AccountDB",
            cluster=self._cluster,
            node=self._node,
            remedy=REMEDY,
            version=SCHEMA_VERSION,
            options=database_options(),
        )
        try:
            self._check_end(database)
            for bucket in list(find_buckets(database)):
                drop_unfinished(database, bucket)
        except BaseException:
            database.close()
            raise
        self.opened += 1
        return database

    def _check_end(self, database: Rdict) -> None:
        synced, newest = self._mark.read(), database.latest_sequence_number()
        if newest < synced:
            what = f"it was synced up to change {synced}, and ends at {newest}"
            raise damaged(self.path, what, REMEDY)

    def _read(self, name: str) -> int:
        return self.database.property_int_value(name) or 0


def database_options() -> Options:
    """How RocksDB keeps an AccountDB."""
    table = BlockBasedOptions()
    table.set_block_cache(Cache(_CACHE_BYTES))
    table.set_bloom_filter(10, block_based=False)
    table.set_format_version(5)
    options = common_options()
    options.set_block_based_table_factory(table)
    options.set_write_buffer_size(_MEMTABLE_BYTES_MAX)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_level_zero_file_num_compaction_trigger(_TABLES_PER_COMPACTION)
    options.set_level_zero_slowdown_writes_trigger(4 * _TABLES_PER_COMPACTION)
    options.set_level_zero_stop_writes_trigger(8 * _TABLES_PER_COMPACTION)
    options.set_enable_blob_files(val=True)
    options.set_min_blob_size(_BLOB_BYTES_MIN)
    options.set_blob_gc_age_cutoff(1.0)
    return options


def _whole_compaction() -> CompactOptions:
    options = CompactOptions()
    options.set_bottommost_level_compaction(BottommostLevelCompaction.force())
    return options
