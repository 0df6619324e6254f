"""What `check_files` says by itself, without the mark and before RocksDB looks: files built here, piece by piece."""

from pathlib import Path
from struct import pack

import pytest

from mas.errors import CorruptData
from mas.storage.rocksdb_files import check_files

BLOCK = 32 * 1024
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def piece(kind: int, data: bytes) -> bytes:
    return pack("<IHB", 0xC0FFEE, len(data), kind) + data


def batch(number: int, count: int = 1, size: int = 100) -> bytes:
    return pack("<QI", number, count) + b"x" * size


def full(number: int, count: int = 1, size: int = 100) -> bytes:
    return piece(FULL, batch(number, count, size))


def filler(number: int) -> bytes:
    """A record that fills a block."""
    return full(number, size=BLOCK - 7 - 12)


def impossible(number: int) -> bytes:
    """A record whose length was damaged: it would cross its block's end."""
    return pack("<IHB", 0xC0FFEE, 0xFFFF, FULL) + batch(number)


def check(path: Path, *logs: bytes) -> None:
    for number, data in enumerate(logs, 9):  # 10 comes behind 9
        (path / f"{number}.log").write_bytes(data)
    check_files(path)


@pytest.mark.parametrize(
    "logs",
    [
        (),
        (b"",),
        (full(1) + full(2, 5) + full(7),),
        (full(1), full(2), b"", full(3)),
        (piece(FIRST, batch(1)) + piece(MIDDLE, b"y") + piece(LAST, b"z") + full(2),),
        # The batch's header in two pieces, and in two blocks.
        (piece(FIRST, batch(1)[:5]) + piece(LAST, batch(1)[5:]) + full(2),),
        (filler(1) + full(2),),
        (full(1, size=BLOCK - 7 - 12 - 3) + bytes(3) + full(2),),  # too little room for a header
        (full(1) + full(2)[:-1],),
        (full(1) + full(2)[:6],),
        (full(1) + bytes(BLOCK),),
        (full(1) + b"\t" * 30,),
        (full(1) + impossible(7),),
    ],
)
def test_whole_files_torn_tails_and_garbage_behind_them_pass(
    tmp_path: Path, logs: tuple[bytes, ...]
) -> None:
    check(tmp_path, *logs)


@pytest.mark.parametrize(
    ("logs", "says"),
    [
        ((full(1) + impossible(2),), "9.log has an impossible record header at byte 119"),
        ((full(1) + piece(9, batch(2)),), "type 9"),
        *(
            ((full(1) + piece(kind, b"anything"),), f"type {kind}")
            for kind in (5, 6, 7, 8, 11, 131)
        ),
        ((piece(FIRST, batch(1)) + piece(9, b"middle"),), "type 9"),
        ((full(1) + bytes(7) + full(2),), "zeros at byte 119, and behind them data"),
        ((full(1) + bytes(2 * BLOCK) + b"\1",), "zeros"),
        ((full(1) + full(3),), "change 3 where 2 has to follow"),
        ((full(1, 4), full(2)), "10.log goes on with change 2 where 5"),
        ((full(1) + full(2)[:-1], full(3)), "10.log goes on with change 3 where 2"),
        ((full(1) + impossible(7) + bytes(BLOCK),), "before its last block"),
        ((piece(FULL, b"short"),), "too short for a batch"),
    ],
)
def test_what_no_torn_write_leaves_behind_is_refused(
    tmp_path: Path, logs: tuple[bytes, ...], says: str
) -> None:
    with pytest.raises(CorruptData, match=says):
        check(tmp_path, *logs)


def test_a_manifest_has_no_garbage(tmp_path: Path) -> None:
    """It is synced with each of its records, which aren't batches."""
    manifest = tmp_path / "MANIFEST-000004"
    manifest.write_bytes(piece(FULL, b"edit") + piece(FULL, b"torn")[:-1])
    check_files(tmp_path)
    manifest.write_bytes(piece(FULL, b"edit") + piece(9, b"edit"))
    with pytest.raises(CorruptData, match="MANIFEST-000004 has an impossible record header"):
        check_files(tmp_path)


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "LOG").write_bytes(b"\7" * 100)
    (tmp_path / "somebody's.log").write_bytes(b"\7" * 100)
    check_files(tmp_path)
