"""A second set of books: what every entry has changed, added up without cleverness and held against the ledger's own rows. Pure.

After each entry of each bucket these hold:

- an account's balance is the sum of its postings, its postings count up from 1, and what it has reserved is what is prepared
  on it; what it may spend never falls below its overdraft limit; its version never goes back;
- a record's outcome never changes, and a dead attempt stays dead;
- the balances of a currency sum to zero, once the legs that are prepared and whose record says COMMITTED are counted in.
"""

from collections.abc import Callable

import msgspec

from mas.ledger import Account, Code, Kind, Posting, PreparedLegs, Record, WriteSet

_OUTCOMES = (Code.COMMITTED, Code.REFUSED)


class Posted(msgspec.Struct, frozen=True):
    """A posting, and when it was seen first: seconds of the world's time."""

    posting: Posting
    bucket: int
    at: float


class BucketBooks:
    """One bucket's rows, as its entries have left them."""

    def __init__(self, bucket: int) -> None:
        self.bucket = bucket
        self.accounts: dict[str, Account] = {}
        self.legs: dict[bytes, PreparedLegs] = {}
        self.postings: dict[str, list[Posted]] = {}
        self.reserved: dict[str, list[int]] = {}
        """By account: prepared debits, and prepared credits."""

    def balance(self, number: str) -> int:
        """The sum of an account's postings."""
        lines = self.postings.get(number)
        return lines[-1].posting.balance if lines else 0


class Books:
    """All buckets'."""

    def __init__(self, violate: Callable[[str], None]) -> None:
        """`violate` is told what doesn't hold."""
        self.records: dict[bytes, Record] = {}
        self.buckets: dict[int, BucketBooks] = {}
        self._violate = violate
        self._totals: dict[str, int] = {}
        """By currency: of all postings."""

    def on_entry(self, bucket: int, writes: WriteSet, now: float) -> None:
        """An entry has been applied, and has changed this."""
        books = self.buckets.setdefault(bucket, BucketBooks(bucket))
        for record in writes.records.values():
            self._on_record(bucket, record)
        for posting in writes.postings:
            self._on_posting(books, posting, writes, now)
        for xid, legs in writes.legs.items():
            _change_legs(books, xid, legs)
        for account in writes.accounts.values():
            self._on_account(books, account)
        if writes.postings or writes.legs or writes.records:
            self._check_sums()

    def in_flight(self) -> dict[str, int]:
        """By currency: what is prepared, and committed by its record."""
        sums: dict[str, int] = {}
        for books in self.buckets.values():
            for legs in books.legs.values():
                record = self.records.get(legs.payment_id)
                if (
                    legs.kind is not Kind.CREATION
                    and record is not None
                    and record.outcome is Code.COMMITTED
                    and record.xid == legs.xid
                ):
                    amount = sum(amount for _, amount in legs.legs)
                    sums[legs.currency] = sums.get(legs.currency, 0) + amount
        return sums

    def _on_record(self, bucket: int, record: Record) -> None:
        before = self.records.get(record.payment_id)
        if before is not None:
            if before.outcome in _OUTCOMES and before != record:
                self._violate(
                    f"bucket {bucket}: a record with an outcome changes from {before} to {record}"
                )
            elif record.outcome is Code.ABORTED and record.attempt < before.attempt:
                self._violate(
                    f"bucket {bucket}: dead attempts of {record.payment_id.hex()} go back"
                )
        self.records[record.payment_id] = record

    def _on_posting(
        self, books: BucketBooks, posting: Posting, writes: WriteSet, now: float
    ) -> None:
        lines = books.postings.setdefault(posting.account, [])
        before = lines[-1].posting if lines else None
        sequence, balance = (before.sequence, before.balance) if before is not None else (0, 0)
        if (posting.sequence, posting.balance) != (sequence + 1, balance + posting.amount):
            self._violate(f"bucket {books.bucket}: {posting} stands behind {before}")
        lines.append(Posted(posting, books.bucket, now))
        account = writes.accounts.get(posting.account)
        if account is None:
            self._violate(f"bucket {books.bucket}: {posting} without its account")
        else:
            self._totals[account.currency] = self._totals.get(account.currency, 0) + posting.amount

    def _on_account(self, books: BucketBooks, account: Account) -> None:
        number = account.number
        before = books.accounts.get(number)
        if before is not None and account.version < before.version:
            self._violate(f"bucket {books.bucket}: the version of {number} goes back")
        lines = books.postings.get(number, ())
        if account.balance != books.balance(number) or account.sequence != len(lines):
            self._violate(
                f"bucket {books.bucket}: {number} has {account.balance} after {account.sequence} postings, and its "
                f"{len(lines)} postings sum to {books.balance(number)}"
            )
        if not number.startswith("@"):
            self._check_reserved(books, account)
        books.accounts[number] = account.__copy__()

    def _check_reserved(self, books: BucketBooks, account: Account) -> None:
        debits, credits_ = books.reserved.get(account.number, (0, 0))
        if (account.debits_pending, account.credits_pending) != (debits, credits_):
            self._violate(
                f"bucket {books.bucket}: {account.number} has reserved {account.debits_pending} and {account.credits_pending}, and what is "
                f"prepared on it {debits} and {credits_}"
            )
        if account.balance - account.debits_pending < -account.overdraft_limit:
            self._violate(
                f"bucket {books.bucket}: {account.number} has {account.balance}, of which {account.debits_pending} is held, and may "
                f"go down to {-account.overdraft_limit}"
            )

    def _check_sums(self) -> None:
        in_flight = self.in_flight()
        for currency, total in self._totals.items():
            if total + in_flight.get(currency, 0):
                self._violate(
                    f"the balances of {currency} sum to {total}, and what is under way to {in_flight.get(currency, 0)}"
                )


def _change_legs(books: BucketBooks, xid: bytes, legs: PreparedLegs | None) -> None:
    before = books.legs.pop(xid, None)
    if before is not None:
        _reserve(books, before, -1)
    if legs is not None:
        books.legs[xid] = legs
        _reserve(books, legs, 1)


def _reserve(books: BucketBooks, legs: PreparedLegs, sign: int) -> None:
    if legs.kind is Kind.CREATION:
        return
    for number, amount in legs.legs:
        reserved = books.reserved.setdefault(number, [0, 0])
        reserved[amount > 0] += sign * abs(amount)
