"""A cluster in memory for one coordinator: real ledgers, and a network that can be told to misbehave.

Each bucket is one ledger that applies what it is sent at once and answers on a later turn of the loop, as
a leader does: PENDING_ON is asked about and proposed again (rule 15). There is no resolver: what a coordinator leaves
prepared stays prepared.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from mas.errors import DatabaseUnavailable, Unavailable
from mas.ids import home_bucket
from mas.ledger import (
    NONE_LEFT_OUT,
    Account,
    Answer,
    Batch,
    Body,
    BucketRow,
    Code,
    Decide,
    Genesis,
    Instruction,
    Kind,
    Ledger,
    Loaded,
    LockMode,
    Prepare,
    Proposal,
    QueryRecord,
    Record,
    RejectReason,
    ResidentState,
    Token,
)
from mas.rpc.messages import (
    AccountView,
    AccountViews,
    BucketView,
    Claims,
    Postings,
    ReadAccounts,
    ReadBucket,
    ReadClaims,
    ReadPostings,
    Rejected,
    Reply,
    Request,
)
from mas.transaction.participant import settle
from mas.transaction.stored import PendingEntry

CLUSTER = "test"

Fault = Callable[[int, Instruction], RejectReason | str | None]
"""What befalls an instruction: turned away with nothing done (a Why), or by name:

