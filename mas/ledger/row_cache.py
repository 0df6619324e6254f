"""Which rows of a bucket are in memory, and which of them the AccountDB doesn't hold yet.

An account's row is never changed: the rules put a new one in its place. So whoever was handed a row, a reader or a write
set, may keep it. (`chunk` and `chunk64` are the AccountDB's own words, and the exception.) What has changed is
noted twice over: until it is folded into the state hash, and until it is handed out in a write set.

Nothing is judged here; the rules are in `mas.ledger.rules`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum
from itertools import islice
from typing import Final, Literal, TypeVar

import msgspec

from mas.ledger.filter import RecordFilter
from mas.ledger.hashing import (
    HASH_MODULUS,
    account_digest,
    claim_digest,
    incarnation_digest,
    legs_digest,
    nodes_digest,
    posting_digest,
    record_digest,
)
from mas.ledger.needs import Needs
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

_Key = TypeVar("_Key")
_Row = TypeVar("_Row")

_LOOKED_AT_MIN = 1_000
"""Rows that one eviction looks at beyond twice what it wants: a bound, also where nearly all are held."""


class Unknown(Enum):
    """Stands for a row that isn't in memory: it may exist or not."""

    NOT_IN_MEMORY = 0


UNKNOWN: Final = Unknown.NOT_IN_MEMORY


class NotLoaded(Exception):
    """A row was needed in `apply` that nobody has loaded: a bug of this replica's host, never of the entry.

    It leaves `apply` instead of being recorded: another replica may have the row in memory (rule 16, admission).
    """


class Missing(msgspec.Struct, gc=False):
    """Rows that an apply will need and that are neither in memory nor known to be absent; falsy if there are none."""

    accounts: list[str]
    records: list[bytes]
    claims: list[str]

    def __bool__(self) -> bool:
        return bool(self.accounts or self.records or self.claims)


class MissingSet(msgspec.Struct):
    """Rows to be loaded, being gathered; each once, in the order of being found missing."""

    accounts: dict[str, None]
    records: dict[bytes, None]
    claims: dict[str, None]


