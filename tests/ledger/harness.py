"""A ledger with a dict for its database, told instruction by instruction, and looked over after each entry."""

from collections import defaultdict

from mas.ids import home_bucket, make_xid
from mas.ledger import (
    EXTERNAL,
    HASH_MODULUS,
    UNKNOWN,
    Account,
    Answer,
    Batch,
    Body,
    BucketRow,
    Code,
    Commit,
    Decide,
    Genesis,
    Incarnation,
    Instruction,
    Kind,
    Ledger,
    Loaded,
    LockMode,
    Posting,
    Prepare,
    PreparedLegs,
    Proposal,
    Reason,
    Record,
    RecordRefusal,
    ResidentState,
    Resolve,
    Token,
    WriteSet,
    account_digest,
    claim_digest,
    external_number,
    incarnation_digest,
    legs_digest,
    nodes_digest,
    posting_digest,
    record_digest,
)
from mas.ledger.instructions import LEDGER_VERSION
from mas.limits import BALANCE_MAX

BUCKET, BUCKETS = 1, 3
TC = b"tc-one-tc1"
OTHER_TC = b"tc-two-tc2"
OPENER = b"tc-opener1"
HASH = b"h" * 16
USD = external_number("USD")
HOME_HERE = [f"n{i}" for i in range(100) if home_bucket(f"n{i}", BUCKETS) == BUCKET]
HOME_ELSEWHERE = [f"n{i}" for i in range(100) if home_bucket(f"n{i}", BUCKETS) != BUCKET]


def xid(counter: int, incarnation: bytes = TC) -> bytes:
    return make_xid(incarnation, counter)


def pid(number: int) -> bytes:
    return number.to_bytes(16, "big")


def prepare(number: int, *legs: tuple[str, int], **rest: object) -> Prepare:
    """Phase 1 of payment `number` under an xid with the same counter."""
    given: dict[str, object] = {
        "xid": xid(number),
        "payment_id": pid(number),
        "attempt": 1,
        "body_hash": HASH,
        "anchor": 2,
        "participants": (BUCKET,),
        "kind": Kind.PAYMENT,
        "currency": "USD",
    }
    return Prepare(legs=legs, **{**given, **rest})


def decide(
    number: int, *legs: tuple[str, int], own: tuple[int, ...] | None = None, **rest: object
) -> Decide:
    """Phase 2 of payment `number`; all legs are this bucket's where `own` doesn't say otherwise."""
    own = tuple(range(len(legs))) if own is None else own
    body = Body(
        rest.pop("kind", Kind.PAYMENT),
        rest.pop("currency", "USD"),
        legs,
        rest.pop("overdraft_limit", 0),
        rest.pop("reference", ""),
    )
    given: dict[str, object] = {
        "xid": xid(number),
        "payment_id": pid(number),
        "attempt": 1,
        "body_hash": HASH,
        "participants": () if len(own) == len(legs) else (2,),
    }
    return Decide(body=body, own=own, **{**given, **rest})


class Database:
    """The rows that are durable, as an AccountDB keeps them: copies, nothing shared with anybody's memory."""

    def __init__(self) -> None:
        self.bucket = BucketRow(BUCKET)
        self.accounts: dict[str, Account] = {}
        self.records: dict[bytes, Record] = {}
        self.legs: dict[bytes, PreparedLegs] = {}
        self.claims: dict[str, int] = {}
        self.incarnations: dict[bytes, Incarnation] = {}
        self.postings: list[Posting] = []

    def flush(self, writes: WriteSet) -> None:
        assert writes.bucket.applied >= self.bucket.applied
        self.bucket = writes.bucket.__copy__()
        for number, account in writes.accounts.items():
            account.chunk += 1  # whatever it means to an AccountDB
            self.accounts[number] = account.__copy__()
        self.records |= writes.records
        self.claims |= writes.claims
        for name, row in writes.incarnations.items():
            self.incarnations[name] = row
        for one, legs in writes.legs.items():
            if legs is None:
                self.legs.pop(one, None)
            else:
                self.legs[one] = legs
        self.postings += writes.postings

    def load(self, asked: object) -> Loaded:
        return Loaded(
            self.bucket.applied,
            {n: self.accounts[n].__copy__() for n in asked.accounts if n in self.accounts},
            {p: self.records[p] for p in asked.records if p in self.records},
            {n: self.claims[n] for n in asked.claims if n in self.claims},
        )

    def keep(self) -> ResidentState:
        """What a start reads, in no particular order: nothing may rest on the order of what is stored."""
        return ResidentState(
            self.bucket.__copy__(),
            dict(sorted(self.legs.items())),
            {
                name: Incarnation(name, row.low_water, dict(row.posted), row.closed)
                for name, row in sorted(self.incarnations.items(), reverse=True)
            },
        )

    def state_hash(self) -> int:
        """From the rows alone, as a snapshot's receiver computes it."""
        return (
            sum(map(account_digest, self.accounts.values()))
            + sum(map(record_digest, self.records.values()))
            + sum(map(legs_digest, self.legs.values()))
            + sum(claim_digest(*claim) for claim in self.claims.items())
            + sum(map(incarnation_digest, self.incarnations.values()))
            + sum(map(posting_digest, self.postings))
            + nodes_digest(self.bucket.nodes, self.bucket.nodes_index)
        ) % HASH_MODULUS


