"""The lock service over buckets and a store that do what the test says. Rows L1 to L9 and T27 are of the crash matrix."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from mas.errors import DatabaseUnavailable, NotFound, Overloaded, Unavailable
from mas.ids import home_bucket
from mas.ledger.instructions import (
    Answer,
    Batch,
    Code,
    LockMode,
    Mark,
    RejectReason,
    TakeEpoch,
    Token,
    Unmark,
)
from mas.locks import (
    ClientLocks,
    GlobalLock,
    GlobalLockService,
    LockProperties,
    LockSettings,
    LockStatus,
)
from mas.rpc.messages import Claims, ReadClaims, Rejected, Reply, Request
from mas.runtime import SystemClock
from mas.transaction.stored import LockEntry

X, E, S = LockMode.EXCLUSIVE, LockMode.ESCROW, LockMode.SHARED
BUCKETS = 4
WHERE = {"alice": 2, "bob": 3, "carol": 3}
DONE = Answer(Code.DONE)


class FakeBuckets:
    """Buckets that keep marks as the ledger does, and fail as they are told."""

    def __init__(self) -> None:
        self.marks: dict[str, list[Token]] = {account: [] for account in WHERE}
        self.epoch = 0
        self.prepared: set[str] = set()
        """Accounts with a leg that isn't settled."""
        self.refuse: dict[str, Answer | Rejected] = {}
        self.fail_next: list[Rejected] = []
        self.held_back: list[Callable[[], None]] | None = None
        self.said: list[str] = []

    def submit(
        self, bucket: int, batch: Batch, on_answer: Callable[[int, Answer | Rejected], None]
    ) -> None:
        def carry_out() -> None:
            for i, instruction in enumerate(batch.instructions):
                on_answer(i, self.judge(bucket, instruction))

        if self.held_back is not None:
            self.held_back.append(carry_out)
        else:
            asyncio.get_running_loop().call_soon(carry_out)

    def judge(self, bucket: int, instruction: object) -> Answer | Rejected:
        if self.fail_next:
            return self.fail_next.pop(0)
        match instruction:
            case TakeEpoch():
                assert bucket == 1
                self.epoch += 1
                return Answer(Code.DONE, value=self.epoch)
            case Mark(account, token):
                assert WHERE[account] == bucket
                self.said.append(f"mark {account}")
                if account in self.refuse:
                    return self.refuse[account]
                if token not in self.marks[account]:
                    self.marks[account].append(token)
                return Answer(Code.PENDING_ON, xids=(b"x",)) if account in self.prepared else DONE
            case Unmark(account, token):
                assert WHERE[account] == bucket
                self.said.append(f"unmark {account}")
                if token not in self.marks[account]:
                    return Answer(Code.UNCHANGED)
                self.marks[account].remove(token)
                return DONE
        raise AssertionError(instruction)

    async def query(self, bucket: int, request: Request, timeout: float) -> Reply:
        assert isinstance(request, ReadClaims)
        assert all(home_bucket(number, BUCKETS) == bucket for number in request.numbers)
        assert timeout > 0
        return Claims(0, tuple(WHERE.get(number, 0) for number in request.numbers))


class FakeStore:
    def __init__(self) -> None:
        self.entries: dict[tuple[str, Token], LockEntry] = {}
        self.is_down = False

    async def put_locks(self, entries: Sequence[LockEntry]) -> None:
        self.check()
        self.entries |= {(entry.lock_id, entry.token): entry for entry in entries}

    async def delete_locks(self, names: Sequence[tuple[str, Token]]) -> None:
        self.check()
        for name in names:
            self.entries.pop(name, None)

    async def locks(self) -> list[LockEntry]:
        self.check()
        return list(self.entries.values())

    def check(self) -> None:
        if self.is_down:
            raise DatabaseUnavailable("the store is down")


class World:
    """A cluster's buckets and store, and the lock services that come and go over them."""

    def __init__(self) -> None:
        self.buckets = FakeBuckets()
        self.store = FakeStore()
        self.clock = SystemClock()
        self.settings = LockSettings(buckets=BUCKETS, lease=30.0)

    @asynccontextmanager
    async def service(self, *, waits_for_epoch: bool = True) -> AsyncIterator[GlobalLockService]:
        service = GlobalLockService(
            "node-1",
            buckets=self.buckets,
            store=self.store,
            clock=self.clock,
            settings=self.settings,
        )
        run = asyncio.create_task(service.run())
        if waits_for_epoch:
            await until(lambda: service._book is not None or run.done())
        try:
            yield service
        finally:
            run.cancel()
            (result,) = await asyncio.gather(run, return_exceptions=True)
        assert isinstance(result, asyncio.CancelledError), result


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.asyncio
async def test_a_payments_tokens_come_without_a_mark(world: World) -> None:
    async with world.service() as locks:
        tokens = await locks.acquire(b"xid", ["bob", "alice"], E, 1.0)
        assert tokens == dict.fromkeys(["alice", "bob"], Token(1, 1, E))
        assert world.buckets.said == []
        assert await locks.acquire(b"other", ["alice"], E, 1.0) == {"alice": Token(1, 2, E)}