class RowCache:
    """The rows in memory of one bucket, and what of them isn't durable yet."""

    def __init__(self, kept: ResidentState) -> None:
        self.bucket: BucketRow = kept.bucket
        self.legs: dict[bytes, PreparedLegs] = dict(kept.legs)
        """What is prepared, by xid; in the order of preparation, as far as this memory has seen it."""
        self.filter = RecordFilter()
        self.postings: list[Posting] = []
        """Postings of no write set yet."""
        self.in_flight: WriteSet | None = None
        """The write set that was taken and isn't known to be durable."""

        self.is_whole = True
        """False while an entry is being applied, and for ever once that was interrupted."""
        self._accounts: dict[str, Account] = {}
        self._records: dict[bytes, Record] = {}
        self._claims: dict[str, int] = {}
        self._incarnations: dict[bytes, Incarnation] = dict(kept.incarnations)
        # Never iterated over. Cleared by each eviction, which makes absence from memory say nothing.
        self._absent_accounts: set[str] = set()
        self._absent_records: set[bytes] = set()
        self._absent_claims: set[str] = set()

        self._prepared_on: dict[str, dict[bytes, None]] = {}
        self._xids_on: dict[str, tuple[bytes, ...]] = {}
        for legs in self.legs.values():
            self._index(legs)

        # Since the last fold.
        self._changed_accounts: dict[str, Account] = {}
        self._changed_records: dict[bytes, Record] = {}
        self._changed_legs: dict[bytes, PreparedLegs | None] = {}
        self._changed_claims: dict[str, int] = {}
        self._changed_incarnations: dict[bytes, Incarnation] = {}
        self._folded_postings = 0
        # Folded, and of no write set yet.
        self._unflushed = _nothing(self.bucket)
        self._flushed_index = self.bucket.applied
        # What of each row is in the state hash now.
        self._account_digests: dict[str, int] = {}
        self._legs_digests = {xid: legs_digest(legs) for xid, legs in self.legs.items()}
        self._incarnation_digests = {
            name: incarnation_digest(row) for name, row in self._incarnations.items()
        }

    # -- Looking ---------------------------------------------------------------------------------------

    def account(self, number: str) -> Account | Literal[Unknown.NOT_IN_MEMORY] | None:
        """The account as it stands, None if there is none, `UNKNOWN` if that isn't in memory."""
        return _look(number, self._accounts, self._absent_accounts)

    def record(self, payment_id: bytes) -> Record | Literal[Unknown.NOT_IN_MEMORY] | None:
        """A payment's record; the filter's "no" counts as knowing that there is none."""
        record = self._records.get(payment_id)
        if record is None and payment_id not in self._absent_records:
            if payment_id in self.filter:
                return UNKNOWN
            self._absent_records.add(payment_id)
        return record

    def claim(self, number: str) -> int | Literal[Unknown.NOT_IN_MEMORY] | None:
        """The bucket of the account with this number, whose home is this bucket."""
        return _look(number, self._claims, self._absent_claims)

    def require_account(self, number: str) -> Account | None:
        """Return the account as it stands, None if there is none. Raises `NotLoaded`."""
        account = self._accounts.get(number)
        if account is None and number not in self._absent_accounts:
            raise NotLoaded(f"account {number}")
        return account

    def require_record(self, payment_id: bytes) -> Record | None:
        """Return a payment's record, None if there is none. Raises `NotLoaded`."""
        record = self._records.get(payment_id)
        if (
            record is None
            and payment_id not in self._absent_records
            and self.record(payment_id) is UNKNOWN
        ):
            raise NotLoaded(f"record {payment_id.hex()}")
        return record

    def require_claim(self, number: str) -> int | None:
        """Return the bucket of the account with this number, None if nobody has claimed it. Raises `NotLoaded`."""
        claim = self.claim(number)
        if claim is UNKNOWN:
            raise NotLoaded(f"claim of {number}")
        return claim

    def incarnation(self, name: bytes) -> Incarnation | None:
        """Return what is remembered of this coordinator, None if it was never heard of."""
        return self._incarnations.get(name)

    def count_prepared_on(self, number: str) -> int:
        """Return how many xids have prepared something on this account."""
        return len(self._prepared_on.get(number, ()))

    def prepared_on(self, numbers: Iterable[str]) -> list[PreparedLegs]:
        """List what is prepared now on any of these accounts, an xid once; accounts being created included."""
        xids: dict[bytes, None] = {}
        for number in numbers:
            xids.update(self._prepared_on.get(number, {}))
        return [self.legs[xid] for xid in xids]

    def xids_on(self, number: str) -> tuple[bytes, ...]:
        """List what is prepared now on this account, in ascending order; computed once as long as that doesn't change.

        Sorted: the order in which they were prepared is not in the rows, and a replica that restarted lost it.
        """
        xids = self._xids_on.get(number)
        if xids is None:
            xids = self._xids_on[number] = tuple(sorted(self._prepared_on.get(number, ())))
        return xids

    def incarnations(self) -> list[bytes]:
        """The coordinators that have been heard of and aren't closed, in the order of being heard of."""
        return [name for name, row in self._incarnations.items() if not row.closed]

    def add_missing(self, missing: "MissingSet", needs: Needs) -> None:
        """Add those of an instruction's needs that a load has to bring."""
        numbers, payment_id, claimed = needs
        if payment_id is not None and self.record(payment_id) is UNKNOWN:
            missing.records[payment_id] = None
        accounts, absent = self._accounts, self._absent_accounts
        for number in numbers:
            if number not in accounts and number not in absent:
                missing.accounts[number] = None
        if claimed is not None and self.claim(claimed) is UNKNOWN:
            missing.claims[claimed] = None

    # -- Loading and leaving (rules 22, 23) ---------------------------------------------------------------

    def load(self, asked: Missing, loaded: Loaded) -> None:
        """Take in what a load brought, but for what came into memory meanwhile; what it didn't find is absent.

        `loaded.applied` must not be below what is known to be flushed, or a row of before an eviction would come back.
        """
        assert loaded.applied >= self._flushed_index, "rows older than what is known to be flushed"
        for number in asked.accounts:
            if number in self._accounts:
                continue
            account = loaded.accounts.get(number)
            if account is None:
                self._absent_accounts.add(number)
            else:
                self._accounts[number] = account
                self._account_digests[number] = account_digest(account)
        _take_in(asked.records, loaded.records, self._records, self._absent_records)
        _take_in(asked.claims, loaded.claims, self._claims, self._absent_claims)

    def evict(self, keep: int) -> None:
        """Let the oldest clean rows beyond `keep` accounts, records and claims leave memory.

        What isn't known to be durable stays, and so do accounts that something is prepared on or that bear marks, and
        `@external`. What was held back counts as used, so that the next eviction looks elsewhere.
        """
        held_accounts = self._held(self._changed_accounts, "accounts")
        for number in _victims(
            self._accounts,
            keep,
            lambda n: n.startswith("@") or self._is_bound(n) or held_accounts(n),
        ):
            del self._accounts[number], self._account_digests[number]
        for payment_id in _victims(
            self._records, keep, self._held(self._changed_records, "records")
        ):
            del self._records[payment_id]
        for number in _victims(self._claims, keep, self._held(self._changed_claims, "claims")):
            del self._claims[number]
        self._absent_accounts.clear()
        self._absent_records.clear()
        self._absent_claims.clear()

    def _is_bound(self, number: str) -> bool:
        return number in self._prepared_on or bool(self._accounts[number].marks)

    def _held(self, changed: Collection[_Key], name: str) -> Callable[[_Key], bool]:
        unflushed = getattr(self._unflushed, name)
        in_flight = getattr(self.in_flight, name) if self.in_flight else ()
        return lambda key: key in changed or key in unflushed or key in in_flight

    # -- What has changed --------------------------------------------------------------------------------

    def state_hash(self) -> int:
        """The sum of all rows' digests modulo 2**128, as of `bucket.applied`."""
        self._fold()
        return self.bucket.state_hash

    def take_writes(self) -> WriteSet:
        """All that has changed since the write set before, which must be durable by now."""
        assert self.is_whole, "an apply was interrupted: start again from the database"
        assert self.in_flight is None, "one write set at a time"
        self._fold()
        writes, self._unflushed = self._unflushed, _nothing(self.bucket)
        writes.bucket = self.bucket.__copy__()
        writes.postings, self.postings, self._folded_postings = self.postings, [], 0
        for name, row in writes.incarnations.items():
            writes.incarnations[name] = _copy_incarnation(row)
        # Before these may leave memory, the filter has to know them (rule 24).
        self.filter.add_all(writes.records)
        self.in_flight = writes
        return writes

    def flushed(self, writes: WriteSet) -> None:
        """This write set is durable: its rows may leave memory, as the newest used ones."""
        assert writes is self.in_flight, "not the write set that was taken"
        for number, row in writes.accounts.items():
            current = self._accounts.pop(number)
            current.chunk, current.chunk64 = row.chunk, row.chunk64
            self._accounts[number] = current
        self.in_flight = None
        self._flushed_index = writes.bucket.applied

    def _fold(self) -> None:
        """Bring the state hash to the present, and what has changed to the next write set."""
        total = self.bucket.state_hash
        total += self._fold_accounts() + self._fold_legs() + self._fold_incarnations()
        total += sum(map(record_digest, self._changed_records.values()))
        total += sum(claim_digest(*claim) for claim in self._changed_claims.items())
        total += sum(map(posting_digest, islice(self.postings, self._folded_postings, None)))
        self._folded_postings = len(self.postings)
        self._unflushed.records.update(self._changed_records)
        self._unflushed.claims.update(self._changed_claims)
        self._changed_records.clear()
        self._changed_claims.clear()
        self.bucket.state_hash = total % HASH_MODULUS

    def _fold_accounts(self) -> int:
        digests, total = self._account_digests, 0
        for number, account in self._changed_accounts.items():
            digest = account_digest(account)
            total += digest - digests.get(number, 0)
            digests[number] = digest
        self._unflushed.accounts.update(self._changed_accounts)
        self._changed_accounts.clear()
        return total

    def _fold_legs(self) -> int:
        digests, total = self._legs_digests, 0
        for xid, legs in self._changed_legs.items():
            total -= digests.pop(xid, 0)
            if legs is not None:
                digests[xid] = digest = legs_digest(legs)
                total += digest
        self._unflushed.legs.update(self._changed_legs)
        self._changed_legs.clear()
        return total

    def _fold_incarnations(self) -> int:
        digests, total = self._incarnation_digests, 0
        for name, row in self._changed_incarnations.items():
            # Below the mark posted xids are forgotten (rule 10): nothing looks for them there, so once a fold will do.
            row.posted = {counter: None for counter in row.posted if counter >= row.low_water}
            digest = incarnation_digest(row)
            total += digest - digests.get(name, 0)
            digests[name] = digest
        self._unflushed.incarnations.update(self._changed_incarnations)
        self._changed_incarnations.clear()
        return total

    # -- Changes, of the ledger's making ---------------------------------------------------------------

    def put_accounts(self, accounts: Mapping[str, Account]) -> None:
        """Put these rows in the place of those before, by number."""
        self._accounts.update(accounts)
        self._changed_accounts.update(accounts)

    def put_claim(self, number: str, bucket: int) -> None:
        """Note that the account with this number is in that bucket, for all time."""
        self._claims[number] = self._changed_claims[number] = bucket

    def put_record(self, record: Record) -> None:
        """Put a payment's record in the place of the one before, if there is one."""
        payment_id = record.payment_id
        before = self._records.get(payment_id)
        if before is not None and payment_id not in self._changed_records:
            self.bucket.state_hash -= record_digest(before)
        self._records[payment_id] = self._changed_records[payment_id] = record

    def put_nodes(self, nodes: tuple[NodeRow, ...]) -> None:
        """Put the cluster's register as the entry being applied leaves it; it is written with the bucket's own row."""
        bucket = self.bucket
        before = nodes_digest(bucket.nodes, bucket.nodes_index)
        bucket.state_hash += nodes_digest(nodes, bucket.applied) - before
        bucket.nodes, bucket.nodes_index = nodes, bucket.applied

    def put_legs(self, legs: PreparedLegs) -> None:
        """Note what an xid has prepared."""
        self.legs[legs.xid] = self._changed_legs[legs.xid] = legs
        self._index(legs)

    def drop_legs(self, legs: PreparedLegs) -> None:
        """Forget what an xid had prepared: it is posted or freed."""
        xid = legs.xid
        del self.legs[xid]
        if xid in self._legs_digests:
            self._changed_legs[xid] = None
        else:  # prepared and settled since the last fold: nobody else has heard of it
            del self._changed_legs[xid]
        for number, _ in legs.legs:
            self._xids_on.pop(number, None)
            xids = self._prepared_on.get(number)
            if xids is not None:
                xids.pop(xid, None)
                if not xids:
                    del self._prepared_on[number]

    def change_incarnation(self, name: bytes) -> Incarnation:
        """Return a coordinator's row to be changed now, a new one where it was never heard of."""
        row = self._incarnations.get(name)
        if row is None:
            row = self._incarnations[name] = Incarnation(name)
        self._changed_incarnations[name] = row
        return row

    def _index(self, legs: PreparedLegs) -> None:
        for number, _ in legs.legs:
            self._xids_on.pop(number, None)
            xids = self._prepared_on.get(number)
            if xids is None:
                self._prepared_on[number] = {legs.xid: None}
            else:
                xids[legs.xid] = None


