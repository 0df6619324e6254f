"""Databases on a MariaDB, one for each folder of a test."""

import hashlib
from pathlib import Path

import aiomysql
import msgspec

from mas.storage.account_db.mysql import PORTS, MySqlAccountDB
from mas.storage.dsn import Dsn, parse_dsn
from mas.testing import MariaDbServer


def dsn_of(server: MariaDbServer, name: str = "mas1") -> Dsn:
    return msgspec.structs.replace(parse_dsn("account_db", server.url, PORTS), name=name)


async def administer(server: MariaDbServer, *statements: str) -> tuple[tuple[object, ...], ...]:
    """Carry these out; what the last one finds."""
    dsn = dsn_of(server)
    connection = await aiomysql.connect(
        host=dsn.host, port=dsn.port, user=dsn.user, password=dsn.password, autocommit=True
    )
    async with connection.cursor() as cursor:
        for statement in statements:
            await cursor.execute(statement)
        found: tuple[tuple[object, ...], ...] = await cursor.fetchall()
    connection.close()
    return found


async def mysql_database(server: MariaDbServer, folder: Path, node: int = 1) -> MySqlAccountDB:
    """The database of this folder, made at the first time."""
    folder.mkdir(exist_ok=True)
    name = "mas_" + hashlib.blake2b(str(folder).encode(), digest_size=8).hexdigest()
    if not await administer(server, f"SHOW DATABASES LIKE '{name}'"):
        await administer(server, f"CREATE DATABASE {name}")
    return await MySqlAccountDB.connect(
        dsn_of(server, name), "test", node, connections=4, folder=folder
    )
