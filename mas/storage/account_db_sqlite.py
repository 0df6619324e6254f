"""The AccountDB in one SQLite file: WAL, synced at each commit (rule 26).

Every statement carries many rows as one JSON text, and every read gives one row: `sqlite3` gives up the interpreter at each
step and waits to have it back, so beside a busy loop a row at a time starves (936 µs a row, measured). Three threads,
each with a connection: one flushes, one loads what a batch waits for, one walks through whole tables.

The disk is the Raft log's before it is the database's: a log that finds no room ends the process, a flush only waits. So
nothing is written here that would leave less than a reserve, and the WAL gives back what a large transaction, or one that
failed, has made of it.
"""

import asyncio
import logging
import sqlite3
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from mas.decoding import json_decoder
from mas.errors import CorruptData, DatabaseUnavailable, DataDirectoryError, StorageError
from mas.files import free_bytes
from mas.ledger.rows import (
    Account,
    BucketRow,
    Incarnation,
    Loaded,
    NodeRow,
    Posting,
    PreparedLegs,
    Record,
    ResidentState,
    WriteSet,
)
from mas.raft import SnapshotMetadata
from mas.runtime import failpoint
from mas.storage import account_db_schema as schema
from mas.storage.account_db_rows import (
    ROWS_PER_STATEMENT_MAX,
    NewChunks,
    Table,
    encode_json,
    pieces,
)
from mas.storage.snapshot_file import (
    Header,
    Rows,
    check_snapshot,
    read_header,
    read_rows,
    write_snapshot,
)

_log = logging.getLogger(__name__)

BUSY_SECONDS = 5.0
"""How long a statement waits for another process's lock."""
_WAL_PAGES = 8_000
"""Pages in the WAL before they are copied into the file: pages that change in every flush are copied once for many."""
_WAL_BYTES_KEPT = 64 * 1024 * 1024
"""What the WAL's file keeps for the next transactions; what is over is given back."""
_INSTALL_ROOM = 3
"""Bytes that an installation may take for one of the snapshot's: in the WAL (1.4 measured), and then in the file."""
_CACHE_KIB = 65_536
_CHUNKS_PER_FRAME = 8
_NOBODY = b""
"""The writer of a bucket whose rows have just been swapped: no flush of anybody's is conditional on it."""

_T = TypeVar("_T")
_Connection = sqlite3.Connection

_decode_accounts = json_decoder(list[Account], "what the database holds", CorruptData)
_decode_records = json_decoder(list[Record], "what the database holds", CorruptData)
_decode_claims = json_decoder(dict[str, int], "what the database holds", CorruptData)
_decode_legs = json_decoder(list[PreparedLegs], "what the database holds", CorruptData)
_decode_incarnations = json_decoder(list[Incarnation], "what the database holds", CorruptData)
_decode_nodes = json_decoder(tuple[NodeRow, ...], "what the database holds", CorruptData)
_decode_ids = json_decoder(list[bytes], "what the database holds", CorruptData)
_decode_lines = json_decoder(list[list[Posting]], "what the database holds", CorruptData)


