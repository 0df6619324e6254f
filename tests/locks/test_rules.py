"""Rules 33 to 36 and rows L1 to L9 of the crash matrix, over real ledgers."""

import asyncio

import pytest

from mas.errors import Overloaded, Unavailable
from mas.ledger import Code, Mark, Reason, TakeEpoch, Token, Unmark
from mas.ledger.instructions import Abort
from mas.locks import ClientLocks, GlobalLock, GlobalLockService, LockProperties, LockSettings
from mas.locks.leases import ACCOUNT
from mas.sim import run_virtual
from tests.locks.harness import ALICE, ANN, BOB, BUCKETS, E, S, World, X, run, until

SHORT = LockSettings(BUCKETS, lease=1.0)


def test_rule_33_a_mark_keeps_payments_out_and_its_legs_are_settled_before_the_grant() -> None:
    async def story(world: World, locks: GlobalLockService) -> None:
        leg, answer = world.buckets.prepare(ALICE)
        assert answer.code is Code.PREPARED
        reading = asyncio.create_task(locks.acquire(b"reader", [ALICE, BOB], S, 5.0))
        await until(lambda: world.buckets.marks(ALICE) and world.buckets.marks(BOB))
        assert not reading.done()
        assert world.buckets.pay(ALICE, ANN).reason is Reason.LOCK_CONFLICT
        world.buckets.do(1, Abort(leg))
        tokens = await reading
        assert world.buckets.marks(BOB) == (tokens[BOB],)
        locks.release(b"reader")
        await until(lambda: not world.buckets.marks(ALICE) + world.buckets.marks(BOB))
        assert world.buckets.pay(ALICE, ANN).code is Code.COMMITTED

    run(story)


def test_t27_the_lease_runs_from_the_request_for_the_mark_granted_or_not() -> None:
    async def story(world: World, locks: GlobalLockService) -> None:
        world.buckets.prepare(ALICE)
        began = world.clock.monotonic()
        with pytest.raises(Unavailable):
            await locks.acquire(b"dead", [ALICE], S, 60.0)
        await until(lambda: not world.buckets.marks(ALICE))
        assert world.clock.monotonic() - began == pytest.approx(1.0, abs=0.3)

    run(story, SHORT)


def test_rule_34_the_attempt_after_a_conflict_passes_a_dead_holders_mark() -> None:
    """L4: the store has lost the grant, and its service is dead."""

    async def main() -> None:
        world = World()
        service, task = await world.start()
        dead, _ = await ClientLocks(service, world.clock).acquire(b"outsider", [ALICE], X, 1.0)
        await world.crash(task)
        world.store.entries.clear()
        assert world.buckets.pay(ALICE, ANN).reason is Reason.LOCK_CONFLICT
        service, task = await world.start()
        tokens = await service.acquire(b"tx", [ALICE, ANN], E, 1.0)
        assert world.buckets.pay(ALICE, ANN, tokens[ALICE]).code is Code.COMMITTED
        assert world.buckets.marks(ALICE) == ()
        assert world.buckets.freeze(ALICE, dead[ALICE]).code is Code.LOCK_CONFLICT
        (again,) = world.buckets.do(1, Mark(ALICE, dead[ALICE]))
        assert again.code is Code.LOCK_CONFLICT, "a mark that was passed isn't set again"
        await world.crash(task)

    run_virtual(main())


def test_rule_34_no_mark_is_set_while_a_payment_that_waited_holds_or_waits() -> None:
    async def story(world: World, locks: GlobalLockService) -> None:
        await locks.acquire(b"first", [ALICE], S, 1.0)
        paying = asyncio.create_task(locks.acquire(b"tx", [ALICE, ANN], E, 5.0))
        await until(lambda: locks.statistics().waiting == 1)
        reading = asyncio.create_task(locks.acquire(b"later", [ALICE], S, 5.0))
        await until(lambda: locks.statistics().waiting == 2)
        locks.release(b"first")
        token = (await paying)[ALICE]
        await until(lambda: not world.buckets.marks(ALICE))
        assert world.buckets.pay(ALICE, ANN, token).code is Code.COMMITTED
        assert sum(isinstance(each, Mark) for each in world.buckets.applied) == 1
        assert not reading.done()
        locks.release(b"tx")
        await reading

    run(story)


