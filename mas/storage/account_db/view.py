"""A bucket at one moment, whoever writes to it: what a snapshot carries, and what is held against its totals."""

from collections.abc import Iterator
from functools import partial

import msgspec
from rocksdict import Snapshot

from mas.errors import CorruptData
from mas.storage.account_db.layout import (
    CHUNK,
    PAYMENT,
    PLACE,
    Head,
    get_from,
    places,
    read_appended,
    read_unindexed,
    scan_prefix,
)
from mas.storage.account_db.rows import Table, decode_records, encode
from mas.storage.account_db.snapshot import Rows
from mas.storage.account_db.writes import breathe, pieces

_ROWS_PER_FRAME = 250
_CHUNKS_PER_FRAME = 2


class View:
    """A bucket at one moment, whoever writes to it."""

    def __init__(self, snapshot: Snapshot, head: Head) -> None:
        self._snapshot = snapshot
        self._head = head
        self._unindexed = read_unindexed(partial(get_from, snapshot), head)
        self.header = head.header

    def frames(self) -> Iterator[Rows]:
        """All rows, as a snapshot has them: table by table, each in the order of its keys."""
        for table in Table:
            if table is not Table.CHUNK:
                yield from _frames(table, self._rows(bytes((table,))))
        for numbers in pieces(range(1, self.header.chunks_end), _CHUNKS_PER_FRAME):
            chunks = {number: self._read_chunk(number) for number in numbers}
            yield Rows(Table.CHUNK, encode(chunks))
            breathe()

    def check_places(self) -> None:
        """Check that the index leads to every settled record, and to nothing else. Raises `CorruptData`."""
        missing = sum(len(row) == PLACE.size for _, row in self._rows(PAYMENT))
        for number in range(1, self.header.chunks_end):
            for key, place in places(number, decode_records(self._read_chunk(number))).items():
                if self._read(key) != place:
                    payment_id = key[len(PAYMENT) :].hex()
                    raise CorruptData(f"the index doesn't lead to the record of {payment_id}")
                missing -= 1
            breathe()
        if missing:
            raise CorruptData(f"the index leads to {missing} records that aren't in the chunks")

    def _read_chunk(self, number: int) -> bytes:
        return read_appended(partial(get_from, self._snapshot), self._head.prefix + CHUNK, number)

    def _read(self, key: bytes) -> bytes | None:
        if key in self._unindexed:
            return self._unindexed[key]
        return get_from(self._snapshot, self._head.prefix + key)

    def _rows(self, table: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of a table in ascending order."""
        new = sorted(key for key in self._unindexed if key.startswith(table))
        following = iter(new)
        key = next(following, None)
        for stored, row in scan_prefix(self._snapshot.iter(), self._head.prefix + table):
            while key is not None and key < table + stored:
                yield from self._new_row(key, table)
                key = next(following, None)
            if key == table + stored:
                continue  # comes in the next round, as it is now
            yield stored, row
        while key is not None:
            yield from self._new_row(key, table)
            key = next(following, None)

    def _new_row(self, key: bytes, table: bytes) -> Iterator[tuple[bytes, bytes]]:
        row = self._unindexed[key]
        if row is not None:
            yield key[len(table) :], row


def _frames(table: Table, rows: Iterator[tuple[bytes, bytes]]) -> Iterator[Rows]:
    """A table's rows as a snapshot has them: as they are stored, in an array or a map of their keys."""
    for piece in pieces(rows, _ROWS_PER_FRAME):
        if table is Table.PAYMENT:
            piece = [(key, row) for key, row in piece if len(row) != PLACE.size]
        if table is Table.CLAIM:
            yield Rows(table, encode({key.decode(): msgspec.Raw(row) for key, row in piece}))
        elif piece:
            yield Rows(table, encode([msgspec.Raw(row) for _, row in piece]))
        breathe()
