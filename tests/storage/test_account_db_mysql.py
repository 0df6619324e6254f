"""Faults of the MariaDB under an AccountDB (crash matrix, S1 to S11), and what people read there."""

import asyncio
import contextlib
import json
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiomysql
import msgspec
import pytest
import pytest_asyncio

from mas.errors import ConfigError, DatabaseUnavailable, DataDirectoryError
from mas.ledger.rows import WriteSet
from mas.network.tls import ensure_certificate, make_ca
from mas.runtime import SystemClock
from mas.storage.account_db import mysql as engine
from mas.storage.account_db.mysql import MySqlAccountDB
from mas.storage.account_db.mysql_reads import Found, Run
from mas.storage.account_db.mysql_schema import MIGRATIONS
from mas.storage.account_db.rocksdb import RocksAccountDB
from mas.testing import MariaDbServer
from tests.storage.account_rows import Book, everything, payment_id
from tests.storage.mysql_databases import administer, dsn_of, mysql_database

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDbServer]:
    """Harmed by each test, and mended by it."""
    server = MariaDbServer(
        tmp_path_factory.mktemp("harmed"), "--debug-no-sync", "--innodb-lock-wait-timeout=1"
    )
    try:
        asyncio.run(server.restart())
        yield server
    finally:
        server.end()


@pytest_asyncio.fixture
async def database(server: MariaDbServer, tmp_path: Path) -> AsyncIterator[MySqlAccountDB]:
    database = await mysql_database(server, tmp_path)
    yield database
    await database.close()


def name_of(database: MySqlAccountDB) -> str:
    return database._dsn.name


async def flush_at_last(database: MySqlAccountDB, writes: WriteSet, before: int) -> int:
    """As a flusher does: again and again, the same; how often it failed."""
    failures = 0
    async with asyncio.timeout(60):
        while True:
            try:
                assert await database.flush(writes, before=before, writer=b"me")
                return failures
            except DatabaseUnavailable:
                failures += 1
                await asyncio.sleep(0.02)


async def flush_payments(database: MySqlAccountDB, book: Book, flushes: int) -> int:
    failures = 0
    for _ in range(flushes):
        before = book.row.applied
        for number in range(20):
            book.pay(before * 100 + number, payee=f"payee{number}")
        failures += await flush_at_last(database, book.take(), before)
    return failures


# -- S1 to S5 ------------------------------------------------------------------------------------


async def test_s1_a_server_killed_between_statements_has_all_of_a_flush_or_nothing(
    server: MariaDbServer, database: MySqlAccountDB
) -> None:
    book = Book()
    await database.open(1, b"me")

    async def kill() -> None:
        for seconds in (0.3, 0.45, 0.6):
            await asyncio.sleep(seconds)
            server.kill()
            await server.restart()

    killing = asyncio.ensure_future(kill())
    failures = 0
    while not killing.done():
        failures += await flush_payments(database, book, 1)
    await killing

    assert failures >= 3
    assert (await database.verify(1)).postings == 2 * 20 * book.row.applied


