"""What a database of ours can't leave to RocksDB: a look at its files before it opens them, and how far they were synced.

RocksDB forgives a torn tail, and takes more than that for one: a damaged length makes it drop every record behind it,
and a zeroed header the rest of its block. A damaged record type lets it spin for ever, in all of its recovery modes.
So the files are walked first, and a mark beside them tells whether their end is missing.

The files' format (write-ahead logs and manifest): blocks of 32 KiB; each record in one block, or in pieces with one in
each; a piece is crc (4 bytes) | length (2) | type (1) | data, little-endian. A record of a write-ahead log is a batch,
and begins with the number of its first change (8) and their count (4).
See https://github.com/facebook/rocksdb/wiki/Write-Ahead-Log-File-Format.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import NamedTuple
from zlib import crc32

from mas.errors import CorruptData

_log = logging.getLogger(__name__)

_BLOCK_BYTES = 32 * 1024
_PIECE_HEADER = Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = range(1, 5)
_RECYCLED = frozenset((5, 6, 7, 8, 11, 131))
"""Types in files that are used again, which none is here. RocksDB never ends reading one of another file."""
_BATCH_HEADER = Struct("<QI")
_MARK = Struct(">QI")


class _Piece(NamedTuple):
    kind: int
    start: bytes
    """Its first bytes, as many as a batch's header has."""
    at: int
    """Where it stands in its file."""
    possible: bool
    """Whether its header can be that of a piece."""


def check_files(path: Path) -> None:
    """Check that RocksDB can be trusted to open the database in this directory.

    A torn last record is fine, and so is garbage behind it; whether checksums are right is RocksDB's to say.

    Raises:
        CorruptData: a file holds what no torn write leaves behind.
        OSError: a file can't be read.
    """
    if not (path / "CURRENT").exists() and any(path.glob("*.sst")):
        # RocksDB would make a new database, and delete the files of the old one.
        raise CorruptData("there are files of a database, and CURRENT, which names them, is gone")
    following: int | None = None
    for file in sorted(filter(_is_numbered, path.glob("*.log")), key=_number):
        following = _check_log(file, following)
    for file in path.glob("MANIFEST-*"):
        for piece in _pieces(file):
            if not piece.possible:
                raise _impossible(file, piece)


def _check_log(file: Path, following: int | None) -> int | None:
    """`following` is the number that the first change has to have, and returned that of the one behind the last."""
    start = b""
    for piece in _pieces(file):
        if not piece.possible:
            number = int.from_bytes(piece.start[:8], "little")
            if piece.kind in _RECYCLED or start or number == following:
                raise _impossible(file, piece)
            return following  # garbage, as nothing of ours begins like this
        start += piece.start
        if piece.kind in (_FULL, _LAST):
            following = _follow(file, start, following)
            start = b""
    return following


def _follow(file: Path, start: bytes, following: int | None) -> int:
    if len(start) < _BATCH_HEADER.size:
        raise CorruptData(f"{file.name} holds a record that is too short for a batch")
    number, count = _BATCH_HEADER.unpack_from(start)
    if following not in (None, number):
        raise CorruptData(
            f"{file.name} goes on with change {number} where {following} has to follow"
        )
    return int(number + count)


def _pieces(file: Path) -> Iterator[_Piece]:
    """Every whole piece; the last one may be impossible, and what is torn is left out.

    Raises:
        CorruptData: there is more behind what has to be the end.
    """
    data, at = file.read_bytes(), 0
    while at + _PIECE_HEADER.size <= len(data):
        room = _BLOCK_BYTES - at % _BLOCK_BYTES
        if room < _PIECE_HEADER.size:
            at += room
            continue
        checksum, length, kind = _PIECE_HEADER.unpack_from(data, at)
        body = at + _PIECE_HEADER.size
        end = body + length
        possible = _FULL <= kind <= _LAST and end <= at + room
        if not checksum and not length and not kind:
            if data[at:].strip(b"\0"):
                raise CorruptData(f"{file.name} has zeros at byte {at}, and behind them data")
            return
        if possible and end > len(data):
            return
        if not possible and at + room < len(data):
            raise CorruptData(f"{file.name} is damaged at byte {at}, before its last block")
        start_end = body + _BATCH_HEADER.size
        yield _Piece(
            kind, data[body : min(end, start_end) if possible else start_end], at, possible
        )
        if not possible:
            return
        at = end


def _impossible(file: Path, piece: _Piece) -> CorruptData:
    return CorruptData(
        f"{file.name} has an impossible record header at byte {piece.at} (type {piece.kind})"
    )


def _is_numbered(file: Path) -> bool:
    return file.stem.isdecimal()


def _number(file: Path) -> int:
    return int(file.stem)


class SyncedMark:
    """The number of the newest change that was synced, in a file beside the database.

    The file itself isn't synced: it survives the process, and after a power cut may be older than the truth, never
    newer. So a database that ends before it has lost what was promised.
    """

    def __init__(self, path: Path) -> None:
        """Of the database in this directory."""
        self._path = path / "SYNCED"
        self._file = -1

    def read(self) -> int:
        """The number; 0 where none was written yet. Raises `OSError`."""
        if not self._path.exists():
            return 0
        record = self._path.read_bytes()
        if len(record) == _MARK.size:
            number, checksum = _MARK.unpack(record)
            if checksum == _checksum(number):
                return int(number)
        _log.warning("%s is damaged: a missing end of the log would not be noticed", self._path)
        return 0

    def write(self, number: int) -> None:
        """Everything up to this number is synced. Raises `OSError`."""
        if self._file < 0:
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.pwrite(self._file, _MARK.pack(number, _checksum(number)), 0)

    def close(self) -> None:
        """Close the file, if it was written."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _checksum(number: int) -> int:
    return crc32(number.to_bytes(8, "big"))
