"""A bucket's world in memory: a group of one that commits what it is told to, a database of dicts, other buckets' answers."""

import asyncio
from collections.abc import Callable, Sequence
from copy import deepcopy

import msgspec

from mas.errors import DatabaseUnavailable, MasError
from mas.ids import make_xid
from mas.ledger.instructions import (
    Answer,
    Batch,
    Body,
    Code,
    Decide,
    Instruction,
    Kind,
    Prepare,
    encode,
)
from mas.ledger.rows import BucketRow, Loaded, Posting, ResidentState, WriteSet
from mas.multiraft.events import CommitEvent, Committed, Leadership, ReadReady, Refused
from mas.raft import Entry
from mas.resource import AccountService, Ports, ResourceSettings
from mas.rpc.messages import (
    AccountViews,
    Answers,
    ReadAccounts,
    ReadLevel,
    ReadNodes,
    ReadPostings,
    Rejected,
    Reply,
    Request,
    Submit,
)
from mas.runtime import Mailbox, SystemClock
from mas.transaction.participant import Resolver

TC = b"coordinate"
CALLER = 7


class FakeGroup:
    """Commits each proposal at once, or holds it until `release` while `held`."""

    def __init__(self) -> None:
        self.commit_c: Mailbox[CommitEvent] = Mailbox("commit_c", 10_000)
        self.error_c: Mailbox[Refused] = Mailbox("error_c", 10_000)
        self.held: list[tuple[int, bytes]] | None = None
        self.refuse: MasError | None = None
        self.index = 0
        self.term = 1
        self.entries: list[Entry] = []
        self.reads: list[int] = []
        self.read_indexes_held = False
        self.applied = (0, 0)
        self.time = 1_000_000

    def propose(self, number: int, data: bytes) -> None:
        if self.refuse is not None:
            raise self.refuse
        if self.held is not None:
            self.held.append((number, data))
        else:
            self.commit(data)

    def commit(self, data: bytes) -> None:
        self.index += 1
        entry = Entry(index=self.index, term=self.term, data=data)
        self.entries.append(entry)
        self.commit_c.put(Committed((entry,)))

    def release(self) -> None:
        held, self.held = self.held or [], None
        for _, data in held:
            self.commit(data)

    def lead(self, *, term: int = 1, leading: bool = True, leader: int = 1) -> None:
        self.term = term
        self.commit_c.put(Leadership(term, leader, leading))

    def read_index(self, number: int) -> None:
        self.reads.append(number)
        if not self.read_indexes_held:
            self.commit_c.put(ReadReady((number,), self.index))

    def set_applied(self, applied: int, flushed: int) -> None:
        self.applied = (applied, flushed)

    def stamp_us(self) -> int:
        self.time += 1
        return self.time


class FakeDatabase:
    """Rows in dicts. `down` makes it refuse; `row` is what a flush is conditional on."""

    def __init__(self) -> None:
        self.row: BucketRow | None = None
        self.writer = b""
        self.accounts: dict[str, object] = {}
        self.records: dict[bytes, object] = {}
        self.claims: dict[str, int] = {}
        self.legs: dict[bytes, object] = {}
        self.incarnations: dict[bytes, object] = {}
        self.lines: list[Posting] = []
        self.down = False
        self.loads = 0
        self.flushes = 0

    async def open(self, bucket: int, writer: bytes) -> ResidentState:
        self.writer = writer
        self.row = self.row or BucketRow(bucket)
        return ResidentState(deepcopy(self.row), deepcopy(self.legs), deepcopy(self.incarnations))  # type: ignore[arg-type]

    async def load(
        self, bucket: int, accounts: Sequence[str], records: Sequence[bytes], claims: Sequence[str]
    ) -> Loaded:
        if self.down:
            raise DatabaseUnavailable("down for the test")
        self.loads += 1
        assert self.row is not None
        return Loaded(
            self.row.applied,
            {n: deepcopy(self.accounts[n]) for n in accounts if n in self.accounts},  # type: ignore[misc]
            {p: self.records[p] for p in records if p in self.records},  # type: ignore[misc]
            {n: self.claims[n] for n in claims if n in self.claims},
        )

    async def flush(self, writes: WriteSet, *, before: int, writer: bytes) -> bool:
        if self.down:
            raise DatabaseUnavailable("down for the test")
        assert self.row is not None
        if self.row.applied != before or self.writer != writer:
            return False
        self.flushes += 1
        writes = deepcopy(writes)
        self.row = writes.bucket
        self.accounts |= writes.accounts
        self.records |= writes.records
        self.claims |= writes.claims
        self.incarnations |= writes.incarnations
        self.lines += writes.postings
        for xid, legs in writes.legs.items():
            if legs is None:
                self.legs.pop(xid, None)
            else:
                self.legs[xid] = legs
        return True

    async def postings(
        self, bucket: int, number: str, before: int, limit: int
    ) -> tuple[int, list[Posting]]:
        assert self.row is not None
        found = [
            each
            for each in reversed(self.lines)
            if each.account == number and (not before or each.sequence < before)
        ]
        return self.row.applied, found[:limit]

    async def payment_ids(self, bucket: int, after: bytes, limit: int) -> list[bytes]:
        return [each for each in sorted(self.records) if each > after][:limit]


