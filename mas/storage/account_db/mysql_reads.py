"""How a bucket's rows are read from MySQL: by their keys, or all of them in the order of a snapshot."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from mas.decoding import json_decoder
from mas.errors import CorruptData
from mas.ledger.rows import Account, Record
from mas.storage.account_db.mysql_statements import ROWS_PER_STATEMENT, hex_literal
from mas.storage.account_db.rows import (
    Chunk,
    Line,
    Table,
    decode_claim,
    decode_incarnation,
    decode_legs,
    encode,
    pack,
)
from mas.storage.account_db.snapshot import Rows
from mas.storage.account_db.writes import pieces

_ROWS_PER_FRAME = 250
_CHUNKS_PER_FRAME = 2

Found = Sequence[tuple[Any, ...]]
Run = Callable[[str], Awaitable[Found]]
"""Carries out a statement; the rows that it finds."""

decode_account = json_decoder(Account, "an account", CorruptData)
decode_record = json_decoder(Record, "a payment's record", CorruptData)
decode_lines = json_decoder(list[Line], "a chunk of postings", CorruptData)


async def find_rows(
    run: Run, bucket: int, table: str, key: str, keys: Sequence[bytes], *, column: str = "data"
) -> list[tuple[bytes, Any]]:
    """The rows of these keys that there are, with their keys."""
    found: list[tuple[bytes, Any]] = []
    for piece in pieces(keys, ROWS_PER_STATEMENT):
        wanted = ", ".join(map(hex_literal, piece))
        rows = await run(
            f"SELECT {key}, {column} FROM {table} WHERE bucket = {bucket} AND {key} IN ({wanted})"
        )
        found += [(row[0], row[1]) for row in rows]
    return found


async def read_frames(run: Run, bucket: int) -> AsyncIterator[Rows]:
    """All rows, as a snapshot has them: table by table, each in the order of its keys."""
    async for rows in _pages(run, bucket, "account_row", "number"):
        yield Rows(Table.ACCOUNT, encode([decode_account(row) for row in rows]))
    for table, key in (("payment_row", "place"), ("undecided_row", "payment_id")):
        async for rows in _pages(run, bucket, table, key):
            yield Rows(Table.PAYMENT, encode([decode_record(row) for row in rows]))
    async for rows in _pages(run, bucket, "leg_row", "xid"):
        yield Rows(Table.LEG, encode([decode_legs(row) for row in rows]))
    async for claims in _keyed_pages(run, bucket, "claim_row", "number"):
        homes = {number.decode(): decode_claim(row) for number, row in claims}
        yield Rows(Table.CLAIM, encode(homes))
    async for rows in _pages(run, bucket, "incarnation_row", "incarnation"):
        yield Rows(Table.INCARNATION, encode([decode_incarnation(row) for row in rows]))
    async for chunks in _keyed_pages(run, bucket, "chunk_row", "chunk", _CHUNKS_PER_FRAME):
        packed = {number: pack(encode(Chunk([], decode_lines(row)))) for number, row in chunks}
        yield Rows(Table.CHUNK, encode(packed))


async def _pages(run: Run, bucket: int, table: str, key: str) -> AsyncIterator[list[Any]]:
    async for page in _keyed_pages(run, bucket, table, key):
        yield [row for _, row in page]


async def _keyed_pages(
    run: Run, bucket: int, table: str, key: str, size: int = _ROWS_PER_FRAME
) -> AsyncIterator[list[tuple[Any, Any]]]:
    behind = ""
    while True:
        page = await run(
            f"SELECT {key}, data FROM {table} WHERE bucket = {bucket} {behind} ORDER BY {key} LIMIT {size}"
        )
        if not page:
            return
        yield [(row[0], row[1]) for row in page]
        last = page[-1][0]
        behind = f"AND {key} > {last if isinstance(last, int) else hex_literal(last)}"
