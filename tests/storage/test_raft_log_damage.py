"""Damaged files under the RocksDB raft log (crash matrix F14): a torn tail is cut off, all else is refused; no silence."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mas.errors import CorruptData
from mas.raft import Entry
from mas.storage.raft_log.rocksdb import RocksRaftLog
from mas.storage.rocksdb_files import SyncedMark
from tests.storage.raft_log_writer import (
    last_indexes,
    outcomes,
    pieces_of,
    wal_of,
    write_and_die,
)

SYNCED = 12
REFUSAL = "refused: "


def flipped(data: bytes, at: int, mask: int) -> bytes:
    return data[:at] + bytes((data[at] ^ mask,)) + data[at + 1 :]


def header_flips(data: bytes, start: int) -> Iterator[bytes]:
    """Each bit of a record's header: checksum, length, type."""
    for at in range(start, start + 7):
        for bit in range(8):
            yield flipped(data, at, 1 << bit)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synced batches in the write-ahead log."""
    path = tmp_path_factory.mktemp("synced")
    assert write_and_die(path, SYNCED, size=20) == SYNCED
    return path


@pytest.fixture(scope="module")
def flushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same behind a restart, which puts it into a table file."""
    path = tmp_path_factory.mktemp("flushed")
    write_and_die(path, SYNCED, size=20)
    RocksRaftLog.open(path, "test", 1).close()
    return path


@pytest.mark.parametrize(("size", "records"), [(3, 2), (40_000, 1)])
def test_a_tail_torn_at_any_byte_is_cut_back_to_the_last_whole_record(
    tmp_path: Path, size: int, records: int
) -> None:
    """The large record spans blocks: it is cut at and around the beginning of each of its pieces, and in between."""
    base = tmp_path / "log"
    write_and_die(base, SYNCED, unsynced=records, size=size)
    wal = wal_of(base)
    data = wal.read_bytes()
    pieces = pieces_of(data)
    if records > 1:
        starts = [start for start, _ in pieces[-records:]]
        cuts = list(range(starts[0], len(data) + 1))
        ends = [end for _, end in pieces[-records:]]
    else:
        starts = [start for start, _ in pieces if start >= len(data) - 2 * size]
        cuts = sorted({cut for start in starts for cut in range(start - 1, start + 9)})
        cuts = [*cuts, *range(starts[1], len(data), 9_973), len(data) - 1, len(data)]
        cuts = [cut for cut in cuts if cut >= len(data) - 2 * size]
        ends = [len(data)]

    found = outcomes(base, wal, (data[:cut] for cut in cuts), tmp_path / "cut")

    assert len(starts) > 1
    for cut, outcome in zip(cuts, found, strict=True):
        last = SYNCED + sum(end <= cut for end in ends)
        assert outcome == f"opened {last} {last}", cut


def test_garbage_behind_the_tail_neither_hangs_nor_takes_synced_records_with_it(
    base: Path, tmp_path: Path
) -> None:
    """RocksDB spins for ever where the garbage looks like a record of a file that is used again: those are refused."""
    wal = wal_of(base)
    data = wal.read_bytes()
    found = outcomes(
        base, wal, (data + bytes((value,)) * 40 for value in range(256)), tmp_path / "tails"
    )

    for value, outcome in enumerate(found):
        if value in (5, 6, 7, 8, 11, 131):
            assert outcome.startswith(REFUSAL), value
        else:
            assert outcome == f"opened {SYNCED} {SYNCED}", value


def test_zeros_behind_the_tail_are_its_end_and_in_front_of_data_damage(
    base: Path, tmp_path: Path
) -> None:
    """RocksDB skips the rest of a block behind a zeroed header, whatever follows."""
    wal = wal_of(base)
    data = wal.read_bytes()
    start, _ = pieces_of(data)[-3]
    behind, zeroed, before = outcomes(
        base,
        wal,
        (
            data + bytes(5_000),
            data[:start] + bytes(7) + data[start + 7 :],
            data[:start] + bytes(len(data) - start),
        ),
        tmp_path / "zeros",
    )

    assert behind == f"opened {SYNCED} {SYNCED}"
    assert zeroed.startswith(REFUSAL)
    assert before.startswith(REFUSAL)


@pytest.mark.parametrize("record", [-1, -5])
def test_a_flipped_bit_in_a_synced_record_is_refused(
    base: Path, tmp_path: Path, record: int
) -> None:
    """In the middle, and in the very last record, where RocksDB takes a greater length for a torn tail."""
    wal = wal_of(base)
    data = wal.read_bytes()
    start, end = pieces_of(data)[record]
    variants = [
        *header_flips(data, start),
        *(flipped(data, at, 1 << at % 8) for at in range(start + 7, end)),
    ]

    found = outcomes(base, wal, variants, tmp_path / "flips")

    assert {outcome[: len(REFUSAL)] for outcome in found} == {REFUSAL}
    assert all("mas admin replica remove" in outcome for outcome in found)


