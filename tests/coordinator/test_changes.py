"""An administrator's changes beside locks, with the lock service itself: in turn behind the living, past the dead."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import pytest

from mas.coordinator import CoordinatorSettings, Ports, TransactionCoordinator
from mas.errors import OutcomeUnknown
from mas.ledger import Account, Answer, Code, Instruction, LockMode, SetAccount, Token
from mas.locks import ACCOUNT, GlobalLockService, LockSettings
from mas.runtime import Supervisor, SystemDice
from mas.sim import VirtualClock, run_virtual
from tests.coordinator.cluster import Buckets, Store
from tests.locks.harness import StoredLocks, until

BUCKETS, HERE = 3, 2
ALICE, POOR = "alice", "poor"
OWNER = b"outsider"
FREEZE = SetAccount(ALICE, frozen=True)


class World:
    """A coordinator, ledgers, and lock services one after the other over one store."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.buckets = Buckets(BUCKETS)
        self.buckets.open_account(ALICE, HERE, 1_000)
        self.buckets.open_account(POOR, HERE, 0)
        self.stored_locks = StoredLocks()
        self.clock = VirtualClock(asyncio.get_running_loop())
        self._supervisor = supervisor
        self.locks: GlobalLockService
        self.coordinator: TransactionCoordinator

    async def start_locks(self) -> "asyncio.Task[None]":
        self.locks = GlobalLockService(
            "tm",
            buckets=self.buckets,
            store=self.stored_locks,
            clock=self.clock,
            settings=LockSettings(BUCKETS),
        )
        task = self._supervisor.spawn("locks", self.locks.run())
        await until(lambda: self.locks._book is not None)
        return task

    def start_coordinator(self) -> None:
        ports = Ports(self.buckets, Store(), self.locks)
        settings = CoordinatorSettings(BUCKETS)
        self.coordinator = TransactionCoordinator(ports, settings, self.clock, SystemDice())
        self._supervisor.spawn("coordinator", self.coordinator.run())

    async def lock(self, number: str = ALICE) -> None:
        await self.locks.acquire_locks(
            OWNER, [ACCOUNT + number], LockMode.EXCLUSIVE, 1.0, marked=True, durable=True
        )
        assert len(self.marks(number)) == 1

    async def lose_a_holder(self, number: str) -> Token:
        """Its lock is granted, the store loses it, and the lock service dies: nobody knows of the mark any more."""
        task = await self.start_locks()
        await self.lock(number)
        task.cancel()
        await asyncio.wait([task])
        self.stored_locks.entries.clear()
        await self.start_locks()
        (mark,) = self.marks(number)
        return mark

    def change(self, change: SetAccount = FREEZE, timeout: float = 5.0) -> "asyncio.Task[Answer]":
        return self._supervisor.spawn(
            "change", self.coordinator.queries.set_account(change, timeout)
        )

    def account(self, number: str = ALICE) -> Account:
        account = self.buckets.account(HERE, number)
        assert account is not None
        return account

    def marks(self, number: str = ALICE) -> tuple[Token, ...]:
        return self.account(number).marks

    async def all_let_go(self) -> None:
        """No lock is held or waited for, none is kept, and no mark is left, long before a lease would end."""
        async with asyncio.timeout(2.0):
            await until(lambda: not (self.marks() or self.marks(POOR) or self.stored_locks.entries))
        seen = self.locks.statistics()
        assert (seen.held, seen.waiting) == (0, 0)


@asynccontextmanager
async def a_world() -> AsyncIterator[World]:
    async with Supervisor() as supervisor:
        yield World(supervisor)
        await supervisor.stop()


def tell(story: Callable[[World], Coroutine[None, None, None]]) -> None:
    async def main() -> None:
        async with a_world() as world:
            await story(world)

    run_virtual(main())


