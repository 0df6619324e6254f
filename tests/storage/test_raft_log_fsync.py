"""The disk says no to an fsync (crash matrix F15): under RocksDB itself, by a library in front of the system calls."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.preload.build import build
from tests.storage.raft_log_writer import last_indexes

WRITER = """
import sys
from pathlib import Path
from mas.errors import StorageError
from mas.raft import ConfState, Entry, EntryType, HardState
from mas.storage.raft_log.rocksdb import RocksRaftLog

log = RocksRaftLog.open(Path(sys.argv[1]), "test", 1)
batch = log.batch()
for group in (1, 2):
    batch.create(group, ConfState(voters=(1, 2, 3)))
batch.commit(sync=True)
trigger, refused = Path(sys.argv[2]), 0
for index in range(1, 100):
    if index == 6:
        trigger.touch()
    batch = log.batch()
    for group in (1, 2):
        batch.append(group, [Entry(index, 1, EntryType.NORMAL, b"x")])
        batch.set_hard_state(group, HardState(1, 1, index))
    try:
        batch.commit(sync=True)
        print("synced", index, flush=True)
    except StorageError as error:
        print("refused", index, error, flush=True)
        refused += 1
        index -= 1
        trigger.unlink(missing_ok=True)  # the next fsync would say that all is well
    if refused == 2:
        break
print("seen", *(log.storage(group).last_index() for group in log.groups()), flush=True)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("fsync_fails", tmp_path_factory.mktemp("preload"))


def write(path: Path, library: Path, faults: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """A process that writes batch after batch, and tries again after a failure."""
    environment = os.environ | {"LD_PRELOAD": str(library), "FSYNC_FAILS_FOR": str(path)} | faults
    trigger = path.with_suffix(".trigger")
    return subprocess.run(
        [sys.executable, "-c", WRITER, str(path), str(trigger)],
        env=environment | {"FSYNC_FAILS_WHEN": str(trigger)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_f15_a_failed_fsync_is_told_and_nothing_is_accepted_any_more(
    tmp_path: Path, library: Path
) -> None:
    path = tmp_path / "raft"
    told = write(path, library, {}).stdout.splitlines()

    assert told[:5] == [f"synced {index}" for index in range(1, 6)]
    assert [line.split()[:2] for line in told[5:7]] == [["refused", "6"], ["refused", "7"]]
    for line in told[5:7]:
        assert "IO error" in line
        assert "This process must stop" in line
    assert told[7:] == ["seen 5 5"]  # nobody acts on what may not be there
    assert last_indexes(path) in ({5}, {6})


@pytest.mark.parametrize("first", [1, 5, 9, 11, 13, 14, 16])
def test_f15_whichever_fsync_fails_it_is_told_and_nothing_synced_is_lost(
    tmp_path: Path, library: Path, first: int
) -> None:
    """Those of an opening too: of the manifest, the options, the directory, the owner's name."""
    path = tmp_path / "raft"
    writer = write(path, library, {"FSYNC_FAILS_FROM": str(first)})

    told = writer.stdout.splitlines()
    synced = sum(line.startswith("synced") for line in told)
    if writer.returncode:
        assert not synced
        assert "mas.errors." in writer.stderr.splitlines()[-1]
    else:
        assert [line.split()[0] for line in told[synced:]] == ["refused", "refused", "seen"]
        assert last_indexes(path) in ({synced}, {synced + 1})


def test_faults_of_other_files_are_not_met(tmp_path: Path, library: Path) -> None:
    path = tmp_path / "raft"
    writer = write(path, library, {"FSYNC_FAILS_FOR": "/elsewhere/"})
    assert writer.stdout.splitlines()[-1] == "seen 99 99"
