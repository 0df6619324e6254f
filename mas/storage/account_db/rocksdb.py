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
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Self, TypeVar

import msgspec
from rocksdict import (
    WriteBatch,
)

from mas.errors import (
    CorruptData,
    DatabaseUnavailable,
    StorageError,
)
from mas.ledger.rows import Account, BucketRow, Loaded, Posting, Record, ResidentState, WriteSet
from mas.ledger.totals import Totals
from mas.raft import SnapshotMetadata
from mas.runtime import failpoint
from mas.storage.account_db import snapshot as snapshots
from mas.storage.account_db.files import REMEDY, DatabaseFiles
from mas.storage.account_db.layout import (
    ACCOUNT,
    BEHIND,
    CHUNK,
    CLAIM,
    FIRST,
    INCARNATION,
    INDEXED,
    JOURNAL,
    LEG,
    NUMBER,
    PAYMENT,
    PLACE,
    PREFIX,
    SECOND,
    Head,
    Indexed,
    IndexRows,
    changed_rows,
    drop_unfinished,
    find_buckets,
    get_from,
    head_key,
    places,
    read_appended,
    read_head,
    read_unindexed,
    record_at,
    scan_prefix,
    snapshot_rows,
)
from mas.storage.account_db.rows import (
    JUMP,
    NewChunks,
    count_chunks,
    decode_account,
    decode_claim,
    decode_incarnation,
    decode_legs,
    decode_lines,
    decode_record,
    decode_records,
    encode,
    pack,
)
from mas.storage.account_db.snapshot import Header
from mas.storage.account_db.view import View
from mas.storage.account_db.writes import BATCH_ROWS, BatchWriter, breathe, pieces

_log = logging.getLogger(__name__)

_UNINDEXED_ROWS_MAX = 150_000
"""Rows that wait in memory for the index: the more, the fewer times an account that many flushes change is written."""
_PIECES_PER_BREATH = 4
_ROWS_PER_LOOK = 4_000
_KEYS_PER_READ = 32
"""Of one read, which holds the interpreter while the disk is waited for."""
_INSTALL_ROOM = 3
"""Bytes that an installation may take for one of the snapshot's: in the WAL, in the file, and while the old is taken away."""
_NOBODY = b""
"""The writer of a bucket whose rows have just been swapped: no flush of anybody's is conditional on it."""

_T = TypeVar("_T")


class _Bucket:
    """A bucket as the last flush left it, and what of it the index lacks."""

    def __init__(self, head: Head, recovered: IndexRows) -> None:
        self.head = head
        self.unindexed: IndexRows = {}
        """Rows of flushes that came since the index's turn began."""
        self.indexing = recovered
        """Rows that are being written to the index, or were when the last process died; here until all of them are."""
        self.indexing_to = head
        """The head whose rows these are."""
        self.turns = 0
        """How often `unindexed` became `indexing`: whoever read the index meanwhile reads again."""

    def find(self, keys: Iterable[bytes]) -> IndexRows:
        """Those of the rows that are in memory."""
        found: IndexRows = {}
        for key in keys:
            if key in self.unindexed:
                found[key] = self.unindexed[key]
            elif key in self.indexing:
                found[key] = self.indexing[key]
        return found

    def add(self, rows: Mapping[bytes, bytes | None]) -> None:
        """Rows of a flush."""
        self.unindexed.update(rows)

    def begin_turn(self) -> None:
        """Hand over what the index lacks."""
        assert not self.indexing, "the turn before hasn't ended"
        self.unindexed, self.indexing = {}, self.unindexed
        self.indexing_to = self.head
        self.turns += 1


