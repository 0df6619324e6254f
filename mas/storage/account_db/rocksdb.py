"""The AccountDB of a node in one RocksDB: what is appended by flushes, and an index that follows behind.

A flush appends its chunks (settled records and postings) and its journal (all other rows, and what is deleted), and then
puts the bucket's head, which says how far both count. The head is what commits it: until it is written, nobody looks at
what was appended, and after a crash that is written over. So a flush is few large values and one sync. RocksDB's Python
binding holds the interpreter in a write, for 1 µs a row; hence few rows, in several writes, with the head in the last.

The rows at their own keys, which are the index, are written later, by a thread of its own. Until then they are in memory,
where a row that many flushes change is kept once, and a start reads them back from the journal.

An installation writes under the other of two generations, and then puts a head that names it: old or new, never a mix.

The disk is the Raft log's before it is the database's: a log that finds no room ends the process, a flush only waits. So
nothing is written here that would leave less than a reserve. Where a write fails, the files are opened anew before the
next one, since only they tell what has been written.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

from rocksdict import WriteBatch

from mas.errors import CorruptData, DatabaseUnavailable, StorageError
from mas.ledger.rows import BucketRow, Loaded, Posting, ResidentState, WriteSet
from mas.ledger.totals import Totals
from mas.raft import SnapshotMetadata
from mas.runtime import failpoint
from mas.storage.account_db import snapshot as snapshots
from mas.storage.account_db.buckets import Buckets
from mas.storage.account_db.files import REMEDY, DatabaseFiles
from mas.storage.account_db.flushes import Flushes
from mas.storage.account_db.index import Index
from mas.storage.account_db.layout import (
    BEHIND,
    FIRST,
    INDEXED,
    PREFIX,
    SECOND,
    Head,
    Indexed,
    drop_unfinished,
    get_from,
    head_key,
    read_head,
    snapshot_rows,
)
from mas.storage.account_db.reads import Reads
from mas.storage.account_db.rows import encode
from mas.storage.account_db.snapshot import Header
from mas.storage.account_db.view import View
from mas.storage.account_db.writes import BatchWriter

_UNINDEXED_ROWS_MAX = 250_000
"""Rows that wait in memory for the index: the more, the fewer times an account that many flushes change is written."""
_INSTALL_ROOM = 3
"""Bytes that an installation may take for one of the snapshot's: in the WAL, in the file, and while the old is taken away."""
_NOBODY = b""
"""The writer of a bucket whose rows have just been swapped: no flush of anybody's is conditional on it."""

_T = TypeVar("_T")


