"""A bucket's rows as the AccountDB holds them: each is one JSON text under its key, and postings travel in chunks.

    account      number        an `Account`
    payment      payment_id    a `Record`
    leg          xid           `PreparedLegs`
    claim        number        the bucket that holds the number
    incarnation  incarnation   an `Incarnation`
    chunk        chunk         {number: [previous chunk, chunk of the last 64th before, [its postings, ascending]]}

JSON, because one statement can then take a thousand rows apart in the database (`json_each`, `JSON_TABLE`), where a
parameter a row would cost an interpreter's turn each; and what msgspec writes of a row is read back as the same row.
Bytes are base64, which is how msgspec writes them: nothing is converted a row.

A chunk's number is the applied index of its flush, and its place in it: a flush that is tried again makes the same chunks.
"""

from collections.abc import Iterator, Mapping
from enum import IntEnum
from itertools import islice, starmap
from typing import TypeVar

import msgspec

from mas.decoding import json_decoder
from mas.errors import CorruptData
from mas.ledger.hashing import (
    account_digest,
    claim_digest,
    incarnation_digest,
    legs_digest,
    posting_digest,
    record_digest,
)
from mas.ledger.rows import Account, Incarnation, Posting, PreparedLegs, Record, WriteSet

ROWS_PER_STATEMENT_MAX = 1_000
"""Rows in one text: to encode it holds the interpreter for well under a millisecond."""
POSTINGS_PER_CHUNK_MAX = 1_000
JUMP = 64
"""Postings that a statement's reader may skip at once."""
_PLACE_BITS = 16

_K = TypeVar("_K")
_V = TypeVar("_V")

_Group = tuple[int, int, list[Posting]]
Chunk = dict[str, _Group]
"""One account's postings in a chunk stand together, with the chunks of those before them."""

encode_json = msgspec.json.Encoder().encode


class Table(IntEnum):
    """The tables that hold a bucket's rows, in the order in which a snapshot carries them."""

    ACCOUNT = 1
    PAYMENT = 2
    LEG = 3
    CLAIM = 4
    INCARNATION = 5
    CHUNK = 6


_decode_accounts = json_decoder(dict[str, Account], "a snapshot's rows", CorruptData)
_decode_records = json_decoder(dict[bytes, Record], "a snapshot's rows", CorruptData)
_decode_legs = json_decoder(dict[bytes, PreparedLegs], "a snapshot's rows", CorruptData)
_decode_claims = json_decoder(dict[str, int], "a snapshot's rows", CorruptData)
_decode_incarnations = json_decoder(dict[bytes, Incarnation], "a snapshot's rows", CorruptData)
_decode_chunks = json_decoder(dict[int, Chunk], "a snapshot's rows", CorruptData)


class ChunkRow(msgspec.Struct, frozen=True):
    """A chunk to be written."""

    number: int
    postings: int
    data: str


class NewChunks:
    """A write set's postings cut into chunks, and its accounts linked to them."""

    def __init__(self, writes: WriteSet) -> None:
        self._writes = writes
        self._chunks: list[Chunk] = []

    def cut(self) -> Iterator[ChunkRow]:
        """The chunks, each made when it is asked for: no more of them than a statement holds the interpreter.

        Sets `chunk` and `chunk64` of the accounts; `undo` takes it back if the flush fails.
        """
        first = self._writes.bucket.applied << _PLACE_BITS
        assert len(self._writes.postings) < POSTINGS_PER_CHUNK_MAX << _PLACE_BITS
        for place, postings in enumerate(_cut(self._writes.postings, POSTINGS_PER_CHUNK_MAX)):
            chunk = self._link(first + place, postings)
            yield ChunkRow(first + place, len(postings), encode_json(chunk).decode())

    def undo(self) -> None:
        """Link the accounts as they were: the next try begins with that."""
        for chunk in reversed(self._chunks):
            for number, (previous, previous64, _) in chunk.items():
                account = self._writes.accounts[number]
                account.chunk, account.chunk64 = previous, previous64

    def _link(self, number: int, postings: list[Posting]) -> Chunk:
        accounts = self._writes.accounts
        chunk: Chunk = {}
        self._chunks.append(chunk)
        for posting in postings:
            group = chunk.get(posting.account)
            if group is not None:
                group[2].append(posting)
            else:
                account = accounts[posting.account]
                chunk[posting.account] = (account.chunk, account.chunk64, [posting])
                account.chunk = number
            if posting.sequence % JUMP == 0:
                accounts[posting.account].chunk64 = number
        return chunk


def pieces(rows: Mapping[_K, _V]) -> Iterator[str]:
    """These rows as JSON objects of at most `ROWS_PER_STATEMENT_MAX` rows each."""
    if len(rows) <= ROWS_PER_STATEMENT_MAX:
        if rows:
            yield encode_json(rows).decode()
        return
    items = iter(rows.items())
    while piece := dict(islice(items, ROWS_PER_STATEMENT_MAX)):
        yield encode_json(piece).decode()


def digest_rows(table: Table, rows: bytes) -> tuple[int, int]:
    """(sum of the digests, count) of these rows, a JSON object; a chunk counts as its postings.

    Raises:
        CorruptData: they aren't rows of this table.
    """
    digests = list(_digests(table, rows))
    return sum(digests), len(digests)


def _digests(table: Table, rows: bytes) -> Iterator[int]:
    match table:
        case Table.ACCOUNT:
            return map(account_digest, _decode_accounts(rows).values())
        case Table.PAYMENT:
            return map(record_digest, _decode_records(rows).values())
        case Table.LEG:
            return map(legs_digest, _decode_legs(rows).values())
        case Table.CLAIM:
            return starmap(claim_digest, _decode_claims(rows).items())
        case Table.INCARNATION:
            return map(incarnation_digest, _decode_incarnations(rows).values())
        case Table.CHUNK:
            groups = (group for chunk in _decode_chunks(rows).values() for group in chunk.values())
            return (posting_digest(posting) for _, _, postings in groups for posting in postings)


def _cut(postings: list[Posting], size: int) -> Iterator[list[Posting]]:
    for start in range(0, len(postings), size):
        yield postings[start : start + size]
