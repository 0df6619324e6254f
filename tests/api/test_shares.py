"""Each caller's share: counted exactly, given back whatever happens, and waited for in turn."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mas.api.shares import Caller, Held, Rank, Share, Shares
from mas.config import ShareConfig, SharesConfig, StrangerShareConfig
from mas.errors import Overloaded
from tests.api.edge import HandClock

ALICE = Caller("account:alice", Rank.ACCOUNT)
BOB = Caller("account:bob", Rank.ACCOUNT)
DAY_US = 24 * 3600 * 10**6


@contextmanager
def counted(shares: Shares, caller: Caller, *, streaming: bool) -> Iterator[Share]:
    share = shares.enter(caller, streaming=streaming)
    try:
        yield share
    finally:
        shares.leave(share, streaming=streaming)


def test_what_is_above_the_share_is_refused_and_takes_nothing() -> None:
    share = Share(ALICE, ShareConfig(payments=10))
    share.take(Held.PAYMENTS, 8)
    with pytest.raises(Overloaded, match=r"'account:alice' has 8 payments.* share of 10"):
        share.take(Held.PAYMENTS, 3)
    assert share.free(Held.PAYMENTS) == 2
    share.give(Held.PAYMENTS, 8)
    assert share.held(Held.PAYMENTS) == 0


def test_calls_and_streams_are_counted_for_each_caller() -> None:
    shares = Shares(SharesConfig(account=ShareConfig(calls=1)), HandClock())
    with counted(shares, ALICE, streaming=False) as share:
        with pytest.raises(Overloaded), counted(shares, ALICE, streaming=False):
            pass
        with counted(shares, BOB, streaming=False), counted(shares, ALICE, streaming=True):
            pass
    assert not any(map(share.held, Held))


def test_strangers_have_a_share_together() -> None:
    config = SharesConfig(strangers=2, stranger=StrangerShareConfig(calls=1))
    shares = Shares(config, HandClock())
    here, there, elsewhere = (Caller(f"127.0.0.{n}", Rank.STRANGER) for n in range(3))
    with counted(shares, here, streaming=False):
        with (
            pytest.raises(Overloaded, match=r"127\.0\.0\.0"),
            counted(shares, here, streaming=False),
        ):
            pass
        with counted(shares, there, streaming=False):
            all_of_them = pytest.raises(Overloaded, match="without a token")
            with all_of_them, counted(shares, elsewhere, streaming=False):
                pass
            with counted(shares, ALICE, streaming=False):
                pass
    with counted(shares, elsewhere, streaming=False):
        pass


@pytest.mark.asyncio
async def test_turns_are_had_in_order_and_passed_on_by_whoever_waits_no_more() -> None:
    share = Share(ALICE, ShareConfig(statements=1))
    had: list[int] = []
    go = asyncio.Event()

    async def read(number: int) -> None:
        async with share.turn(Held.STATEMENTS):
            had.append(number)
            await go.wait()

    readers = [asyncio.create_task(read(number)) for number in range(4)]
    await asyncio.sleep(0)
    readers[1].cancel()  # while it waits
    readers[0].cancel()  # gives its turn to 2, which is cancelled before it has it
    await asyncio.sleep(0)
    readers[2].cancel()
    go.set()
    await asyncio.wait(readers)
    assert had == [0, 3]
    assert share.held(Held.STATEMENTS) == 0


@pytest.mark.asyncio
async def test_whoever_gives_back_many_wakes_as_many() -> None:
    share = Share(ALICE, ShareConfig(payments=10))
    share.take(Held.PAYMENTS, 10)
    waiting = [asyncio.create_task(share.room(Held.PAYMENTS)) for _ in range(3)]
    await asyncio.sleep(0)
    share.give(Held.PAYMENTS, 2)
    await asyncio.sleep(0)
    assert [task.done() for task in waiting] == [True, True, False]
    share.give(Held.PAYMENTS, 1)
    await asyncio.wait(waiting, timeout=5)


def test_security_b15_records_of_nothing_are_so_many_a_day() -> None:
    clock = HandClock()
    shares = Shares(SharesConfig(account=ShareConfig(refusals_a_day=100)), clock)
    for _ in range(100):
        shares.check_refusals(ALICE)
        shares.refused(ALICE)
    with pytest.raises(Overloaded, match=r"100 payments of 'account:alice'.*864\.0 s"):
        shares.check_refusals(ALICE)
    shares.check_refusals(BOB)
    clock.now += DAY_US // 100
    shares.check_refusals(ALICE)
    shares.refused(ALICE)
    with pytest.raises(Overloaded):
        shares.check_refusals(ALICE)
    clock.now += 2 * DAY_US  # no more than a day's is earned
    for _ in range(100):
        shares.refused(ALICE)
    with pytest.raises(Overloaded):
        shares.check_refusals(ALICE)


def test_callers_that_hold_nothing_are_forgotten() -> None:
    shares = Shares(SharesConfig(), HandClock())
    with counted(shares, ALICE, streaming=False) as share:
        for number in range(5_000):
            with counted(shares, Caller(f"account:{number}", Rank.ACCOUNT), streaming=False):
                pass
            assert len(shares) <= 1_024
        assert shares.of(ALICE) is share