@pytest.mark.asyncio
async def test_the_second_waits_for_the_first_to_end(world: World) -> None:
    async with world.service() as locks:
        first = await locks.acquire(b"one", ["alice", "bob"], X, 1.0)
        second = asyncio.create_task(locks.acquire(b"two", ["bob", "carol"], X, 5.0))
        await until(lambda: locks.statistics().waiting == 1)
        locks.release(b"one")
        assert (await second)["carol"] > first["alice"]


@pytest.mark.asyncio
async def test_not_had_in_time(world: World) -> None:
    async with world.service() as locks:
        await locks.acquire(b"one", ["alice"], X, 1.0)
        with pytest.raises(Unavailable, match="not free in time"):
            await locks.acquire(b"two", ["alice"], X, 0.01)
        assert locks.statistics().waiting == 0


@pytest.mark.asyncio
async def test_who_is_gone_holds_nothing(world: World) -> None:
    async with world.service() as locks:
        await locks.acquire(b"one", ["alice"], X, 1.0)
        gone = asyncio.create_task(locks.acquire(b"two", ["alice"], X, 60.0))
        await until(lambda: locks.statistics().waiting == 1)
        gone.cancel()
        await until(lambda: locks.statistics().waiting == 0)
        locks.release(b"one")
        await locks.acquire(b"three", ["alice"], X, 1.0)


@pytest.mark.asyncio
async def test_rule_33_a_readers_lock_is_marked_and_its_mark_goes_with_it(world: World) -> None:
    async with world.service() as locks:
        tokens = await locks.acquire(b"reader", ["alice", "bob", "carol"], S, 1.0)
        assert world.buckets.marks == {account: [tokens["alice"]] for account in WHERE}
        locks.release(b"reader")
        await until(lambda: not any(world.buckets.marks.values()))
        assert world.store.entries == {}


@pytest.mark.asyncio
async def test_rule_33_the_grant_waits_for_legs_prepared_before(world: World) -> None:
    world.buckets.prepared = {"alice"}
    async with world.service() as locks:
        reading = asyncio.create_task(locks.acquire(b"reader", ["alice"], S, 5.0))
        await until(lambda: world.buckets.said.count("mark alice") >= 2)
        assert not reading.done()
        world.buckets.prepared = set()
        await reading


@pytest.mark.asyncio
async def test_t27_a_mark_that_waited_in_vain_is_taken_away(world: World) -> None:
    world.buckets.prepared = {"alice"}
    async with world.service() as locks:
        with pytest.raises(Unavailable, match=r"marked in time"):
            await locks.acquire(b"reader", ["alice"], S, 0.05)
        await until(lambda: not world.buckets.marks["alice"])
        assert locks.statistics().held == 0


@pytest.mark.asyncio
async def test_t27_a_mark_goes_when_its_lease_runs_out(world: World) -> None:
    world.settings = LockSettings(buckets=BUCKETS, lease=0.1)
    async with world.service() as locks:
        await locks.acquire(b"dead reader", ["alice"], S, 1.0)
        assert world.buckets.marks["alice"]
        await until(lambda: not world.buckets.marks["alice"])
        assert locks.statistics().expired == 1


@pytest.mark.asyncio
async def test_a_late_mark_is_not_taken_away_before_it_is_set(world: World) -> None:
    async with world.service() as locks:
        world.buckets.held_back = []
        reading = asyncio.create_task(locks.acquire(b"reader", ["alice"], S, 0.05))
        with pytest.raises(Unavailable):
            await reading
        (late,) = world.buckets.held_back
        world.buckets.held_back = None
        late()
        assert world.buckets.marks["alice"]
        await until(lambda: not world.buckets.marks["alice"])
        assert world.buckets.said == ["mark alice", "unmark alice"]


@pytest.mark.asyncio
async def test_a_mark_is_tried_again_until_its_fate_is_known(world: World) -> None:
    async with world.service() as locks:
        world.buckets.fail_next = [
            Rejected(0, RejectReason.UNKNOWN),
            Rejected(0, RejectReason.OVERLOADED),
        ]
        tokens = await locks.acquire(b"reader", ["alice"], S, 5.0)
        assert world.buckets.marks["alice"] == [tokens["alice"]]
        world.buckets.fail_next = [Rejected(0, RejectReason.UNKNOWN)]
        locks.release(b"reader")
        await until(lambda: not world.buckets.marks["alice"])