@pytest.mark.parametrize("at", ["COMMIT", "REPLACE INTO bucket"])
async def test_s2_a_connection_cut_at_any_statement_is_looked_at_again(
    database: MySqlAccountDB, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """The server carries the statement out, and its answer is lost."""
    book = Book()
    await database.open(1, b"me")
    await flush_payments(database, book, 2)
    cut = False
    make = engine._runner

    def cutting(connection: aiomysql.Connection) -> Run:
        run = make(connection)

        async def run_and_cut(statement: str) -> Found:
            nonlocal cut
            found = await run(statement)
            if statement.startswith(at) and not cut:
                cut = True
                connection.close()
                raise ConnectionResetError("cut")
            return found

        return run_and_cut

    monkeypatch.setattr(engine, "_runner", cutting)
    assert await flush_payments(database, book, 1) == 1
    await flush_payments(database, book, 1)
    totals = await database.verify(1)
    assert (totals.applied, totals.postings) == (4, 2 * 20 * 4)
    applied, lines = await database.postings(1, "alice", 0, 100)
    assert (applied, [line.sequence for line in lines]) == (4, list(range(80, 0, -1)))


async def test_s2_killed_connections_cost_no_row(
    server: MariaDbServer, database: MySqlAccountDB
) -> None:
    book = Book()
    await database.open(1, b"me")

    async def kill() -> None:
        for _ in range(20):
            found = await administer(
                server,
                f"SELECT id FROM information_schema.processlist WHERE db = '{name_of(database)}'",
            )
            for (connection,) in found:
                with contextlib.suppress(aiomysql.OperationalError):  # it has ended by itself
                    await administer(server, f"KILL {connection}")
            await asyncio.sleep(0.05)

    killing = asyncio.ensure_future(kill())
    failures = 0
    while not killing.done():
        failures += await flush_payments(database, book, 1)
    await killing
    assert failures
    assert (await database.verify(1)).postings == 2 * 20 * book.row.applied


async def locking(server: MariaDbServer, database: MySqlAccountDB) -> Any:
    dsn = dsn_of(server, name_of(database))
    other = await aiomysql.connect(
        host=dsn.host, port=dsn.port, user=dsn.user, password=dsn.password, db=dsn.name
    )
    cursor = await other.cursor()
    await cursor.execute("SELECT * FROM account_row WHERE bucket = 1 FOR UPDATE")
    return other, cursor


async def test_s3_a_lock_that_another_holds_is_waited_for(
    server: MariaDbServer, database: MySqlAccountDB
) -> None:
    book = Book()
    await database.open(1, b"me")
    await flush_payments(database, book, 1)
    other, _ = await locking(server, database)
    book.pay(5_000)
    writes = book.take()
    with pytest.raises(DatabaseUnavailable, match="1205"):
        await database.flush(writes, before=1, writer=b"me")
    other.close()
    await flush_at_last(database, writes, 1)
    assert (await database.verify(1)).applied == 2


async def test_s3_a_deadlock_is_no_answer(server: MariaDbServer, database: MySqlAccountDB) -> None:
    book = Book()
    await database.open(1, b"me")
    await flush_payments(database, book, 1)
    other, cursor = await locking(server, database)
    book.pay(5_000)
    flushing = asyncio.ensure_future(database.flush(book.take(), before=1, writer=b"me"))
    await asyncio.sleep(0.2)
    # The flush holds the bucket's row by now, and waits for the accounts'. InnoDB ends the one that has changed less.
    await cursor.executemany(
        "INSERT INTO claim_row VALUES (1, %s, '')", [(str(each),) for each in range(100)]
    )
    await cursor.execute("SELECT * FROM bucket WHERE bucket = 1 FOR UPDATE")
    with pytest.raises(DatabaseUnavailable, match="1213"):
        await flushing
    other.close()
    book.row.applied = 1
    await flush_payments(database, book, 1)


async def test_s4_too_many_connections_are_an_outage_that_passes(
    server: MariaDbServer, database: MySqlAccountDB
) -> None:
    book = Book()
    await database.open(1, b"me")
    await flush_payments(database, book, 1)
    database._drop_free()
    [(limit,)] = await administer(
        server, "SET GLOBAL max_connections = 10", "SELECT @@max_connections"
    )
    dsn = dsn_of(server)
    held: list[aiomysql.Connection] = []
    with contextlib.suppress(aiomysql.OperationalError):
        while len(held) <= int(str(limit)) + 1:
            held.append(
                await aiomysql.connect(
                    host=dsn.host, port=dsn.port, user=dsn.user, password=dsn.password
                )
            )
    book.pay(5_000)
    writes = book.take()
    with pytest.raises(DatabaseUnavailable, match="1040"):
        await database.flush(writes, before=1, writer=b"me")
    for each in held:
        each.close()
    await flush_at_last(database, writes, 1)
    await administer(server, "SET GLOBAL max_connections = 151")


async def test_s5_a_server_that_is_read_only_is_waited_for(
    server: MariaDbServer, database: MySqlAccountDB
) -> None:
    """Who has every right may write all the same, so this one hasn't."""
    name = name_of(database)
    await administer(
        server,
        "CREATE OR REPLACE USER plain@'127.0.0.1' IDENTIFIED BY 'plain'",
        f"GRANT ALL ON {name}.* TO plain@'127.0.0.1'",
    )
    dsn = msgspec.structs.replace(dsn_of(server, name), user="plain", password="plain")
    plain = await MySqlAccountDB.connect(dsn, "test", 1, connections=2, folder=database._folder)
    book = Book()
    await plain.open(1, b"me")
    await administer(server, "SET GLOBAL read_only = 1")
    book.pay(5_000)
    writes = book.take()
    with pytest.raises(DatabaseUnavailable, match="read-only"):
        await plain.flush(writes, before=0, writer=b"me")
    assert (await plain.load(1, ["alice"], [], [])).applied == 0
    await administer(server, "SET GLOBAL read_only = 0")
    await flush_at_last(plain, writes, 0)
    await plain.close()


async def test_s5_a_full_disk_is_waited_for(
    server: MariaDbServer, database: MySqlAccountDB
) -> None:
    """No file may grow, as where the disk is full; then there is room, and the server is started again."""
    book = Book()
    await database.open(1, b"me")
    await flush_payments(database, book, 1)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1 << 17, 1 << 17))
    before = book.row.applied
    for number in range(3_000):
        book.pay(10_000 + number, payee=f"payee{number}")
    writes = book.take()
    with pytest.raises(DatabaseUnavailable):
        await database.flush(writes, before=before, writer=b"me")
    server.kill()  # it ends itself, sooner or later, where its log can't be written
    await server.restart()
    await flush_at_last(database, writes, before)
    assert (await database.verify(1)).postings == 2 * 3_020


