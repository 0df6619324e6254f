"""The AccountDB of a simulated node: rows in memory that outlive the process, with what an AccountDB promises.

A flush commits durably or not at all, each piece of work takes virtual time, and the whole may be away for a while, or be put
back to what it held some time ago, as a database that fails over may be (rule 25, conditional flush).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
import xxhash

from mas.errors import CorruptData, DatabaseUnavailable, StorageError
from mas.ledger import (
    HASH_MODULUS,
    Account,
    BucketRow,
    Incarnation,
    Loaded,
    Posting,
    PreparedLegs,
    Record,
    ResidentState,
    WriteSet,
    account_digest,
    claim_digest,
    incarnation_digest,
    legs_digest,
    nodes_digest,
    posting_digest,
    record_digest,
)
from mas.ledger.totals import Totals
from mas.multiraft.ports import Worker
from mas.raft import ConfState, SnapshotMetadata

_DIGEST_BYTES = 8
_decode_members = msgspec.msgpack.Decoder(ConfState).decode


class Rows(msgspec.Struct):
    """All of one bucket."""

    bucket: BucketRow
    writer: bytes = b""
    accounts: dict[str, Account] = {}
    records: dict[bytes, Record] = {}
    legs: dict[bytes, PreparedLegs] = {}
    claims: dict[str, int] = {}
    incarnations: dict[bytes, Incarnation] = {}
    postings: dict[str, list[Posting]] = {}
    """By account, oldest first."""

    def take(self, writes: WriteSet) -> None:
        """A write set, whole."""
        self.bucket = writes.bucket.__copy__()
        self.accounts |= {number: row.__copy__() for number, row in writes.accounts.items()}
        self.records |= writes.records
        self.claims |= writes.claims
        self.incarnations |= writes.incarnations
        for xid, legs in writes.legs.items():
            if legs is None:
                self.legs.pop(xid, None)
            else:
                self.legs[xid] = legs
        for posting in writes.postings:
            self.postings.setdefault(posting.account, []).append(posting)

    def state_hash(self) -> int:
        """Of the rows, whatever the bucket's own row says."""
        total = nodes_digest(self.bucket.nodes, self.bucket.nodes_index)
        total += sum(map(account_digest, self.accounts.values()))
        total += sum(map(record_digest, self.records.values()))
        total += sum(map(legs_digest, self.legs.values()))
        total += sum(claim_digest(*claim) for claim in self.claims.items())
        total += sum(map(incarnation_digest, self.incarnations.values()))
        total += sum(posting_digest(line) for lines in self.postings.values() for line in lines)
        return total % HASH_MODULUS

    def totals(self) -> Totals:
        """Counted anew."""
        totals = Totals(self.bucket.applied)
        for account in self.accounts.values():
            totals.add_account(account, account.balance)
        totals.add_records(self.records.values())
        totals.postings = sum(map(len, self.postings.values()))
        return totals

    def metadata(self) -> SnapshotMetadata:
        """Index, term and members of a snapshot of these rows."""
        members = self.bucket.members
        conf_state = _decode_members(members) if members else ConfState()
        return SnapshotMetadata(self.bucket.applied, self.bucket.term, conf_state)


class _Copy(msgspec.Struct):
    """Rows as bytes hold them: a state hash has more bits than a number may have."""

    rows: Rows
    state_hash: str


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Copy).decode


def encode_rows(rows: Rows) -> bytes:
    """A copy of all rows, whoever writes to them."""
    bucket = rows.bucket.__copy__()
    bucket.state_hash = 0
    copy = msgspec.structs.replace(rows, bucket=bucket)
    return _encode(_Copy(copy, f"{rows.bucket.state_hash:x}"))


def decode_rows(data: bytes) -> Rows:
    """Read what `encode_rows` was given."""
    copy = _decode(data)
    copy.rows.bucket.state_hash = int(copy.state_hash, 16)
    return copy.rows


class Watcher(Protocol):
    """Who holds the databases' users to their promises."""

    def on_flushed(self, node: int, bucket: BucketRow) -> None:
        """A replica's state, as it is durable now."""


class DatabaseDisk:
    """What survives the node's death."""

    def __init__(self) -> None:
        self.rows: dict[int, Rows] = {}
        self.is_away = False

    def backup(self) -> dict[int, bytes]:
        """All that it holds."""
        return {bucket: encode_rows(rows) for bucket, rows in self.rows.items()}

    def restore(self, backup: dict[int, bytes]) -> None:
        """Hold what it held; a bucket that came since is gone."""
        self.rows = {bucket: decode_rows(rows) for bucket, rows in backup.items()}


