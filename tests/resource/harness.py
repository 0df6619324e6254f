"""A bucket's world in memory: a group of one that commits what it is told to, a database of dicts, other buckets' answers."""

from collections.abc import Callable, Sequence
from copy import deepcopy

from mas.errors import DatabaseUnavailable, MasError
from mas.ledger.instructions import Answer, Batch
from mas.ledger.rows import BucketRow, Loaded, Posting, ResidentState, WriteSet
from mas.multiraft.events import CommitEvent, Committed, Leadership, ReadReady, Refused
from mas.raft import Entry
from mas.rpc.messages import AccountViews, Rejected, Reply, Request
from mas.runtime import Mailbox


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
