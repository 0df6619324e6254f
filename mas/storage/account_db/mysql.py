"""The AccountDB of a node in MySQL or MariaDB, for whom it must be where people read it with SQL.

A flush is one transaction: it locks the bucket's row, and goes on only if that has the applied index and the writer that it
expects (rule 25, conditional flush). A read is one transaction too, of the moment at which it begins, so the applied index
in it is that of its rows.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from ssl import create_default_context
from typing import Self

import aiomysql
from pymysql.constants import ER
from pymysql.err import MySQLError, OperationalError

from mas.decoding import msgpack_decoder
from mas.errors import (
    ConfigError,
    CorruptData,
    DatabaseUnavailable,
    DataDirectoryError,
    StorageError,
)
from mas.files import free_bytes
from mas.ledger.rows import (
    BucketRow,
    Loaded,
    Posting,
    ResidentState,
    WriteSet,
)
from mas.ledger.totals import Totals
from mas.raft import SnapshotMetadata
from mas.runtime import failpoint
from mas.storage.account_db import snapshot as snapshots
from mas.storage.account_db.mysql_reads import (
    Found,
    Run,
    decode_account,
    decode_lines,
    decode_record,
    find_rows,
    read_frames,
)
from mas.storage.account_db.mysql_schema import MIGRATIONS, ROWS
from mas.storage.account_db.mysql_statements import (
    flush_statements,
    hex_literal,
    install_statements,
    put_bucket_row,
)
from mas.storage.account_db.rows import (
    JUMP,
    Line,
    NewChunks,
    count_chunks,
    decode_claim,
    decode_incarnation,
    decode_legs,
)
from mas.storage.account_db.snapshot import Header, Rows
from mas.storage.dsn import Dsn

PORTS = {"mysql": 3306}
"""The scheme of its DSN, and the port."""
_SECONDS = 30.0
"""For a connection or a statement; whoever waits has been told by then that the database is behind."""
_PACKET_BYTES_MIN = 16 * 1024 * 1024
_SESSION = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ"
_READ = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"

_decode_header = msgpack_decoder(Header, "a bucket's own row", CorruptData)


class MySqlAccountDB:
    """The materialised state of this node's buckets. Fits `mas.resource.ports.AccountDB`."""

    def __init__(self, dsn: Dsn, connections: int, folder: Path, reserve_bytes: int) -> None:
        """Use `connect`."""
        self._dsn = dsn
        self._slots = asyncio.Semaphore(connections)
        self._free: list[aiomysql.Connection] = []
        self._folder = folder
        self._reserve_bytes = reserve_bytes

    @classmethod
    async def connect(
        cls,
        dsn: Dsn,
        cluster: str,
        node: int,
        *,
        connections: int,
        folder: Path,
        reserve_bytes: int = 0,
    ) -> Self:
        """Open the database with at most so many connections, and make its tables or bring them to this version.

        Snapshots pass through `folder`, where `reserve_bytes` are left to the Raft log.

        Raises:
            ConfigError: the server may lose or mangle what it was told, or is too old.
            DataDirectoryError: the database is another node's, or of a later version of MAS.
            DatabaseUnavailable: the server is away, or refuses us.
        """
        database = cls(dsn, connections, folder, reserve_bytes)
        try:
            async with database._connection() as run:
                await database._check_server(run)
                await database._migrate(run, cluster, node)
        except BaseException:
            await database.close()
            raise
        return database

    # -- the port ------------------------------------------------------------------------------

    async def open(self, bucket: int, writer: bytes) -> ResidentState:
        """Become the bucket's writer (rule 25) and read what is always kept in memory; a new bucket is made."""
        async with self._connection() as run:
            await run("START TRANSACTION")
            if await run(f"SELECT 1 FROM bucket WHERE bucket = {bucket} FOR UPDATE"):
                await run(
                    f"UPDATE bucket SET writer = {hex_literal(writer)} WHERE bucket = {bucket}"
                )
            else:
                header = Header.of(BucketRow(bucket), Totals(), 1)
                await run(put_bucket_row(header, writer, payments_end=0))
            await run("COMMIT")
        async with self._reading() as run:
            header = await self._existing_header(run, bucket)
            legs = await run(f"SELECT data FROM leg_row WHERE bucket = {bucket} ORDER BY xid")
            incarnations = await run(
                f"SELECT data FROM incarnation_row WHERE bucket = {bucket} ORDER BY incarnation"
            )
        prepared = [decode_legs(row) for (row,) in legs]
        remembered = [decode_incarnation(row) for (row,) in incarnations]
        return ResidentState(
            header.row(),
            {each.xid: each for each in prepared},
            {each.incarnation: each for each in remembered},
        )

    async def load(
        self, bucket: int, accounts: Sequence[str], records: Sequence[bytes], claims: Sequence[str]
    ) -> Loaded:
        """Rows and the applied index, of one moment (rule 23)."""
        async with self._reading() as run:
            header = await self._header(run, bucket)
            if header is None:
                return Loaded(0, {}, {}, {})
            numbers = [number.encode() for number in accounts]
            found = [
                decode_account(row)
                for _, row in await find_rows(run, bucket, "account_row", "number", numbers)
            ]
            settled = await find_rows(run, bucket, "payment_row", "payment_id", records)
            undecided = await find_rows(run, bucket, "undecided_row", "payment_id", records)
            claimed = [number.encode() for number in claims]
            homes = await find_rows(run, bucket, "claim_row", "number", claimed)
        return Loaded(
            header.applied,
            {account.number: account for account in found},
            {key: decode_record(row) for key, row in (*undecided, *settled)},
            {number.decode(): decode_claim(row) for number, row in homes},
        )

    async def flush(self, writes: WriteSet, *, before: int, writer: bytes) -> bool:
        """Commit the write set, durably, conditional on the applied index `before` and the writer (rules 25, 26).

        True, too, where this very write set was committed by an earlier try whose answer was lost.
        """
        bucket = writes.bucket.bucket
        async with self._connection() as run:
            await run("START TRANSACTION")
            found = await run(
                f"SELECT writer, payments_end, head FROM bucket WHERE bucket = {bucket} FOR UPDATE"
            )
            if not found or found[0][0] != writer:
                return False
            [(_, payments_end, head)] = found
            header = _decode_header(head)
            if header.applied != before:
                return _is_flushed(writes, header)
            totals = await self._totals_with_new_accounts(run, writes, header)
            chunks = NewChunks(writes, header.chunks_end)
            try:
                statements = flush_statements(writes, chunks, totals, writer, payments_end)
                await self._run_all(run, statements)
                failpoint("account_db.before_commit")
                await run("COMMIT")
            except BaseException:
                chunks.undo()
                raise
        failpoint("account_db.after_commit")
        return True

    async def payment_ids(self, bucket: int, after: bytes, limit: int) -> list[bytes]:
        """A page of all records' ids in ascending order, for the filter (rule 24, record filter)."""
        pages = " UNION ALL ".join(
            f"(SELECT payment_id FROM {table} WHERE bucket = {bucket} AND payment_id > {hex_literal(after)} "
            f"ORDER BY payment_id LIMIT {limit})"
            for table in ("payment_row", "undecided_row")
        )
        async with self._reading() as run:
            found = await run(f"{pages} ORDER BY payment_id LIMIT {limit}")
        return [payment_id for (payment_id,) in found]

    async def postings(
        self, bucket: int, number: str, before: int, limit: int
    ) -> tuple[int, list[Posting]]:
        """Newest first below sequence `before` (0: from the newest), and the applied index they were read at."""
        async with self._reading() as run:
            header = await self._header(run, bucket)
            if header is None:
                return 0, []
            found = await find_rows(run, bucket, "account_row", "number", [number.encode()])
            if not found:
                return header.applied, []
            account = decode_account(found[0][1])
            last = min(account.sequence, before - 1) if before else account.sequence
            postings: list[Posting] = []
            chunk = account.chunk64 if last <= account.sequence // JUMP * JUMP else account.chunk
            while chunk and len(postings) < limit:
                lines = await self._lines(run, bucket, chunk, number)
                postings += [
                    line.posting for line in reversed(lines) if line.posting.sequence <= last
                ]
                chunk = _chunk_before(lines, last)
        return header.applied, postings[:limit]

    async def totals(self, bucket: int) -> Totals:
        """What the bucket's rows add up to, without a look at them."""
        async with self._reading() as run:
            header = await self._header(run, bucket)
        return Totals() if header is None else header.totals()

    async def bucket_row(self, bucket: int) -> BucketRow | None:
        """The bucket as of its applied index, None where it isn't here."""
        async with self._reading() as run:
            header = await self._header(run, bucket)
        return None if header is None else header.row()

    async def buckets(self) -> list[int]:
        """Every bucket that has rows here, ascending."""
        async with self._reading() as run:
            found = await run("SELECT bucket FROM bucket ORDER BY bucket")
        return [bucket for (bucket,) in found]

    async def verify(self, bucket: int) -> Totals:
        """Read all rows of the bucket, and hold them to its totals and its state hash. Raises `CorruptData`."""
        async with self._reading() as run:
            header = await self._existing_header(run, bucket)
            frames = _Pulled(read_frames(run, bucket))
            try:
                await asyncio.to_thread(snapshots.check_rows, header, frames)
            except CorruptData as error:
                raise CorruptData(f"{self._name}, bucket {bucket}: {error}") from error
        return header.totals()

    async def export(self, bucket: int, path: Path) -> SnapshotMetadata:
        """Write the rows of one moment to a file (rule 28), in bounded memory, and never into the reserve."""
        async with self._reading() as run:
            header = await self._existing_header(run, bucket)
            frames = _Pulled(read_frames(run, bucket))
            await asyncio.to_thread(
                snapshots.write_snapshot, path, header, frames, self._check_room
            )
        return header.metadata()

    async def check(self, bucket: int, path: Path) -> SnapshotMetadata:
        """Raises `CorruptData` where the file's state hash or totals aren't those of its rows."""
        header = await asyncio.to_thread(snapshots.check_snapshot, path)
        if header.bucket != bucket:
            raise CorruptData(f"snapshot {path} is of bucket {header.bucket}, not of {bucket}")
        return header.metadata()

    async def install(self, bucket: int, path: Path) -> None:
        """Swap the bucket's rows and applied index for the file's, in one transaction.

        Whoever was its writer isn't any more: `open` it again.
        """
        async with self._connection() as run:
            await run("START TRANSACTION")
            await self._run_all(run, install_statements(bucket, path))
            failpoint("account_db.install_before_commit")
            await run("COMMIT")
        failpoint("account_db.install_after_commit")

    async def erase(self, bucket: int) -> None:
        """Forget all of a bucket that this node holds no more; whoever was its writer isn't any more."""
        async with self._connection() as run:
            await run("START TRANSACTION")
            for table in ("bucket", *ROWS):
                await run(f"DELETE FROM {table} WHERE bucket = {bucket}")
            await run("COMMIT")

    def room_for(self, size: int) -> bool:
        """Whether a snapshot's file of so many bytes can be received without taking the Raft log's reserve."""
        return free_bytes(self._folder) - self._reserve_bytes >= size

    async def close(self) -> None:
        """Let the connections go; what they haven't committed is rolled back."""
        self._drop_free()

    # -- connections ---------------------------------------------------------------------------

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Run]:
        """Read at one moment, which is not before this is called."""
        async with self._connection() as run:
            await run(_READ)
            yield run

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Run]:
        """A connection; whatever isn't committed on it in the end is rolled back. Raises `DatabaseUnavailable`."""
        try:
            async with self._slots:
                connection = self._free.pop() if self._free else await self._connect()
                try:
                    run = _runner(connection)
                    yield run
                    await run("ROLLBACK")
                    self._free.append(connection)
                except BaseException:
                    connection.close()  # it may be in the middle of an answer
                    raise
        except (MySQLError, OSError, EOFError) as error:
            self._drop_free()  # a server that has ended took them all with it
            why = ": ".join(str(each) for each in (error, error.__cause__) if each is not None)
            raise DatabaseUnavailable(
                f"{self._name} failed: {why or type(error).__name__}. Flushes wait and nothing is lost; this node goes "
                "on by itself once the server does"
            ) from error

    async def _connect(self) -> aiomysql.Connection:
        dsn = self._dsn
        async with asyncio.timeout(_SECONDS):
            return await aiomysql.connect(
                host=dsn.host,
                port=dsn.port,
                user=dsn.user,
                password=dsn.password,
                db=dsn.name,
                charset="utf8mb4",
                autocommit=True,
                init_command=_SESSION,
                ssl=create_default_context(cafile=dsn.ssl_ca) if dsn.ssl_ca else None,
            )

    def _drop_free(self) -> None:
        while self._free:
            self._free.pop().close()

    async def _run_all(self, run: Run, statements: Iterator[str]) -> None:
        """Carry out the statements, each made in a thread once the one before is done."""
        while statement := await asyncio.to_thread(next, statements, ""):
            await run(statement)

    @property
    def _name(self) -> str:
        return f"the AccountDB {self._dsn}"

    # -- at the start --------------------------------------------------------------------------

    async def _check_server(self, run: Run) -> None:
        [(version, mode, flushed, binlog, binlog_synced, packet)] = await run(
            "SELECT VERSION(), @@GLOBAL.sql_mode, @@GLOBAL.innodb_flush_log_at_trx_commit, @@GLOBAL.log_bin, "
            "@@GLOBAL.sync_binlog, @@GLOBAL.max_allowed_packet"
        )
        for wrong, what in (
            (not _is_new_enough(version), f"it is {version}: expected MariaDB 10.6 or MySQL 8"),
            (
                not {"STRICT_TRANS_TABLES", "STRICT_ALL_TABLES"} & set(mode.split(",")),
                f"its sql_mode is {mode!r}: expected STRICT_TRANS_TABLES in it, else it cuts values to fit",
            ),
            (
                flushed != 1,
                f"its innodb_flush_log_at_trx_commit is {flushed}: expected 1, else a power cut takes what was committed",
            ),
            (
                binlog and binlog_synced != 1,
                f"its sync_binlog is {binlog_synced}: expected 1, else its replicas may lack what was committed",
            ),
            (
                packet < _PACKET_BYTES_MIN,
                f"its max_allowed_packet is {packet}: expected {_PACKET_BYTES_MIN} or more",
            ),
        ):
            if wrong:
                raise ConfigError(f"{self._name} can't be used: {what}")

    async def _migrate(self, run: Run, cluster: str, node: int) -> None:
        """Make the tables, or bring them to this version; one node at a time."""
        await run("SELECT GET_LOCK('mas_schema', 30)")
        if not await run("SHOW TABLES LIKE 'mas\\_schema'"):
            await run(
                "CREATE TABLE mas_schema (version INT NOT NULL, cluster VARBINARY(200) NOT NULL, node BIGINT NOT NULL)"
            )
        found = await run("SELECT version, cluster, node FROM mas_schema")
        if not found:
            await run(f"INSERT INTO mas_schema VALUES (0, {hex_literal(cluster.encode())}, {node})")
            found = [(0, cluster.encode(), node)]
        [(version, *whose)] = found
        if whose != [cluster.encode(), node]:
            raise DataDirectoryError(
                f"{self._name} belongs to node {whose[1]} of cluster {whose[0].decode()!r}, and this is node {node} of "
                f"{cluster!r}: give it a database of its own"
            )
        if version > len(MIGRATIONS):
            raise DataDirectoryError(
                f"{self._name} is of a later version of MAS: tables of version {version}, and this one knows "
                f"{len(MIGRATIONS)}. Run that version"
            )
        for number, statements in enumerate(MIGRATIONS[version:], version + 1):
            for statement in statements:
                try:
                    await run(statement)
                except OperationalError as error:
                    if error.args[0] != ER.TABLE_EXISTS_ERROR:
                        raise
                    # A start that was killed has made it: each is committed by itself.
            await run(f"UPDATE mas_schema SET version = {number}")
        await run("SELECT RELEASE_LOCK('mas_schema')")

    # -- parts ---------------------------------------------------------------------------------

    async def _header(self, run: Run, bucket: int) -> Header | None:
        found = await run(f"SELECT head FROM bucket WHERE bucket = {bucket}")
        return _decode_header(found[0][0]) if found else None

    async def _existing_header(self, run: Run, bucket: int) -> Header:
        header = await self._header(run, bucket)
        if header is None:
            raise StorageError(f"bucket {bucket} has no rows here: there is nothing to read")
        return header

    async def _totals_with_new_accounts(self, run: Run, writes: WriteSet, header: Header) -> Totals:
        """One that was posted to before has a row, and needn't be looked for."""
        totals = header.totals()
        totals.applied = writes.bucket.applied
        unposted = [number.encode() for number, row in writes.accounts.items() if not row.chunk]
        known = await find_rows(
            run, header.bucket, "account_row", "number", unposted, column="number"
        )
        for number in {*unposted} - {number for number, _ in known}:
            totals.add_account(writes.accounts[number.decode()], 0)
        return totals

    async def _lines(self, run: Run, bucket: int, chunk: int, number: str) -> list[Line]:
        found = await run(f"SELECT data FROM chunk_row WHERE bucket = {bucket} AND chunk = {chunk}")
        lines = [
            line for (row,) in found for line in decode_lines(row) if line.posting.account == number
        ]
        if not lines:
            raise CorruptData(f"{self._name}: chunk {chunk} has no posting of account {number!r}")
        return lines

    def _check_room(self, size: int) -> None:
        if not self.room_for(size):
            raise DatabaseUnavailable(
                f"{self._folder} has no room for {size:,} bytes of a snapshot beside the Raft log's reserve: make room"
            )


