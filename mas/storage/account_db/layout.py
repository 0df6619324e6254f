"""Where the rows of `RocksAccountDB` are: keys, values, and how to read them from a database or a snapshot of it.

bucket 0          HEAD                        a `Head`
bucket generation ACCOUNT ... INCARNATION key a row, see `rows`
bucket generation CHUNK number                a chunk
bucket generation JOURNAL number              a piece of a flush's rows by their keys; nil deletes
bucket generation INDEXED                     an `Indexed`: which chunks and journals the index has
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from struct import Struct

import msgspec
from rocksdict import Rdict, RdictIter, Snapshot

from mas.decoding import msgpack_decoder
from mas.errors import CorruptData
from mas.ledger.rows import Record, WriteSet
from mas.storage.account_db import snapshot as snapshots
from mas.storage.account_db.rows import Table, decode_records, encode, has_outcome, unpack
from mas.storage.account_db.snapshot import Header, Rows
from mas.storage.account_db.writes import BATCH_ROWS, breathe, pieces

PREFIX = Struct(">IB")
"""Bucket and generation."""
NUMBER = Struct(">Q")
PLACE = Struct(">IB")
"""Where a settled record is: its chunk, and the place in it. Shorter than any record."""
NO_GENERATION, FIRST, SECOND, BEHIND = range(4)
"""Generations: none, which the head has; two that take turns; and what is behind them."""
ACCOUNT, PAYMENT, LEG, CLAIM, INCARNATION, CHUNK = (bytes((table,)) for table in Table)
HEAD, JOURNAL, INDEXED = b"\0", b"\x07", b"\x08"

IndexRows = dict[bytes, bytes | None]
"""Rows by table and key; None deletes."""
Get = Callable[[bytes], bytes | None]
"""Reads a value of a database, or of a snapshot of it."""


class Head(msgspec.Struct, frozen=True, array_like=True):
    """What of a bucket counts. Who wants to write must be its writer."""

    generation: int
    writer: bytes
    header: Header
    journals_end: int
    """The number of the next piece of the journal."""

    @property
    def prefix(self) -> bytes:
        """Of the keys of the bucket's rows."""
        return PREFIX.pack(self.header.bucket, self.generation)


class Indexed(msgspec.Struct, frozen=True, array_like=True):
    """The first chunk, and the first piece of the journal, that the index lacks."""

    chunks_end: int = 1
    journals_end: int = 1


_decode_head = msgpack_decoder(Head, "a bucket's head", CorruptData)
_decode_indexed = msgpack_decoder(Indexed, "an index's mark", CorruptData)
_decode_journal = msgpack_decoder(dict[bytes, bytes | None], "a journal", CorruptData)


def head_key(bucket: int) -> bytes:
    return PREFIX.pack(bucket, NO_GENERATION) + HEAD


def find_buckets(database: Rdict) -> Iterator[int]:
    """Buckets of which there are rows, ascending; whether there is a head that makes them count, `read_head` says."""
    scan = database.iter()
    scan.seek(PREFIX.pack(1, NO_GENERATION))
    while scan.valid():
        bucket, _ = PREFIX.unpack_from(scan.key())
        yield bucket
        scan.seek(PREFIX.pack(bucket, BEHIND))
    scan.status()


def drop_unfinished(database: Rdict, bucket: int) -> None:
    """Delete what an installation that never ended has left: rows of a generation that no head names."""
    head = read_head(database.get, bucket)
    for generation in (FIRST, SECOND):
        if head is None or head.generation != generation:
            begin, end = PREFIX.pack(bucket, generation), PREFIX.pack(bucket, generation + 1)
            scan = database.iter()
            scan.seek(begin)
            if scan.valid() and scan.key() < end:
                database.delete_range(begin, end)


