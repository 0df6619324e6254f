"""Raft logs written by processes that die, and damaged ones opened by processes that may hang."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from struct import unpack_from

from rocksdict import Rdict

from mas.storage.raft_log.rocksdb import RocksRaftLog
from mas.storage.rocksdb_files import SyncedMark

MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
"""Where a file's fsync takes no time, for what isn't about that."""
_HANGS_SECONDS = 25

WRITER = """
import os, signal, sys
from pathlib import Path
from mas.raft import ConfState, Entry, EntryType, HardState
from mas.storage.raft_log.rocksdb import RocksRaftLog

synced, unsynced, size = map(int, sys.argv[2:])
log = RocksRaftLog.open(Path(sys.argv[1]), "test", 1)
batch = log.batch()
for group in (1, 2):
    batch.create(group, ConfState(voters=(1, 2, 3)))
batch.commit(sync=True)
for index in range(1, synced + unsynced + 1):
    batch = log.batch()
    for group in (1, 2):
        batch.append(group, [Entry(index, 1, EntryType.NORMAL, b"x" * size)])
        batch.set_hard_state(group, HardState(1, 1, index))
    batch.commit(sync=index <= synced)
    print(index, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""

OPENER = """
import shutil, sys
from pathlib import Path
from mas.errors import MasError
from mas.storage.raft_log.rocksdb import RocksRaftLog

base, name, scratch = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[4])
for variant in sorted(Path(sys.argv[3]).iterdir()):
    shutil.rmtree(scratch)
    shutil.copytree(base, scratch)
    shutil.copy(variant, scratch / name)
    try:
        log = RocksRaftLog.open(scratch, "test", 1)
        print("opened", *(log.storage(group).last_index() for group in log.groups()), flush=True)
        log.close()
    except MasError as error:
        print("refused:", " ".join(str(error).split()), flush=True)
"""


def write_and_die(
    path: Path, count: int, failpoints: str = "", *, unsynced: int = 0, size: int = 600
) -> int:
    """A process that syncs so many batches, writes some more, and is killed; the last index that it acknowledged."""
    child = subprocess.run(
        [sys.executable, "-c", WRITER, str(path), str(count), str(unsynced), str(size)],
        env={**os.environ, "MAS_FAILPOINTS": failpoints},
        stdout=subprocess.PIPE,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    return int((child.stdout.split() or [b"0"])[-1])


def outcomes(base: Path, file: Path, variants: Iterable[bytes], folder: Path) -> list[str]:
    """What comes of opening the log with each variant in place of this file: "opened 7 7", or "refused: ..."."""
    folder.mkdir()
    count = 0
    for variant in variants:
        (folder / f"{count:05}").write_bytes(variant)
        count += 1
    with tempfile.TemporaryDirectory(dir=MEMORY) as scratch:
        opener = subprocess.run(
            [sys.executable, "-c", OPENER, str(base), file.name, str(folder), scratch],
            stdout=subprocess.PIPE,
            text=True,
            timeout=_HANGS_SECONDS,
            check=True,
        )
    lines = opener.stdout.splitlines()
    assert len(lines) == count
    return lines


def wal_of(path: Path) -> Path:
    """The write-ahead log that records are in."""
    return max(path.glob("*.log"), key=lambda file: file.stat().st_size)


def pieces_of(wal: bytes) -> list[tuple[int, int]]:
    """Start and end of each piece of a record in a write-ahead log."""
    pieces, at = [], 0
    while at < len(wal):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        end = at + 7 + unpack_from("<H", wal, at + 4)[0]
        pieces.append((at, end))
        at = end
    return pieces


def cut_back_to_what_was_synced(path: Path) -> bool:
    """As a power cut may: the write-ahead log ends behind the last change that was synced. Whether there was more."""
    synced = SyncedMark(path).read()
    for wal in path.glob("*.log"):
        data = wal.read_bytes()
        for start, _ in pieces_of(data):
            is_begin = data[start + 6] in (1, 2)
            if is_begin and unpack_from("<Q", data, start + 7)[0] > synced:
                wal.write_bytes(data[:start])
                return True
    return False


class FailingDatabase:
    """Its disk says no to the first fsync, and yes to all that follow."""

    def __init__(self, database: Rdict) -> None:
        self._database = database
        self.syncs = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._database, name)

    def flush_wal(self, sync: bool) -> None:
        self.syncs += 1
        if self.syncs == 1:
            raise Exception("IO error: While fdatasync: 000004.log: Input/output error")  # noqa: TRY002 - as RocksDB's


def last_indexes(path: Path) -> set[int]:
    """The last index of both groups."""
    log = RocksRaftLog.open(path, "test", 1)
    try:
        assert log.groups() == [1, 2]
        return {log.storage(group).last_index() for group in log.groups()}
    finally:
        log.close()