@pytest.mark.parametrize(
    "change",
    [
        FREEZE,
        SetAccount(ALICE, frozen=False),
        SetAccount(ALICE, overdraft_limit=5),
        SetAccount(POOR, closed=True),
    ],
    ids=["freeze", "unfreeze", "limit", "close"],
)
def test_a_change_passes_the_mark_of_a_holder_that_nobody_knows(
    change: SetAccount,
) -> None:
    """No payment comes by that would take the mark away, as on an idle or a frozen account."""

    async def story(world: World) -> None:
        if change.frozen is False:
            world.buckets.apply(HERE, SetAccount(ALICE, frozen=True))
        before = world.account(change.account).version
        dead = await world.lose_a_holder(change.account)
        world.start_coordinator()
        assert world.buckets.apply(HERE, change).code is Code.LOCK_CONFLICT

        answer = await world.change(change)

        assert answer.code is Code.DONE
        assert world.account(change.account).version == before + 1
        assert dead not in world.marks(change.account)
        await world.all_let_go()

    tell(story)


def test_a_change_waits_for_a_living_holder() -> None:
    async def story(world: World) -> None:
        await world.start_locks()
        world.start_coordinator()
        await world.lock()

        changing = world.change()
        await until(lambda: world.locks.statistics().waiting)
        await asyncio.sleep(2.0)
        assert not changing.done()
        assert not world.account().frozen, "the holder's lock is respected"
        world.locks.release(OWNER)

        assert (await changing).code is Code.DONE
        await world.all_let_go()

    tell(story)


def test_a_change_whose_turn_does_not_come_has_done_nothing() -> None:
    async def story(world: World) -> None:
        await world.start_locks()
        world.start_coordinator()
        await world.lock()
        began = world.clock.monotonic()

        assert (await world.change()).code is Code.LOCK_CONFLICT

        assert 2.0 < world.clock.monotonic() - began < 5.0, "the caller hears it in time"
        assert not world.account().frozen
        world.locks.release(OWNER)
        await world.all_let_go()

    tell(story)


def test_without_a_lock_service_a_change_is_answered_at_once() -> None:
    async def story(world: World) -> None:
        task = await world.start_locks()
        world.start_coordinator()
        await world.lock()
        task.cancel()
        await asyncio.wait([task])
        began = world.clock.monotonic()

        assert (await world.change()).code is Code.LOCK_CONFLICT
        assert world.clock.monotonic() - began < 0.1

    tell(story)


def test_changes_wait_for_each_other_and_all_are_done() -> None:
    async def story(world: World) -> None:
        await world.lose_a_holder(ALICE)
        world.start_coordinator()

        limits = [SetAccount(ALICE, overdraft_limit=limit) for limit in range(1, 6)]
        answers = await asyncio.gather(*map(world.change, limits))

        assert {answer.code for answer in answers} == {Code.DONE}
        await world.all_let_go()

    tell(story)


def test_a_change_under_a_lock_whose_answer_was_lost_is_carried_out_once() -> None:
    async def story(world: World) -> None:
        await world.lose_a_holder(ALICE)
        world.start_coordinator()
        before = world.account().version
        lost: list[Instruction] = []

        def lose_the_first(_: int, each: Instruction) -> str | None:
            if lost or not isinstance(each, SetAccount) or each.token is None:
                return None
            lost.append(each)
            return "unheard"

        world.buckets.fault = lose_the_first
        assert (await world.change()).code is Code.DONE

        assert lost, "it was made under a lock, and not heard of"
        assert world.account().version == before + 1
        await world.all_let_go()

    tell(story)


def test_a_change_under_a_lock_that_nobody_hears_of_is_unknown_and_lets_go() -> None:
    async def story(world: World) -> None:
        await world.lose_a_holder(ALICE)
        world.start_coordinator()
        world.buckets.fault = lambda _, each: (
            "unheard" if isinstance(each, SetAccount) and each.token else None
        )

        with pytest.raises(OutcomeUnknown):
            await world.coordinator.queries.set_account(FREEZE, 5.0)

        assert world.account().frozen
        await world.all_let_go()

    tell(story)


def test_a_caller_that_goes_away_leaves_its_place_in_the_queue() -> None:
    async def story(world: World) -> None:
        await world.start_locks()
        world.start_coordinator()
        await world.lock()
        changing = world.change()
        await until(lambda: world.locks.statistics().waiting)

        changing.cancel()

        await until(lambda: not world.locks.statistics().waiting)
        world.locks.release(OWNER)
        await world.all_let_go()
        assert not world.account().frozen

    tell(story)
