"""What a bucket's leader does unasked: the first entry, old legs' outcomes, and the end of silent incarnations."""

import pytest

from mas.errors import Overloaded
from mas.ledger.instructions import (
    Abort,
    Answer,
    CloseIncarnation,
    Code,
    Resolve,
    decode_proposal,
)
from mas.resource import resolver
from mas.rpc.messages import (
    AccountViews,
)
from mas.runtime import Supervisor
from tests.resource.harness import TC, World, open_accounts


@pytest.mark.asyncio
async def test_an_old_leg_is_asked_about_and_settled(world: World) -> None:
    """Rule 11: the leader of a bucket asks the anchor, and never ends a leg by itself."""
    await open_accounts(world, alice=0)
    incoming = world.prepare((("alice", 50),), "in")
    await world.answer(world.submit(incoming))
    await world.until(lambda: world.buckets.asked)
    anchor, batch, on_answer = world.buckets.asked[0]
    assert anchor == 2
    assert batch.instructions == (Resolve(incoming.payment_id, 1, incoming.xid, b"h"),)
    on_answer(0, Answer(Code.NONE))
    await world.until(lambda: len(world.buckets.asked) == 2)  # and again, until its anchor knows
    assert incoming.xid in world.service._replica.rows.legs
    _, batch, on_answer = world.buckets.asked[1]
    assert batch.instructions == (Resolve(incoming.payment_id, 1, incoming.xid, b"h"),)
    on_answer(0, Answer(Code.COMMITTED, xid=incoming.xid, time_us=9))
    await world.until(lambda: incoming.xid not in world.service._replica.rows.legs)
    views = await world.reply(world.read("alice"))
    assert isinstance(views, AccountViews)
    assert views.views[0] is not None
    assert views.views[0].balance == 50


@pytest.mark.asyncio
async def test_an_incarnation_is_forgotten_only_once_it_is_closed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leg of it that was prepared at that moment would have kept its row, and its posted xids, for ever."""
    monkeypatch.setattr(resolver, "_CLOSE_AGAIN_SECONDS", 0.0)
    await open_accounts(world, alice=100)
    prepared = world.prepare((("alice", -5),), "held")
    assert (await world.answer(world.submit(prepared))).code is Code.PREPARED
    service = world.service
    service._resolver._heard[TC] = -1e9

    def closes() -> int:
        return sum(
            CloseIncarnation(TC) in batch.instructions
            for entry in world.group.entries
            for batch in decode_proposal(entry.data).batches
        )

    service._resolver._close_silent(service._resolver._clock.monotonic())
    await world.until(lambda: closes() == 1)
    assert TC in service._replica.rows.incarnations(), "a leg of it is prepared"
    service._proposals.add_own(Abort(prepared.xid))
    service._proposals.send()
    service._resolver._close_silent(service._resolver._clock.monotonic())
    await world.until(lambda: TC not in service._replica.rows.incarnations())
    assert closes() == 2
    service._resolver._close_silent(service._resolver._clock.monotonic())
    assert TC not in service._resolver._heard


@pytest.mark.asyncio
async def test_a_genesis_that_found_no_room_is_proposed_again() -> None:
    """Rule 20: without it no number has a home."""
    world = World()
    await world.open()
    world.group.refuse = Overloaded("full")
    async with Supervisor() as supervisor:
        supervisor.spawn("service", world.service.run())
        world.group.lead()
        await world.until(lambda: world.service._replica.leading)
        assert not world.group.entries
        world.group.refuse = None
        await world.until(lambda: world.service._replica.rows.bucket.buckets)
