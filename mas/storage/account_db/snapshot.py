"""A snapshot as a file (rule 28, snapshots): a header, and frames of rows, each with a checksum; the same from every engine.

    magic | frame: header | frame: rows | ... | frame: end

A frame is length (4 bytes) | crc32 (4) | msgpack. The header says what the rows are as of, and what they add up to; the end
says how many frames there were, so that a file that lacks its last ones is noticed. Both sides go through the file frame
by frame: memory doesn't grow with the bucket.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from struct import Struct
from typing import BinaryIO, Self
from zlib import crc32

import msgspec

from mas.decoding import Buffer, msgpack_decoder
from mas.errors import CorruptData
from mas.files import sync_directory
from mas.ledger.hashing import (
    HASH_MODULUS,
    account_digest,
    claim_digest,
    incarnation_digest,
    legs_digest,
    nodes_digest,
    posting_digest,
    record_digest,
)
from mas.ledger.rows import Account, BucketRow, Incarnation, NodeRow, PreparedLegs, Record
from mas.ledger.totals import Totals
from mas.raft import ConfState, SnapshotMetadata
from mas.storage.account_db.rows import Table, decode_chunk

_MAGIC = b"MAS snapshot 3\n"
_PREFIX = Struct(">II")
_FRAME_BYTES_MAX = 64 * 1024 * 1024


class StoredTotals(msgspec.Struct, frozen=True, array_like=True):
    """`Totals` but for the index. Sums are decimal text: they may have more than 64 bits."""

    balances: dict[str, str] = {}
    external: dict[str, str] = {}
    accounts: int = 0
    records: int = 0
    postings: int = 0

    @classmethod
    def of(cls, totals: Totals) -> Self:
        """To be stored."""
        return cls(
            {currency: str(amount) for currency, amount in sorted(totals.balances.items())},
            {currency: str(amount) for currency, amount in sorted(totals.external.items())},
            totals.accounts,
            totals.records,
            totals.postings,
        )

    def totals(self, applied: int) -> Totals:
        """What was stored as of this index. Raises `CorruptData`."""
        try:
            balances = {currency: int(amount) for currency, amount in self.balances.items()}
            external = {currency: int(amount) for currency, amount in self.external.items()}
        except ValueError as error:
            raise CorruptData(f"a total isn't a number: {error}") from error
        return Totals(applied, balances, external, self.accounts, self.records, self.postings)


class Header(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The bucket's own row and totals, read at the moment of which the rows are. `state_hash` is hexadecimal."""

    bucket: int
    applied: int
    term: int
    state_hash: str
    version: int
    cluster: str
    buckets: int
    epoch: int
    time_us: int
    members: bytes
    nodes: tuple[NodeRow, ...]
    nodes_index: int
    stored_totals: StoredTotals = StoredTotals()
    chunks_end: int = 1
    """The number of the next chunk; 0 is none."""

    @classmethod
    def of(cls, row: BucketRow, totals: Totals, chunks_end: int) -> Self:
        """The header of a snapshot of this bucket."""
        fields = msgspec.structs.asdict(row)
        fields["state_hash"] = format_hash(row.state_hash)
        return cls(**fields, stored_totals=StoredTotals.of(totals), chunks_end=chunks_end)

    def row(self) -> BucketRow:
        """The bucket's own row. Raises `CorruptData`."""
        fields = {name: getattr(self, name) for name in BucketRow.__struct_fields__}
        try:
            fields["state_hash"] = int(self.state_hash, 16)
        except ValueError as error:
            raise CorruptData(
                f"the state hash of bucket {self.bucket} isn't a number: {error}"
            ) from error
        return BucketRow(**fields)

    def totals(self) -> Totals:
        """What the rows add up to. Raises `CorruptData`."""
        return self.stored_totals.totals(self.applied)

    def metadata(self) -> SnapshotMetadata:
        """What Raft needs to know of the snapshot."""
        members = _decode_members(self.members) if self.members else ConfState()
        return SnapshotMetadata(self.applied, self.term, members)


