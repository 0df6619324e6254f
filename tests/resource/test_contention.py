"""What would be refused only because of a leg still undecided waits for that leg's anchor (rule 15, contention)."""

import time

import pytest

from mas.ledger import RejectReason
from mas.ledger.instructions import (
    Abort,
    Answer,
    Code,
    Mark,
    Prepare,
    QueryRecord,
    Reason,
    Token,
    Unmark,
)
from mas.rpc.messages import (
    Rejected,
)
from mas.transaction.participant import Resolver
from tests.resource.harness import World, balance, committed, open_accounts, two_incoming


@pytest.mark.asyncio
@pytest.mark.parametrize("committed", [True, False])
async def test_a_leg_undecided_is_asked_about_before_its_money_is_refused(
    world: World, committed: bool
) -> None:
    """Rule 15, T6: a payee told of its money can spend it; what never happened refuses nobody for ever."""
    await open_accounts(world, alice=0, bob=0)
    incoming = world.prepare((("alice", 50),), "in")
    assert (await world.answer(world.submit(incoming))).code is Code.PREPARED
    request = world.submit(world.pay("alice", "bob", 50, "out"))
    await world.until(lambda: world.buckets.asked)
    ((anchor, batch, on_answer),) = world.buckets.asked
    assert (anchor, batch.instructions) == (2, (QueryRecord(incoming.payment_id),))
    assert world.reply_to(request) is None
    if committed:
        on_answer(0, Answer(Code.COMMITTED, xid=incoming.xid, time_us=9))
    else:
        on_answer(0, Answer(Code.ABORTED, attempt=1))
    answer = await world.answer(request)
    assert answer.code is (Code.COMMITTED if committed else Code.REFUSED)


@pytest.mark.asyncio
async def test_an_anchor_out_of_reach_ends_the_attempt_as_contended(world: World) -> None:
    """Rule 15: its leg may be committed and its payee told, so nothing is refused for it; proposed again one time only."""
    await open_accounts(world, alice=0, bob=0)
    incoming = world.prepare((("alice", 50),), "in")
    await world.answer(world.submit(incoming))
    request = world.submit(world.pay("alice", "bob", 50, "out"))
    await world.until(lambda: world.buckets.asked)
    world.buckets.asked[0][2](0, Rejected(1, RejectReason.UNAVAILABLE))
    answer = await world.answer(request)
    assert (answer.code, answer.reason) == (Code.ABORTED, Reason.CONTENDED)


@pytest.mark.asyncio
async def test_what_its_anchor_calls_undecided_is_left_out(world: World) -> None:
    """Rule 15: it was answered to nobody, so a refusal for want of it is true."""
    await open_accounts(world, alice=0, bob=0)
    incoming = world.prepare((("alice", 50),), "in")
    await world.answer(world.submit(incoming))
    request = world.submit(world.pay("alice", "bob", 50, "out"))
    await world.until(lambda: world.buckets.asked)
    world.buckets.asked[0][2](0, Answer(Code.NONE))
    answer = await world.answer(request)
    assert (answer.code, answer.reason) == (Code.REFUSED, Reason.INSUFFICIENT_FUNDS)


async def two_that_wait(world: World) -> tuple[Prepare, Prepare, int, int]:
    """Two payments of one turn, each of which wants money on its way to its payer, by the anchors 2 and 3."""
    world.service._resolver._legs = Resolver(1000.0)
    await open_accounts(world, alice=0, carol=0, bob=0)
    a = world.prepare((("alice", 50),), "a", anchor=2)
    c = world.prepare((("carol", 50),), "c", anchor=3)
    request = world.submit(a, c)
    await world.until(lambda: world.reply_to(request))
    world.group.held = []
    r1 = world.submit(world.pay("alice", "bob", 50, "r1"))
    r2 = world.submit(world.pay("carol", "bob", 50, "r2"))
    await world.until(lambda: world.group.held)
    world.group.release()
    await world.until(lambda: len(world.buckets.asked) == 2)
    return a, c, r1, r2


