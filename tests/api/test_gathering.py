"""Calls of one turn are one batch; each caller hears its own result, and nobody's absence matters."""

import asyncio

import pytest

from mas.api.gathering import Gathering
from mas.errors import MailboxClosed, MailboxFull, Unavailable
from mas.ledger.instructions import Body, Kind
from mas.transaction.outcome import PaymentRequest, name
from tests.api.edge import FakeCoordinator


def request(key: str) -> PaymentRequest:
    return PaymentRequest("account:a", key, Body(Kind.PAYMENT, "USD", (("a", -1), ("b", 1))))


@pytest.mark.asyncio
async def test_one_turn_is_one_batch() -> None:
    coordinator = FakeCoordinator()
    gathering = Gathering(coordinator)
    requests = [request(f"k{number}") for number in range(3)]
    results = await asyncio.gather(*map(gathering.submit, requests))
    assert [result.payment_id for result in results] == [name(each) for each in requests]
    await gathering.submit(request("later"))
    assert [len(batch) for batch in coordinator.batches] == [3, 1]


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [MailboxFull("full"), MailboxClosed("stopping")])
async def test_what_was_not_begun_is_told_to_every_caller_of_the_turn(error: Unavailable) -> None:
    coordinator = FakeCoordinator()
    coordinator.overloaded = error
    gathering = Gathering(coordinator)
    futures = [gathering.submit(request(key)) for key in ("a", "b", "c")]
    futures[1].cancel()
    for future in (futures[0], futures[2]):
        with pytest.raises(type(error)):
            await future


@pytest.mark.asyncio
async def test_a_caller_that_has_gone_harms_nobody() -> None:
    gathering = Gathering(FakeCoordinator())
    gone, there = gathering.submit(request("a")), gathering.submit(request("b"))
    gone.cancel()
    assert (await there).payment_id == name(request("b"))
