"""Rows of a bucket for the AccountDB's tests: write sets as a ledger would hand them out."""

from mas.ids import make_xid
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
from mas.ledger.instructions import Body, Code, Kind, LockMode, Reason, Token
from mas.ledger.rows import (
    Account,
    BucketRow,
    Incarnation,
    NodeRow,
    Posting,
    PreparedLegs,
    Record,
    ResidentState,
    WriteSet,
)

INCARNATION = b"incarnatio"


def payment_id(number: int) -> bytes:
    return (number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128)).to_bytes(16, "big")


def record(number: int, payer: str = "alice", payee: str = "bob") -> Record:
    return Record(
        payment_id=payment_id(number),
        outcome=Code.COMMITTED,
        body=Body(Kind.PAYMENT, "USD", ((payer, -100), (payee, 100)), reference='rent "€"'),
        body_hash=bytes(range(16)),
        attempt=1,
        xid=make_xid(INCARNATION, number),
        time_us=1_700_000_000_000_000 + number,
        account_bucket=number % 3,
    )


def undecided(number: int, attempt: int = 1) -> Record:
    return Record(
        payment_id(number),
        Code.ABORTED,
        reason=Reason.LOCK_CONFLICT,
        attempt=attempt,
        xid=make_xid(INCARNATION, number),
    )


def prepared(number: int) -> PreparedLegs:
    return PreparedLegs(
        xid=make_xid(INCARNATION, number),
        payment_id=payment_id(number),
        attempt=2,
        body_hash=bytes(16),
        anchor=3,
        participants=(1, 2),
        kind=Kind.PAYMENT,
        currency="USD",
        legs=(("alice", -5), ("bob", 5)),
        tokens=(None, Token(1, 2, LockMode.ESCROW)),
        overdraft_limit=700,
        parties=("alice", "bob"),
        reference="rent",
    )


class Book:
    """A bucket that a test writes: keeps its rows and their hash as a ledger does."""

    def __init__(self, bucket: int = 1) -> None:
        self.row = BucketRow(bucket, cluster="test", buckets=4, members=b"")
        self.accounts: dict[str, Account] = {}
        self.digests: dict[object, int] = {}
        self.writes = self._nothing()

    def _nothing(self) -> WriteSet:
        return WriteSet(self.row, {}, {}, {}, {}, {}, [])

    def account(self, number: str, **changes: object) -> Account:
        account = self.accounts.get(number) or Account(number, f"1-1-{len(self.accounts)}", "USD")
        for field, value in changes.items():
            setattr(account, field, value)
        account.version += 1
        self.accounts[number] = self.writes.accounts[number] = account
        return account

    def open(self, number: str, balance: int, currency: str = "USD") -> None:
        """An account that has this balance, by postings as every balance."""
        self.account(number, currency=currency)
        halves = (balance // 2, balance - balance // 2)  # no amount has more than 63 bits
        for amount in halves:
            self.post(number, amount)

    def post(
        self, number: str, amount: int, payment: int = 1, counterparty: str = "@external"
    ) -> None:
        account = self.account(number)
        account.balance += amount
        account.sequence += 1
        posting = Posting(
            number,
            account.sequence,
            payment_id(payment),
            amount,
            account.balance,
            1_000 + payment,
            counterparty,
            f"invoice {payment}",
        )
        self.writes.postings.append(posting)
        self._digest(("posting", number, posting.sequence), posting_digest(posting))

    def pay(self, number: int, payer: str = "alice", payee: str = "bob") -> None:
        self.post(payer, -100, number, payee)
        self.post(payee, 100, number, payer)
        self.record(record(number, payer, payee))

    def record(self, row: Record) -> None:
        self.writes.records[row.payment_id] = row
        self._digest(("record", row.payment_id), record_digest(row))

    def prepare(self, legs: PreparedLegs) -> None:
        self.writes.legs[legs.xid] = legs
        self._digest(("legs", legs.xid), legs_digest(legs))

    def settle(self, xid: bytes) -> None:
        self.writes.legs[xid] = None
        del self.digests["legs", xid]

    def settle_all(self, state: ResidentState) -> None:
        """Legs that another book has prepared."""
        self.writes.legs = dict.fromkeys(state.legs)

    def claim(self, number: str, bucket: int) -> None:
        self.writes.claims[number] = bucket
        self._digest(("claim", number), claim_digest(number, bucket))

    def remember(self, incarnation: Incarnation) -> None:
        self.writes.incarnations[incarnation.incarnation] = incarnation
        self._digest(("incarnation", incarnation.incarnation), incarnation_digest(incarnation))

    def register(self, *nodes: NodeRow, index: int) -> None:
        self.row.nodes, self.row.nodes_index = nodes, index
        self._digest("nodes", nodes_digest(nodes, index))

    def take(self, entries: int = 1) -> WriteSet:
        """The write set so far, as of the index of so many entries more."""
        for number in self.writes.accounts:
            self._digest(("account", number), account_digest(self.accounts[number]))
        row = self.row.__copy__()
        row.applied += entries
        row.term = 7
        row.time_us += 1
        row.state_hash = sum(self.digests.values()) % HASH_MODULUS
        writes, self.row = self.writes, row
        writes.bucket = row
        self.writes = self._nothing()
        return writes

    def _digest(self, key: object, digest: int) -> None:
        self.digests[key] = digest


def everything(bucket: int = 1) -> Book:
    """A bucket with rows of every kind, each with its hardest values."""
    book = Book(bucket)
    book.open("alice", 2**62)
    book.account(
        "alice",
        debits_pending=5,
        credits_pending=6,
        marks=(Token(2, 1), Token(2, 9, LockMode.SHARED)),
    )
    book.account('o"br\\ien é€', overdraft_limit=2**61, frozen=True, fence=Token(1, 1))
    book.account("bob", closed=True, passed=Token(3, 3))
    book.open("@external/USD", -(2**62))
    for number in range(1, 6):
        book.pay(number)
    refused = Record(
        payment_id(90), Code.REFUSED, reason=Reason.CANCELLED, detail="by hand", payer="alice"
    )
    book.record(refused)
    book.record(undecided(91))
    book.prepare(prepared(50))
    book.prepare(prepared(51))
    book.claim("alice", 1)
    book.claim("zoë", 4)
    book.remember(Incarnation(INCARNATION, 17, {40: None, 19: None, 2**47: None}))
    book.remember(Incarnation(b"\xff" * 10, closed=True))
    book.register(
        NodeRow(3, retired=True),
        NodeRow(4, "[fe80::1]:12379", ("tc", "rm"), 'o\'rack "1"', bytes(range(240, 256))),
        index=2**40,
    )
    return book