class FakeBuckets:
    """Other buckets: keeps the questions until the test answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, Batch, Callable[[int, Answer | Rejected], None]]] = []
        self.queries: list[Request] = []
        self.passed_on: list[bool] = []

    async def query(
        self, bucket: int, request: Request, timeout: float, *, passed_on: bool = False
    ) -> Reply:
        """Another node leads this bucket, and holds no account."""
        self.passed_on.append(passed_on)
        self.queries.append(request)
        return AccountViews(12345, (None,))

    def submit(
        self,
        bucket: int,
        batch: Batch,
        on_answer: Callable[[int, Answer | Rejected], None],
        *,
        passed_on: bool = False,
    ) -> None:
        self.passed_on.append(passed_on)
        self.asked.append((bucket, batch, on_answer))


class Replies:
    """What was answered, to whom."""

    def __init__(self) -> None:
        self.all: list[tuple[int, Reply]] = []

    def __call__(self, peer: int, reply: Reply) -> None:
        self.all.append((peer, reply))


class World:
    """One bucket of three, served, and a coordinator that asks it."""

    def __init__(self) -> None:
        self.group = FakeGroup()
        self.database = FakeDatabase()
        self.buckets = FakeBuckets()
        self.replies = Replies()
        self.settings = ResourceSettings("test", 3, lock_timeout=0.05, flush_pause=0.001)
        self.counter = 0
        self.requests = 0
        self.service: AccountService

    async def open(self) -> None:
        kept = await self.database.open(1, (99).to_bytes(8, "big"))
        ports = Ports(self.group, self.database, self.buckets, self.replies, 99)  # type: ignore[arg-type]
        self.service = AccountService(1, kept, ports, SystemClock(), self.settings)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0)

    def submit(self, *instructions: Instruction, low_water: int = 0, left_ms: int = 0) -> int:
        self.requests += 1
        raw = msgspec.Raw(encode(Batch(TC, low_water, instructions)))
        self.service.requests.put((CALLER, Submit(self.requests, 1, raw, left_ms)))
        return self.requests

    def read(self, *numbers: str, level: ReadLevel = ReadLevel.LINEARIZABLE) -> int:
        self.requests += 1
        self.service.requests.put((CALLER, ReadAccounts(self.requests, 1, level, numbers)))
        return self.requests

    def read_nodes(self) -> int:
        return self.ask(ReadNodes(0, 1))

    def ask(self, question: ReadNodes | ReadPostings) -> int:
        self.requests += 1
        numbered = msgspec.structs.replace(question, request=self.requests)
        self.service.requests.put((CALLER, numbered))
        return self.requests

    def reply_to(self, request: int) -> Reply | None:
        return next(
            (r for peer, r in self.replies.all if peer == CALLER and r.request == request), None
        )

    async def reply(self, request: int) -> Reply:
        await self.until(lambda: self.reply_to(request) is not None)
        reply = self.reply_to(request)
        assert reply is not None
        return reply

    async def answer(self, request: int) -> Answer:
        reply = await self.reply(request)
        assert isinstance(reply, Answers), reply
        ((position, answer),) = reply.answers
        assert position == 0
        return answer

    def xid(self) -> bytes:
        self.counter += 1
        return make_xid(TC, self.counter)

    def create(self, number: str, opening: int) -> Decide:
        """A creation whose bucket is its own home: one entry."""
        body = Body(Kind.CREATION, "USD", ((number, opening),))
        return Decide(
            self.xid(), number.encode().ljust(16), 1, body, b"h", (), (0,), account_bucket=1
        )

    def pay(self, payer: str, payee: str, amount: int, key: str) -> Decide:
        body = Body(Kind.PAYMENT, "USD", ((payer, -amount), (payee, amount)))
        return Decide(self.xid(), key.encode().ljust(16), 1, body, b"h", (), (0, 1))

    def prepare(self, legs: tuple[tuple[str, int], ...], key: str, anchor: int = 2) -> Prepare:
        return Prepare(
            self.xid(), key.encode().ljust(16), 1, b"h", anchor, (1,), Kind.PAYMENT, "USD", legs
        )


async def open_accounts(world: World, **balances: int) -> None:
    for number, balance in balances.items():
        assert (
            await world.answer(world.submit(world.create(number, balance)))
        ).code is Code.COMMITTED


async def two_incoming(world: World) -> tuple[Prepare, Prepare]:
    """Alice has 100, and two payments to her are prepared, of the anchors 2 and 3."""
    world.service._resolver._legs = Resolver(1000.0)
    await open_accounts(world, alice=100)
    legs = (
        world.prepare((("alice", 50),), "a", anchor=2),
        world.prepare((("alice", 7),), "b", anchor=3),
    )
    for each in legs:
        assert (await world.answer(world.submit(each))).code is Code.PREPARED
    return legs


async def balance(world: World, request: int) -> int:
    reply = await world.reply(request)
    assert isinstance(reply, AccountViews)
    (view,) = reply.views
    assert view is not None
    return view.balance


def committed(prepared: Prepare) -> Answer:
    return Answer(Code.COMMITTED, xid=prepared.xid, time_us=9)