class _Pulled:
    """What the loop reads, for a thread that takes it one by one."""

    def __init__(self, frames: AsyncIterator[Rows]) -> None:
        self._frames = frames
        self._loop = asyncio.get_running_loop()

    def __iter__(self) -> Iterator[Rows]:
        return self

    def __next__(self) -> Rows:
        frame = asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()
        if frame is None:
            raise StopIteration
        return frame

    async def _next(self) -> Rows | None:
        return await anext(self._frames, None)


def _runner(connection: aiomysql.Connection) -> Run:
    async def run(statement: str) -> Found:
        async with asyncio.timeout(_SECONDS), connection.cursor() as cursor:
            await cursor.execute(statement)
            found: Found = await cursor.fetchall()
            return found

    return run


def _is_new_enough(version: str) -> bool:
    major, minor, *_ = [*version.split("-", maxsplit=1)[0].split("."), "0"]
    if not (major.isdecimal() and minor.isdecimal()):
        return False
    return (int(major), int(minor)) >= ((10, 6) if "MariaDB" in version else (8, 0))


def _chunk_before(lines: Sequence[Line], last: int) -> int:
    """The chunk that goes on behind these lines of an account, 0 for none."""
    for line in lines:
        if line.posting.sequence % JUMP == 0:
            if last <= line.posting.sequence - JUMP:
                return line.jump
            break
    return lines[0].previous


def _is_flushed(writes: WriteSet, header: Header) -> bool:
    if header.applied != writes.bucket.applied:
        return False
    chunks = NewChunks(writes, header.chunks_end - count_chunks(writes))
    for _ in chunks.cut():
        """Links the accounts as the earlier try has stored them."""
    return True