def changed_rows(writes: WriteSet) -> Iterator[IndexRows]:
    """All rows but those that stand in chunks, in pieces."""
    for accounts in pieces(writes.accounts.values(), BATCH_ROWS):
        yield {ACCOUNT + account.number.encode(): encode(account) for account in accounts}
    others: Iterator[tuple[bytes, bytes | None]] = chain(
        (
            (PAYMENT + record.payment_id, encode(record))
            for record in writes.records.values()
            if not has_outcome(record)
        ),
        ((LEG + xid, None if legs is None else encode(legs)) for xid, legs in writes.legs.items()),
        ((CLAIM + number.encode(), encode(bucket)) for number, bucket in writes.claims.items()),
        ((INCARNATION + name, encode(row)) for name, row in writes.incarnations.items()),
    )
    for piece in pieces(others, BATCH_ROWS):
        yield dict(piece)


def places(number: int, records: Sequence[Record]) -> dict[bytes, bytes]:
    """The index's rows for the records of a chunk."""
    return {
        PAYMENT + record.payment_id: PLACE.pack(number, place)
        for place, record in enumerate(records)
    }


def record_at(records: list[Record], place: int, number: int) -> Record:
    if place >= len(records):
        raise CorruptData(
            f"chunk {number} has {len(records)} records, and one at {place} is wanted"
        )
    return records[place]


def snapshot_rows(frame: Rows) -> Iterator[tuple[bytes, bytes]]:
    """All rows that come of a snapshot's frame, chunks included."""
    match frame.table:
        case Table.ACCOUNT:
            for account in snapshots.decode_accounts(frame.data):
                yield ACCOUNT + account.number.encode(), encode(account)
        case Table.PAYMENT:
            for record in snapshots.decode_records(frame.data):
                yield PAYMENT + record.payment_id, encode(record)
        case Table.LEG:
            for legs in snapshots.decode_legs(frame.data):
                yield LEG + legs.xid, encode(legs)
        case Table.CLAIM:
            for number, bucket in snapshots.decode_claims(frame.data).items():
                yield CLAIM + number.encode(), encode(bucket)
        case Table.INCARNATION:
            for incarnation in snapshots.decode_incarnations(frame.data):
                yield INCARNATION + incarnation.incarnation, encode(incarnation)
        case Table.CHUNK:
            yield from _chunk_rows(frame.data)


def _chunk_rows(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    for number, chunk in snapshots.decode_chunks(data).items():
        yield CHUNK + NUMBER.pack(number), chunk
        yield from places(number, decode_records(chunk)).items()


def get_from(snapshot: Snapshot, key: bytes) -> bytes | None:
    """The value at this key, None where there is none."""
    try:
        value: bytes = snapshot[key]
    except Exception as error:
        if str(error) != "key not found":
            raise
        return None
    return value


def read_head(get: Get, bucket: int) -> Head | None:
    row = get(head_key(bucket))
    return None if row is None else _decode_head(row)


def read_unindexed(get: Get, head: Head) -> IndexRows:
    """What the index lacks: what was appended behind its mark."""
    row = get(head.prefix + INDEXED)
    indexed = Indexed() if row is None else _decode_indexed(row)
    rows: IndexRows = {}
    for number in range(indexed.journals_end, head.journals_end):
        journal = read_appended(get, head.prefix + JOURNAL, number)
        rows.update(_decode_journal(unpack(journal)))
        breathe()
    # Behind all of the journal: an outcome replaces what was undecided, and is never replaced.
    for number in range(indexed.chunks_end, head.header.chunks_end):
        chunk = read_appended(get, head.prefix + CHUNK, number)
        rows.update(places(number, decode_records(chunk)))
        breathe()
    return rows


def read_appended(get: Get, prefix: bytes, number: int) -> bytes:
    row = get(prefix + NUMBER.pack(number))
    if row is None:
        raise CorruptData(f"row {number} at {prefix.hex()} is missing")
    return row


def scan_prefix(
    scan: RdictIter, prefix: bytes, start: bytes = b""
) -> Iterator[tuple[bytes, bytes]]:
    """Rows under a prefix, from a key on; keys without the prefix."""
    scan.seek(prefix + start)
    rows = 0
    while scan.valid() and (key := scan.key()).startswith(prefix):
        yield key[len(prefix) :], scan.value()
        scan.next()
        rows += 1
        if rows % BATCH_ROWS == 0:
            breathe()
    scan.status()  # of an iterator that met damage, and just ends