@pytest.mark.asyncio
async def test_rule_34_a_mark_overtaken_by_a_newer_token_is_not_had(world: World) -> None:
    world.buckets.refuse["bob"] = Answer(Code.LOCK_CONFLICT)
    async with world.service() as locks:
        with pytest.raises(Unavailable, match="LOCK_CONFLICT"):
            await locks.acquire(b"reader", ["alice", "bob"], S, 5.0)
        await until(lambda: not world.buckets.marks["alice"])
        assert locks.statistics().held == 0


@pytest.mark.asyncio
async def test_an_account_that_is_not_there_cannot_be_marked(world: World) -> None:
    async with world.service() as locks:
        with pytest.raises(NotFound, match="'mallory' doesn't exist"):
            await locks.acquire(b"reader", ["alice", "mallory"], S, 1.0)
        assert world.buckets.said == []
        await locks.acquire(b"next", ["alice"], S, 1.0)


@pytest.mark.asyncio
async def test_l4_l8_tokens_never_repeat_whatever_the_store_lost(world: World) -> None:
    async with world.service() as locks:
        old = await locks.acquire(b"one", ["alice"], X, 1.0)
    world.store.entries.clear()
    async with world.service() as locks:
        new = await locks.acquire(b"two", ["alice"], X, 1.0)
    assert (old["alice"].epoch, new["alice"].epoch) == (1, 2)
    assert new["alice"] > old["alice"]


@pytest.mark.asyncio
async def test_an_epoch_lost_sight_of_is_asked_for_again(world: World) -> None:
    world.buckets.fail_next = [
        Rejected(0, RejectReason.UNKNOWN),
        Rejected(0, RejectReason.UNAVAILABLE),
    ]
    async with world.service() as locks:
        assert (await locks.acquire(b"one", ["alice"], E, 1.0))["alice"].epoch == 1


@pytest.mark.asyncio
async def test_l7_without_an_epoch_there_are_no_locks(world: World) -> None:
    world.buckets.held_back = []
    async with world.service(waits_for_epoch=False) as locks:
        with pytest.raises(Unavailable, match="isn't at work"):
            await locks.acquire(b"one", ["alice"], E, 1.0)
        locks.release(b"one")


@pytest.mark.asyncio
async def test_l7_whoever_waits_hears_when_the_service_stops(world: World) -> None:
    async with world.service() as locks:
        await locks.acquire(b"one", ["alice"], X, 1.0)
        waiting = asyncio.create_task(locks.acquire(b"two", ["alice"], X, 60.0))
        await until(lambda: locks.statistics().waiting == 1)
    with pytest.raises(Unavailable, match="stopping"):
        await waiting


@pytest.mark.asyncio
async def test_rule_36_a_new_service_knows_outsiders_leases(world: World) -> None:
    async with world.service() as locks:
        held, left = await ClientLocks(locks, world.clock).acquire(b"outsider", ["alice"], X, 1.0)
        assert 20 < left <= 30
        assert world.buckets.marks["alice"] == [held["alice"]]
        (entry,) = world.store.entries.values()
        assert (entry.lock_id, entry.owner, entry.bucket) == ("account:alice", b"outsider", 2)
    async with world.service() as locks:
        with pytest.raises(Unavailable):
            await locks.acquire(b"two", ["alice"], X, 0.01)
        again = await ClientLocks(locks, world.clock).acquire(b"outsider", ["alice"], X, 1.0)
        assert again[0] == held
        assert again[1] < left, "what is left of it, and no more"
        await ClientLocks(locks, world.clock).release(b"outsider")
        await locks.acquire(b"two", ["alice"], X, 1.0)
        await until(lambda: not world.buckets.marks["alice"])
        await until(lambda: not world.store.entries)


@pytest.mark.asyncio
async def test_a_release_that_nobody_hears_is_no_success(world: World) -> None:
    """The account stays shut for the lease, though its holder was told that it is open."""
    async with world.service(waits_for_epoch=False) as locks:
        if locks._book is None:
            with pytest.raises(Unavailable):
                await ClientLocks(locks, world.clock).release(b"outsider")
        await until(lambda: locks._book is not None)
        await ClientLocks(locks, world.clock).acquire(b"outsider", ["alice"], X, 1.0)
        assert await locks.release_owner(b"outsider")
        assert not await locks.release_owner(b"outsider"), "of nothing is fine"
    with pytest.raises(Unavailable):
        await ClientLocks(locks, world.clock).release(b"outsider")


