"""A snapshot as a file (rule 28): a header, and frames of rows, each with a checksum; the same from every engine.

    magic | frame: header | frame: rows | ... | frame: end

A frame is length (4 bytes) | crc32 (4) | msgpack. The header says what the rows are as of; the end says how many there
were, so that a file that lacks its last frames is noticed. Rows are JSON objects as `account_db_rows` describes them.
Both sides go through the file frame by frame: memory doesn't grow with the bucket.
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
from mas.ledger.hashing import HASH_MODULUS, nodes_digest
from mas.ledger.rows import BucketRow, NodeRow
from mas.raft import ConfState, SnapshotMetadata
from mas.storage.account_db_rows import Table, digest_rows

_MAGIC = b"MAS snapshot 2\n"
_PREFIX = Struct(">II")
_FRAME_BYTES_MAX = 64 * 1024 * 1024


class Header(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The bucket's own row, read in the transaction that read the rows. `state_hash` is hexadecimal."""

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

    @classmethod
    def of(cls, row: BucketRow) -> Self:
        """The header of a snapshot of this bucket."""
        fields = msgspec.structs.asdict(row)
        return cls(**{**fields, "state_hash": format_hash(row.state_hash)})

    def metadata(self) -> SnapshotMetadata:
        """What Raft needs to know of the snapshot."""
        members = _decode_members(self.members) if self.members else ConfState()
        return SnapshotMetadata(self.applied, self.term, members)


class Rows(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Some rows of one table, as a JSON object."""

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
        partial.unlink(
            missing_ok=True
        )  # on a full disk the next try needs its room, and so does the log
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
    """What the snapshot is of. Raises `CorruptData`."""
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
    """Verify the checksums, and that the rows have the state hash that the header names.

    Raises:
        CorruptData: they haven't, or the file is damaged. Fetch another.
    """
    header = read_header(path)
    total = nodes_digest(header.nodes, header.nodes_index)
    for frame in read_rows(path):
        try:
            total += digest_rows(frame.table, frame.data)[0]
        except CorruptData as error:
            raise CorruptData(f"snapshot {path} has rows that can't be read: {error}") from error
    found = format_hash(total % HASH_MODULUS)
    if found != header.state_hash:
        raise CorruptData(
            f"snapshot {path} of bucket {header.bucket} at index {header.applied} says its state hash is "
            f"{header.state_hash}; its rows have {found}. It was damaged, or its sender's state is: fetch another"
        )
    return header


def format_hash(state_hash: int) -> str:
    """A state hash as it is stored and shown: no database has integers of 128 bits."""
    return f"{state_hash:032x}"


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
