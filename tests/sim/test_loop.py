"""The same seed gives the same run; time costs nothing; the real world is refused."""

import asyncio
import random
import threading
import time

import pytest

from mas.runtime import Actor, Clock, Dice, Mailbox, Supervisor
from mas.sim import Deadlock, VirtualClock, VirtualLoop, run_virtual

Trace = list[tuple[float, str, list[int]]]


class Player(Actor):
    """Passes what it gets on to another, after a while that the dice choose."""

    def __init__(self, name: str, clock: Clock, dice: Dice, trace: Trace) -> None:
        self.name = name
        self.mailbox = Mailbox[int](name, 100)
        self.others: list[Player] = []
        self._clock = clock
        self._dice = dice
        self._trace = trace

    async def run(self) -> None:
        while True:
            batch = await self.mailbox.drain()
            self._trace.append((self._clock.monotonic(), self.name, batch))
            await self._clock.sleep(self._dice.randrange(100) / 100)
            for item in batch:
                self.others[self._dice.randrange(len(self.others))].mailbox.put(item + 1)


async def _play(dice: Dice, seconds: float) -> Trace:
    clock = VirtualClock(asyncio.get_running_loop())
    trace: Trace = []
    players = [Player(name, clock, dice, trace) for name in "abcd"]
    async with Supervisor() as supervisor:
        for player in players:
            player.others = players
            player.mailbox.put(0)
            supervisor.spawn(player.name, player.run())
        await clock.sleep(seconds)
    return trace


def _run(seed: int, seconds: float = 20) -> Trace:
    dice = random.Random(seed)
    return run_virtual(_play(dice, seconds), dice)


def test_one_seed_is_one_run() -> None:
    assert _run(1) == _run(1)
    assert _run(1) != _run(2)


def test_a_thousand_seconds_take_well_under_one() -> None:
    before = time.process_time()
    trace = _run(seed=3, seconds=1000)
    assert time.process_time() - before < 1
    assert len(trace) > 2000
    assert trace[-1][0] > 998


def test_time_leaps_to_the_next_timer() -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        moments = [loop.time()]
        for seconds in (0.25, 3600.0, 0.0, 200_000.0):
            await asyncio.sleep(seconds)
            moments.append(loop.time())
        return moments

    expected = [0, 0.25, 3600.25, 3600.25, 203600.25]
    assert run_virtual(main()) == pytest.approx(expected, abs=1e-5)


def test_no_timer_is_early_for_the_clock_that_set_it() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for turn in range(1000):
            before = loop.time()
            await asyncio.sleep(turn / 7)
            assert loop.time() - before > turn / 7 - 2e-6

    run_virtual(main(), random.Random(1))


def test_a_timeout_is_virtual_too() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.sleep(60)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(30)


def _order_of_five(dice: Dice | None) -> str:
    async def main() -> str:
        seen: list[str] = []

        async def tick(name: str) -> None:
            await asyncio.sleep(1)
            seen.append(name)

        await asyncio.gather(*(tick(name) for name in "abcde"))
        return "".join(seen)

    return run_virtual(main(), dice)


def test_timers_of_one_moment_meet_in_every_order_over_the_seeds() -> None:
    assert _order_of_five(random.Random(7)) == _order_of_five(random.Random(7))
    firsts = {_order_of_five(random.Random(seed))[0] for seed in range(60)}
    assert firsts == set("abcde")


def test_who_waits_for_ever_is_named() -> None:
    async def hopeless() -> None:
        await asyncio.sleep(5)
        await asyncio.Event().wait()

    async def main() -> None:
        async with Supervisor() as supervisor:
            task = supervisor.spawn("romeo", hopeless())
            await task

    with pytest.raises(Deadlock, match=r"at 5\.0\d* s .*(?s:.*)romeo: .*hopeless, line \d+"):
        run_virtual(main())


def test_threads_are_refused() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="no threads on a virtual loop"):
            await asyncio.to_thread(time.time)
        refusals: list[str] = []

        def knock() -> None:
            try:
                loop.call_soon_threadsafe(print)
            except RuntimeError as error:
                refusals.append(str(error))

        thread = threading.Thread(target=knock)
        thread.start()
        thread.join()
        assert "another thread" in refusals[0]

    run_virtual(main())


def test_sockets_are_refused() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="no threads on a virtual loop"):
            await asyncio.open_connection("localhost", 1)

    run_virtual(main())


def test_its_own_thread_may_call_thread_safely() -> None:
    async def main() -> None:
        done = asyncio.Event()
        asyncio.get_running_loop().call_soon_threadsafe(done.set)
        await done.wait()

    run_virtual(main())


def test_a_calendar_may_be_wrong_and_the_steady_clock_is_not() -> None:
    loop = VirtualLoop()
    good, bad = VirtualClock(loop), VirtualClock(loop, ahead_us=3_600_000_000)
    assert bad.now_us() - good.now_us() == 3_600_000_000
    loop.run_until_complete(good.sleep(2))
    assert good.monotonic() == bad.monotonic() == pytest.approx(2)
    bad.ahead_us = -1
    assert good.now_us() - bad.now_us() == 1
    loop.close()