class SqliteAccountDB:
    """The materialised state of this node's buckets. Fits `mas.resource.ports.AccountDB`."""

    def __init__(self, path: Path, *, reserve_bytes: int, busy_seconds: float) -> None:
        """Use `connect`, which also makes the tables."""
        self._path = path
        self._reserve_bytes = reserve_bytes
        self._writer = _Worker(path, "flush", busy_seconds)
        self._reader = _Worker(path, "load", busy_seconds)
        self._walker = _Worker(path, "walk", busy_seconds)

    @classmethod
    def connect(
        cls,
        path: Path,
        cluster: str,
        node: int,
        *,
        reserve_bytes: int = 0,
        busy_seconds: float = BUSY_SECONDS,
    ) -> Self:
        """Open the file, or create it for this node. Blocks for a moment: for the start of a process.

        `reserve_bytes` of the disk are left to the Raft log: what would take them waits.

        Raises:
            DataDirectoryError: it can't be written, or belongs to another cluster, node or version of MAS.
            CorruptData: it isn't a database, or a damaged one.
            DatabaseUnavailable: locked by another process, or the disk is full.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab"):
                pass
        except OSError as error:
            raise DataDirectoryError(f"{path} can't be written: {error.strerror}") from error
        with _translated(path):
            connection = _connect(path, busy_seconds)
            try:
                _create(connection)
                _check_identity(path, connection, (schema.SCHEMA_VERSION, cluster, node))
            finally:
                connection.close()
            return cls(path, reserve_bytes=reserve_bytes, busy_seconds=busy_seconds)

    async def open(self, bucket: int, writer: bytes) -> ResidentState:
        """Become the bucket's writer (rule 25) and read what is always kept in memory; a new bucket is made."""
        return await self._writer.run(partial(_open, bucket=bucket, writer=writer))

    async def load(
        self, bucket: int, accounts: Sequence[str], records: Sequence[bytes], claims: Sequence[str]
    ) -> Loaded:
        """Rows and the applied index, of one moment (rule 23)."""
        parameters = {
            "bucket": bucket,
            "accounts": encode_json(accounts).decode(),
            "records": encode_json(records).decode(),
            "claims": encode_json(claims).decode(),
        }
        return await self._reader.run(partial(_load, parameters=parameters))

    async def flush(self, writes: WriteSet, *, before: int, writer: bytes) -> bool:
        """One synced transaction, conditional on the applied index `before` and the writer (rules 25, 26).

        True, too, where this very write set was committed by an earlier try whose answer was lost (S2).
        """

        def flush(connection: _Connection) -> bool:
            self._check_room(0)
            return _flush(connection, writes, before, writer)

        return await self._writer.run(flush)

    async def payment_ids(self, bucket: int, after: bytes, limit: int) -> list[bytes]:
        """A page of all records' ids in ascending order of their texts, for the filter (rule 24)."""
        start = b64encode(after).decode()  # as msgspec writes bytes
        parameters = (bucket, start, limit)
        return await self._walker.run(
            lambda connection: _decode_ids(_one(connection, schema.PAYMENT_IDS, parameters)[0])
        )

    async def postings(
        self, bucket: int, number: str, before: int, limit: int
    ) -> tuple[int, list[Posting]]:
        """Newest first below sequence `before` (0: from the newest), and the applied index they were read at."""
        last = before - 1 if before else (1 << 62)
        parameters = {"bucket": bucket, "number": number, "last": last, "limit": limit}
        return await self._reader.run(partial(_postings, parameters=parameters))

    async def totals(
        self, bucket: int
    ) -> tuple[int, dict[str, int], dict[str, int], int, int, int]:
        """(applied, balances by currency, @external by currency, accounts, COMMITTED records, postings)."""
        return await self._walker.run(partial(_totals, bucket=bucket))

    async def export(self, bucket: int, path: Path) -> SnapshotMetadata:
        """Write the rows of one read transaction to a file (rule 28), in bounded memory, and never into the reserve."""
        return await self._walker.run(
            partial(_export, bucket=bucket, path=path, check_room=self._check_room)
        )

    async def check(self, bucket: int, path: Path) -> SnapshotMetadata:
        """Raises `CorruptData` where the file's state hash isn't that of its rows."""
        return await self._walker.run(lambda _: _check(bucket, path).metadata())

    async def install(self, bucket: int, path: Path) -> None:
        """Swap the bucket's rows and applied index for the file's, in one transaction: old or new, never a mix.

        Whoever was its writer isn't any more: `open` it again.
        """

        def install(connection: _Connection) -> None:
            self._check_room(_INSTALL_ROOM * path.stat().st_size)
            _install(connection, bucket, path)

        await self._writer.run(install)

    def room_for(self, size: int) -> bool:
        """Whether a snapshot of so many bytes can be received and installed without taking the Raft log's reserve."""
        return self._room() >= (1 + _INSTALL_ROOM) * size

    def _room(self) -> int:
        return free_bytes(self._path.parent) - self._reserve_bytes

    def _check_room(self, size: int) -> None:
        room = self._room()
        if room < size:
            raise DatabaseUnavailable(
                f"{self._path.parent} has {room + self._reserve_bytes:,} bytes left, {self._reserve_bytes:,} are kept for "
                f"the Raft log, and {size:,} are needed: make room; what waits goes on by itself"
            )

    async def erase(self, bucket: int) -> None:
        """Forget all of a bucket that this node holds no more; whoever was its writer isn't any more."""
        await self._writer.run(partial(_erase, bucket=bucket))

    async def bucket_row(self, bucket: int) -> BucketRow | None:
        """The bucket as of its applied index, None where it isn't here."""
        return await self._reader.run(partial(_bucket_row, bucket=bucket))

    async def close(self) -> None:
        """Finish what is under way and close the file."""
        for worker in (self._reader, self._walker, self._writer):
            await worker.close()


