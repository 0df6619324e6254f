"""A promise takes the first word, and drops what comes after it or after its waiter has gone."""

import asyncio

import pytest

from mas.errors import Unavailable
from mas.runtime import Promise

pytestmark = pytest.mark.asyncio


async def test_the_first_word_counts() -> None:
    answered: Promise[int] = Promise()
    failed: Promise[int] = Promise()

    answered.set(1)
    answered.set(2)
    answered.fail(Unavailable("too late"))
    failed.fail(Unavailable("down"))
    failed.set(3)

    assert await answered == 1
    with pytest.raises(Unavailable, match="down"):
        await failed


async def test_what_comes_after_the_waiter_has_gone_is_dropped() -> None:
    promise: Promise[int] = Promise()
    waiting = asyncio.ensure_future(promise.wait(60.0))
    await asyncio.sleep(0)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    promise.set(1)
    promise.fail(Unavailable("down"))
    assert promise.cancelled()


async def test_a_deadline_ends_the_waiting() -> None:
    promise: Promise[int] = Promise()
    with pytest.raises(TimeoutError):
        await promise.wait(0.001)
    promise.set(1)
    assert promise.cancelled()


async def test_an_answer_in_time_is_returned() -> None:
    promise: Promise[int] = Promise()
    asyncio.get_running_loop().call_soon(promise.set, 5)
    assert await promise.wait(60.0) == 5
