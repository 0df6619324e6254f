"""Brings the index of a `RocksAccountDB` to the present: behind the flushes, many of them at once."""

from itertools import islice

from mas.runtime import failpoint
from mas.storage.account_db.buckets import Bucket, Buckets
from mas.storage.account_db.files import DatabaseFiles
from mas.storage.account_db.layout import (
    BEHIND,
    INDEXED,
    JOURNAL,
    NUMBER,
    PREFIX,
    Indexed,
    head_key,
)
from mas.storage.account_db.rows import encode
from mas.storage.account_db.writes import BatchWriter, breathe

_ROWS_PER_BREATH = 4_000


class Index:
    """Works in a thread of its own."""

    def __init__(self, files: DatabaseFiles, buckets: Buckets) -> None:
        self._files = files
        self._buckets = buckets

    def catch_up(self) -> None:
        """Bring the index of every bucket to where its head is now."""
        for bucket in self._buckets.everyone():
            with self._buckets.index_lock:
                if not self._buckets.is_current(bucket):
                    continue
                if bucket.indexing:
                    self._write(bucket)
                with self._buckets.lock:
                    bucket.begin_turn()
                if bucket.indexing:
                    self._write(bucket)
        with self._buckets.index_lock:
            self._files.shrink_log()

    def _write(self, bucket: Bucket) -> None:
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
        with self._buckets.lock:
            indexed_rows, bucket.indexing = bucket.indexing, {}
        while indexed_rows:  # to let go of all of them at once takes milliseconds
            for key in list(islice(indexed_rows, _ROWS_PER_BREATH)):
                del indexed_rows[key]
            breathe()

    def reclaim(self, bucket: int) -> None:
        """Give back the room of what was deleted of the bucket."""
        with self._buckets.index_lock:
            self._files.reclaim(head_key(bucket), PREFIX.pack(bucket, BEHIND))
