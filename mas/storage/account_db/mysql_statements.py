"""The statements that write a bucket's rows to MySQL, many rows in each, made in a thread.

Whatever stands in one is a number of ours or the hexadecimal digits of bytes, so there is nothing to quote. (The driver would
put values into the text too, one by one and on the loop.)
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from mas.ledger.rows import Account, Record, WriteSet
from mas.ledger.totals import Totals
from mas.runtime import failpoint
from mas.storage.account_db import snapshot as snapshots
from mas.storage.account_db.mysql_schema import ROWS
from mas.storage.account_db.rows import (
    Chunk,
    NewChunks,
    Table,
    decode_chunk,
    encode,
    has_outcome,
)
from mas.storage.account_db.snapshot import Header, Rows
from mas.storage.account_db.writes import breathe, pieces

ROWS_PER_STATEMENT = 250
NOBODY = b""
"""The writer of a bucket whose rows have just been swapped: no flush of anybody's is conditional on it."""

_to_json = msgspec.json.Encoder().encode


def hex_literal(data: bytes) -> str:
    return f"x'{data.hex()}'"


def _text(row: object) -> str:
    return f"_utf8mb4 {hex_literal(_to_json(row))}"


def _put(verb: str, table: str, rows: Iterable[str]) -> Iterator[str]:
    """Statements that write these rows, each in parentheses but for its bucket."""
    for piece in pieces(list(rows), ROWS_PER_STATEMENT):
        yield f"{verb} INTO {table} VALUES {', '.join(piece)}"
        breathe()


def _delete(table: str, key: str, bucket: int, keys: Iterable[bytes]) -> Iterator[str]:
    for piece in pieces(list(keys), ROWS_PER_STATEMENT):
        yield f"DELETE FROM {table} WHERE bucket = {bucket} AND {key} IN ({', '.join(map(hex_literal, piece))})"


def put_bucket_row(header: Header, writer: bytes, payments_end: int) -> str:
    return (
        f"REPLACE INTO bucket VALUES ({header.bucket}, {header.applied}, {hex_literal(writer)}, {payments_end}, "
        f"{hex_literal(encode(header))})"
    )


def flush_statements(
    writes: WriteSet, chunks: NewChunks, totals: Totals, writer: bytes, payments_end: int
) -> Iterator[str]:
    """All that a flush writes; the bucket's own row is the last, when the totals are known."""
    bucket = writes.bucket.bucket
    for number, chunk in chunks.cut():
        totals.add_records(chunk.records)
        yield from _chunk_statements(bucket, number, chunk, payments_end)
        payments_end += len(chunk.records)
    for postings in pieces(writes.postings, ROWS_PER_STATEMENT):
        totals.add_postings(postings, writes.accounts)
        breathe()
    yield from _account_statements(bucket, writes.accounts.values())
    records = writes.records.values()
    yield from _delete(
        "undecided_row",
        "payment_id",
        bucket,
        [each.payment_id for each in records if has_outcome(each)],
    )
    yield from _undecided_statements(bucket, [each for each in records if not has_outcome(each)])
    settled = [xid for xid, legs in writes.legs.items() if legs is None]
    yield from _delete("leg_row", "xid", bucket, settled)
    legs = {xid: encode(legs) for xid, legs in writes.legs.items() if legs is not None}
    yield from _blob_statements("leg_row", bucket, legs)
    claims = {number.encode(): encode(home) for number, home in writes.claims.items()}
    yield from _blob_statements("claim_row", bucket, claims)
    incarnations = {key: encode(row) for key, row in writes.incarnations.items()}
    yield from _blob_statements("incarnation_row", bucket, incarnations)
    header = Header.of(writes.bucket, totals, chunks.end)
    yield put_bucket_row(header, writer, payments_end)


def install_statements(bucket: int, path: Path) -> Iterator[str]:
    header = snapshots.read_header(path)
    assert header.bucket == bucket, "check() comes before install()"
    for table in ROWS:
        yield f"DELETE FROM {table} WHERE bucket = {bucket}"
    failpoint("account_db.install_emptied")
    payments_end = 0
    for frame in snapshots.read_rows(path):
        records: list[Record] = []
        match frame.table:
            case Table.PAYMENT:
                records = snapshots.decode_records(frame.data)
                yield from _payment_statements(
                    bucket, [each for each in records if has_outcome(each)], payments_end
                )
                yield from _undecided_statements(
                    bucket, [each for each in records if not has_outcome(each)]
                )
            case Table.CHUNK:
                for number, data in snapshots.decode_chunks(frame.data).items():
                    chunk = decode_chunk(data)
                    place = payments_end + len(records)
                    yield from _chunk_statements(bucket, number, chunk, place)
                    records += chunk.records
            case _:
                yield from _other_statements(bucket, frame)
        payments_end += sum(map(has_outcome, records))
        failpoint("account_db.install_rows")
    yield put_bucket_row(header, NOBODY, payments_end)


def _other_statements(bucket: int, frame: Rows) -> Iterator[str]:
    match frame.table:
        case Table.ACCOUNT:
            yield from _account_statements(bucket, snapshots.decode_accounts(frame.data))
        case Table.LEG:
            legs = {each.xid: encode(each) for each in snapshots.decode_legs(frame.data)}
            yield from _blob_statements("leg_row", bucket, legs)
        case Table.CLAIM:
            claims = snapshots.decode_claims(frame.data)
            rows = {number.encode(): encode(home) for number, home in claims.items()}
            yield from _blob_statements("claim_row", bucket, rows)
        case Table.INCARNATION:
            remembered = snapshots.decode_incarnations(frame.data)
            rows = {each.incarnation: encode(each) for each in remembered}
            yield from _blob_statements("incarnation_row", bucket, rows)
        case _:
            raise AssertionError(f"table {frame.table} has statements of its own")


def _chunk_statements(bucket: int, number: int, chunk: Chunk, place: int) -> Iterator[str]:
    yield from _payment_statements(bucket, chunk.records, place)
    yield from _put("INSERT", "chunk_row", [f"({bucket}, {number}, {_text(chunk.lines)})"])


def _payment_statements(bucket: int, records: Sequence[Record], place: int) -> Iterator[str]:
    return _put(
        "INSERT",
        "payment_row",
        [
            f"({bucket}, {place + i}, {hex_literal(record.payment_id)}, {_text(record)})"
            for i, record in enumerate(records)
        ],
    )


def _undecided_statements(bucket: int, records: Sequence[Record]) -> Iterator[str]:
    return _put(
        "REPLACE",
        "undecided_row",
        (f"({bucket}, {hex_literal(record.payment_id)}, {_text(record)})" for record in records),
    )


def _account_statements(bucket: int, accounts: Iterable[Account]) -> Iterator[str]:
    rows = (f"({bucket}, {hex_literal(each.number.encode())}, {_text(each)})" for each in accounts)
    return _put("REPLACE", "account_row", rows)


def _blob_statements(table: str, bucket: int, rows: dict[bytes, bytes]) -> Iterator[str]:
    return _put(
        "REPLACE",
        table,
        (f"({bucket}, {hex_literal(key)}, {hex_literal(row)})" for key, row in rows.items()),
    )
