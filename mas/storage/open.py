"""Opens the stores of a node: the one place that chooses an engine, and where in the data directory it has its files."""

from pathlib import Path
from typing import TYPE_CHECKING

from mas.config import Config
from mas.errors import DataDirectoryError
from mas.runtime import Dice
from mas.storage.account_db.rocksdb import RocksAccountDB
from mas.storage.dsn import parse_dsn
from mas.storage.raft_log.rocksdb import RocksRaftLog
from mas.storage.tm_store.rocksdb import RocksTmStore

if TYPE_CHECKING:
    from mas.storage.account_db.mysql import MySqlAccountDB
    from mas.storage.tm_store.redis import RedisTmStore


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


async def open_account_db(config: Config, directory: Path) -> "RocksAccountDB | MySqlAccountDB":
    """Open or create this node's AccountDB. Raises as `RocksAccountDB.connect` and `MySqlAccountDB.connect` do."""
    storage = config.storage
    reserve = storage.log_reserve_mb << 20
    if storage.account_db == "embedded":
        return RocksAccountDB.connect(
            directory / f"{storage.database}.rocksdb",
            config.node.cluster_id,
            config.node.id,
            reserve_bytes=reserve,
        )
    # On demand: whoever has no MySQL needs no driver for one.
    from mas.storage.account_db.mysql import PORTS, MySqlAccountDB  # noqa: PLC0415

    return await MySqlAccountDB.connect(
        parse_dsn("storage.account_db", storage.account_db, PORTS),
        config.node.cluster_id,
        config.node.id,
        connections=storage.account_db_connections,
        folder=directory,
        reserve_bytes=reserve,
    )


async def open_tm_store(
    config: Config, directory: Path, dice: Dice
) -> "RocksTmStore | RedisTmStore":
    """Open or create the TM store. Raises as `RocksTmStore.open` and `RedisTmStore.connect` do."""
    storage = config.storage
    if storage.tm_store == "embedded":
        return RocksTmStore.open(directory / "tm", config.node.cluster_id, config.node.id)
    # On demand: whoever has no Redis needs no driver for one.
    from mas.storage.tm_store.redis import PORTS, RedisTmStore  # noqa: PLC0415

    dsn = parse_dsn("storage.tm_store", storage.tm_store, PORTS)
    return await RedisTmStore.connect(
        dsn, config.node.cluster_id, dice, storage.tm_store_connections
    )