@pytest.mark.asyncio
async def test_a_mark_of_which_a_copy_was_lost_is_taken_away_until_it_is_not_there(
    world: World,
) -> None:
    """The copy may be set behind the first taking away; told of a mark that it lacks, the bucket sets it no more."""
    async with world.service() as locks:
        world.buckets.fail_next = [Rejected(0, RejectReason.UNKNOWN)]
        await locks.acquire(b"reader", ["alice"], S, 5.0)
        locks.release(b"reader")
        await until(lambda: world.buckets.said.count("unmark alice") == 2)
        await locks.acquire(b"reader", ["alice"], S, 5.0)
        locks.release(b"reader")
        await until(lambda: not world.buckets.marks["alice"])
        await asyncio.sleep(0.01)
    assert world.buckets.said.count("unmark alice") == 3, "once is enough where nothing was lost"


@pytest.mark.asyncio
async def test_rule_36_what_ended_while_no_service_was_there_is_cleared_away(world: World) -> None:
    token = Token(0, 7, X)
    world.buckets.epoch = 3
    world.buckets.marks["alice"] = [token]
    world.store.entries["account:alice", token] = LockEntry(
        "account:alice", b"outsider", token, world.clock.now_us() - 1, 2
    )
    async with world.service() as locks:
        await locks.acquire(b"two", ["alice"], X, 1.0)
        await until(lambda: not world.buckets.marks["alice"] and not world.store.entries)


@pytest.mark.asyncio
async def test_what_cannot_be_kept_is_not_had(world: World) -> None:
    async with world.service() as locks:
        world.store.is_down = True
        with pytest.raises(Unavailable, match="can't be kept: the store is down"):
            await ClientLocks(locks, world.clock).acquire(b"outsider", ["alice"], X, 1.0)
        await until(lambda: not world.buckets.marks["alice"])
        assert await locks.acquire(b"payment", ["alice"], E, 1.0)


@pytest.mark.asyncio
async def test_an_outsiders_escrow_marks_nothing(world: World) -> None:
    async with world.service() as locks:
        await ClientLocks(locks, world.clock).acquire(b"outsider", ["alice"], E, 1.0)
        assert world.buckets.said == []


@pytest.mark.asyncio
async def test_l9_a_lock_has_a_bounded_queue(world: World) -> None:
    world.settings = LockSettings(buckets=BUCKETS, waiters_max=3)
    async with world.service() as locks:
        waiting = [
            asyncio.create_task(locks.acquire(b"%d" % i, ["alice"], X, 60.0)) for i in range(4)
        ]
        await until(lambda: locks.statistics().waiting == 3)
        with pytest.raises(Overloaded):
            await locks.acquire(b"one too many", ["alice"], X, 60.0)
        for i in range(4):
            await waiting[i]
            locks.release(b"%d" % i)


@pytest.mark.asyncio
async def test_an_owner_that_asks_while_it_is_being_marked_is_told_so(world: World) -> None:
    world.buckets.prepared = {"alice"}
    async with world.service() as locks:
        first = asyncio.create_task(locks.acquire(b"reader", ["alice"], S, 5.0))
        await until(lambda: world.buckets.marks["alice"])
        with pytest.raises(Unavailable, match="being marked"):
            await locks.acquire(b"reader", ["alice"], S, 5.0)
        world.buckets.prepared = set()
        await first


def global_lock(world: World, locks: GlobalLockService, lock_id: str, owner: bytes) -> GlobalLock:
    properties = LockProperties(attempts=2, attempt_delay=0.02, timeout=0.2)
    return GlobalLock(lock_id, properties, owner=owner, leases=locks, clock=world.clock)


@pytest.mark.asyncio
async def test_a_global_lock_as_the_seed_has_it(world: World) -> None:
    async with world.service() as locks:
        one, two = (global_lock(world, locks, "printer", owner) for owner in (b"1", b"2"))
        assert one.status() is LockStatus.FREE
        assert await one.lock()
        assert one.has_handle()
        assert one.status() is LockStatus.HELD
        assert not await two.lock()
        assert not two.has_handle()
        assert not await two.unlock()
        assert await one.unlock()
        assert await two.lock()
        assert world.buckets.said == [], "a plain lease marks nothing"


@pytest.mark.asyncio
async def test_l5_a_global_lock_that_ran_out_releases_nobody_elses(world: World) -> None:
    async with world.service() as locks:
        one, two = (global_lock(world, locks, "account:alice", owner) for owner in (b"1", b"2"))
        assert await one.lock()
        assert world.buckets.marks["alice"] == [one.handle]
        await until(lambda: one.status() is LockStatus.EXPIRED)
        assert await two.lock()
        assert not await one.unlock()
        assert two.status() is LockStatus.HELD
        (holder,) = locks._book._table.holders("account:alice")
        assert holder.owner == b"2"
