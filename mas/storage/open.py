"""Opens the stores of a node: the one place that chooses an engine, and where in the data directory it has its files."""

from pathlib import Path

from mas.config import Config
from mas.errors import DataDirectoryError
from mas.storage.account_db.rocksdb import RocksAccountDB
from mas.storage.raft_log.rocksdb import RocksRaftLog
from mas.storage.tm_store.rocksdb import RocksTmStore


def check_version(config: Config, directory: Path) -> None:
    """Before anything is opened: whether a former version of MAS has kept its accounts here.

    Raises:
        DataDirectoryError: it has. Nothing is touched.
    """
    former = directory / f"{config.storage.database}.sqlite3"
    if former.exists():
        raise DataDirectoryError(
            f"{former} holds the accounts of a former version of MAS, which kept them in SQLite; this version can't read "
            "it, and nothing is touched. To move, start the former version here, read each account's balance through its "
            "API (`mas account get`), and create the accounts with these balances in a cluster of this version that has "
            "data directories of its own (`mas account create NUMBER --balance AMOUNT`)"
        )


def open_raft_log(config: Config, directory: Path) -> RocksRaftLog:
    """Open or create the log of all groups of this node. Raises as `RocksRaftLog.open` does."""
    return RocksRaftLog.open(directory / "raft", config.node.cluster_id, config.node.id)


def open_account_db(config: Config, directory: Path) -> RocksAccountDB:
    """Open or create this node's AccountDB. Raises as `RocksAccountDB.connect` does."""
    return RocksAccountDB.connect(
        directory / f"{config.storage.database}.rocksdb",
        config.node.cluster_id,
        config.node.id,
        reserve_bytes=config.storage.log_reserve_mb << 20,
    )


def open_tm_store(config: Config, directory: Path) -> RocksTmStore:
    """Open or create this node's TM store. Raises as `RocksTmStore.open` does."""
    return RocksTmStore.open(directory / "tm", config.node.cluster_id, config.node.id)