def test_t26_payments_and_readers_in_turn_pass_in_three_rounds() -> None:
    """A lock on a merchant's account ends with 1,000 payments waiting, and a reader behind each of them."""

    async def story(world: World, locks: GlobalLockService) -> None:
        await ClientLocks(locks, world.clock).acquire(b"admin", [ALICE], X, 1.0)
        holding = {E: 0, S: 0}
        rounds: list[str] = []

        async def hold(owner: bytes, mode: object) -> None:
            await locks.acquire(owner, [ALICE], mode, 60.0)  # type: ignore[arg-type]
            if not any(holding.values()):
                rounds.append(mode.name)  # type: ignore[attr-defined]
            holding[mode] += 1  # type: ignore[index]
            await asyncio.sleep(0.5)
            holding[mode] -= 1  # type: ignore[index]
            locks.release(owner)

        tasks = []
        for i in range(1000):
            tasks.append(asyncio.create_task(hold(b"r%d" % i, S)))
            tasks.append(asyncio.create_task(hold(b"p%d" % i, E)))
        await until(lambda: locks.statistics().waiting == 2000)
        locks.release(b"admin")
        await asyncio.gather(*tasks)
        assert rounds == ["SHARED", "ESCROW", "SHARED"]

    run(story)


def test_l1_an_old_exclusive_token_is_refused_at_the_bucket_and_escrow_fences_nothing() -> None:
    async def story(world: World, locks: GlobalLockService) -> None:
        first = (await locks.acquire(b"one", [BOB], X, 1.0))[BOB]
        second = (await locks.acquire(b"two", [BOB], X, 5.0))[BOB]  # the lease of "one" ran out
        leg, answer = world.buckets.prepare(BOB, second)
        assert answer.code is Code.PREPARED
        world.buckets.do(2, Abort(leg))
        assert world.buckets.prepare(BOB, first)[1].code is Code.LOCK_CONFLICT
        early = (await locks.acquire(b"e1", [ANN], E, 1.0))[ANN]
        late = (await locks.acquire(b"e2", [ANN], E, 1.0))[ANN]
        assert world.buckets.prepare(ANN, late)[1].code is Code.PREPARED
        assert world.buckets.prepare(ANN, early)[1].code is Code.PREPARED

    run(story, SHORT)


def test_l2_a_prepared_leg_outlives_its_lease() -> None:
    async def story(world: World, locks: GlobalLockService) -> None:
        first = (await locks.acquire(b"one", [BOB], X, 1.0))[BOB]
        assert world.buckets.prepare(BOB, first)[1].code is Code.PREPARED
        second = (await locks.acquire(b"two", [BOB], X, 5.0))[BOB]
        assert second > first
        assert world.buckets.prepare(BOB, second)[1].code is Code.LOCK_CONFLICT

    run(story, SHORT)


def test_l3_when_the_next_is_granted_the_paused_holders_mark_is_gone() -> None:
    """An administrator who wakes up late changes nothing under the next one's lock."""

    async def story(world: World, locks: GlobalLockService) -> None:
        outsiders = ClientLocks(locks, world.clock)
        paused = (await outsiders.acquire(b"paused", [ALICE], X, 1.0))[0][ALICE]
        token = (await outsiders.acquire(b"next", [ALICE], X, 30.0))[0][ALICE]
        assert world.buckets.marks(ALICE) == (token,)
        assert world.buckets.freeze(ALICE, paused).code is Code.LOCK_CONFLICT
        assert world.buckets.freeze(ALICE, token).code is Code.DONE

    run(story, SHORT)


def test_l3_also_when_taking_the_old_mark_away_was_lost_sight_of() -> None:
    async def story(world: World, locks: GlobalLockService) -> None:
        outsiders = ClientLocks(locks, world.clock)
        world.buckets.loses_unmarks = True
        paused = (await outsiders.acquire(b"paused", [ALICE], X, 1.0))[0][ALICE]
        token = (await outsiders.acquire(b"next", [ALICE], X, 30.0))[0][ALICE]
        assert world.buckets.turned_away == 0, "it isn't known to be lost"
        assert world.buckets.marks(ALICE) == (token,)
        assert world.buckets.freeze(ALICE, paused).code is Code.LOCK_CONFLICT

    run(story, SHORT)


