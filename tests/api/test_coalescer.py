"""Calls of one caller and turn are one batch; each caller hears its own result, and nobody's absence matters."""

import asyncio

import pytest

from mas.api.coalescer import Coalescer
from mas.api.shares import Caller, Held, Rank, Share
from mas.config import ShareConfig
from mas.errors import MailboxClosed, MailboxFull, Overloaded, Unavailable
from mas.ledger.instructions import Body, Kind
from mas.transaction.outcome import PaymentRequest, payment_id_of
from tests.api.edge import FakeCoordinator


def request(key: str) -> PaymentRequest:
    return PaymentRequest("account:a", key, Body(Kind.PAYMENT, "USD", (("a", -1), ("b", 1))))


@pytest.fixture
def share() -> Share:
    return Share(Caller("account:a", Rank.ACCOUNT), ShareConfig(payments=3))


@pytest.mark.asyncio
async def test_one_turn_is_one_batch(share: Share) -> None:
    coordinator = FakeCoordinator()
    gathering = Coalescer(coordinator)
    requests = [request(f"k{number}") for number in range(3)]
    results = await asyncio.gather(*(gathering.submit(each, share) for each in requests))
    assert [result.payment_id for result in results] == [payment_id_of(each) for each in requests]
    await gathering.submit(request("later"), share)
    assert [len(batch) for batch in coordinator.batches] == [3, 1]


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [MailboxFull("full"), MailboxClosed("stopping")])
async def test_what_was_not_begun_is_told_to_every_caller_of_the_turn(
    error: Unavailable, share: Share
) -> None:
    coordinator = FakeCoordinator()
    coordinator.overloaded = error
    gathering = Coalescer(coordinator)
    futures = [gathering.submit(request(key), share) for key in ("a", "b", "c")]
    futures[1].cancel()
    for future in (futures[0], futures[2]):
        with pytest.raises(type(error)):
            await future
    assert share.held(Held.PAYMENTS) == 0


@pytest.mark.asyncio
async def test_kind_6_each_callers_payments_are_a_batch_of_their_own(share: Share) -> None:
    """The coordinator takes callers' batches in turns, so none may hold payments of two callers."""
    coordinator = FakeCoordinator()
    gathering = Coalescer(coordinator)
    other = Share(Caller("account:z", Rank.ACCOUNT), ShareConfig(payments=3))
    whose = [share, other, share]
    requests = [request(key) for key in ("a", "b", "c")]
    results = await asyncio.gather(*map(gathering.submit, requests, whose))
    assert [result.payment_id for result in results] == [payment_id_of(each) for each in requests]
    assert coordinator.callers == ["account:a", "account:z"]
    assert [[each.key for each in batch] for batch in coordinator.batches] == [["a", "c"], ["b"]]
    assert share.held(Held.PAYMENTS) == other.held(Held.PAYMENTS) == 0


@pytest.mark.asyncio
async def test_a_caller_that_has_gone_harms_nobody(share: Share) -> None:
    gathering = Coalescer(FakeCoordinator())
    gone, there = (gathering.submit(request(key), share) for key in "ab")
    gone.cancel()
    assert (await there).payment_id == payment_id_of(request("b"))


@pytest.mark.asyncio
async def test_a_caller_has_a_share_of_payments_whether_it_waits_for_them_or_not(
    share: Share,
) -> None:
    coordinator = FakeCoordinator(lambda _: None)
    gathering = Coalescer(coordinator)
    for key in "abc":
        gathering.submit(request(key), share).cancel()
    with pytest.raises(Overloaded, match="3 payments under way"):
        gathering.submit(request("d"), share)
    await asyncio.sleep(0.01)
    assert len(coordinator.waiting) == 3
    coordinator.settle()
    assert share.held(Held.PAYMENTS) == 0