class Rows(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Some rows of one table, as `_DECODERS` has them; of payments those that stand in no chunk."""

    table: Table
    data: bytes


class End(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """How many frames of rows stand before."""

    frames: int


_encode = msgspec.msgpack.Encoder().encode
_decode: Callable[[Buffer], Header | Rows | End] = msgpack_decoder(
    Header | Rows | End, "a frame", CorruptData
)
_decode_members = msgpack_decoder(ConfState, "a configuration", CorruptData)
decode_accounts = msgpack_decoder(list[Account], "a snapshot's accounts", CorruptData)
decode_records = msgpack_decoder(list[Record], "a snapshot's records", CorruptData)
decode_legs = msgpack_decoder(list[PreparedLegs], "a snapshot's prepared legs", CorruptData)
decode_claims = msgpack_decoder(dict[str, int], "a snapshot's claims", CorruptData)
decode_incarnations = msgpack_decoder(list[Incarnation], "a snapshot's incarnations", CorruptData)
decode_chunks = msgpack_decoder(dict[int, bytes], "a snapshot's chunks", CorruptData)


def write_snapshot(
    path: Path, header: Header, rows: Iterable[Rows], check_room: Callable[[int], None]
) -> None:
    """Write the file and sync it; under `path` it is whole or not at all.

    `check_room` is asked before so many bytes are written, and what it raises ends the file: how large it gets, nobody
    knows beforehand, and the disk is the Raft log's too.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        _write_all(partial, header, rows, check_room)
        partial.replace(path)
    except BaseException:
        # On a full disk the next try needs this file's room, and so does the log.
        partial.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _write_all(
    path: Path, header: Header, rows: Iterable[Rows], check_room: Callable[[int], None]
) -> None:
    frames = 0
    with path.open("wb") as file:
        file.write(_MAGIC)
        _write_frame(file, header)
        for frame in rows:
            check_room(len(frame.data))
            _write_frame(file, frame)
            frames += 1
        _write_frame(file, End(frames))
        file.flush()
        os.fsync(file.fileno())


def read_header(path: Path) -> Header:
    """Read what the snapshot is of. Raises `CorruptData`."""
    with path.open("rb") as file:
        return _read_header(path, file)


def read_rows(path: Path) -> Iterator[Rows]:
    """Every frame of rows; raises `CorruptData` where one is damaged or the end is missing."""
    with path.open("rb") as file:
        _read_header(path, file)
        frames = 0
        while isinstance(frame := _read_frame(path, file), Rows):
            frames += 1
            yield frame
        if frame != End(frames) or file.read(1):
            raise CorruptData(
                f"snapshot {path} has {frames} frames, then {frame}, then more or less"
            )


def check_snapshot(path: Path) -> Header:
    """Verify the checksums, and that the rows have the state hash and the totals that the header names.

    Raises:
        CorruptData: they haven't, or the file is damaged. Fetch another.
    """
    header = read_header(path)
    try:
        check_rows(header, read_rows(path))
    except CorruptData as error:
        raise CorruptData(
            f"snapshot {path} of bucket {header.bucket} at index {header.applied} isn't what its header says: {error}. "
            "It was damaged, or its sender's state is: fetch another"
        ) from error
    return header


def check_rows(header: Header, rows: Iterable[Rows]) -> None:
    """Read all rows of a bucket, and hold them to its state hash and totals. Raises `CorruptData`."""
    state_hash = nodes_digest(header.nodes, header.nodes_index)
    totals = Totals(header.applied)
    for frame in rows:
        state_hash += _add_rows(totals, header, frame)
    found = format_hash(state_hash % HASH_MODULUS)
    if found != header.state_hash:
        raise CorruptData(f"the state hash is {header.state_hash}, and the rows have {found}")
    if totals != header.totals():
        raise CorruptData(f"the totals are {header.totals()}, and the rows have {totals}")


def format_hash(state_hash: int) -> str:
    """A state hash as it is stored and shown: no database has integers of 128 bits."""
    return f"{state_hash:032x}"


def _add_rows(totals: Totals, header: Header, frame: Rows) -> int:
    """Add the rows to the totals; the sum of their digests."""
    match frame.table:
        case Table.ACCOUNT:
            accounts = decode_accounts(frame.data)
            for account in accounts:
                totals.add_account(account, account.balance)
            return sum(map(account_digest, accounts))
        case Table.PAYMENT:
            records = decode_records(frame.data)
            totals.add_records(records)
            return sum(map(record_digest, records))
        case Table.LEG:
            return sum(map(legs_digest, decode_legs(frame.data)))
        case Table.CLAIM:
            return sum(claim_digest(*claim) for claim in decode_claims(frame.data).items())
        case Table.INCARNATION:
            return sum(map(incarnation_digest, decode_incarnations(frame.data)))
        case Table.CHUNK:
            chunks = decode_chunks(frame.data)
            return sum(_add_chunk(totals, header, *chunk) for chunk in chunks.items())


def _add_chunk(totals: Totals, header: Header, number: int, data: bytes) -> int:
    if not 0 < number < header.chunks_end:
        raise CorruptData(f"there is a chunk {number}, and the next one is {header.chunks_end}")
    chunk = decode_chunk(data)
    totals.add_records(chunk.records)
    totals.postings += len(chunk.lines)
    digest = sum(map(record_digest, chunk.records))
    return digest + sum(posting_digest(line.posting) for line in chunk.lines)


def _write_frame(file: BinaryIO, frame: Header | Rows | End) -> None:
    payload = _encode(frame)
    file.write(_PREFIX.pack(len(payload), crc32(payload)))
    file.write(payload)


def _read_header(path: Path, file: BinaryIO) -> Header:
    if file.read(len(_MAGIC)) != _MAGIC:
        raise CorruptData(f"{path} isn't a snapshot of this version of MAS")
    header = _read_frame(path, file)
    if not isinstance(header, Header):
        raise CorruptData(
            f"snapshot {path} begins with {type(header).__name__}, not with its header"
        )
    return header


def _read_frame(path: Path, file: BinaryIO) -> Header | Rows | End:
    prefix = file.read(_PREFIX.size)
    if len(prefix) == _PREFIX.size:
        size, checksum = _PREFIX.unpack(prefix)
        payload = file.read(size) if size <= _FRAME_BYTES_MAX else b""
        if len(payload) == size and crc32(payload) == checksum:
            return _decode(payload)
    raise CorruptData(f"snapshot {path} is damaged or cut off before byte {file.tell()}")