async def test_s11_a_slow_server_is_slow_and_right(
    server: MariaDbServer, database: MySqlAccountDB
) -> None:
    """It stands still for nine tenths of the time."""

    async def hinder() -> None:
        while True:
            server.pause()
            await asyncio.sleep(0.045)
            server.resume()
            await asyncio.sleep(0.005)

    book = Book()
    await database.open(1, b"me")
    hindrance = asyncio.ensure_future(hinder())
    assert await flush_payments(database, book, 5) == 0
    hindrance.cancel()
    server.resume()
    assert (await database.verify(1)).applied == 5


async def test_s11_a_server_that_hangs_is_an_outage_that_passes(
    server: MariaDbServer, database: MySqlAccountDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = Book()
    await database.open(1, b"me")
    await flush_payments(database, book, 1)
    book.pay(5_000)
    writes = book.take()
    monkeypatch.setattr(engine, "_SECONDS", 0.3)
    server.pause()
    with pytest.raises(DatabaseUnavailable):
        await database.flush(writes, before=1, writer=b"me")
    server.resume()
    await flush_at_last(database, writes, 1)
    assert (await database.verify(1)).applied == 2


async def test_s10_no_xa_statement_is_in_the_program() -> None:
    assert " XA " not in Path(engine.__file__).read_text().upper()


# -- at the start --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "bad", "good", "why"),
    [
        ("sql_mode", "''", "'STRICT_TRANS_TABLES'", "sql_mode is ''"),
        ("innodb_flush_log_at_trx_commit", "2", "1", "innodb_flush_log_at_trx_commit is 2"),
        ("max_allowed_packet", "1048576", "16777216", "max_allowed_packet is 1048576"),
    ],
)
async def test_s9_a_server_that_may_lose_or_mangle_is_refused(
    server: MariaDbServer, tmp_path: Path, setting: str, bad: str, good: str, why: str
) -> None:
    await administer(server, f"SET GLOBAL {setting} = {bad}")
    with pytest.raises(ConfigError, match=why):
        await mysql_database(server, tmp_path)
    await administer(server, f"SET GLOBAL {setting} = {good}")
    await (await mysql_database(server, tmp_path)).close()


@pytest.mark.parametrize(
    ("version", "taken"),
    [
        ("10.11.19-MariaDB-0+deb12u1", True),
        ("10.6.0-MariaDB", True),
        ("10.5.30-MariaDB", False),
        ("8.0.36", True),
        ("8.4.0-commercial", True),
        ("5.7.44-log", False),
        ("unknown", False),
    ],
)
async def test_old_servers_are_refused(version: str, taken: bool) -> None:
    assert engine._is_new_enough(version) is taken


async def test_anothers_database_is_refused(
    server: MariaDbServer, database: MySqlAccountDB, tmp_path: Path
) -> None:
    with pytest.raises(DataDirectoryError, match="belongs to node 1 of cluster 'test'"):
        await mysql_database(server, tmp_path, node=2)
    later = len(MIGRATIONS) + 1
    await administer(server, f"UPDATE {name_of(database)}.mas_schema SET version = {later}")
    with pytest.raises(DataDirectoryError, match="is of a later version of MAS"):
        await mysql_database(server, tmp_path)