class _Worker:
    """A thread with a connection of its own."""

    def __init__(self, path: Path, name: str, busy_seconds: float) -> None:
        self._path = path
        self._connection = _connect(path, busy_seconds)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"account-db-{name}")

    async def run(self, work: Callable[[_Connection], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._do, work)

    def _do(self, work: Callable[[_Connection], _T]) -> _T:
        with _translated(self._path):
            return work(self._connection)

    async def close(self) -> None:
        await self.run(lambda connection: connection.close())
        self._thread.shutdown()


# -- writing ---------------------------------------------------------------------------------------


def _open(connection: _Connection, bucket: int, writer: bytes) -> ResidentState:
    with _transaction(connection):
        row = _bucket_row(connection, bucket)
        if row is None:
            row = BucketRow(bucket)
            _insert_bucket(connection, Header.of(row), writer)
        else:
            connection.execute(schema.TAKE_BUCKET, (writer, bucket))
        legs, incarnations = _one(connection, schema.KEPT, {"bucket": bucket})
    return ResidentState(
        row,
        {each.xid: each for each in _decode_legs(_as_list(legs))},
        {each.incarnation: each for each in _decode_incarnations(_as_list(incarnations))},
    )


def _flush(connection: _Connection, writes: WriteSet, before: int, writer: bytes) -> bool:
    chunks = NewChunks(writes)
    try:
        with _transaction(connection):
            row = _columns(Header.of(writes.bucket))
            bucket = {**row, "before": before, "writer": writer}
            if connection.execute(schema.ADVANCE_BUCKET, bucket).rowcount == 0:
                if not _is_flushed(connection, writes.bucket, writer):
                    return False
                list(chunks.cut())  # links the accounts as the earlier try has stored them
                return True
            _write_rows(connection, writes, chunks)
            failpoint("account_db.before_commit")
    except BaseException:
        chunks.undo()
        raise
    failpoint("account_db.after_commit")
    return True


def _is_flushed(connection: _Connection, bucket: BucketRow, writer: bytes) -> bool:
    return bool(
        connection.execute(schema.SELECT_WRITER, (bucket.bucket,)).fetchone()
        == (bucket.applied, writer)
    )


def _write_rows(connection: _Connection, writes: WriteSet, chunks: NewChunks) -> None:
    bucket = writes.bucket.bucket
    for chunk in chunks.cut():
        connection.execute(schema.INSERT_CHUNK, (bucket, chunk.number, chunk.postings, chunk.data))
    _upsert(connection, Table.ACCOUNT, bucket, pieces(writes.accounts))
    _upsert(connection, Table.PAYMENT, bucket, pieces(writes.records))
    _upsert(connection, Table.CLAIM, bucket, pieces(writes.claims))
    _upsert(connection, Table.INCARNATION, bucket, pieces(writes.incarnations))
    prepared = {xid: legs for xid, legs in writes.legs.items() if legs is not None}
    _upsert(connection, Table.LEG, bucket, pieces(prepared))
    settled = [xid for xid, legs in writes.legs.items() if legs is None]
    if settled:
        connection.execute(schema.DELETE_LEGS, (bucket, encode_json(settled).decode()))


def _upsert(connection: _Connection, table: Table, bucket: int, texts: Iterator[str]) -> None:
    for text in texts:
        connection.execute(schema.UPSERT[table], {"bucket": bucket, "rows": text})


# -- reading ---------------------------------------------------------------------------------------


def _load(connection: _Connection, parameters: dict[str, Any]) -> Loaded:
    applied, accounts, records, claims = _one(connection, schema.LOAD, parameters)
    return Loaded(
        applied or 0,
        {each.number: each for each in _decode_accounts(_as_list(accounts))},
        {each.payment_id: each for each in _decode_records(_as_list(records))},
        _decode_claims(claims),
    )


def _bucket_row(connection: _Connection, bucket: int) -> BucketRow | None:
    found = connection.execute(schema.SELECT_BUCKET, (bucket,)).fetchone()
    if found is None:
        return None
    fields = dict(zip(schema.BUCKET_FIELDS, found, strict=True))
    fields["state_hash"] = int(fields["state_hash"], 16)
    fields["nodes"] = _decode_nodes(fields["nodes"])
    return BucketRow(bucket, **fields)


def _postings(connection: _Connection, parameters: dict[str, Any]) -> tuple[int, list[Posting]]:
    applied, text = _one(connection, schema.POSTINGS, parameters)
    # Chunks come newest first, and the postings in a chunk oldest first.
    lines = [line for page in _decode_lines(_as_list(text)) for line in reversed(page)]
    shown = [line for line in lines if line.sequence <= parameters["last"]]
    return applied or 0, shown[: parameters["limit"]]


def _totals(
    connection: _Connection, bucket: int
) -> tuple[int, dict[str, int], dict[str, int], int, int, int]:
    balances: dict[str, int] = {}
    external: dict[str, int] = {}
    accounts = 0
    with _transaction(connection, "DEFERRED"):
        applied, records, postings = _one(connection, schema.OTHER_TOTALS, {"bucket": bucket})
        for row in connection.execute(schema.ACCOUNT_TOTALS, (bucket,)):
            currency, is_external, high, low, count = row
            (external if is_external else balances)[currency] = (high << 32) + low
            accounts += 0 if is_external else count
    return applied or 0, balances, external, accounts, records, postings


# -- snapshots -------------------------------------------------------------------------------------


def _export(
    connection: _Connection, bucket: int, path: Path, check_room: Callable[[int], None]
) -> SnapshotMetadata:
    try:
        return _write_export(connection, bucket, path, check_room)
    finally:
        # It couldn't begin anew while this transaction read from it.
        _shrink_wal(connection, _WAL_BYTES_KEPT)


def _write_export(
    connection: _Connection, bucket: int, path: Path, check_room: Callable[[int], None]
) -> SnapshotMetadata:
    with _transaction(connection, "DEFERRED"):
        row = _bucket_row(connection, bucket)
        if row is None:
            raise StorageError(f"bucket {bucket} has no rows here: there is nothing to export")
        header = Header.of(row)
        rows = (rows for table in Table for rows in _export_table(connection, table, bucket))
        try:
            write_snapshot(path, header, rows, check_room)
        except OSError as error:
            raise DatabaseUnavailable(
                f"snapshot {path} can't be written: {error.strerror}. Make room for it, or mend the directory"
            ) from error
    return header.metadata()


def _export_table(connection: _Connection, table: Table, bucket: int) -> Iterator[Rows]:
    limit = _CHUNKS_PER_FRAME if table is Table.CHUNK else ROWS_PER_STATEMENT_MAX
    last: str | int = 0 if table is Table.CHUNK else ""
    while True:
        text, last = _one(connection, schema.EXPORT[table], (bucket, last, limit))
        if text is None:
            return
        yield Rows(table, text.encode())


def _check(bucket: int, path: Path) -> Header:
    header = check_snapshot(path)
    if header.bucket != bucket:
        raise CorruptData(f"snapshot {path} is of bucket {header.bucket}, not of {bucket}")
    return header


def _install(connection: _Connection, bucket: int, path: Path) -> None:
    header = read_header(path)
    assert header.bucket == bucket, "check() comes before install()"
    with _transaction(connection):
        _delete_rows(connection, bucket)
        failpoint("account_db.install_emptied")
        for frame in read_rows(path):
            statement = (
                schema.INSERT_CHUNKS if frame.table is Table.CHUNK else schema.UPSERT[frame.table]
            )
            connection.execute(statement, {"bucket": bucket, "rows": frame.data.decode()})
            failpoint("account_db.install_rows")
        _insert_bucket(connection, header, _NOBODY)
        failpoint("account_db.install_before_commit")
    _shrink_wal(connection, _WAL_BYTES_KEPT)
    failpoint("account_db.install_after_commit")


def _erase(connection: _Connection, bucket: int) -> None:
    with _transaction(connection):
        _delete_rows(connection, bucket)
    _shrink_wal(connection, _WAL_BYTES_KEPT)


def _delete_rows(connection: _Connection, bucket: int) -> None:
    for table in ("bucket", *(table.name.lower() for table in Table)):
        connection.execute(f"DELETE FROM {table} WHERE bucket = ?", (bucket,))  # noqa: S608 - our own names


# -- the connection --------------------------------------------------------------------------------


def _connect(path: Path, busy_seconds: float) -> _Connection:
    connection = sqlite3.connect(
        path, timeout=busy_seconds, isolation_level=None, check_same_thread=False
    )
    try:
        _set_up(path, connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(path: Path, connection: _Connection) -> None:
    (journal,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    connection.execute("PRAGMA synchronous = FULL")
    (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
    if (journal, synchronous) != ("wal", 2):
        raise DataDirectoryError(
            f"{path} runs with journal_mode={journal} and synchronous={synchronous}; flushes are durable only with "
            "wal and 2 (FULL). Put it on a local file system, which a WAL needs"
        )
    connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES_KEPT}")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")


def _create(connection: _Connection) -> None:
    with _transaction(connection):
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
            for statement in schema.CREATE:
                connection.execute(statement)


def _check_identity(path: Path, connection: _Connection, wanted: tuple[int, str, int]) -> None:
    with _transaction(connection):
        tables = connection.execute("SELECT name FROM sqlite_master WHERE name = 'identity'")
        if tables.fetchone() is None:
            raise DataDirectoryError(f"{path} is a database of another program: name another file")
        found = connection.execute("SELECT schema, cluster, node FROM identity").fetchone()
        if found is None:
            found = wanted
            connection.execute("INSERT INTO identity VALUES (?, ?, ?)", wanted)
    if found != wanted:
        raise DataDirectoryError(
            f"{path} is the AccountDB of node {found[2]} of cluster {found[1]!r} (schema {found[0]}); this is node "
            f"{wanted[2]} of cluster {wanted[1]!r} (schema {wanted[0]}). Give this node a --db of its own"
        )


@contextmanager
def _transaction(connection: _Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite itself rolls back after some errors (disk full, I/O).
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if kind != "DEFERRED":
            # What it had written is worth nothing, and may be all that the disk had.
            _shrink_wal(connection, 0)
        raise


def _shrink_wal(connection: _Connection, keep: int) -> None:
    """Give a WAL of more bytes than this back to the disk, unless others use it: then whoever ends last does."""
    _, _, path = connection.execute("PRAGMA database_list").fetchone()
    wal = Path(f"{path}-wal")
    if not wal.exists() or wal.stat().st_size <= keep:
        return
    (busy,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.OperationalError as error:
        _log.warning("%s-wal stays as large as it is: %s", path, error)
    finally:
        connection.execute(f"PRAGMA busy_timeout = {busy}")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise DatabaseUnavailable(
            f"{path}: {error}. Flushes wait and nothing is lost: make room on the disk, or stop what locks the file; "
            "this node goes on by itself"
        ) from error
    except sqlite3.DatabaseError as error:
        raise CorruptData(
            f"{path}: {error}. Restore the file, or remove it and rebuild this node's replicas with "
            "`mas admin replica rebuild`"
        ) from error
    except OSError as error:
        raise StorageError(f"{error.filename} can't be read: {error.strerror}") from error


def _insert_bucket(connection: _Connection, row: Header, writer: bytes) -> None:
    connection.execute(schema.INSERT_BUCKET, {**_columns(row), "writer": writer})


def _columns(row: Header) -> dict[str, Any]:
    return {**msgspec.structs.asdict(row), "nodes": encode_json(row.nodes).decode()}


def _one(connection: _Connection, statement: str, parameters: Any) -> Any:  # noqa: ANN401 - a row has no type
    return connection.execute(statement, parameters).fetchone()


def _as_list(text: str | None) -> str:
    return f"[{text or ''}]"
