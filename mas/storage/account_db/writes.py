"""Writes to RocksDB that leave the loop's thread its time, and how a thread that works on many rows does.

RocksDB's Python binding holds the interpreter in every call but a sync: a write of many rows, and one that RocksDB makes
wait, would hold up the whole process.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from rocksdict import Rdict, WriteBatch, WriteOptions

_T = TypeVar("_T")

BATCH_ROWS = 250
_BATCH_BYTES = 128 * 1024
"""Of one write, which holds the interpreter for about 1 µs a row, and for as long as it takes to copy the bytes."""
_BREATH_SECONDS = 0.0001
"""Between two of them: long enough for the loop's thread, if it waits for the interpreter, to take it."""


class BatchWriter:
    """Rows in writes of a bounded size, so that the loop's thread has the interpreter between two."""

    def __init__(self, write: Callable[[WriteBatch], None]) -> None:
        self._write = write
        self._batch = WriteBatch(raw_mode=True)

    def put(self, key: bytes, value: bytes) -> None:
        """Write this row with the others; in the order of the calls."""
        self._batch.put(key, value)
        self._end_if_full()

    def delete(self, key: bytes) -> None:
        """Likewise."""
        self._batch.delete(key)
        self._end_if_full()

    def delete_range(self, begin: bytes, end: bytes) -> None:
        """Likewise, of all rows from `begin` and before `end`."""
        self._batch.delete_range(begin, end)

    def end(self) -> None:
        """Write what is left."""
        if self._batch.len():
            self._write(self._batch)
            self._batch = WriteBatch(raw_mode=True)

    def _end_if_full(self) -> None:
        batch = self._batch
        if batch.len() >= BATCH_ROWS or batch.size_in_bytes() >= _BATCH_BYTES:
            self.end()
            breathe()


def try_write(database: Rdict, batch: WriteBatch) -> bool:
    """False where RocksDB would have made it wait, with the interpreter held: nothing is written then."""
    try:
        database.write(batch, _NO_SLOWDOWN)
    except Exception as error:
        if "Incomplete" not in str(error):
            raise
        return False
    return True


def breathe(seconds: float = _BREATH_SECONDS) -> None:
    """Let the loop's thread have the interpreter, in a thread that works on many rows."""
    time.sleep(seconds)  # noqa: TID251 - never in the loop's thread


def pieces(rows: Iterable[_T], size: int) -> Iterator[list[_T]]:
    iterator = iter(rows)
    while piece := list(islice(iterator, size)):
        yield piece


_NO_SLOWDOWN = WriteOptions()
_NO_SLOWDOWN.no_slowdown = True
