"""`mas bench storage`: what a payment costs the AccountDB, as the number of records grows.

Write sets of so many payments, each one record and two postings between two of so many accounts at random, are flushed
one after the other, as a bucket's flusher does that has fallen behind a little. What a payment costs is what the process
used beyond making the write sets, compactions and their bytes included. At each number of records named: disk, memory, a
snapshot exported beside flushes, checked and installed elsewhere, and the database opened again.
"""

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import click
import msgspec

from mas.bench.usage import memory_bytes
from mas.ids import make_xid
from mas.ledger.hashing import HASH_MODULUS, account_digest, posting_digest, record_digest
from mas.ledger.instructions import Body, Code, Kind
from mas.ledger.rows import Account, BucketRow, Posting, Record, WriteSet
from mas.resource.ports import AccountDB
from mas.storage.account_db.rocksdb import RocksAccountDB

_SIZES = (100_000, 1_000_000, 3_000_000)
_SIZES_QUICK = (20_000, 100_000)
_ACCOUNTS = 60_000
_PAYMENTS_PER_FLUSH = 2_000
_BUCKET = 1
_WRITER = b"bench"
_OPENING = 1_000_000
_TICK_SECONDS = 0.0005
_INCARNATION = b"0123456789"
_ACCOUNTS_PER_FLUSH = 5_000

Connect = Callable[[Path], AccountDB]
"""Opens the database in a folder, or makes it."""


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """Of the payments since the row before."""

    records: int
    cpu_us: float
    """A payment's, of all threads."""
    written: float
    """Bytes a payment, as the kernel counts what goes to disks."""
    flush_ms: float
    """Median."""
    stall_ms: float
    """The longest time that the loop was held while a flush was under way."""
    stall_p999_ms: float
    disk: float
    """Bytes a record, of all files."""
    memory_mb: float
    export_s: float
    export_flush_ms: float
    """The longest flush beside the export."""
    check_s: float
    install_s: float
    restart_s: float
    """Close, connect and open."""


class Payments:
    """Makes the write sets of a bucket, as a ledger hands them out."""

    def __init__(self, accounts: int) -> None:
        self._dice = Random(1)  # noqa: S311 - the same payments each time
        self._numbers = [f"acct{number:07d}" for number in range(accounts)]
        self._accounts: dict[str, Account] = {}
        self._digests: dict[str, int] = {}
        self.row = BucketRow(_BUCKET, cluster="bench", buckets=1)
        self.paid = 0

    def openings(self) -> list[WriteSet]:
        """Every account with its opening balance."""
        sets = []
        for start in range(0, len(self._numbers), _ACCOUNTS_PER_FLUSH):
            writes = self._begin()
            for number in self._numbers[start : start + _ACCOUNTS_PER_FLUSH]:
                account = Account(number, f"1-{len(self._accounts)}-1", "USD", version=1)
                self._accounts[number] = writes.accounts[number] = account
                self._post(writes, number, self._dice.randbytes(16), _OPENING, "@external", "")
            sets.append(self._end(writes))
        return sets

    def payments(self, count: int) -> WriteSet:
        """A write set of so many payments."""
        writes = self._begin()
        for _ in range(count):
            self.paid += 1
            payment_id = self._dice.randbytes(16)
            payer, payee = self._dice.sample(self._numbers, 2)
            amount = self._dice.randrange(1, 100)
            reference = f"order {self.paid}"
            self._post(writes, payer, payment_id, -amount, payee, reference)
            self._post(writes, payee, payment_id, amount, payer, reference)
            body = Body(Kind.PAYMENT, "USD", ((payer, -amount), (payee, amount)), 0, reference)
            writes.records[payment_id] = Record(
                payment_id,
                Code.COMMITTED,
                body,
                self._dice.randbytes(16),
                attempt=1,
                xid=make_xid(_INCARNATION, self.paid),
                time_us=self._time_us(),
            )
        return self._end(writes)

    def _time_us(self) -> int:
        return 1_700_000_000_000_000 + 97 * self.paid

    def _begin(self) -> WriteSet:
        return WriteSet(self.row, {}, {}, {}, {}, {}, [])

    def _post(
        self,
        writes: WriteSet,
        number: str,
        payment_id: bytes,
        amount: int,
        counterparty: str,
        reference: str,
    ) -> None:
        account = self._accounts[number]
        account.balance += amount
        account.version += 1
        account.sequence += 1
        writes.accounts[number] = account
        writes.postings.append(
            Posting(
                number,
                account.sequence,
                payment_id,
                amount,
                account.balance,
                self._time_us(),
                counterparty,
                reference,
            )
        )

    def _end(self, writes: WriteSet) -> WriteSet:
        total = self.row.state_hash
        for number, account in writes.accounts.items():
            digest = account_digest(account)
            total += digest - self._digests.get(number, 0)
            self._digests[number] = digest
        total += sum(map(record_digest, writes.records.values()))
        total += sum(map(posting_digest, writes.postings))
        row = self.row.__copy__()
        row.applied += len(writes.records) or 1
        row.term = 1
        row.state_hash = total % HASH_MODULUS
        self.row = writes.bucket = row
        return writes