def test_l5_a_late_release_is_compared_and_changes_nothing() -> None:
    async def story(world: World, locks: GlobalLockService) -> None:
        outsiders = ClientLocks(locks, world.clock)
        await outsiders.acquire(b"old", [ALICE], X, 1.0)
        token = (await outsiders.acquire(b"new", [ALICE], X, 5.0))[0][ALICE]
        locks.release(b"old")
        assert not await locks.release_lock(f"account:{ALICE}", b"old", token)
        assert not await locks.release_lock(f"account:{ALICE}", b"new", Token(1, 1, X))
        assert world.buckets.marks(ALICE) == (token,)
        assert await locks.release_lock(f"account:{ALICE}", b"new", token)

    run(story, SHORT)


def test_l6_any_circle_of_transactions_ends() -> None:
    async def story(_: World, locks: GlobalLockService) -> int:
        names = [ALICE, ANN, BOB]
        done = 0

        async def transact(i: int) -> None:
            nonlocal done
            pair = [names[i % 3], names[(i + 1 + i // 3 % 2) % 3]]
            await locks.acquire(b"%d" % i, pair, X, 60.0)
            await asyncio.sleep(0.01)
            locks.release(b"%d" % i)
            done += 1

        await asyncio.gather(*(asyncio.create_task(transact(i)) for i in range(60)))
        return done

    assert run(story) == 60


def test_l7_a_service_that_waits_for_its_epoch_grants_nothing() -> None:
    async def main() -> None:
        world = World()
        world.buckets.is_down[1] = True
        service = GlobalLockService(
            "n",
            buckets=world.buckets,
            store=world.store,
            clock=world.clock,
            settings=world.settings,
        )
        task = asyncio.create_task(service.run())
        await asyncio.sleep(30)
        with pytest.raises(Unavailable):
            await service.acquire(b"tx", [ALICE], E, 1.0)
        world.buckets.is_down[1] = False
        await until(lambda: service._book is not None)
        assert (await service.acquire(b"tx", [ALICE], E, 1.0))[ALICE].epoch == 1
        await world.crash(task)

    run_virtual(main())


def test_l8_no_token_is_granted_twice_whatever_the_store_lost() -> None:
    async def main() -> None:
        world = World()
        seen: dict[tuple[int, int], None] = {}
        for _ in range(4):
            service, task = await world.start()
            for i in range(3):
                token = (await service.acquire(b"%d" % i, [ALICE], E, 1.0))[ALICE]
                assert (token.epoch, token.counter) > max(seen, default=(0, 0))
                seen[token.epoch, token.counter] = None
            await world.crash(task)
            world.store.entries.clear()
        assert sum(isinstance(each, TakeEpoch) for each in world.buckets.applied) == 4

    run_virtual(main())


def test_l8_a_calendar_that_jumps_moves_no_lease_of_this_service() -> None:
    async def story(world: World, locks: GlobalLockService) -> None:
        await ClientLocks(locks, world.clock).acquire(b"one", [ALICE], X, 1.0)
        world.clock.ahead_us += 3_600_000_000
        with pytest.raises(Unavailable):
            await locks.acquire(b"two", [ALICE], X, 0.5)
        world.clock.ahead_us -= 7_200_000_000
        await locks.acquire(b"two", [ALICE], X, 1.0)

    run(story, SHORT)


def test_l9_all_that_anybody_may_ask_for_is_bounded() -> None:
    async def story(_: World, locks: GlobalLockService) -> None:
        for i in range(5):
            await locks.acquire_locks(b"o", [f"plain-{i}"], X, 1.0, lease=600.0)
        with pytest.raises(Overloaded):
            await locks.acquire_locks(b"o", ["one more"], X, 1.0, lease=600.0)
        locks.release(b"o")
        await locks.acquire_locks(b"o", ["one more"], X, 1.0)

    run(story, LockSettings(BUCKETS, requests_max=5))


def test_rule_36_no_mark_outlives_the_services_that_could_take_it_away() -> None:
    """The service dies at any moment of an outsider's lock; the next one knows of the mark, if there is one."""

    async def main(moment: int) -> bool:
        world = World(SHORT)
        service, task = await world.start()
        outsiders = ClientLocks(service, world.clock)

        async def lock_and_release() -> None:
            await outsiders.acquire(b"outsider", [ALICE], X, 1.0)
            await outsiders.release(b"outsider")
            await asyncio.sleep(60)

        outsider = asyncio.create_task(lock_and_release())
        await asyncio.sleep(moment * 0.001 + 0.0005)
        await world.crash(task)
        outsider.cancel()
        await asyncio.wait([outsider])
        # What was on its way may still be applied, after the death of who sent it.
        await asyncio.sleep(0.1)
        stood = bool(world.buckets.marks(ALICE))
        service, task = await world.start()
        await asyncio.sleep(5)
        assert world.buckets.marks(ALICE) == ()
        assert world.store.entries == {}
        await service.acquire(b"next", [ALICE], X, 1.0)
        await world.crash(task)
        return stood

    stood = [run_virtual(main(moment)) for moment in range(1, 14)]
    assert any(stood), "no mark was left to take away: nothing was tried"
    assert not all(stood)


def test_rule_36_a_lock_is_forgotten_only_once_its_mark_is_gone() -> None:
    """Or nobody would know of the mark, if the service died before its bucket came back."""

    async def main() -> None:
        world = World()
        service, task = await world.start()
        await ClientLocks(service, world.clock).acquire(b"outsider", [BOB], X, 1.0)
        world.buckets.is_down[2] = True
        service.release(b"outsider")
        await asyncio.sleep(1)
        await world.crash(task)
        await asyncio.sleep(10)
        world.buckets.is_down[2] = False
        assert world.buckets.marks(BOB)
        service, task = await world.start()
        await until(lambda: not world.buckets.marks(BOB) and not world.store.entries)
        await world.crash(task)

    run_virtual(main())


def test_rule_36_a_lock_that_is_let_go_while_it_is_marked_stays_stored_until_its_mark_is_gone() -> (
    None
):
    """Or a service that died in the meantime would leave a mark behind that nobody knows of."""

    async def story(world: World, locks: GlobalLockService) -> None:
        world.buckets.is_down[1] = True
        asking = asyncio.create_task(
            locks.acquire_locks(
                b"o", [ACCOUNT + ALICE], X, 3.0, marked=True, durable=True, lease=60.0
            )
        )
        await until(lambda: world.store.entries)
        locks.release(b"o")
        with pytest.raises(Unavailable, match="released before they were marked"):
            await asking
        await asyncio.sleep(0.1)
        assert world.store.entries, "its mark is on its way"
        world.buckets.is_down[1] = False
        await until(lambda: not world.store.entries)
        assert not world.buckets.marks(ALICE)

    run(story)


def test_a_bucket_that_turns_everything_away_at_once_is_asked_now_and_then() -> None:
    async def story(world: World, locks: GlobalLockService) -> None:
        await locks.acquire(b"reader", [BOB], S, 1.0)
        world.buckets.patience = 0.001
        world.buckets.is_down[2] = True
        locks.release(b"reader")
        await asyncio.sleep(2)
        assert 5 <= world.buckets.turned_away <= 25

    run(story)


def test_rule_37_a_bucket_that_is_away_delays_nobody_elses_marks() -> None:
    async def story(world: World, locks: GlobalLockService) -> None:
        for i in range(20):
            await locks.acquire(b"%d" % i, [BOB], S, 1.0)
        await locks.acquire(b"alice", [ALICE], S, 1.0)
        world.buckets.is_down[2] = True
        for i in range(20):
            locks.release(b"%d" % i)
        await asyncio.sleep(0.1)
        locks.release(b"alice")
        await asyncio.sleep(1.0)
        assert world.buckets.marks(ALICE) == ()
        assert len(world.buckets.marks(BOB)) == 20
        world.buckets.is_down[2] = False
        await until(lambda: not world.buckets.marks(BOB))
        assert sum(isinstance(each, Unmark) for each in world.buckets.applied) == 21

    run(story)


def test_a_store_that_is_away_denies_outsiders_and_their_marks_go() -> None:
    async def story(world: World, locks: GlobalLockService) -> None:
        world.store.is_down = True
        properties = LockProperties(attempts=1, attempt_delay=1.0, timeout=5.0)
        lock = GlobalLock(
            f"account:{ALICE}", properties, owner=b"me", leases=locks, clock=world.clock
        )
        assert not await lock.lock()
        with pytest.raises(Unavailable):
            await ClientLocks(locks, world.clock).acquire(b"o", [ALICE], X, 1.0)
        await until(lambda: not world.buckets.marks(ALICE))
        assert (await locks.acquire(b"tx", [ALICE], E, 1.0))[ALICE].mode is E
        world.store.is_down = False
        locks.release(b"tx")
        assert await lock.lock()
        assert await lock.unlock()
        await until(lambda: not world.store.entries)

    run(story)
