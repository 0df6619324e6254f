"""The buckets of a `RocksAccountDB` as the last flushes left them: heads, and the rows that the index lacks.

What is in memory and what is in the index change in different threads. Whoever reads both holds them together by
`Buckets.read_steadily`.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from rocksdict import WriteBatch

from mas.errors import CorruptData
from mas.storage.account_db.files import DatabaseFiles
from mas.storage.account_db.layout import Head, IndexRows, read_head, read_unindexed
from mas.storage.account_db.writes import BATCH_ROWS, breathe, pieces

_KEYS_PER_READ = 32
"""Of one read, which holds the interpreter while the disk is waited for."""

_T = TypeVar("_T")


class Bucket:
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


class Buckets:
    """All buckets that were looked at since the files were opened, whichever thread looks."""

    def __init__(self, files: DatabaseFiles) -> None:
        self.lock = threading.Lock()
        """Held to look at a bucket, or to change it: head and rows in memory are of one moment."""
        self.index_lock = threading.Lock()
        """Held while rows of a bucket are written to the index, and to take a bucket or the database away from that."""
        self._files = files
        self._buckets: dict[int, Bucket] = {}

    def find(self, bucket: int) -> Bucket | None:
        """The bucket, read from the files where it was not yet; None where it isn't there."""
        with self.lock:
            found = self._buckets.get(bucket)
            if found is None:
                head = read_head(self._files.database.get, bucket)
                if head is None:
                    return None
                found = Bucket(head, read_unindexed(self._files.database.get, head))
                self._buckets[bucket] = found
            return found

    def everyone(self) -> tuple[Bucket, ...]:
        """Those looked at so far."""
        return tuple(self._buckets.values())

    def is_current(self, bucket: Bucket) -> bool:
        """Whether it is still what this object knows of the bucket."""
        return self._buckets.get(bucket.head.header.bucket) is bucket

    def put_head(self, head: Head) -> None:
        """The bucket has another head now, and the rows that it had."""
        with self.lock:
            bucket = self._buckets.get(head.header.bucket)
            if bucket is None:
                self._buckets[head.header.bucket] = Bucket(head, {})
            else:
                bucket.head = head

    def take_away(self, bucket: int, batch: WriteBatch) -> None:
        """Write what replaces or deletes the bucket's rows; nobody looks at them or writes to its index meanwhile."""
        with self.index_lock, self.lock:
            self._buckets.pop(bucket, None)
            self._files.write(batch)
            self._files.sync()

    def begin_anew(self) -> None:
        """After a failed write, go on from what the files say; what is in memory may be more than they hold."""
        with self.index_lock, self.lock:
            self._buckets.clear()
            self._files.open_anew()

    def read_steadily(self, bucket: int, read: Callable[[Bucket], _T]) -> _T | None:
        """What `read` returns of a bucket that nobody changed but by flushes; None where it isn't here.

        The index is changed by rows that were in memory, and by no others. So if none went there meanwhile, and the
        bucket is the same, then what `read` didn't find in memory is in the index as of the head that it saw.
        """
        while True:
            found = self.find(bucket)
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

    def _is_steady(self, bucket: Bucket, turns: int) -> bool:
        with self.lock:
            return self.is_current(bucket) and bucket.turns == turns

    def read(self, bucket: Bucket, keys: list[bytes]) -> tuple[Head, dict[bytes, bytes]]:
        """Rows, and the head of which they are."""
        with self.lock:
            head, found = bucket.head, bucket.find(keys)
        rows = {key: row for key, row in found.items() if row is not None}
        rows.update(self.get_many(head.prefix, [key for key in keys if key not in found]))
        return head, rows

    def get_many(self, prefix: bytes, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Rows of the index alone."""
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
