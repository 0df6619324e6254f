"""A mailbox is bounded, keeps its order, loses nothing to a cancelled drain, and starves nobody."""

import asyncio

import pytest

from mas.errors import MailboxClosed, MailboxFull, Overloaded
from mas.runtime import Mailbox


async def _turn() -> None:
    """Let every task that can run do so once."""
    await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_drain_takes_all_that_waits_in_order() -> None:
    mailbox = Mailbox[int]("m", 10)
    for item in range(5):
        mailbox.put(item)
    assert await mailbox.drain() == [0, 1, 2, 3, 4]
    assert len(mailbox) == 0


@pytest.mark.asyncio
async def test_drain_keeps_what_is_over_the_limit() -> None:
    mailbox = Mailbox[int]("m", 10)
    for item in range(5):
        mailbox.put(item)
    assert await mailbox.drain(limit=2) == [0, 1]
    assert mailbox.drain_nowait(limit=2) == [2, 3]
    assert await mailbox.drain(limit=2) == [4]
    assert mailbox.drain_nowait() == []


@pytest.mark.asyncio
async def test_drain_waits_for_the_first_item() -> None:
    mailbox = Mailbox[str]("m", 10)
    drain = asyncio.create_task(mailbox.drain())
    await _turn()
    assert not drain.done()
    mailbox.put("a")
    mailbox.put("b")
    assert await drain == ["a", "b"]


@pytest.mark.asyncio
async def test_a_full_mailbox_answers_at_once() -> None:
    mailbox = Mailbox[int]("m", 2)
    assert mailbox.offer(1)
    mailbox.put(2)
    assert not mailbox.offer(3)
    with pytest.raises(MailboxFull, match="mailbox m is full") as refusal:
        mailbox.put(4)
    assert isinstance(refusal.value, Overloaded)
    assert refusal.value.retryable
    assert await mailbox.drain() == [1, 2]
    mailbox.put(5)
    assert await mailbox.drain() == [5]


@pytest.mark.asyncio
async def test_a_cancelled_drain_loses_nothing_even_when_an_item_has_just_come() -> None:
    mailbox = Mailbox[int]("m", 10)
    drain = asyncio.create_task(mailbox.drain())
    await _turn()
    mailbox.put(1)
    drain.cancel()
    with pytest.raises(asyncio.CancelledError):
        await drain
    mailbox.put(2)
    assert await mailbox.drain() == [1, 2]


@pytest.mark.asyncio
async def test_a_drain_under_a_timeout_can_be_tried_again() -> None:
    mailbox = Mailbox[int]("m", 10)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await mailbox.drain()
    mailbox.put(1)
    assert await mailbox.drain() == [1]


@pytest.mark.asyncio
async def test_an_owner_with_a_backlog_lets_others_run() -> None:
    mailbox = Mailbox[int]("m", 10)
    for item in range(3):
        mailbox.put(item)
    seen: list[str] = []

    async def other() -> None:
        seen.append("other")

    task = asyncio.create_task(other())
    while len(mailbox):
        await mailbox.drain(limit=1)
        seen.append("owner")
    await task
    assert seen.index("other") < seen.index("owner")


@pytest.mark.asyncio
async def test_close_lets_the_owner_finish_and_then_ends_it() -> None:
    mailbox = Mailbox[int]("m", 10)
    mailbox.put(1)
    mailbox.close()
    with pytest.raises(MailboxClosed):
        mailbox.put(2)
    with pytest.raises(MailboxClosed):
        mailbox.offer(2)
    assert await mailbox.drain() == [1]
    with pytest.raises(MailboxClosed):
        await mailbox.drain()


@pytest.mark.asyncio
async def test_close_wakes_a_waiting_owner() -> None:
    mailbox = Mailbox[int]("m", 10)
    drain = asyncio.create_task(mailbox.drain())
    await _turn()
    mailbox.close()
    with pytest.raises(MailboxClosed):
        await drain


@pytest.mark.asyncio
async def test_a_mailbox_has_one_owner() -> None:
    mailbox = Mailbox[int]("m", 10)
    first = asyncio.create_task(mailbox.drain())
    await _turn()
    with pytest.raises(AssertionError, match="two owners"):
        await mailbox.drain()
    mailbox.put(1)
    assert await first == [1]


@pytest.mark.asyncio
async def test_statistics_count_what_went_through() -> None:
    mailbox = Mailbox[int]("m", 3)
    for item in range(5):
        mailbox.offer(item)
    mailbox.drain_nowait(limit=2)
    statistics = mailbox.statistics()
    assert (statistics.name, statistics.capacity) == ("m", 3)
    assert (statistics.waiting, statistics.waiting_max) == (1, 3)
    assert (statistics.taken, statistics.refused) == (2, 2)