async def test_a_start_that_died_while_it_made_the_tables_is_told(
    server: MariaDbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MySQL commits each table by itself; a start goes on where the one before ended."""
    whole = MIGRATIONS
    monkeypatch.setattr(engine, "MIGRATIONS", ((*whole[0][:3], "SELEC"),))
    with pytest.raises(DatabaseUnavailable, match="SELEC"):
        await mysql_database(server, tmp_path)
    monkeypatch.setattr(engine, "MIGRATIONS", whole)
    database = await mysql_database(server, tmp_path)
    await database.open(1, b"me")
    await database.close()


async def test_a_wrong_password_is_refused_and_not_shown(
    server: MariaDbServer, tmp_path: Path
) -> None:
    dsn = msgspec.structs.replace(dsn_of(server), password="Tr0ub4dor")
    with pytest.raises(DatabaseUnavailable, match="Access denied") as refused:
        await MySqlAccountDB.connect(dsn, "test", 1, connections=1, folder=tmp_path)
    assert "Tr0ub4dor" not in str(refused.value)


async def test_tls_is_spoken_and_a_stranger_is_refused(tmp_path: Path) -> None:
    clock = SystemClock()
    make_ca(tmp_path / "tls", clock)
    make_ca(tmp_path / "other", clock)
    files = ensure_certificate(tmp_path / "tls", 1, ("127.0.0.1",), clock)
    options = (f"--ssl-cert={files.certificate}", f"--ssl-key={files.key}")
    async with MariaDbServer(
        tmp_path / "server", "--debug-no-sync", "--require-secure-transport=ON", *options
    ) as server:
        dsn = msgspec.structs.replace(dsn_of(server), ssl_ca=str(files.ca))
        database = await MySqlAccountDB.connect(dsn, "test", 1, connections=1, folder=tmp_path)
        assert await database.bucket_row(1) is None
        await database.close()

        stranger = msgspec.structs.replace(dsn, ssl_ca=str(tmp_path / "other" / "ca.crt"))
        with pytest.raises(DatabaseUnavailable, match=r"(?i)certificate"):
            await MySqlAccountDB.connect(stranger, "test", 1, connections=1, folder=tmp_path)
        plain = msgspec.structs.replace(dsn, ssl_ca="")
        with pytest.raises(DatabaseUnavailable):
            await MySqlAccountDB.connect(plain, "test", 1, connections=1, folder=tmp_path)


# -- what people and other engines read ----------------------------------------------------------


async def test_people_read_accounts_payments_and_postings(
    server: MariaDbServer, database: MySqlAccountDB
) -> None:
    book = everything()
    await database.open(1, b"me")
    await flush_at_last(database, book.take(), 0)
    name = name_of(database)

    account = f"SELECT currency, balance, frozen FROM {name}.account WHERE number = 'alice'"
    [(currency, balance, frozen)] = await administer(server, account)
    alice = book.accounts["alice"]
    assert (currency, int(str(balance)), bool(int(str(frozen)))) == (
        alice.currency,
        alice.balance,
        alice.frozen,
    )
    payments = f"SELECT outcome, currency, legs, reference FROM {name}.payment WHERE payment_id = '{payment_id(1).hex()}'"
    [payment] = await administer(server, payments)
    outcome, currency, legs, reference = payment
    assert (outcome, currency, reference) == ("COMMITTED", "USD", 'rent "€"')
    assert json.loads(str(legs)) == [["alice", -100], ["bob", 100]]
    totals = await administer(
        server, f"SELECT account, SUM(amount) FROM {name}.posting GROUP BY account"
    )
    sums = {number: int(str(amount)) for number, amount in totals}
    assert sums == {number: row.balance for number, row in book.accounts.items() if row.sequence}


async def test_snapshots_are_carried_between_engines(
    database: MySqlAccountDB, tmp_path: Path
) -> None:
    rocks = RocksAccountDB.connect(tmp_path / "mas.rocksdb", "test", 1)
    book = everything()
    await database.open(1, b"me")
    await flush_at_last(database, book.take(), 0)
    await flush_payments(database, book, 30)
    assert await database.buckets() == [1]

    await database.export(1, tmp_path / "snapshot")
    await rocks.check(1, tmp_path / "snapshot")
    await rocks.install(1, tmp_path / "snapshot")
    assert await rocks.verify(1) == await database.verify(1)
    await rocks.open(1, b"me")
    for number in range(50_000, 50_300):
        book.pay(number, payee=f"payee{number}")
    before = book.row.applied
    assert await rocks.flush(book.take(), before=before, writer=b"me")

    await rocks.export(1, tmp_path / "back")
    await database.install(1, tmp_path / "back")
    assert await database.verify(1) == await rocks.verify(1)
    assert await database.postings(1, "alice", 0, 999) == await rocks.postings(1, "alice", 0, 999)
    await rocks.close()
