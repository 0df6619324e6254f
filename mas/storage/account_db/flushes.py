"""Flushes into a `RocksAccountDB`: what is appended, and the head that commits it."""

from collections.abc import Mapping

import msgspec
from rocksdict import WriteBatch

from mas.ledger.rows import Account, BucketRow, WriteSet
from mas.ledger.totals import Totals
from mas.runtime import failpoint
from mas.storage.account_db.buckets import Bucket, Buckets
from mas.storage.account_db.files import DatabaseFiles
from mas.storage.account_db.layout import (
    ACCOUNT,
    CHUNK,
    FIRST,
    JOURNAL,
    NUMBER,
    Head,
    changed_rows,
    head_key,
    places,
)
from mas.storage.account_db.rows import NewChunks, count_chunks, encode, pack
from mas.storage.account_db.snapshot import Header
from mas.storage.account_db.writes import BATCH_ROWS, BatchWriter, breathe, pieces

_PIECES_PER_BREATH = 4
_ACCOUNTS_PER_BREATH = 1_000


class Flushes:
    """Works in a thread of its own: one flush after the other."""

    def __init__(self, files: DatabaseFiles, buckets: Buckets) -> None:
        self._files = files
        self._buckets = buckets

    def take_over(self, bucket: int, writer: bytes) -> None:
        """Make this the bucket's writer (rule 25), and the bucket where there is none."""
        found = self._buckets.find(bucket)
        if found is None:
            header = Header.of(BucketRow(bucket), Totals(), chunks_end=1)
            head = Head(FIRST, writer, header, journals_end=1)
        else:
            head = msgspec.structs.replace(found.head, writer=writer)
        self._commit(head)
        self._buckets.put_head(head)

    def flush(self, writes: WriteSet, before: int, writer: bytes) -> bool:
        """Commit the write set, synced, if the applied index and the writer are these (rules 25, 26)."""
        self._files.check_room(self._files.owed_bytes())
        bucket = self._buckets.find(writes.bucket.bucket)
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
        self, writes: WriteSet, bucket: Bucket, chunks: NewChunks
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

    def _find_new(self, accounts: dict[str, Account], bucket: Bucket) -> list[str]:
        """The accounts that have no row yet. One that was posted to before has, and needn't be looked for."""
        new: list[str] = []
        for piece in pieces(accounts.values(), _ACCOUNTS_PER_BREATH):
            numbers = [account.number for account in piece if not account.chunk]
            keys = [ACCOUNT + number.encode() for number in numbers]
            with self._buckets.lock:
                found = bucket.find(keys)
            missing = [key for key in keys if key not in found]
            stored = self._buckets.get_many(bucket.head.prefix, missing)
            new += [key[len(ACCOUNT) :].decode() for key in missing if key not in stored]
            breathe()
        return new

    def _publish(
        self, bucket: Bucket, head: Head, rows: list[Mapping[bytes, bytes | None]]
    ) -> None:
        with self._buckets.lock:
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