class Bench:
    """One database that grows."""

    def __init__(self, connect: Connect, folder: Path, accounts: int, flush: int) -> None:
        self._connect = connect
        self._folder = folder
        self._payments = Payments(accounts)
        self._per_flush = flush
        self._database = connect(folder / "db")
        self._flushes: list[float] = []
        self._held: list[float] = []
        self._under_way = 0
        """The flush that is waited for, by its number."""

    async def run(self, sizes: Sequence[int], tell: Callable[[Costs], None]) -> None:
        """Grow to each of these numbers of records, and tell what it cost."""
        ticker = asyncio.ensure_future(self._tick())
        await self._database.open(_BUCKET, _WRITER)
        applied = 0
        for writes in self._payments.openings():
            assert await self._database.flush(writes, before=applied, writer=_WRITER)
            applied = writes.bucket.applied
        for size in sizes:
            tell(await self._grow(size))
        ticker.cancel()
        with suppress(asyncio.CancelledError):
            await ticker
        await self._database.close()

    async def _grow(self, size: int) -> Costs:
        self._flushes, self._held = [], []
        first = self._payments.paid
        cpu, written, making = time.process_time(), _written_bytes(), 0.0
        while self._payments.paid < size:
            making += await self._flush()
        await asyncio.sleep(1.0)  # for the compactions that are due
        payments = size - first
        cpu = time.process_time() - cpu - making
        written = _written_bytes() - written
        held = sorted(self._held)
        flush = sorted(self._flushes)[len(self._flushes) // 2]
        memory = memory_bytes(os.getpid())
        exported = await self._export()
        return Costs(
            records=size,
            cpu_us=round(1e6 * cpu / payments, 2),
            written=round(written / payments),
            flush_ms=round(1e3 * flush, 2),
            stall_ms=round(1e3 * held[-1], 2),
            stall_p999_ms=round(1e3 * held[int(0.999 * len(held))], 2),
            disk=round(_size(self._folder / "db") / size),
            memory_mb=round(memory / 1e6),
            export_s=exported[0],
            export_flush_ms=exported[1],
            check_s=exported[2],
            install_s=exported[3],
            restart_s=await self._restart(),
        )

    async def _flush(self) -> float:
        """The CPU seconds that making the write set took."""
        start = time.thread_time()
        before = self._payments.row.applied
        writes = self._payments.payments(self._per_flush)
        making = time.thread_time() - start
        start = time.perf_counter()
        self._under_way = self._payments.paid
        assert await self._database.flush(writes, before=before, writer=_WRITER)
        self._under_way = 0
        self._flushes.append(time.perf_counter() - start)
        return making

    async def _tick(self) -> None:
        while True:
            begun = time.perf_counter()
            flush = self._under_way
            await asyncio.sleep(_TICK_SECONDS)
            if flush and flush == self._under_way:
                self._held.append(time.perf_counter() - begun - _TICK_SECONDS)

    async def _export(self) -> tuple[float, float, float, float]:
        path = self._folder / "snapshot"
        start = time.perf_counter()
        export = asyncio.ensure_future(self._database.export(_BUCKET, path))
        self._flushes = [0.0]
        while not export.done():
            await self._flush()
        await export
        export_s, slowest = time.perf_counter() - start, max(self._flushes)
        start = time.perf_counter()
        await self._database.check(_BUCKET, path)
        check_s, start = time.perf_counter() - start, time.perf_counter()
        other = self._connect(self._folder / "other")
        await other.install(_BUCKET, path)
        install_s = time.perf_counter() - start
        await other.close()
        shutil.rmtree(self._folder / "other", ignore_errors=True)
        path.unlink()
        return round(export_s, 2), round(1e3 * slowest, 1), round(check_s, 2), round(install_s, 2)

    async def _restart(self) -> float:
        start = time.perf_counter()
        await self._database.close()
        self._database = self._connect(self._folder / "db")
        await self._database.open(_BUCKET, _WRITER)
        return round(time.perf_counter() - start, 2)


def _written_bytes() -> int:
    for line in Path("/proc/self/io").read_text().splitlines():
        name, _, value = line.partition(": ")
        if name == "write_bytes":
            return int(value)
    raise AssertionError("/proc/self/io has no line write_bytes")


def _size(folder: Path) -> int:
    # Blocks, not lengths: a write-ahead log is given its room beforehand.
    return sum(512 * file.stat().st_blocks for file in folder.rglob("*") if file.is_file())


def _connect_rocksdb(path: Path) -> AccountDB:
    return RocksAccountDB.connect(path, "bench", 1)


def run(*, quick: bool, json_file: Path | None) -> None:
    """Measure in a directory of its own beside the current one, print a line for each size, and keep the figures."""
    found: list[Costs] = []

    def tell(costs: Costs) -> None:
        found.append(costs)
        click.echo(msgspec.json.encode(costs).decode())

    with TemporaryDirectory(dir=Path.cwd(), prefix="bench-storage-") as folder:
        bench = Bench(_connect_rocksdb, Path(folder), _ACCOUNTS, _PAYMENTS_PER_FLUSH)
        asyncio.run(bench.run(_SIZES_QUICK if quick else _SIZES, tell))
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
