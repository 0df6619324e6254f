"""Reads of a `RocksAccountDB`: rows wherever they are, records in their chunks, statements backwards through theirs."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice

from mas.errors import CorruptData
from mas.ledger.rows import Account, Loaded, Posting, Record, ResidentState
from mas.storage.account_db.buckets import Bucket, Buckets
from mas.storage.account_db.files import DatabaseFiles
from mas.storage.account_db.layout import (
    ACCOUNT,
    CHUNK,
    CLAIM,
    INCARNATION,
    LEG,
    PAYMENT,
    PLACE,
    find_buckets,
    read_appended,
    read_head,
    record_at,
    scan_prefix,
)
from mas.storage.account_db.rows import (
    JUMP,
    decode_account,
    decode_claim,
    decode_incarnation,
    decode_legs,
    decode_lines,
    decode_record,
    decode_records,
)
from mas.storage.account_db.snapshot import Header


class Reads:
    """What is asked of a bucket, in whichever thread. What isn't here is empty."""

    def __init__(self, files: DatabaseFiles, buckets: Buckets) -> None:
        self._files = files
        self._buckets = buckets

    def load(
        self, bucket: int, accounts: Sequence[str], records: Sequence[bytes], claims: Sequence[str]
    ) -> Loaded:
        """Rows and the applied index, of one moment (rule 23)."""
        read = partial(self._load, accounts, records, claims)
        return self._buckets.read_steadily(bucket, read) or Loaded(0, {}, {}, {})

    def postings(
        self, bucket: int, number: str, before: int, limit: int
    ) -> tuple[int, list[Posting]]:
        """Newest first below sequence `before` (0: from the newest), and the applied index they were read at."""
        read = partial(self._postings, number, before, limit)
        return self._buckets.read_steadily(bucket, read) or (0, [])

    def header(self, bucket: int) -> Header | None:
        """The bucket's own row and totals."""
        found = self._buckets.find(bucket)
        return None if found is None else found.head.header

    def all_buckets(self) -> list[int]:
        """The buckets that are here, ascending."""
        database = self._files.database
        buckets = list(find_buckets(database))
        return [bucket for bucket in buckets if read_head(database.get, bucket) is not None]

    def _load(
        self,
        accounts: Sequence[str],
        records: Sequence[bytes],
        claims: Sequence[str],
        bucket: Bucket,
    ) -> Loaded:
        account_keys = {ACCOUNT + number.encode(): number for number in accounts}
        record_keys = {PAYMENT + payment_id: payment_id for payment_id in records}
        claim_keys = {CLAIM + number.encode(): number for number in claims}
        head, rows = self._buckets.read(bucket, [*account_keys, *record_keys, *claim_keys])
        payments = {payment_id: rows[key] for key, payment_id in record_keys.items() if key in rows}
        return Loaded(
            head.header.applied,
            {each: decode_account(rows[key]) for key, each in account_keys.items() if key in rows},
            self._read_records(head.prefix, payments),
            {each: decode_claim(rows[key]) for key, each in claim_keys.items() if key in rows},
        )

    def _read_records(self, prefix: bytes, payments: dict[bytes, bytes]) -> dict[bytes, Record]:
        chunks: dict[int, list[Record]] = {}
        records: dict[bytes, Record] = {}
        for payment_id, row in payments.items():
            if len(row) != PLACE.size:
                record = decode_record(row)
            else:
                number, place = PLACE.unpack(row)
                if number not in chunks:
                    chunks[number] = decode_records(self._read_chunk(prefix, number))
                record = record_at(chunks[number], place, number)
            if record.payment_id != payment_id:
                raise CorruptData(
                    f"{self._files.path}: payment {payment_id.hex()} leads to another"
                )
            records[payment_id] = record
        return records

    def _read_chunk(self, prefix: bytes, number: int) -> bytes:
        return read_appended(self._files.database.get, prefix + CHUNK, number)

    def _postings(
        self, number: str, before: int, limit: int, bucket: Bucket
    ) -> tuple[int, list[Posting]]:
        key = ACCOUNT + number.encode()
        head, rows = self._buckets.read(bucket, [key])
        if key not in rows:
            return head.header.applied, []
        account = decode_account(rows[key])
        last = before - 1 if before else account.sequence
        return head.header.applied, list(islice(self._walk_back(head.prefix, account, last), limit))

    def _walk_back(self, prefix: bytes, account: Account, last: int) -> Iterator[Posting]:
        """The account's postings from number `last` on, newest first."""
        chunk = account.chunk64 if last <= account.sequence // JUMP * JUMP else account.chunk
        while chunk:
            lines = [
                line
                for line in decode_lines(self._read_chunk(prefix, chunk))
                if line.posting.account == account.number
            ]
            if not lines:
                raise CorruptData(
                    f"{self._files.path}: chunk {chunk} has no posting of account {account.number!r}"
                )
            for line in reversed(lines):
                if line.posting.sequence <= last:
                    yield line.posting
            chunk = lines[0].previous
            for line in lines:
                if line.posting.sequence % JUMP == 0:
                    if last <= line.posting.sequence - JUMP:
                        chunk = line.jump
                    break

    def resident(self, bucket: int) -> ResidentState:
        """What is always kept in memory, of a bucket whose index has all."""
        found = self._buckets.find(bucket)
        assert found is not None, "it was opened"
        head = found.head
        legs = [decode_legs(row) for _, row in self._scan(head.prefix + LEG)]
        incarnations = [decode_incarnation(row) for _, row in self._scan(head.prefix + INCARNATION)]
        return ResidentState(
            head.header.row(),
            {each.xid: each for each in legs},
            {each.incarnation: each for each in incarnations},
        )

    def payment_ids(self, bucket: int, after: bytes, limit: int) -> list[bytes]:
        """A page, ascending, of the ids that the index has."""
        found = self._buckets.find(bucket)
        if found is None:
            return []
        rows = self._scan(found.head.prefix + PAYMENT, after)
        return list(islice((key for key, _ in rows if key != after), limit))

    def _scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return scan_prefix(self._files.database.iter(), prefix, start)
