"""How an AccountDB holds a bucket's rows: the tables, and the chunks in which settled records and postings lie.

    account      number        an `Account`
    payment      payment_id    where the payment's record is: its chunk and the place in it; or an undecided `Record` itself
    leg          xid           `PreparedLegs`
    claim        number        the bucket that holds the number
    incarnation  incarnation   an `Incarnation`
    chunk        chunk         a `Chunk`, compressed

A record with an outcome and a posting never change, so a flush appends them, many in a chunk, and no compaction has to sort
them; what is at a random key is short. An ABORTED record is no outcome and may change, so it stands at its own key.

An account names the chunk of its last posting, and each posting the chunk of the one before it: a statement reads backwards
from there. Postings whose number divides by 64 name the chunk of the last one that did, so that an old page isn't reached
through all that came since.
"""

import zlib
from collections.abc import Iterator
from enum import IntEnum
from itertools import islice

import msgspec

from mas.decoding import Buffer, msgpack_decoder
from mas.errors import CorruptData
from mas.ledger.instructions import Code
from mas.ledger.rows import Account, Incarnation, Posting, PreparedLegs, Record, WriteSet

RECORDS_PER_CHUNK = 128
POSTINGS_PER_CHUNK = 256
"""Few enough that encoding a chunk holds the interpreter for a fraction of a millisecond, and that reading one line of it
costs little more."""
JUMP = 64
"""Postings that a statement's reader may skip at once."""
_CHUNK_BYTES_MAX = 64 * 1024 * 1024
"""Of a chunk, unpacked: what claims to be more is damaged."""
_RAW_DEFLATE = -zlib.MAX_WBITS
"""Without zlib's own header and checksum: engines and snapshots have theirs."""

encode = msgspec.msgpack.Encoder().encode


class Table(IntEnum):
    """The tables that hold a bucket's rows, in the order in which a snapshot carries them."""

    ACCOUNT = 1
    PAYMENT = 2
    LEG = 3
    CLAIM = 4
    INCARNATION = 5
    CHUNK = 6


class Line(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A posting in its chunk."""

    posting: Posting
    previous: int
    """The chunk of the account's posting before; 0 before the first."""
    jump: int
    """Where the posting's number divides by 64: the chunk of the last one before it that did. 0 elsewhere."""


class Chunk(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Records with an outcome and postings, in the order in which a flush brought them."""

    records: list[Record]
    lines: list[Line]


class _RecordsOnly(msgspec.Struct, array_like=True):
    records: list[Record]


class _LinesOnly(msgspec.Struct, array_like=True):
    records: msgspec.Raw
    lines: list[Line]


_decode_chunk = msgpack_decoder(Chunk, "a chunk", CorruptData)
_decode_records = msgpack_decoder(_RecordsOnly, "a chunk of records", CorruptData)
_decode_lines = msgpack_decoder(_LinesOnly, "a chunk of postings", CorruptData)
decode_account = msgpack_decoder(Account, "an account", CorruptData)
decode_record = msgpack_decoder(Record, "a payment's record", CorruptData)
decode_legs = msgpack_decoder(PreparedLegs, "prepared legs", CorruptData)
decode_claim = msgpack_decoder(int, "a claim", CorruptData)
decode_incarnation = msgpack_decoder(Incarnation, "an incarnation", CorruptData)


def pack(data: bytes) -> bytes:
    """Compress; zlib gives up the interpreter meanwhile."""
    return zlib.compress(data, level=1, wbits=_RAW_DEFLATE)


def unpack(data: Buffer) -> bytes:
    """What `pack` was given. Raises `CorruptData`."""
    unpacker = zlib.decompressobj(_RAW_DEFLATE)
    try:
        unpacked = unpacker.decompress(data, _CHUNK_BYTES_MAX)
    except zlib.error as error:
        raise CorruptData(f"{len(data)} compressed bytes can't be read: {error}") from error
    if not unpacker.eof:
        raise CorruptData(f"{len(data)} compressed bytes are cut off, or far too many")
    return unpacked


def decode_chunk(data: Buffer) -> Chunk:
    """The chunk as it was written. Raises `CorruptData`."""
    return _decode_chunk(unpack(data))


def decode_records(data: Buffer) -> list[Record]:
    """A chunk's records alone, in half the time. Raises `CorruptData`."""
    return _decode_records(unpack(data)).records


def decode_lines(data: Buffer) -> list[Line]:
    """A chunk's postings alone, in half the time. Raises `CorruptData`."""
    return _decode_lines(unpack(data)).lines


def has_outcome(record: Record) -> bool:
    """Whether the record never changes again (rule 6)."""
    return record.outcome is not Code.ABORTED


class NewChunks:
    """A write set's records and postings cut into chunks, and its accounts linked to them."""

    def __init__(self, writes: WriteSet, first: int) -> None:
        """The chunks are numbered from `first`, so that a flush that is tried again makes the same ones."""
        self.end = first
        """The number behind the last chunk that was made."""
        self._first = first
        self._records = filter(has_outcome, writes.records.values())
        self._postings = iter(writes.postings)
        self._accounts = writes.accounts
        self._links_before: list[tuple[Account, int, int]] = []

    def cut(self) -> Iterator[tuple[int, Chunk]]:
        """The chunks with their numbers, each made when it is asked for.

        Sets `chunk` and `chunk64` of the accounts; `undo` takes it back if the flush fails.
        """
        while True:
            records = list(islice(self._records, RECORDS_PER_CHUNK))
            postings = list(islice(self._postings, POSTINGS_PER_CHUNK))
            if not records and not postings:
                return
            number = self.end
            self.end += 1
            yield number, Chunk(records, self._link(number, postings))

    def undo(self) -> None:
        """Link the accounts as they were: the next try begins with that."""
        for account, chunk, chunk64 in self._links_before:
            account.chunk, account.chunk64 = chunk, chunk64
        self._links_before.clear()

    def _link(self, number: int, postings: list[Posting]) -> list[Line]:
        accounts, first = self._accounts, self._first
        lines = []
        for posting in postings:
            account = accounts[posting.account]
            previous, jump = account.chunk, 0
            if previous < first:
                self._links_before.append((account, previous, account.chunk64))
            if not posting.sequence % JUMP:
                jump, account.chunk64 = account.chunk64, number
            account.chunk = number
            lines.append(Line(posting, previous, jump))
        return lines


def count_chunks(writes: WriteSet) -> int:
    """How many chunks this write set makes."""
    records = sum(map(has_outcome, writes.records.values()))
    return max(-(-records // RECORDS_PER_CHUNK), -(-len(writes.postings) // POSTINGS_PER_CHUNK))