@pytest.mark.asyncio
async def test_each_instruction_goes_on_when_its_own_questions_are_answered(
    world: World,
) -> None:
    """Rule 37: no answer waits for the slowest bucket of its turn."""
    a, c, r1, r2 = await two_that_wait(world)
    world.buckets.asked[0][2](0, committed(a))
    assert (await world.answer(r1)).code is Code.COMMITTED
    assert world.reply_to(r2) is None
    assert list(world.service._replica.rows.legs) == [c.xid], (
        "and what was learned is settled at once"
    )
    world.buckets.asked[1][2](0, committed(c))
    assert (await world.answer(r2)).code is Code.COMMITTED


@pytest.mark.asyncio
async def test_an_anchor_that_is_silent_ends_an_attempt_soon(world: World) -> None:
    """Before whoever asked takes it for lost, and sends it again to somebody else."""
    _, _, _, r2 = await two_that_wait(world)
    before = time.monotonic()
    answer = await world.answer(r2)
    assert (answer.code, answer.reason) == (Code.ABORTED, Reason.CONTENDED)
    assert time.monotonic() - before < 3


@pytest.mark.asyncio
async def test_who_comes_later_is_not_content_with_an_older_no(world: World) -> None:
    """Rule 15: the leg was undecided when its anchor was asked, and may have been committed and told before this came."""
    a, _, r1, _ = await two_that_wait(world)
    late = world.submit(world.pay("alice", "bob", 49, "late"))
    await world.until(lambda: len(world.service._contention) == 3)
    world.buckets.asked[0][2](0, Answer(Code.NONE))
    assert (await world.answer(r1)).code is Code.REFUSED
    await world.until(lambda: len(world.buckets.asked) == 3)
    assert world.reply_to(late) is None
    world.buckets.asked[2][2](0, committed(a))
    assert (await world.answer(late)).code is Code.COMMITTED


@pytest.mark.asyncio
async def test_a_mark_is_not_proposed_again(world: World) -> None:
    """Its service may have taken it away meanwhile: it is told at once that legs are in the way, and asks again."""
    one, two = await two_incoming(world)
    token = Token(1, 1)
    answer = await world.answer(world.submit(Mark("alice", token)))
    assert answer.code is Code.PENDING_ON
    await world.until(lambda: len(world.buckets.asked) == 2)
    assert (await world.answer(world.submit(Unmark("alice", token)))).code is Code.DONE
    world.buckets.asked[0][2](0, committed(one))
    world.buckets.asked[1][2](0, committed(two))
    await world.until(lambda: not world.service._replica.rows.legs)
    account = world.service._replica.rows.account("alice")
    assert account.marks == ()  # type: ignore[union-attr]


@pytest.mark.asyncio
async def test_what_was_set_aside_ends_with_its_attempt(world: World) -> None:
    """Prepared behind its own Abort, it would hold funds for nobody."""
    world.service._resolver._legs = Resolver(1000.0)
    await open_accounts(world, alice=0)
    incoming = world.prepare((("alice", 50),), "in")
    await world.answer(world.submit(incoming))
    outgoing = world.prepare((("alice", -50),), "out")
    request = world.submit(outgoing)
    await world.until(lambda: world.buckets.asked)
    assert (await world.answer(world.submit(Abort(outgoing.xid)))).code is Code.FREED
    assert world.reply_to(request) is not None, "told at once, not when its patience is over"
    assert (await world.answer(request)).code is Code.CONTENDED
    world.buckets.asked[0][2](0, committed(incoming))
    await world.until(lambda: not world.service._replica.rows.legs)
    assert await balance(world, world.read("alice")) == 50


@pytest.mark.asyncio
async def test_only_what_waits_for_an_anchor_is_turned_back_when_leadership_moves(
    world: World,
) -> None:
    """Rule 39: the answer to its neighbour may be lost, and must not become "nothing was done"."""
    await open_accounts(world, alice=0, bob=10)
    incoming = world.prepare((("alice", 50),), "in")
    await world.answer(world.submit(incoming))
    request = world.submit(world.pay("bob", "alice", 1, "a"), world.pay("alice", "bob", 50, "b"))
    await world.until(lambda: world.buckets.asked)
    world.group.lead(term=2, leading=False, leader=3)
    await world.until(lambda: not world.service._replica.leading)
    world.buckets.asked[0][2](0, Answer(Code.NONE))
    turned = [
        reply
        for _, reply in world.replies.all
        if reply.request == request and isinstance(reply, Rejected)
    ]
    assert [(each.why, each.positions) for each in turned] == [(RejectReason.NOT_LEADING, (1,))]
