"""The machine's clock and dice fit the protocols, and so does a seeded `random.Random`."""

import random
import time

import pytest

from mas.runtime import Clock, Dice, SystemClock, SystemDice


@pytest.mark.asyncio
async def test_sleep_takes_at_least_its_time() -> None:
    clock: Clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(0.01)
    assert clock.monotonic() - before >= 0.0099


def test_monotonic_counts_suspension() -> None:
    steady = time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
    assert abs(SystemClock().monotonic() - steady) < 1


def test_now_is_in_microseconds() -> None:
    assert abs(SystemClock().now_us() / 1_000_000 - time.time()) < 1


@pytest.mark.parametrize("dice", [SystemDice(), random.Random(1)], ids=["system", "seeded"])
def test_dice_stay_in_range_and_reach_every_side(dice: Dice) -> None:
    assert {dice.randrange(4) for _ in range(400)} == {0, 1, 2, 3}
    assert len(dice.randbytes(10)) == 10
    assert dice.randbytes(10) != dice.randbytes(10)