class SimAccountDB:
    """The databases as one life of the node opens them. Fits `mas.resource.ports.AccountDB`."""

    def __init__(
        self, disk: DatabaseDisk, worker: Worker, node: int = 0, watcher: Watcher | None = None
    ) -> None:
        self._disk = disk
        self._worker = worker
        self._node = node
        self._watcher = watcher

    async def open(self, bucket: int, writer: bytes) -> ResidentState:
        """Become the bucket's writer (rule 25) and read what is always kept in memory; a new bucket is made."""
        return await self._worker.run(partial(self._open, bucket, writer))

    async def load(
        self, bucket: int, accounts: Sequence[str], records: Sequence[bytes], claims: Sequence[str]
    ) -> Loaded:
        """Rows and the applied index, of one moment (rule 23, loads)."""
        return await self._worker.run(partial(self._load, bucket, accounts, records, claims))

    async def flush(self, writes: WriteSet, *, before: int, writer: bytes) -> bool:
        """Conditional on the applied index `before` and the writer (rule 25); True for what an earlier try has done."""
        return await self._worker.run(partial(self._flush, writes, before, writer))

    async def payment_ids(self, bucket: int, after: bytes, limit: int) -> list[bytes]:
        """A page of all records' ids, ascending."""
        return await self._worker.run(
            lambda: [each for each in sorted(self._rows(bucket).records) if each > after][:limit]
        )

    async def postings(
        self, bucket: int, number: str, before: int, limit: int
    ) -> tuple[int, list[Posting]]:
        """Newest first below sequence `before` (0: from the newest), and the applied index they were read at."""
        return await self._worker.run(partial(self._postings, bucket, number, before, limit))

    async def totals(self, bucket: int) -> Totals:
        """What the rows add up to."""
        return await self._worker.run(lambda: self._rows(bucket).totals())

    async def verify(self, bucket: int) -> Totals:
        """Hold the rows to their state hash; nobody keeps totals here. Raises `CorruptData`."""
        return await self._worker.run(partial(self._verify, bucket))

    def room_for(self, size: int) -> bool:
        """Always."""
        return True

    async def export(self, bucket: int, path: Path) -> SnapshotMetadata:
        """Write the rows of one moment to a file (rule 28, snapshots)."""
        return await self._worker.run(partial(self._export, bucket, path))

    async def check(self, bucket: int, path: Path) -> SnapshotMetadata:
        """Raises `CorruptData` where the file isn't a snapshot of this bucket, or its state hash isn't that of its rows."""
        return await self._worker.run(lambda: _read_file(bucket, path).metadata())

    async def install(self, bucket: int, path: Path) -> None:
        """Swap the bucket's rows for the file's; whoever was its writer isn't any more."""
        await self._worker.run(partial(self._install, bucket, path))

    async def erase(self, bucket: int) -> None:
        """Forget all of a bucket; whoever was its writer isn't any more."""
        await self._worker.run(lambda: self._all().pop(bucket, None))

    async def bucket_row(self, bucket: int) -> BucketRow | None:
        """The bucket as of its applied index, None where it isn't here."""
        rows = await self._worker.run(lambda: self._all().get(bucket))
        return None if rows is None else rows.bucket.__copy__()

    async def close(self) -> None:
        """Nothing: the disk stays."""

    # -- at the moment when the work is done ---------------------------------------------------

    def _all(self) -> dict[int, Rows]:
        if self._disk.is_away:
            raise DatabaseUnavailable("the database is away (injected): try again")
        return self._disk.rows

    def _rows(self, bucket: int) -> Rows:
        return self._all().get(bucket) or Rows(BucketRow(bucket))

    def _open(self, bucket: int, writer: bytes) -> ResidentState:
        rows = self._all().setdefault(bucket, Rows(BucketRow(bucket)))
        rows.writer = writer
        incarnations = {
            name: msgspec.structs.replace(row, posted=dict(row.posted))
            for name, row in rows.incarnations.items()
        }
        return ResidentState(rows.bucket.__copy__(), dict(rows.legs), incarnations)

    def _load(
        self, bucket: int, accounts: Sequence[str], records: Sequence[bytes], claims: Sequence[str]
    ) -> Loaded:
        rows = self._rows(bucket)
        return Loaded(
            rows.bucket.applied,
            {each: rows.accounts[each].__copy__() for each in accounts if each in rows.accounts},
            {each: rows.records[each] for each in records if each in rows.records},
            {each: rows.claims[each] for each in claims if each in rows.claims},
        )

    def _flush(self, writes: WriteSet, before: int, writer: bytes) -> bool:
        rows = self._all().get(writes.bucket.bucket)
        if rows is None or rows.writer != writer:
            return False
        if rows.bucket.applied != before:
            return rows.bucket.applied == writes.bucket.applied
        rows.take(writes)
        if self._watcher is not None:
            self._watcher.on_flushed(self._node, rows.bucket)
        return True

    def _postings(
        self, bucket: int, number: str, before: int, limit: int
    ) -> tuple[int, list[Posting]]:
        rows = self._rows(bucket)
        lines = rows.postings.get(number, [])
        if before:
            lines = lines[: before - 1]
        return rows.bucket.applied, list(reversed(lines[-limit:]))

    def _verify(self, bucket: int) -> Totals:
        rows = self._rows(bucket)
        if rows.state_hash() != rows.bucket.state_hash:
            raise CorruptData(f"bucket {bucket}: its rows aren't those of its state hash")
        return rows.totals()

    def _export(self, bucket: int, path: Path) -> SnapshotMetadata:
        rows = self._all().get(bucket)
        if rows is None:
            raise StorageError(f"bucket {bucket} has no rows here: there is nothing to export")
        data = encode_rows(msgspec.structs.replace(rows, writer=b""))
        path.write_bytes(data + xxhash.xxh3_64_digest(data))
        return rows.metadata()

    def _install(self, bucket: int, path: Path) -> None:
        everything = self._all()
        everything[bucket] = _read_file(bucket, path)


def _read_file(bucket: int, path: Path) -> Rows:
    data = path.read_bytes()
    content, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if xxhash.xxh3_64_digest(content) != digest:
        raise CorruptData(f"{path} isn't what was exported")
    rows = decode_rows(content)
    if rows.bucket.bucket != bucket:
        raise CorruptData(f"snapshot {path} is of bucket {rows.bucket.bucket}, not of {bucket}")
    if rows.state_hash() != rows.bucket.state_hash:
        raise CorruptData(f"snapshot {path}: its rows aren't those of its state hash")
    return rows
