"""Faults of the disk under the RocksDB TM store."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from mas.errors import CorruptData, DatabaseUnavailable, DataDirectoryError
from mas.ledger import Token
from mas.storage.tm_store.rocksdb import RocksTmStore
from mas.transaction.stored import LockEntry
from tests.storage.raft_log_writer import FailingDatabase

DYING = """
import asyncio, sys
from pathlib import Path
from mas.storage.tm_store.rocksdb import RocksTmStore

async def main(path):
    store = RocksTmStore.open(path, "test", 1)
    await store.insert_buckets({"alice": 1, "bob": 2})
    await store.insert_buckets({"carol": 3, "dave": 4})

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.asyncio
async def test_a_kill_loses_no_write_that_was_made(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", DYING, str(tmp_path)],
        env={**os.environ, "MAS_FAILPOINTS": "tm_store.after_write=kill@2"},
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    store = RocksTmStore.open(tmp_path, "test", 1)
    assert await store.find_buckets(["alice", "bob", "carol", "dave"]) == [1, 2, 3, 4]
    await store.close()


@pytest.mark.asyncio
async def test_a_damaged_row_is_an_error_and_not_an_answer(tmp_path: Path) -> None:
    store = RocksTmStore.open(tmp_path, "test", 1)
    await store.insert_buckets({"alice": 1})
    await store.close()
    database = Rdict(str(tmp_path), Options(raw_mode=True))
    database.put(b"Dalice", database.get(b"Dalice")[:-1] + b"\2")
    database.close()

    store = RocksTmStore.open(tmp_path, "test", 1)
    with pytest.raises(CorruptData, match="rebuilt from the buckets"):
        await store.find_buckets(["alice"])
    await store.close()


@pytest.mark.asyncio
async def test_a_failed_sync_is_told(tmp_path: Path) -> None:
    store = RocksTmStore.open(tmp_path, "test", 1)
    store._database = FailingDatabase(store._database)
    with pytest.raises(DatabaseUnavailable, match=r"Input/output error.*No money depends on it"):
        await store.put_locks([LockEntry("account:alice", b"me", Token(1, 1), 0)])
    await store.close()


@pytest.mark.asyncio
async def test_anothers_directory_is_refused(tmp_path: Path) -> None:
    store = RocksTmStore.open(tmp_path, "test", 1)
    with pytest.raises(DataDirectoryError, match="in use"):
        RocksTmStore.open(tmp_path, "test", 1)
    await store.close()
    with pytest.raises(DataDirectoryError, match="TM store of node 1"):
        RocksTmStore.open(tmp_path, "test", 2)


@pytest.mark.asyncio
async def test_a_damaged_store_is_put_aside_and_begun_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A power cut may leave zeros with data behind them; with role `all` the buckets didn't start either."""
    path = tmp_path / "tm"
    for _ in range(2):
        store = RocksTmStore.open(path, "test", 1)
        assert await store.find_buckets(["1" * 50]) == [0]
        for number in range(200):
            await store.insert_buckets({f"{number}" * 50: number})
        shutil.copytree(path, tmp_path / "as it was")
        await store.close()
        shutil.rmtree(path)
        (tmp_path / "as it was").rename(path)
        [log] = [file for file in path.glob("*.log") if file.stat().st_size > 8_192]
        data = bytearray(log.read_bytes())
        data[4_096:8_192] = bytes(4_096)
        log.write_bytes(data)
    store = RocksTmStore.open(path, "test", 1)
    assert await store.find_buckets(["1" * 50]) == [0]
    await store.close()
    assert {each.name for each in tmp_path.iterdir()} == {"tm", "tm.damaged"}
    assert caplog.text.count("is damaged, and not only at its tail") == 2
    with pytest.raises(DataDirectoryError, match="TM store of node 1"):
        RocksTmStore.open(path, "test", 2)  # another's is refused, and left alone