"lost": nothing done, and unknown; "unheard": done, and unknown; "silent": nothing done, and nobody ever says so.
"""


def no_fault(_: int, __: Instruction) -> None:
    """All is well."""


def number_at(home: int, buckets: int, index: int = 0) -> str:
    """An account number whose claim is kept in this bucket."""
    found = [n for n in (f"N{i}" for i in range(2_000)) if home_bucket(n, buckets) == home]
    return found[index]


class Buckets:
    """Fits the coordinator's port."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.now = 1_000
        self.fault: Fault = no_fault
        self.batches: list[tuple[int, Batch]] = []
        self.queries: list[tuple[int, Request]] = []
        self.unreachable: set[int] = set()
        self._ledgers = {}
        for bucket in self.all():
            self._ledgers[bucket] = Ledger(ResidentState(BucketRow(bucket), {}, {}))
            self.apply(bucket, Genesis(CLUSTER, bucket, count))

    # -- the port ----------------------------------------------------------------------------------------

    def all(self) -> list[int]:
        return list(range(1, self.count + 1))

    def replicas(self) -> dict[int, list[int]]:
        return {bucket: [bucket * 10 + 1, bucket * 10 + 2] for bucket in self.all()}

    def submit(
        self, bucket: int, batch: Batch, on_answer: Callable[[int, Answer | Rejected], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        self.batches.append((bucket, batch))
        for position, instruction in enumerate(batch.instructions):
            if bucket not in self._ledgers:
                loop.call_soon(on_answer, position, Rejected(0, RejectReason.UNAVAILABLE))
                continue
            match self.fault(bucket, instruction):
                case None:
                    answer = self._lead(bucket, instruction, batch)
                    loop.call_soon(on_answer, position, answer)
                case "silent":
                    pass
                case "lost":
                    loop.call_soon(on_answer, position, Rejected(0, RejectReason.UNKNOWN))
                case "unheard":
                    self._lead(bucket, instruction, batch)
                    loop.call_soon(on_answer, position, Rejected(0, RejectReason.UNKNOWN))
                case RejectReason() as why:
                    loop.call_soon(on_answer, position, Rejected(0, why))
                case unknown:
                    raise AssertionError(unknown)

    async def query(
        self, bucket: int, request: Request, timeout: float, *, replica: int = 0
    ) -> Reply:
        self.queries.append((bucket, request))
        await asyncio.sleep(0)
        if bucket in self.unreachable or bucket not in self._ledgers:
            raise Unavailable(f"bucket {bucket} is out of reach within {timeout}")
        match request:
            case ReadClaims():
                return Claims(0, tuple(self.claim(bucket, n) for n in request.numbers))
            case ReadAccounts():
                return AccountViews(
                    0, tuple(_view(self.account(bucket, n), bucket) for n in request.numbers)
                )
            case ReadPostings():
                return Postings(0, self.account(bucket, request.number) is not None, ())
            case ReadBucket():
                return BucketView(
                    0, bucket, replica, 1, 1, 1, 1, 0, {}, {}, self.prepared(bucket), 0, 0, ""
                )
            case _:
                raise AssertionError(request)

    # -- a leader's work ---------------------------------------------------------------------------------

    def _lead(self, bucket: int, instruction: Instruction, batch: Batch) -> Answer:
        mark = (batch.incarnation, batch.low_water)
        answer = self.apply(bucket, instruction, *mark)
        if answer.code is not Code.PENDING_ON or not isinstance(instruction, Prepare | Decide):
            return answer
        undecided = []
        for xid in answer.xids:
            legs = self._ledgers[bucket].rows.legs[xid]
            decided = settle(legs, self.apply(legs.anchor, QueryRecord(legs.payment_id)))
            if decided is None:
                undecided.append(xid)
            else:
                self.apply(bucket, decided)
        left_out = tuple(undecided) or NONE_LEFT_OUT
        return self.apply(bucket, instruction, *mark, left_out)

    def apply(
        self,
        bucket: int,
        instruction: Instruction,
        incarnation: bytes = b"",
        low_water: int = 0,
        left_out: tuple[bytes, ...] = (),
    ) -> Answer:
        """One entry with one instruction, whatever the network is like."""
        ledger = self._ledgers[bucket]
        self.now += 1
        batch = Batch(incarnation, low_water, (instruction,), left_out)
        proposal = Proposal(1, self.now, 1, self.now, (batch,))
        ledger.rows.load(ledger.missing(proposal), Loaded(ledger.rows.bucket.applied, {}, {}, {}))
        return ledger.apply(ledger.rows.bucket.applied + 1, 1, proposal)[0][0]

    # -- what the ledgers hold ---------------------------------------------------------------------------

    def account(self, bucket: int, number: str) -> Account | None:
        account = self._ledgers[bucket].rows.account(number)
        return account if isinstance(account, Account) else None

    def claim(self, home: int, number: str) -> int:
        claim = self._ledgers[home].rows.claim(number)
        return claim if isinstance(claim, int) else 0

    def record(self, payment_id: bytes) -> Record | None:
        for bucket in self.all():
            record = self._ledgers[bucket].rows.record(payment_id)
            if isinstance(record, Record):
                return record
        return None

    def prepared(self, bucket: int) -> int:
        return len(self._ledgers[bucket].rows.legs)

    def all_prepared(self) -> int:
        return sum(self.prepared(bucket) for bucket in self.all())

    def balance(self, number: str) -> int:
        accounts = [self.account(bucket, number) for bucket in self.all()]
        return sum(account.balance for account in accounts if account is not None)

    def sent(self, kind: type) -> list[tuple[int, Instruction]]:
        """Every instruction of this kind that was sent, with its bucket."""
        return [
            (bucket, instruction)
            for bucket, batch in self.batches
            for instruction in batch.instructions
            if isinstance(instruction, kind)
        ]

    def open_account(
        self, number: str, bucket: int, balance: int, overdraft_limit: int = 0
    ) -> None:
        """An account, without the coordinator's help."""
        home = home_bucket(number, self.count)
        body = Body(Kind.CREATION, "USD", ((number, balance),), overdraft_limit)
        payment_id = number.encode().rjust(16, b"\0")
        xid = b"opening" + number.encode().rjust(9, b"\0")
        if bucket != home:
            legs = ((number, balance),)
            vote = self.apply(
                bucket,
                Prepare(
                    xid,
                    payment_id,
                    1,
                    b"",
                    home,
                    (bucket,),
                    Kind.CREATION,
                    "USD",
                    legs,
                    (),
                    overdraft_limit,
                ),
            )
            assert vote.code is Code.PREPARED
        participants, own = ((bucket,), ()) if bucket != home else ((), (0,))
        answer = self.apply(home, Decide(xid, payment_id, 1, body, b"", participants, own, bucket))
        assert answer.code is Code.COMMITTED, answer
        if bucket != home:
            legs = self._ledgers[bucket].rows.legs[xid]
            commit = settle(legs, answer)
            assert commit is not None
            self.apply(bucket, commit)


def _view(account: Account | None, bucket: int) -> AccountView | None:
    if account is None:
        return None
    return AccountView(
        account.number,
        account.id,
        account.currency,
        account.balance,
        account.debits_pending,
        account.overdraft_limit,
        account.frozen,
        account.closed,
        account.version,
        account.sequence,
        bucket,
    )


class Store:
    """Fits the port of the TM store."""

    def __init__(self) -> None:
        self.max_id = 0
        self.directory: dict[str, int] = {}
        self.entries: dict[bytes, PendingEntry] = {}
        self.ever: dict[bytes, PendingEntry] = {}
        self.calls: list[str] = []
        self.is_away = False

    def _called(self, what: str) -> None:
        self.calls.append(what)
        if self.is_away:
            raise DatabaseUnavailable(f"{what}: the store is away")

    async def incr_max_id(self, count: int = 1) -> int:
        self._called("incr_max_id")
        self.max_id += count
        return self.max_id

    async def find_buckets(self, numbers: Sequence[str]) -> list[int]:
        self._called("find_buckets")
        await asyncio.sleep(0)
        return [self.directory.get(number, 0) for number in numbers]

    async def insert_buckets(self, placements: Mapping[str, int]) -> None:
        self._called("insert_buckets")
        self.directory |= placements

    async def create_transaction_entries(self, entries: Sequence[PendingEntry]) -> None:
        self._called("create_transaction_entries")
        self.entries |= {entry.xid: entry for entry in entries}
        self.ever |= self.entries

    async def close_transaction_entries(self, xids: Sequence[bytes]) -> None:
        self._called("close_transaction_entries")
        for xid in xids:
            self.entries.pop(xid, None)

    async def pending_entries(self) -> list[PendingEntry]:
        self._called("pending_entries")
        return list(self.entries.values())

    async def close(self) -> None: ...


class Locks:
    """Fits the port of the lock service: grants everything, with ever newer tokens."""

    def __init__(self) -> None:
        self.acquired: list[tuple[list[str], LockMode]] = []
        self.held: dict[bytes, list[str]] = {}
        self.is_away = False

    async def acquire(
        self, owner: bytes, numbers: Sequence[str], mode: LockMode, timeout: float
    ) -> dict[str, Token]:
        await asyncio.sleep(0)
        if self.is_away:
            raise Unavailable(f"no lock service within {timeout}")
        self.acquired.append((list(numbers), mode))
        self.held[owner] = list(numbers)
        return dict.fromkeys(numbers, Token(5, len(self.acquired), mode))

    async def hold(self, owner: bytes, number: str, timeout: float) -> Token:
        return (await self.acquire(owner, [number], LockMode.EXCLUSIVE, timeout))[number]

    def release(self, owner: bytes) -> None:
        self.held.pop(owner, None)