def test_a_flipped_bit_in_the_manifest_loses_nothing(flushed: Path, tmp_path: Path) -> None:
    """Which files there are is written in one more log, of the same format."""
    (manifest,) = flushed.glob("MANIFEST-*")
    data = manifest.read_bytes()
    variants = [variant for start, _ in pieces_of(data) for variant in header_flips(data, start)]
    variants += [flipped(data, at, 4) for at in range(0, len(data), 5)]

    found = outcomes(flushed, manifest, variants, tmp_path / "flips")

    # Its last edits may only say what isn't needed any more.
    whole = f"opened {SYNCED} {SYNCED}"
    assert all(outcome.startswith(REFUSAL) or outcome == whole for outcome in found)
    assert sum(outcome.startswith(REFUSAL) for outcome in found) > len(found) // 2


def test_a_flipped_bit_in_a_table_file_is_refused(flushed: Path, tmp_path: Path) -> None:
    table = max(flushed.glob("*.sst"), key=lambda file: file.stat().st_size)
    data = table.read_bytes()
    at = data.index(b"x" * 20)
    variants = (flipped(data, place, 1) for place in (at, at + 7, len(data) // 2, len(data) - 9))

    found = outcomes(flushed, table, variants, tmp_path / "flips")

    assert {outcome[: len(REFUSAL)] for outcome in found} == {REFUSAL}
    assert all("mas admin replica remove" in outcome for outcome in found)


def test_a_missing_end_is_refused_whatever_is_missing(base: Path, tmp_path: Path) -> None:
    """The file ends earlier than what was synced, between two records or within one; and again at the next try."""
    wal = wal_of(base)
    data = wal.read_bytes()
    start, end = pieces_of(data)[-1]
    found = outcomes(base, wal, (data[:start], data[: end - 1], b""), tmp_path / "cuts")
    assert all("it was synced up to change" in outcome for outcome in found)

    copy = shutil.copytree(base, tmp_path / "copy")
    (copy / wal.name).write_bytes(data[:start])
    for _ in range(2):
        with pytest.raises(CorruptData, match="synced up to change"):
            RocksRaftLog.open(copy, "test", 1)


def test_a_log_whose_database_was_lost_is_not_taken_for_a_new_one(
    flushed: Path, tmp_path: Path
) -> None:
    shutil.copy(flushed / "SYNCED", tmp_path)
    with pytest.raises(CorruptData, match="synced up to change"):
        RocksRaftLog.open(tmp_path, "test", 1)


def test_synced_records_cut_out_of_the_middle_are_refused(base: Path, tmp_path: Path) -> None:
    wal = wal_of(base)
    data = wal.read_bytes()
    start, end = pieces_of(data)[-4]
    found = outcomes(
        base, wal, (data[:start] + data[end:], data[:300] + data[500:]), tmp_path / "cuts"
    )
    assert {outcome[: len(REFUSAL)] for outcome in found} == {REFUSAL}


def test_the_limit_is_a_last_record_damaged_while_the_mark_is_lost(tmp_path: Path) -> None:
    """As a power cut can lose it, since it isn't synced: then a damaged length looks like a torn write, as to RocksDB.

    Within a group, entries that were known to be committed are still missed.
    """
    write_and_die(tmp_path, SYNCED, size=20)
    wal = wal_of(tmp_path)
    data = wal.read_bytes()
    start, _ = pieces_of(data)[-1]
    wal.write_bytes(flipped(data, start + 5, 0x10))
    (tmp_path / "SYNCED").unlink()

    assert last_indexes(tmp_path) == {SYNCED - 1}


def test_an_older_mark_lets_a_longer_log_pass(tmp_path: Path) -> None:
    """The mark survives a power cut in any older state, and is never newer than the log."""
    write_and_die(tmp_path, SYNCED, size=20)
    mark = SyncedMark(tmp_path)
    assert mark.read() > 5
    mark.write(5)
    mark.close()
    assert last_indexes(tmp_path) == {SYNCED}


@pytest.mark.parametrize("content", [b"", b"short", bytes(11) + b"\1"])
def test_a_damaged_mark_is_told_and_stops_nobody(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    write_and_die(tmp_path, SYNCED, size=20)
    (tmp_path / "SYNCED").write_bytes(content)
    assert last_indexes(tmp_path) == {SYNCED}
    assert "is damaged" in caplog.text


def test_a_log_goes_on_behind_restarts_and_cuts(tmp_path: Path) -> None:
    """Changes are numbered without a gap over every file, as `check_files` has it."""
    write_and_die(tmp_path, SYNCED, size=20)
    for _ in range(3):
        log = RocksRaftLog.open(tmp_path, "test", 1)
        last = log.storage(1).last_index()
        batch = log.batch()
        batch.append(1, [Entry(last, 2), Entry(last + 1, 2)])
        batch.compact(1, last - 2)
        batch.commit(sync=True)
        log._database.flush()
        batch = log.batch()
        batch.append(1, [Entry(last + 2, 2)])
        batch.commit(sync=False)
        log.close()
    log = RocksRaftLog.open(tmp_path, "test", 1)
    assert log.storage(1).last_index() == SYNCED + 6
    log.close()