def _nothing(bucket: BucketRow) -> WriteSet:
    return WriteSet(bucket, {}, {}, {}, {}, {}, [])


def _copy_incarnation(row: Incarnation) -> Incarnation:
    return Incarnation(row.incarnation, row.low_water, dict(row.posted), row.closed)


def _look(
    key: _Key, rows: dict[_Key, _Row], absent: set[_Key]
) -> _Row | Literal[Unknown.NOT_IN_MEMORY] | None:
    row = rows.get(key)
    return UNKNOWN if row is None and key not in absent else row


def _take_in(
    asked: Iterable[_Key], found: dict[_Key, _Row], rows: dict[_Key, _Row], absent: set[_Key]
) -> None:
    for key in asked:
        if key in rows:
            continue
        row = found.get(key)
        if row is None:
            absent.add(key)
        else:
            rows[key] = row


def _victims(rows: dict[_Key, _Row], keep: int, is_held: Callable[[_Key], bool]) -> list[_Key]:
    excess = len(rows) - keep
    if excess <= 0:
        return []
    victims: list[_Key] = []
    held: list[_Key] = []
    for key in islice(rows, 2 * excess + _LOOKED_AT_MIN):
        if is_held(key):
            held.append(key)
        else:
            victims.append(key)
            if len(victims) == excess:
                break
    for key in held:
        rows[key] = rows.pop(key)
    return victims
