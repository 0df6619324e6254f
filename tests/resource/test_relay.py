"""What a follower passes on to the leader, for whoever doesn't reach it."""

import msgspec
import pytest

from mas.ledger import RejectReason, decode_batch
from mas.ledger.instructions import (
    Abort,
    Answer,
    Batch,
    Code,
    encode,
)
from mas.rpc.messages import (
    AccountViews,
    Answers,
    PassOn,
    ReadAccounts,
    ReadLevel,
    Rejected,
    Submit,
)
from tests.resource.harness import CALLER, World, open_accounts


@pytest.mark.asyncio
async def test_bank_5_a_follower_passes_on_what_it_is_asked_to_and_no_more(world: World) -> None:
    await open_accounts(world, alice=10, bob=0)
    world.group.lead(term=2, leading=False, leader=3)
    await world.until(lambda: not world.service._replica.leading)
    batch = msgspec.Raw(
        encode(Batch(b"", 0, (world.pay("alice", "bob", 1, "k"), Abort(b"x" * 16))))
    )
    submit = Submit(77, 1, batch)
    world.service.requests.put((CALLER, submit))
    world.service.requests.put(
        (CALLER, PassOn(78, 1, 3, msgspec.structs.replace(submit, request=78)))
    )
    assert isinstance(await world.reply(77), Rejected), (
        "nobody said that its leader is out of reach"
    )
    await world.until(lambda: world.buckets.asked)
    ((bucket, passed, on_answer),) = world.buckets.asked
    assert (bucket, passed) == (1, decode_batch(batch))
    assert world.buckets.passed_on == [True]
    on_answer(1, Answer(Code.FREED))
    assert await world.reply(78) == Answers(78, ((1, Answer(Code.FREED)),))
    on_answer(0, Rejected(5, RejectReason.UNKNOWN))
    assert world.replies.all[-1] == (CALLER, Rejected(78, RejectReason.UNKNOWN, positions=(0,)))


@pytest.mark.asyncio
async def test_bank_5_who_asks_to_pass_on_to_a_leader_of_the_past_is_told_of_the_next(
    world: World,
) -> None:
    """Else a leader that died would stay the one that is out of reach, and nobody would look for the next."""
    world.group.lead(term=2, leading=False, leader=3)
    await world.until(lambda: not world.service._replica.leading)
    read = ReadAccounts(79, 1, ReadLevel.LINEARIZABLE, ("alice",))
    world.service.requests.put((CALLER, PassOn(79, 1, 2, read)))
    turned = await world.reply(79)
    assert isinstance(turned, Rejected)
    assert (turned.why, turned.leader) == (RejectReason.NOT_LEADING, 3)
    assert world.buckets.queries == []


@pytest.mark.asyncio
async def test_bank_5_a_read_is_passed_on_too(world: World) -> None:
    world.group.lead(term=2, leading=False, leader=3)
    await world.until(lambda: not world.service._replica.leading)
    read = ReadAccounts(79, 1, ReadLevel.LINEARIZABLE, ("alice",))
    world.service.requests.put((CALLER, PassOn(79, 1, 3, read)))
    assert await world.reply(79) == AccountViews(79, (None,))
    assert (world.buckets.queries, world.buckets.passed_on) == ([read], [True])