class RocksAccountDB:
    """The materialised state of this node's buckets. Fits `mas.resource.ports.AccountDB`."""

    def __init__(self, path: Path, cluster: str, node: int, reserve_bytes: int) -> None:
        """Use `connect`."""
        self._files = DatabaseFiles(path, cluster, node, reserve_bytes)
        self._buckets: dict[int, _Bucket] = {}
        self._lock = threading.Lock()
        """Held to look at a bucket, or to change it: head and rows in memory are of one moment."""
        self._index_lock = threading.Lock()
        """Held while rows of a bucket are written to the index, and to take a bucket or the database away from that."""
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
        await self._run(self._writer, partial(self._take_over, bucket, writer))
        await self._run(self._indexer, self._index)
        return await self._run(self._walker, partial(self._resident, bucket))

    async def load(
        self, bucket: int, accounts: Sequence[str], records: Sequence[bytes], claims: Sequence[str]
    ) -> Loaded:
        """Rows and the applied index, of one moment (rule 23)."""
        read = partial(self._load, accounts, records, claims)
        found = await self._run(self._reader, partial(self._read_steadily, bucket, read))
        return found or Loaded(0, {}, {}, {})

    async def flush(self, writes: WriteSet, *, before: int, writer: bytes) -> bool:
        """Commit the write set, synced, conditional on the applied index `before` and the writer (rules 25, 26).

        True, too, where this very write set was committed by an earlier try whose answer was lost.
        """
        await self._index_in_turn()
        return await self._run(self._writer, partial(self._flush, writes, before, writer))

    async def payment_ids(self, bucket: int, after: bytes, limit: int) -> list[bytes]:
        """A page, ascending, of the ids of the records that were there when the bucket was opened (rule 24).

        Of later ones some may be missing: whoever has flushed them knows them.
        """
        return await self._run(self._walker, partial(self._payment_ids, bucket, after, limit))

    async def postings(
        self, bucket: int, number: str, before: int, limit: int
    ) -> tuple[int, list[Posting]]:
        """Newest first below sequence `before` (0: from the newest), and the applied index they were read at."""
        read = partial(self._postings, number, before, limit)
        found = await self._run(self._reader, partial(self._read_steadily, bucket, read))
        return found or (0, [])

    async def totals(self, bucket: int) -> Totals:
        """What the bucket's rows add up to, without a look at them."""
        header = await self._run(self._reader, partial(self._header, bucket))
        return Totals() if header is None else header.totals()

    async def bucket_row(self, bucket: int) -> BucketRow | None:
        """The bucket as of its applied index, None where it isn't here."""
        header = await self._run(self._reader, partial(self._header, bucket))
        return None if header is None else header.row()

    async def buckets(self) -> list[int]:
        """The buckets that are here, ascending."""
        return await self._run(self._reader, self._find_all)

    async def verify(self, bucket: int) -> Totals:
        """Read all rows of the bucket, and hold them to its totals and its state hash, and the index to the chunks.

        Raises:
            CorruptData: they don't agree.
        """
        await self._run(self._indexer, self._index)
        return await self._run(self._walker, partial(self._verify, bucket))

    async def export(self, bucket: int, path: Path) -> SnapshotMetadata:
        """Write the rows of one moment to a file (rule 28), in bounded memory, and never into the reserve."""
        await self._run(self._indexer, self._index)
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
            await self._run(self._indexer, partial(self._reclaim, bucket))
            raise
        await self._run(self._writer, partial(self._switch, head, opened))
        await self._run(self._indexer, partial(self._reclaim, bucket))

    def room_for(self, size: int) -> bool:
        """Whether a snapshot of so many bytes can be received and installed without taking the Raft log's reserve."""
        return self._files.room() >= (1 + _INSTALL_ROOM) * size

    async def erase(self, bucket: int) -> None:
        """Forget all of a bucket that this node holds no more; whoever was its writer isn't any more."""
        await self._run(self._writer, partial(self._erase, bucket))
        await self._run(self._indexer, partial(self._reclaim, bucket))

    async def close(self) -> None:
        """Finish what is under way, bring the index to the present so that the next start needn't, and close the files."""
        with suppress(StorageError):
            if self._turn is not None:
                await asyncio.wrap_future(self._turn)
            await self._run(self._indexer, self._index)
        await self._run(self._indexer, self._files.close)
        for worker in (self._writer, self._reader, self._walker, self._indexer):
            worker.close()

    # -- a flush, in the writer's thread -------------------------------------------------------

    def _take_over(self, bucket: int, writer: bytes) -> None:
        found = self._find(bucket)
        if found is None:
            header = Header.of(BucketRow(bucket), Totals(), chunks_end=1)
            head = Head(FIRST, writer, header, journals_end=1)
        else:
            head = msgspec.structs.replace(found.head, writer=writer)
        self._commit(head)
        with self._lock:
            if found is None:
                self._buckets[bucket] = _Bucket(head, {})
            else:
                found.head = head

    def _flush(self, writes: WriteSet, before: int, writer: bytes) -> bool:
        self._files.check_room(self._files.owed_bytes())
        bucket = self._find(writes.bucket.bucket)
        if bucket is None or bucket.head.writer != writer:
            return False
        header = bucket.head.header
        if header.applied != before:
            return self._is_flushed(writes, header)
        chunks = NewChunks(writes, header.chunks_end)
        try:
            head, rows = self._append(writes, bucket, chunks)
            failpoint("account_db.before_commit")
            self._commit(head)
        except BaseException:
            chunks.undo()
            raise
        failpoint("account_db.after_commit")
        self._publish(bucket, head, rows)
        return True

    def _is_flushed(self, writes: WriteSet, header: Header) -> bool:
        if header.applied != writes.bucket.applied:
            return False
        chunks = NewChunks(writes, header.chunks_end - count_chunks(writes))
        for _ in chunks.cut():
            """Links the accounts as the earlier try has stored them."""
        return True

    def _append(
        self, writes: WriteSet, bucket: _Bucket, chunks: NewChunks
    ) -> tuple[Head, list[Mapping[bytes, bytes | None]]]:
        """Write what the head will make count; the head, and the rows for the index."""
        before = bucket.head
        totals = before.header.totals()
        totals.applied = writes.bucket.applied
        for created in self._find_new(writes.accounts, bucket):
            totals.add_account(writes.accounts[created], 0)
        writer = BatchWriter(self._files.write)
        rows: list[Mapping[bytes, bytes | None]] = []
        for number, chunk in chunks.cut():
            writer.put(before.prefix + CHUNK + NUMBER.pack(number), pack(encode(chunk)))
            totals.add_records(chunk.records)
            rows.append(places(number, chunk.records))
        for postings in pieces(writes.postings, BATCH_ROWS):
            totals.add_postings(postings, writes.accounts)
            breathe()
        journals_end = before.journals_end
        for piece in changed_rows(writes):
            key = before.prefix + JOURNAL + NUMBER.pack(journals_end)
            writer.put(key, pack(encode(piece)))
            journals_end += 1
            rows.append(piece)
        writer.end()
        header = Header.of(writes.bucket, totals, chunks.end)
        return Head(before.generation, before.writer, header, journals_end), rows

    def _find_new(self, accounts: dict[str, Account], bucket: _Bucket) -> list[str]:
        """The accounts that have no row yet. One that was posted to before has, and needn't be looked for."""
        unposted: list[str] = []
        for piece in pieces(accounts.values(), _ROWS_PER_LOOK):
            unposted += [account.number for account in piece if not account.chunk]
            breathe()
        keys = {ACCOUNT + number.encode(): number for number in unposted}
        with self._lock:
            found = bucket.find(keys)
        missing = [key for key in keys if key not in found]
        stored = self._get_many(bucket.head.prefix, missing)
        return [keys[key] for key in missing if key not in stored]

    def _publish(
        self, bucket: _Bucket, head: Head, rows: list[Mapping[bytes, bytes | None]]
    ) -> None:
        with self._lock:
            rows.reverse()
            while rows:
                bucket.add(rows.pop())
                if len(rows) % _PIECES_PER_BREATH == 0:
                    breathe()
            bucket.head = head

    def _commit(self, head: Head) -> None:
        batch = WriteBatch(raw_mode=True)
        batch.put(head_key(head.header.bucket), encode(head))
        self._files.write(batch)
        self._files.sync()

    def _erase(self, bucket: int) -> None:
        batch = WriteBatch(raw_mode=True)
        batch.delete_range(head_key(bucket), PREFIX.pack(bucket, BEHIND))
        self._replace(bucket, batch)

    def _replace(self, bucket: int, batch: WriteBatch) -> None:
        """Write what takes the bucket's rows away; nobody looks at them or writes to its index meanwhile."""
        with self._index_lock, self._lock:
            self._buckets.pop(bucket, None)
            self._files.write(batch)
            self._files.sync()

    # -- the index, in a thread of its own -----------------------------------------------------

    async def _index_in_turn(self) -> None:
        """Have the index brought to the present beside the next flushes, where that is due; wait where it is far behind.

        What a turn raised is raised here.
        """
        rows = sum(len(bucket.unindexed) for bucket in tuple(self._buckets.values()))
        turn = self._turn
        if turn is not None and (turn.done() or rows > 2 * _UNINDEXED_ROWS_MAX):
            self._turn = None
            await asyncio.wrap_future(turn)
        if rows > _UNINDEXED_ROWS_MAX and self._turn is None:
            self._turn = self._indexer.begin(partial(self._files.translate, self._index))

    def _index(self) -> None:
        """Bring the index of every bucket to where its head is now."""
        with self._lock:
            buckets = list(self._buckets.values())
        for bucket in buckets:
            with self._index_lock:
                if self._buckets.get(bucket.head.header.bucket) is not bucket:
                    continue
                if bucket.indexing:
                    self._write_index(bucket)
                with self._lock:
                    bucket.begin_turn()
                if bucket.indexing:
                    self._write_index(bucket)
        with self._index_lock:
            self._files.shrink_log()

    def _write_index(self, bucket: _Bucket) -> None:
        head = bucket.indexing_to
        prefix = head.prefix
        writer = BatchWriter(self._files.write)
        for key, value in bucket.indexing.items():
            if value is None:
                writer.delete(prefix + key)
            else:
                writer.put(prefix + key, value)
        failpoint("account_db.index_before_mark")
        # Behind the rows in the WAL: where the mark is there, they are.
        journals = prefix + JOURNAL
        end = journals + NUMBER.pack(head.journals_end)
        writer.delete_range(journals + NUMBER.pack(0), end)
        indexed = Indexed(head.header.chunks_end, head.journals_end)
        writer.put(prefix + INDEXED, encode(indexed))
        writer.end()
        with self._lock:
            indexed_rows, bucket.indexing = bucket.indexing, {}
        while indexed_rows:  # to let go of all of them at once takes milliseconds
            for key in list(islice(indexed_rows, _ROWS_PER_LOOK)):
                del indexed_rows[key]
            breathe()

    def _reclaim(self, bucket: int) -> None:
        with self._index_lock:
            self._files.reclaim(head_key(bucket), PREFIX.pack(bucket, BEHIND))

    # -- reading -------------------------------------------------------------------------------

    def _find(self, bucket: int) -> _Bucket | None:
        with self._lock:
            found = self._buckets.get(bucket)
            if found is None:
                head = read_head(self._files.database.get, bucket)
                if head is None:
                    return None
                found = _Bucket(head, read_unindexed(self._files.database.get, head))
                self._buckets[bucket] = found
            return found

    def _find_all(self) -> list[int]:
        database = self._files.database
        buckets = list(find_buckets(database))
        return [bucket for bucket in buckets if read_head(database.get, bucket) is not None]

    def _header(self, bucket: int) -> Header | None:
        found = self._find(bucket)
        return None if found is None else found.head.header

    def _read_steadily(self, bucket: int, read: Callable[[_Bucket], _T]) -> _T | None:
        """What `read` returns of a bucket that nobody changed but by flushes; None where it isn't here.

        The index is changed by rows that were in memory, and by no others. So if none went there meanwhile, and the
        bucket is the same, then what `read` didn't find in memory is in the index as of the head that it saw.
        """
        while True:
            found = self._find(bucket)
            if found is None:
                return None
            turns = found.turns
            try:
                result = read(found)
            except CorruptData:
                if self._is_steady(found, turns):
                    raise
            else:
                if self._is_steady(found, turns):
                    return result

    def _is_steady(self, bucket: _Bucket, turns: int) -> bool:
        with self._lock:
            current = self._buckets.get(bucket.head.header.bucket)
            return current is bucket and bucket.turns == turns

    def _read(self, bucket: _Bucket, keys: list[bytes]) -> tuple[Head, dict[bytes, bytes]]:
        """Rows, and the head of which they are."""
        with self._lock:
            head, found = bucket.head, bucket.find(keys)
        rows = {key: row for key, row in found.items() if row is not None}
        rows.update(self._get_many(head.prefix, [key for key in keys if key not in found]))
        return head, rows

    def _get_many(self, prefix: bytes, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        rows: dict[bytes, bytes] = {}
        database = self._files.database
        for piece in pieces(keys, _KEYS_PER_READ):
            values = database.get([prefix + key for key in piece]) or ()
            rows.update(
                (key, value) for key, value in zip(piece, values, strict=True) if value is not None
            )
            if len(keys) > BATCH_ROWS:
                breathe()
        return rows

    def _load(
        self,
        accounts: Sequence[str],
        records: Sequence[bytes],
        claims: Sequence[str],
        bucket: _Bucket,
    ) -> Loaded:
        account_keys = {ACCOUNT + number.encode(): number for number in accounts}
        record_keys = {PAYMENT + payment_id: payment_id for payment_id in records}
        claim_keys = {CLAIM + number.encode(): number for number in claims}
        head, rows = self._read(bucket, [*account_keys, *record_keys, *claim_keys])
        payments = {payment_id: rows[key] for key, payment_id in record_keys.items() if key in rows}
        return Loaded(
            head.header.applied,
            {each: decode_account(rows[key]) for key, each in account_keys.items() if key in rows},
            self._read_records(head.prefix, payments),
            {each: decode_claim(rows[key]) for key, each in claim_keys.items() if key in rows},
        )

    def _read_records(self, prefix: bytes, payments: dict[bytes, bytes]) -> dict[bytes, Record]:
        chunks: dict[int, list[Record]] = {}
        records: dict[bytes, Record] = {}
        for payment_id, row in payments.items():
            if len(row) != PLACE.size:
                record = decode_record(row)
            else:
                number, place = PLACE.unpack(row)
                if number not in chunks:
                    chunks[number] = decode_records(self._read_chunk(prefix, number))
                record = record_at(chunks[number], place, number)
            if record.payment_id != payment_id:
                raise CorruptData(
                    f"{self._files.path}: payment {payment_id.hex()} leads to another"
                )
            records[payment_id] = record
        return records

    def _read_chunk(self, prefix: bytes, number: int) -> bytes:
        return read_appended(self._files.database.get, prefix + CHUNK, number)

    def _postings(
        self, number: str, before: int, limit: int, bucket: _Bucket
    ) -> tuple[int, list[Posting]]:
        key = ACCOUNT + number.encode()
        head, rows = self._read(bucket, [key])
        if key not in rows:
            return head.header.applied, []
        account = decode_account(rows[key])
        last = before - 1 if before else account.sequence
        return head.header.applied, list(islice(self._walk_back(head.prefix, account, last), limit))

    def _walk_back(self, prefix: bytes, account: Account, last: int) -> Iterator[Posting]:
        """The account's postings from number `last` on, newest first."""
        chunk = account.chunk64 if last <= account.sequence // JUMP * JUMP else account.chunk
        while chunk:
            lines = [
                line
                for line in decode_lines(self._read_chunk(prefix, chunk))
                if line.posting.account == account.number
            ]
            if not lines:
                raise CorruptData(
                    f"{self._files.path}: chunk {chunk} has no posting of account {account.number!r}"
                )
            for line in reversed(lines):
                if line.posting.sequence <= last:
                    yield line.posting
            chunk = lines[0].previous
            for line in lines:
                if line.posting.sequence % JUMP == 0:
                    if last <= line.posting.sequence - JUMP:
                        chunk = line.jump
                    break

    def _resident(self, bucket: int) -> ResidentState:
        found = self._find(bucket)
        assert found is not None, "it was opened"
        head = found.head
        legs = [decode_legs(row) for _, row in self._scan(head.prefix + LEG)]
        incarnations = [decode_incarnation(row) for _, row in self._scan(head.prefix + INCARNATION)]
        return ResidentState(
            head.header.row(),
            {each.xid: each for each in legs},
            {each.incarnation: each for each in incarnations},
        )

    def _payment_ids(self, bucket: int, after: bytes, limit: int) -> list[bytes]:
        found = self._find(bucket)
        if found is None:
            return []
        rows = self._scan(found.head.prefix + PAYMENT, after)
        return list(islice((key for key, _ in rows if key != after), limit))

    def _scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return scan_prefix(self._files.database.iter(), prefix, start)

    # -- snapshots -----------------------------------------------------------------------------

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
        self._replace(bucket, batch)
        failpoint("account_db.install_after_commit")

    # -- threads -------------------------------------------------------------------------------

    async def _run(self, worker: "_Worker", work: Callable[[], _T]) -> _T:
        def mended() -> _T:
            if worker is self._writer and self._files.has_failed:
                self._mend()
            return work()

        return await worker.run(partial(self._files.translate, mended))

    def _mend(self) -> None:
        """After a failed write, go on from what the files say; what is in memory may be more than they hold."""
        with self._index_lock, self._lock:
            self._buckets.clear()
            self._files.open_anew()


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
