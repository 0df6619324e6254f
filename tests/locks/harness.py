"""Real ledgers behind the lock service, on a virtual loop: what a token or a mark is worth, a bucket decides."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from mas.errors import DatabaseUnavailable
from mas.ids import home_bucket, make_xid
from mas.ledger import (
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
    Mark,
    Prepare,
    Proposal,
    RejectReason,
    ResidentState,
    SetAccount,
    Token,
    Unmark,
)
from mas.ledger.instructions import LEDGER_VERSION
from mas.locks import GlobalLockService, LockSettings
from mas.rpc.messages import Claims, ReadClaims, Rejected, Reply, Request
from mas.sim import VirtualClock, run_virtual
from mas.transaction.stored import LockEntry

T = TypeVar("T")
BUCKETS = 2
ALICE, ANN = [f"a{i}" for i in range(40) if home_bucket(f"a{i}", BUCKETS) == 1][:2]
BOB = next(f"b{i}" for i in range(20) if home_bucket(f"b{i}", BUCKETS) == 2)
TC = b"coordinate"
ROUND_TRIP = 0.002


class LedgerBuckets:
    """Applies each batch as an entry of its bucket's ledger, one round trip after it came."""

    def __init__(self) -> None:
        self.ledgers = {i: Ledger(ResidentState(BucketRow(i), {}, {})) for i in (1, 2)}
        self.is_down: dict[int, bool] = {}
        """By bucket: nothing reaches it; whoever asks hears so after `patience`."""
        self.patience = 5.0
        self.loses_unmarks = False
        """Batches of nothing but unmarks don't arrive."""
        self.turned_away = 0
        self.applied: list[Instruction] = []
        self._counter = 0
        for bucket, ledger in self.ledgers.items():
            ledger.rows.filter.complete()
            self.do(bucket, Genesis("c", bucket, BUCKETS))
        for number in (ALICE, ANN, BOB):
            self.create(number)

    def do(self, bucket: int, *instructions: Instruction) -> list[Answer]:
        ledger = self.ledgers[bucket]
        proposal = Proposal(LEDGER_VERSION, 0, 1, 1, (Batch(b"", 0, instructions),))
        if missing := ledger.missing(proposal):
            ledger.rows.load(missing, Loaded(ledger.rows.bucket.applied, {}, {}, {}))
        self.applied += instructions
        return ledger.apply(ledger.rows.bucket.applied + 1, 1, proposal)[0]

    def next_xid(self) -> bytes:
        self._counter += 1
        return make_xid(TC, self._counter)

    def create(self, number: str) -> None:
        home = home_bucket(number, BUCKETS)
        body = Body(Kind.CREATION, "USD", ((number, 1_000),))
        xid = self.next_xid()
        (answer,) = self.do(home, Decide(xid, xid, 1, body, b"h", (), (0,), account_bucket=home))
        assert answer.code is Code.COMMITTED

    def pay(self, payer: str, payee: str, token: Token | None = None) -> Answer:
        """One unit, within one bucket."""
        xid = self.next_xid()
        body = Body(Kind.PAYMENT, "USD", ((payer, -1), (payee, 1)))
        tokens = (token, token) if token else ()
        decide = Decide(xid, xid, 1, body, b"h", (), (0, 1), tokens=tokens)
        return self.do(home_bucket(payer, BUCKETS), decide)[0]

    def prepare(self, number: str, token: Token | None = None) -> tuple[bytes, Answer]:
        """A leg of a payment whose anchor is the other bucket."""
        xid, bucket = self.next_xid(), home_bucket(number, BUCKETS)
        leg = ((number, 1),)
        tokens = (token,) if token else ()
        prepare = Prepare(
            xid, xid, 1, b"h", 3 - bucket, (bucket,), Kind.PAYMENT, "USD", leg, tokens
        )
        return xid, self.do(bucket, prepare)[0]

    def freeze(self, number: str, token: Token | None = None) -> Answer:
        change = SetAccount(number, frozen=True, token=token)
        return self.do(home_bucket(number, BUCKETS), change)[0]

    def marks(self, number: str) -> tuple[Token, ...]:
        account = self.ledgers[home_bucket(number, BUCKETS)].rows.account(number)
        return account.marks  # type: ignore[union-attr]

    def submit(
        self, bucket: int, batch: Batch, on_answer: Callable[[int, Answer | Rejected], None]
    ) -> None:
        def carry_out() -> None:
            for position, answer in enumerate(self.do(bucket, *batch.instructions)):
                on_answer(position, answer)

        def turn_away() -> None:
            self.turned_away += 1
            for position in range(len(batch.instructions)):
                on_answer(position, Rejected(0, RejectReason.UNAVAILABLE))

        loop = asyncio.get_running_loop()
        is_lost = all(isinstance(each, Unmark) for each in batch.instructions)
        if self.is_down.get(bucket) or (self.loses_unmarks and is_lost):
            loop.call_later(self.patience, turn_away)
        else:
            loop.call_later(ROUND_TRIP, carry_out)

    async def query(self, bucket: int, request: Request, timeout: float) -> Reply:
        assert isinstance(request, ReadClaims)
        await asyncio.sleep(ROUND_TRIP)
        return Claims(
            0, tuple(self.ledgers[bucket].rows.claim(number) or 0 for number in request.numbers)
        )


class StoredLocks:
    """A TM store in memory, and what it was told, in order."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, Token], LockEntry] = {}
        self.is_down = False

    async def put_locks(self, entries: Sequence[LockEntry]) -> None:
        await self._reach()
        self.entries |= {(entry.lock_id, entry.token): entry for entry in entries}

    async def delete_locks(self, names: Sequence[tuple[str, Token]]) -> None:
        await self._reach()
        for name in names:
            self.entries.pop(name, None)

    async def locks(self) -> list[LockEntry]:
        await self._reach()
        return list(self.entries.values())

    async def _reach(self) -> None:
        await asyncio.sleep(ROUND_TRIP)
        if self.is_down:
            raise DatabaseUnavailable("the store is down")


class World:
    """Ledgers and a store that outlive the lock services over them."""

    def __init__(self, settings: LockSettings | None = None) -> None:
        self.buckets = LedgerBuckets()
        self.store = StoredLocks()
        self.settings = settings or LockSettings(BUCKETS)
        self.clock = VirtualClock(asyncio.get_running_loop())

    async def start(self) -> tuple[GlobalLockService, "asyncio.Task[None]"]:
        service = GlobalLockService(
            "n",
            buckets=self.buckets,
            store=self.store,
            clock=self.clock,
            settings=self.settings,
        )
        task = asyncio.create_task(service.run())
        await until(lambda: service._book is not None)
        return service, task

    async def crash(self, task: "asyncio.Task[None]") -> None:
        task.cancel()
        await asyncio.wait([task])


async def until(condition: Callable[[], object]) -> None:
    """In virtual time; a condition that never comes is a failure."""
    async with asyncio.timeout(600):
        while not condition():
            await asyncio.sleep(0.001)


def run(
    story: Callable[[World, GlobalLockService], Coroutine[Any, Any, T]],
    settings: LockSettings | None = None,
) -> T:
    """Tell a story of one service to its end."""

    async def main() -> T:
        world = World(settings)
        service, task = await world.start()
        try:
            return await story(world, service)
        finally:
            await world.crash(task)

    return run_virtual(main())


X, E, S = LockMode.EXCLUSIVE, LockMode.ESCROW, LockMode.SHARED
__all__ = [
    "ALICE", "ANN", "BOB", "BUCKETS", "E", "Mark", "S", "Unmark", "World", "X", "run", "until",
]  # fmt: skip
