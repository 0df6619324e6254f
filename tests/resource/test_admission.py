"""What a bucket's leader takes in, what goes first, and what goes no more (rule 16, admission)."""

import asyncio

import pytest

from mas.ledger import RejectReason
from mas.ledger.instructions import (
    Abort,
    Answer,
    Code,
    Commit,
    Decide,
    RegisterNode,
    RetireNode,
    decode_proposal,
)
from mas.rpc.messages import (
    Answers,
    Rejected,
    Reply,
)
from mas.runtime import Mailbox
from tests.resource.harness import World, open_accounts


@pytest.mark.asyncio
async def test_overload_turns_away_only_what_begins_something(world: World) -> None:
    """Rule 16, T28."""
    await open_accounts(world, alice=100, bob=0)
    prepare = world.prepare((("bob", 5),), "p")
    assert (await world.answer(world.submit(prepare))).code is Code.PREPARED
    world.service._admission._unflushed = 0
    request = world.submit(Commit(prepare.xid, 5), world.pay("alice", "bob", 1, "k"))
    await world.until(lambda: len([r for _, r in world.replies.all if r.request == request]) == 2)
    turned, answered = (r for _, r in world.replies.all if r.request == request)
    assert isinstance(turned, Rejected)
    assert (turned.why, turned.positions) == (RejectReason.OVERLOADED, (1,))
    assert isinstance(answered, Answers)
    assert [(place, answer.code) for place, answer in answered.answers] == [(0, Code.POSTED)]


@pytest.mark.asyncio
async def test_overload_turns_away_a_node_that_joins_and_none_that_leaves(world: World) -> None:
    """Rule 16: to take a dead node out is what may end the overload."""
    world.service._admission._unflushed = 0
    joins = world.submit(RegisterNode(4, "d:1", ("rm",)))
    leaves = world.submit(RetireNode(3))
    turned = await world.reply(joins)
    assert isinstance(turned, Rejected)
    assert turned.why is RejectReason.OVERLOADED
    assert (await world.answer(leaves)).code is Code.DONE


async def _fill_the_way(world: World, entries: int) -> list[int]:
    """Proposals of a thousand payments each, of which only the first few are on their way while the group holds them."""
    world.group.held = []
    requests = []
    for entry in range(entries):
        pays = [world.pay("alice", "bob", 1, f"{entry}-{n}") for n in range(1_000)]
        requests.append(world.submit(*pays))
    await world.until(lambda: len(world.group.held or ()) == 4)
    return requests


@pytest.mark.asyncio
async def test_what_ends_a_payment_goes_before_all_that_begins_one(world: World) -> None:
    """Behind ten thousand new payments a COMMIT would be in the eleventh entry, and its money held as long."""
    await open_accounts(world, alice=100_000, bob=0)
    prepared = world.prepare((("bob", 5),), "coming")
    assert (await world.answer(world.submit(prepared))).code is Code.PREPARED
    await _fill_the_way(world, 10)
    mixed = world.submit(world.pay("alice", "bob", 1, "late"), Commit(prepared.xid, 5))
    await world.until(lambda: not len(world.service.requests))
    before = len(world.group.entries)
    world.group.release()

    def places(kind: type) -> list[int]:
        return [
            place
            for place, entry in enumerate(world.group.entries[before:])
            for batch in decode_proposal(entry.data).batches
            if any(isinstance(each, kind) for each in batch.instructions)
        ]

    await world.until(lambda: len(places(Decide)) == 11)
    assert places(Commit) == [4], "the first entry that was made after it came"
    assert max(places(Decide)) > 9

    def answers() -> dict[int, Answer]:
        replies = [r for _, r in world.replies.all if r.request == mixed and isinstance(r, Answers)]
        return {position: answer for reply in replies for position, answer in reply.answers}

    await world.until(lambda: len(answers()) == 2)
    codes = {position: answer.code for position, answer in answers().items()}
    assert codes == {0: Code.COMMITTED, 1: Code.POSTED}, "each under its own position"


@pytest.mark.asyncio
async def test_what_nobody_waits_for_any_more_is_not_begun(world: World) -> None:
    """Rule 16: under overload a bucket would carry out payments whose callers have gone, and then their copies."""
    await open_accounts(world, alice=100_000, bob=0)
    prepared = world.prepare((("bob", 5),), "coming")
    assert (await world.answer(world.submit(prepared))).code is Code.PREPARED
    await _fill_the_way(world, 5)
    late = world.submit(world.pay("alice", "bob", 1, "late"), Abort(prepared.xid), left_ms=20)
    patient = world.submit(world.pay("alice", "bob", 1, "patient"), left_ms=60_000)
    await asyncio.sleep(0.03)  # what is tested is time itself
    world.group.release()
    assert (await world.answer(patient)).code is Code.COMMITTED
    replies = [reply for _, reply in world.replies.all if reply.request == late]
    turned_away = [reply for reply in replies if isinstance(reply, Rejected)]
    assert [(each.why, each.positions) for each in turned_away] == [
        (RejectReason.UNAVAILABLE, (0,))
    ]
    ended = [reply.answers for reply in replies if isinstance(reply, Answers)]
    assert [answers[0][1].code for answers in ended] == [Code.FREED], "what ends has no deadline"
    assert all(
        instruction.payment_id != b"late".ljust(16)
        for entry in world.group.entries
        for batch in decode_proposal(entry.data).batches
        for instruction in batch.instructions
        if isinstance(instruction, Decide)
    )


@pytest.mark.asyncio
async def test_what_waits_to_be_prepared_ends_with_its_attempt(world: World) -> None:
    """Its ABORT goes first; prepared behind that, it would hold funds for nobody."""
    await open_accounts(world, alice=100_000, bob=0)
    await _fill_the_way(world, 6)
    ended, other = (world.prepare((("bob", 5),), key) for key in ("ended", "other"))
    request = world.submit(ended, other)
    freed = world.submit(Abort(ended.xid))
    await world.until(lambda: not len(world.service.requests))
    world.group.release()
    assert (await world.answer(freed)).code is Code.FREED

    def replies() -> list[Reply]:
        return [reply for _, reply in world.replies.all if reply.request == request]

    await world.until(lambda: len(replies()) == 2)
    turned, prepared = sorted(replies(), key=lambda reply: isinstance(reply, Answers))
    assert isinstance(turned, Rejected)
    assert (turned.why, turned.positions) == (RejectReason.UNAVAILABLE, (0,))
    assert isinstance(prepared, Answers)
    assert [(place, answer.code) for place, answer in prepared.answers] == [(1, Code.PREPARED)]
    assert list(world.service._replica.rows.legs) == [other.xid]
    await world.until(lambda: not world.service._proposals.instructions)
    proposals = world.service._proposals
    assert (proposals._waiting_instructions, proposals._waiting_bytes) == (0, 0)


@pytest.mark.asyncio
async def test_what_settles_a_leg_has_room_when_requests_have_none(world: World) -> None:
    """Rule 16: overload must not refuse what ends it, nor stop the bucket."""
    await open_accounts(world, alice=0)
    incoming = world.prepare((("alice", 50),), "in")
    await world.answer(world.submit(incoming))
    await world.until(lambda: world.buckets.asked)
    world.service.requests = Mailbox("full", 1)
    world.service.requests.put((7, None))  # type: ignore[arg-type]  # never drained
    world.buckets.asked[0][2](0, Answer(Code.COMMITTED, xid=incoming.xid, time_us=9))
    await world.until(lambda: incoming.xid not in world.service._replica.rows.legs)
