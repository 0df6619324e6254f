"""Schedules in which answers were lost, overstated or never given, or a fault outside stopped a whole bucket."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
import pytest_asyncio

from mas.errors import DatabaseUnavailable, InvalidRequest, Overloaded
from mas.ledger import Abort, Answer, Batch, Code, RejectReason, decode_batch, encode
from mas.multiraft.events import Restored
from mas.raft import ConfState
from mas.rpc.messages import (
    AccountViews,
    Answers,
    PassOn,
    ReadAccounts,
    ReadLevel,
    Rejected,
    Submit,
)
from mas.runtime import Mailbox, Supervisor
from tests.resource.test_account_service import (
    CALLER,
    World,
    _every_number_is_at_home_here,  # noqa: F401 - a fixture
    open_accounts,
)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.open()
    async with Supervisor() as supervisor:
        supervisor.spawn("service", world.service.run())
        world.group.lead()
        await world.until(lambda: world.group.entries)  # Genesis
        yield world


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


@pytest.mark.asyncio
async def test_a_snapshot_ends_reads_and_proposals_of_the_leadership_before(world: World) -> None:
    """The group drops the events that waited behind the snapshot: an end of leadership or a read's index with them."""
    await open_accounts(world, alice=100, bob=0)
    await world.until(
        lambda: world.database.row and world.database.row.applied == world.group.index
    )
    world.group.read_indexes_held = True
    world.group.held = []
    read = world.read("alice")
    payment = world.submit(world.pay("alice", "bob", 1, "k"))
    await world.until(lambda: world.group.reads and world.group.held)
    world.group.commit_c.put(Restored(world.group.index, 1, ConfState()))
    answers = [await world.reply(each) for each in (read, payment)]
    assert [isinstance(each, Rejected) and each.why for each in answers] == [
        RejectReason.NOT_LEADING,
        RejectReason.UNKNOWN,
    ]


@pytest.mark.asyncio
async def test_the_filter_waits_for_a_database_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rule 24: it stood for the end of the bucket's whole service."""
    monkeypatch.setattr("mas.resource.replica._RELOAD_SECONDS", 0.001)
    world = World()
    await world.open()
    find, tries = world.database.payment_ids, 0

    async def fail_once(bucket: int, after: bytes, limit: int) -> Sequence[bytes]:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise DatabaseUnavailable("away for the test")
        return await find(bucket, after, limit)

    monkeypatch.setattr(world.database, "payment_ids", fail_once)
    async with Supervisor() as supervisor:
        supervisor.spawn("service", world.service.run())
        await world.until(lambda: world.service._replica.rows.filter.is_complete)


@pytest.mark.asyncio
async def test_what_no_frame_has_room_for_is_turned_away_alone(world: World) -> None:
    await open_accounts(world, alice=10, bob=0)
    world.group.refuse = InvalidRequest("too large")
    turned = await world.reply(world.submit(world.pay("alice", "bob", 1, "a")))
    assert isinstance(turned, Rejected)
    assert turned.why is RejectReason.INVALID
    world.group.refuse = None
    assert (
        await world.answer(world.submit(world.pay("alice", "bob", 1, "b")))
    ).code is Code.COMMITTED


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


@pytest.mark.asyncio
async def test_twopc_e_a_replica_that_replays_its_log_has_heard_of_nobody() -> None:
    """A STALE read says how old it may be: a replica without a leader isn't fresh because it has just started."""
    world = World()
    await world.open()
    async with Supervisor() as supervisor:
        supervisor.spawn("service", world.service.run())
        await asyncio.sleep(0.05)
        world.group.commit(b"")
        await world.until(lambda: world.service._replica.rows.bucket.applied == 1)
        reply = await world.reply(world.read("alice", level=ReadLevel.STALE))
        assert isinstance(reply, AccountViews)
        assert reply.age_ms >= 50