class RocksAccountDB:
    """The materialised state of this node's buckets. Fits `mas.resource.ports.AccountDB`."""

    def __init__(self, path: Path, cluster: str, node: int, reserve_bytes: int) -> None:
        """Use `connect`."""
        self._files = DatabaseFiles(path, cluster, node, reserve_bytes)
        self._buckets = Buckets(self._files)
        self._flushes = Flushes(self._files, self._buckets)
        self._index = Index(self._files, self._buckets)
        self._reads = Reads(self._files, self._buckets)
        self._writer = _Worker("flush")
        self._reader = _Worker("load")
        self._walker = _Worker("walk")
        self._indexer = _Worker("index")
        self._turn: Future[None] | None = None
        """The index is being brought to the present, or was since the last flush began."""

    @classmethod
    def connect(cls, path: Path, cluster: str, node: int, *, reserve_bytes: int = 0) -> Self:
        """Open the database, or create it for this node. Blocks for a moment: for the start of a process.

        `reserve_bytes` of the disk are left to the Raft log: what would take them waits.

        Raises:
            DataDirectoryError: it can't be written, another process uses it, or it belongs to another cluster, node or
                version of MAS.
            CorruptData: there is damage that isn't a torn tail, or what was synced isn't there.
        """
        return cls(path, cluster, node, reserve_bytes)

    # -- the port ------------------------------------------------------------------------------

    async def open(self, bucket: int, writer: bytes) -> ResidentState:
        """Become the bucket's writer (rule 25) and read what is always kept in memory; a new bucket is made."""
        await self._run(self._writer, partial(self._flushes.take_over, bucket, writer))
        await self._run(self._indexer, self._index.catch_up)
        return await self._run(self._walker, partial(self._reads.resident, bucket))

    async def load(
        self, bucket: int, accounts: Sequence[str], records: Sequence[bytes], claims: Sequence[str]
    ) -> Loaded:
        """Rows and the applied index, of one moment (rule 23)."""
        read = partial(self._reads.load, bucket, accounts, records, claims)
        return await self._run(self._reader, read)

    async def flush(self, writes: WriteSet, *, before: int, writer: bytes) -> bool:
        """Commit the write set, synced, conditional on the applied index `before` and the writer (rules 25, 26).

        True, too, where this very write set was committed by an earlier try whose answer was lost.
        """
        await self._index_in_turn()
        return await self._run(self._writer, partial(self._flushes.flush, writes, before, writer))

    async def payment_ids(self, bucket: int, after: bytes, limit: int) -> list[bytes]:
        """A page, ascending, of the ids of the records that were there when the bucket was opened (rule 24).

        Of later ones some may be missing: whoever has flushed them knows them.
        """
        return await self._run(self._walker, partial(self._reads.payment_ids, bucket, after, limit))

    async def postings(
        self, bucket: int, number: str, before: int, limit: int
    ) -> tuple[int, list[Posting]]:
        """Newest first below sequence `before` (0: from the newest), and the applied index they were read at."""
        read = partial(self._reads.postings, bucket, number, before, limit)
        return await self._run(self._reader, read)

    async def totals(self, bucket: int) -> Totals:
        """What the bucket's rows add up to, without a look at them."""
        header = await self._run(self._reader, partial(self._reads.header, bucket))
        return Totals() if header is None else header.totals()

    async def bucket_row(self, bucket: int) -> BucketRow | None:
        """The bucket as of its applied index, None where it isn't here."""
        header = await self._run(self._reader, partial(self._reads.header, bucket))
        return None if header is None else header.row()

    async def buckets(self) -> list[int]:
        """The buckets that are here, ascending."""
        return await self._run(self._reader, self._reads.all_buckets)

    async def verify(self, bucket: int) -> Totals:
        """Read all rows of the bucket, and hold them to its totals and its state hash, and the index to the chunks.

        Raises:
            CorruptData: they don't agree.
        """
        await self._run(self._indexer, self._index.catch_up)
        return await self._run(self._walker, partial(self._verify, bucket))

    async def export(self, bucket: int, path: Path) -> SnapshotMetadata:
        """Write the rows of one moment to a file (rule 28), in bounded memory, and never into the reserve."""
        await self._run(self._indexer, self._index.catch_up)
        return await self._run(self._walker, partial(self._export, bucket, path))

    async def check(self, bucket: int, path: Path) -> SnapshotMetadata:
        """Raises `CorruptData` where the file's state hash or totals aren't those of its rows."""
        return await self._run(self._walker, lambda: _check(bucket, path).metadata())

    async def install(self, bucket: int, path: Path) -> None:
        """Swap the bucket's rows and applied index for the file's: old or new, never a mix.

        Whoever was its writer isn't any more: `open` it again.
        """
        opened = await self._run(self._writer, lambda: self._files.opened)
        try:
            head = await self._run(self._walker, partial(self._write_rows, bucket, path))
        except StorageError:
            await self._run(self._writer, partial(drop_unfinished, self._files.database, bucket))
            await self._run(self._indexer, partial(self._index.reclaim, bucket))
            raise
        await self._run(self._writer, partial(self._switch, head, opened))
        await self._run(self._indexer, partial(self._index.reclaim, bucket))

    def room_for(self, size: int) -> bool:
        """Whether a snapshot of so many bytes can be received and installed without taking the Raft log's reserve."""
        return self._files.room() >= (1 + _INSTALL_ROOM) * size

    async def erase(self, bucket: int) -> None:
        """Forget all of a bucket that this node holds no more; whoever was its writer isn't any more."""
        await self._run(self._writer, partial(self._erase, bucket))
        await self._run(self._indexer, partial(self._index.reclaim, bucket))

    async def close(self) -> None:
        """Finish what is under way, bring the index to the present so that the next start needn't, and close the files."""
        with suppress(StorageError):
            if self._turn is not None:
                await asyncio.wrap_future(self._turn)
            await self._run(self._indexer, self._index.catch_up)
        await self._run(self._indexer, self._files.close)
        for worker in (self._writer, self._reader, self._walker, self._indexer):
            worker.close()

    # -- beside the flushes --------------------------------------------------------------------

    async def _index_in_turn(self) -> None:
        """Have the index brought to the present beside the next flushes, where that is due; wait where it is far behind.

        What a turn raised is raised here.
        """
        rows = sum(len(bucket.unindexed) for bucket in self._buckets.everyone())
        turn = self._turn
        if turn is not None and (turn.done() or rows > 2 * _UNINDEXED_ROWS_MAX):
            self._turn = None
            await asyncio.wrap_future(turn)
        if rows > _UNINDEXED_ROWS_MAX and self._turn is None:
            self._turn = self._indexer.begin(partial(self._files.translate, self._index.catch_up))

    def _erase(self, bucket: int) -> None:
        batch = WriteBatch(raw_mode=True)
        batch.delete_range(head_key(bucket), PREFIX.pack(bucket, BEHIND))
        self._buckets.take_away(bucket, batch)

    def _export(self, bucket: int, path: Path) -> SnapshotMetadata:
        view = self._view(bucket)
        try:
            snapshots.write_snapshot(path, view.header, view.frames(), self._files.check_room)
        except OSError as error:
            raise DatabaseUnavailable(
                f"snapshot {path} can't be written: {error.strerror}. Make room for it, or mend the directory"
            ) from error
        return view.header.metadata()

    def _verify(self, bucket: int) -> Totals:
        view = self._view(bucket)
        try:
            snapshots.check_rows(view.header, view.frames())
            view.check_places()
        except CorruptData as error:
            raise CorruptData(f"{self._files.path}, bucket {bucket}: {error}; {REMEDY}") from error
        return view.header.totals()

    def _view(self, bucket: int) -> "View":
        snapshot = self._files.database.snapshot()
        head = read_head(partial(get_from, snapshot), bucket)
        if head is None:
            raise StorageError(f"bucket {bucket} has no rows here: there is nothing to export")
        return View(snapshot, head)

    def _write_rows(self, bucket: int, path: Path) -> Head:
        """Write the rows of a snapshot beside those that count; the head that makes them count."""
        self._files.check_room(_INSTALL_ROOM * path.stat().st_size)
        header = snapshots.read_header(path)
        assert header.bucket == bucket, "check() comes before install()"
        now = read_head(self._files.database.get, bucket)
        generation = SECOND if now is not None and now.generation == FIRST else FIRST
        head = Head(generation, _NOBODY, header, journals_end=1)
        writer = BatchWriter(self._files.write)
        writer.delete_range(head.prefix, PREFIX.pack(bucket, generation + 1))
        failpoint("account_db.install_emptied")
        for frame in snapshots.read_rows(path):
            self._files.check_room(self._files.owed_bytes() + len(frame.data))
            for key, value in snapshot_rows(frame):
                writer.put(head.prefix + key, value)
            failpoint("account_db.install_rows")
        writer.put(head.prefix + INDEXED, encode(Indexed(header.chunks_end)))
        writer.end()
        return head

    def _switch(self, head: Head, opened: int) -> None:
        if self._files.opened != opened:
            raise DatabaseUnavailable(
                f"{self._files.path} failed while a snapshot was installed, and was opened anew: try again"
            )
        bucket = head.header.bucket
        batch = WriteBatch(raw_mode=True)
        batch.put(head_key(bucket), encode(head))
        old = FIRST + SECOND - head.generation
        batch.delete_range(PREFIX.pack(bucket, old), PREFIX.pack(bucket, old + 1))
        failpoint("account_db.install_before_commit")
        self._buckets.take_away(bucket, batch)
        failpoint("account_db.install_after_commit")

    # -- threads -------------------------------------------------------------------------------

    async def _run(self, worker: "_Worker", work: Callable[[], _T]) -> _T:
        def mended() -> _T:
            if worker is self._writer and self._files.has_failed:
                self._buckets.begin_anew()
            return work()

        return await worker.run(partial(self._files.translate, mended))


class _Worker:
    """A thread of one's own."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"account-db-{name}")

    async def run(self, work: Callable[[], _T]) -> _T:
        """Run it behind what was begun before, and return what it returns."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def begin(self, work: Callable[[], _T]) -> Future[_T]:
        """Run it likewise, beside whoever asks."""
        return self._thread.submit(work)

    def close(self) -> None:
        """Behind all that was begun."""
        self._thread.shutdown()


def _check(bucket: int, path: Path) -> Header:
    header = snapshots.check_snapshot(path)
    if header.bucket != bucket:
        raise CorruptData(f"snapshot {path} is of bucket {header.bucket}, not of {bucket}")
    return header