class Bank:
    """One bucket on one replica."""

    def __init__(self, *, keep: int | None = None, genesis: bool = True) -> None:
        """With `keep`, all is flushed and evicted down to that many rows after each entry."""
        self.database = Database()
        self.keep = keep
        self.opened = 0
        self.restart()
        if genesis:
            self.do(Genesis("cluster", BUCKET, BUCKETS))

    def restart(self) -> None:
        """Drop all memory, as a crash does; what isn't flushed is lost, and its log with it."""
        self.ledger = Ledger(self.database.keep())
        self.ledger.rows.filter.add_all(self.database.records)
        self.ledger.rows.filter.complete()
        self.all_postings = list(self.database.postings)

    def flush(self) -> WriteSet:
        writes = self.ledger.rows.take_writes()
        self.database.flush(writes)
        self.ledger.rows.flushed(writes)
        return writes

    def propose(self, *batches: Batch, time_us: int = 0) -> list[list[Answer]]:
        """Apply an entry the way its host does, then look everything over."""
        proposal = Proposal(LEDGER_VERSION, time_us, 1, 1, batches)
        ledger = self.ledger
        if missing := ledger.missing(proposal):
            ledger.rows.load(missing, self.database.load(missing))
        assert not ledger.missing(proposal)
        before = len(ledger.rows.postings)
        answers = ledger.apply(ledger.rows.bucket.applied + 1, 1, proposal)
        self.all_postings += ledger.rows.postings[before:]
        self.check()
        if self.keep is not None:
            self.flush()
            ledger.rows.evict(self.keep)
        return answers

    def do(
        self,
        *instructions: Instruction,
        low_water: int = 0,
        sender: bytes = TC,
        time_us: int = 0,
        left_out: tuple[bytes, ...] = (),
    ) -> list[Answer]:
        """One entry with one batch."""
        return self.propose(Batch(sender, low_water, instructions, left_out), time_us=time_us)[0]

    def one(self, instruction: Instruction, **rest: object) -> Answer:
        (answer,) = self.do(instruction, **rest)
        return answer

    def accounts(self) -> dict[str, Account]:
        """Every account, from memory where it is there."""
        rows = {**self.database.accounts}
        for number in {**rows, **self.ledger.rows._accounts}:
            row = self.ledger.rows.account(number)
            if row is not UNKNOWN:
                rows[number] = row
        return rows

    def account(self, number: str) -> Account:
        return self.accounts()[number]

    def open(
        self, *balances: tuple[str, int], overdraft_limit: int = 0, currency: str = "USD"
    ) -> None:
        """Create accounts that are claimed elsewhere, with opening balances."""
        for number, balance in balances:
            self.opened += 1
            one = xid(self.opened, OPENER)
            creation = prepare(
                1_000_000 + self.opened,
                (number, balance),
                xid=one,
                kind=Kind.CREATION,
                currency=currency,
                overdraft_limit=overdraft_limit,
            )
            codes = [answer.code for answer in self.do(creation, Commit(one, 1), sender=OPENER)]
            assert codes == [Code.PREPARED, Code.POSTED]

    def check(self) -> None:
        """Section 6 of the design: what must hold after every apply."""
        reserved: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for legs in self.ledger.rows.legs.values():
            if legs.kind is Kind.CREATION:
                reserved[external_number(legs.currency)][0] += legs.legs[0][1]
            else:
                for number, amount in legs.legs:
                    reserved[number][amount > 0] += abs(amount)
        posted: dict[str, list[Posting]] = defaultdict(list)
        for posting in self.all_postings:
            posted[posting.account].append(posting)
        for number, row in self.accounts().items():
            assert [row.debits_pending, row.credits_pending] == reserved[number], (
                f"{number} reserves what is prepared"
            )
            mine = posted[number]
            assert row.balance == sum(posting.amount for posting in mine)
            assert [posting.sequence for posting in mine] == list(range(1, row.sequence + 1))
            assert not mine or mine[-1].balance == row.balance
            if not number.startswith(EXTERNAL):
                assert row.balance - row.debits_pending >= -row.overdraft_limit
                assert row.balance + row.credits_pending <= BALANCE_MAX
        assert not (set(posted) - set(self.accounts()))


def codes(answers: list[Answer]) -> list[Code]:
    return [answer.code for answer in answers]


def ask(number: int, attempt: int = 1, who: bytes = b"") -> Resolve:
    return Resolve(pid(number), attempt, who or xid(number), HASH)


def end(number: int, attempt: int = 1, payer: str = "a", **rest: object) -> RecordRefusal:
    body = Body(Kind.PAYMENT, "USD", ((payer, -5), ("far", 5)))
    given: dict[str, object] = {
        "payer": payer,
        "body": body,
        "body_hash": HASH,
        "reason": Reason.ACCOUNT_FROZEN,
    }
    return RecordRefusal(pid(number), Kind.PAYMENT, attempt=attempt, **{**given, **rest})


OLD, NEW, NEWER = Token(1, 1), Token(1, 2, LockMode.ESCROW), Token(2, 1)
