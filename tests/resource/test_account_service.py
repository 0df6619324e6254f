"""The AccountService against a group of one, a database of dicts and other buckets that the test speaks for."""

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from mas.errors import DatabaseUnavailable, InvalidRequest, NotLeading, Overloaded
from mas.ledger import RejectReason
from mas.ledger.instructions import (
    EXTERNAL,
    Abort,
    Batch,
    Body,
    Code,
    Decide,
    Kind,
    Prepare,
    Proposal,
    QueryRecord,
    Reason,
    RecordRefusal,
    Resolve,
    encode,
)
from mas.ledger.rows import ResidentState
from mas.multiraft.events import Refused, Restored
from mas.raft import ConfState
from mas.resource import ResourceSettings
from mas.rpc.messages import (
    AccountViews,
    Rejected,
    Submit,
)
from mas.runtime import Supervisor
from mas.transaction.participant import Resolver
from tests.resource.harness import CALLER, TC, World, committed, open_accounts


@pytest.mark.asyncio
async def test_a_payment_is_answered_once_it_is_applied(world: World) -> None:
    await open_accounts(world, alice=1000, bob=0)
    world.group.held = []
    request = world.submit(world.pay("alice", "bob", 300, "k"))
    await world.until(lambda: world.group.held)
    assert world.reply_to(request) is None
    world.group.release()
    assert (await world.answer(request)).code is Code.COMMITTED
    views = await world.reply(world.read("alice", "bob", "carol"))
    assert isinstance(views, AccountViews)
    assert [view and view.balance for view in views.views] == [700, 300, None]


@pytest.mark.asyncio
async def test_what_waits_becomes_one_entry_and_each_hears_its_own_answer(world: World) -> None:
    await open_accounts(world, alice=100, bob=0)
    before = len(world.group.entries)
    first = world.submit(world.pay("alice", "bob", 60, "a"))
    second = world.submit(world.pay("alice", "bob", 60, "b"))
    third = world.submit(world.pay("alice", "bob", 40, "c"))
    answers = [await world.answer(each) for each in (first, second, third)]
    assert [each.code for each in answers] == [Code.COMMITTED, Code.REFUSED, Code.COMMITTED]
    assert answers[1].reason is Reason.INSUFFICIENT_FUNDS
    assert len(world.group.entries) == before + 1


@pytest.mark.asyncio
async def test_another_proposers_entry_answers_nobody(world: World) -> None:
    """The seed's trap: any applied entry answered any waiter."""
    await open_accounts(world, alice=100, bob=0)
    world.group.held = []
    request = world.submit(world.pay("alice", "bob", 10, "mine"))
    await world.until(lambda: world.group.held)
    ((_, data),) = world.group.held
    foreign = msgspec.msgpack.decode(data)
    foreign[2] += 1  # the proposer
    world.group.commit(msgspec.msgpack.encode(foreign))
    await world.until(lambda: world.group.applied[0] == world.group.index)
    assert world.reply_to(request) is None


@pytest.mark.asyncio
async def test_lost_leadership_makes_what_was_proposed_unknown(world: World) -> None:
    """Rule 39."""
    await open_accounts(world, alice=100, bob=0)
    world.group.held = []
    request = world.submit(world.pay("alice", "bob", 10, "k"))
    await world.until(lambda: world.group.held)
    world.group.lead(term=2, leading=False, leader=3)
    reply = await world.reply(request)
    assert isinstance(reply, Rejected)
    assert reply.why is RejectReason.UNKNOWN
    later = await world.reply(world.submit(world.pay("alice", "bob", 10, "l")))
    assert isinstance(later, Rejected)
    assert (later.why, later.leader) == (RejectReason.NOT_LEADING, 3)


@pytest.mark.asyncio
async def test_what_the_group_does_not_take_has_done_nothing(world: World) -> None:
    await open_accounts(world, alice=100, bob=0)
    world.group.held = []
    request = world.submit(world.pay("alice", "bob", 10, "k"))
    await world.until(lambda: world.group.held)
    world.group.error_c.put(Refused(world.group.held[0][0], NotLeading("moved", leader=2)))
    reply = await world.reply(request)
    assert isinstance(reply, Rejected)
    assert (reply.why, reply.leader) == (RejectReason.NOT_LEADING, 2)
    world.group.refuse = Overloaded("full")
    world.group.held = None
    refused = await world.reply(world.submit(world.pay("alice", "bob", 10, "l")))
    assert isinstance(refused, Rejected)
    assert refused.why is RejectReason.OVERLOADED


@pytest.mark.asyncio
async def test_an_unreadable_batch_harms_none_beside_it(world: World) -> None:
    """Rule 37."""
    await open_accounts(world, alice=100, bob=0)
    bad = world.requests + 1
    world.requests += 1
    world.service.requests.put((CALLER, Submit(bad, 1, msgspec.Raw(b"\x93\x01\x02\x03"))))
    good = world.submit(world.pay("alice", "bob", 10, "k"))
    reply = await world.reply(bad)
    assert isinstance(reply, Rejected)
    assert reply.why is RejectReason.INVALID
    assert (await world.answer(good)).code is Code.COMMITTED


@pytest.mark.asyncio
async def test_a_question_about_an_account_to_be_has_its_creation_settled(
    world: World,
) -> None:
    world.service._resolver._legs = Resolver(1000.0)
    creation = Prepare(
        world.xid(), b"c".ljust(16), 1, b"h", 2, (1,), Kind.CREATION, "USD", (("carol", 70),)
    )
    await world.answer(world.submit(creation))
    look = QueryRecord(b"p".ljust(16), "carol")
    assert (await world.answer(world.submit(look))).code is Code.PENDING_ON
    await world.until(lambda: world.buckets.asked)
    world.buckets.asked[0][2](0, committed(creation))
    await world.until(lambda: not world.service._replica.rows.legs)
    assert (await world.answer(world.submit(look))).code is Code.NONE


@pytest.mark.asyncio
async def test_what_is_applied_reaches_the_database_and_a_new_start(world: World) -> None:
    await open_accounts(world, alice=100, bob=0)
    await world.answer(world.submit(world.pay("alice", "bob", 30, "k")))
    prepare = world.prepare((("bob", 5),), "p")
    await world.answer(world.submit(prepare))
    await world.until(
        lambda: world.database.row and world.database.row.applied == world.group.index
    )
    hash_then = world.service._replica.rows.state_hash()
    await world.open()
    assert world.service._replica.rows.state_hash() == hash_then
    assert list(world.service._replica.rows.legs) == [prepare.xid]


@pytest.mark.asyncio
async def test_a_database_that_refuses_loses_nothing_and_keeps_new_work_out(world: World) -> None:
    await open_accounts(world, alice=100, bob=0)
    await world.until(
        lambda: world.database.row and world.database.row.applied == world.group.index
    )
    world.database.down = True
    assert (
        await world.answer(world.submit(world.pay("alice", "bob", 30, "k")))
    ).code is Code.COMMITTED
    await world.until(lambda: world.service._replica.flusher.failing_since is not None)
    refused = await world.reply(world.submit(world.pay("alice", "bob", 1, "l")))
    assert isinstance(refused, Rejected)
    assert refused.why is RejectReason.UNAVAILABLE
    world.database.down = False
    await world.until(
        lambda: world.database.row and world.database.row.applied == world.group.index
    )


@pytest.mark.asyncio
async def test_a_deposit_moves_money_in_from_outside(world: World) -> None:
    """Rule 17: balances of a currency sum to zero."""
    await open_accounts(world, alice=100)
    body = Body(Kind.DEPOSIT, "USD", ((EXTERNAL, -50), ("alice", 50)))
    deposit = Decide(world.xid(), b"d".ljust(16), 1, body, b"h", (), (0, 1))
    assert (await world.answer(world.submit(deposit))).code is Code.COMMITTED
    ledger = world.service._replica.ledger
    total = sum(ledger.rows.account(number).balance for number in ("alice", "@external/USD"))
    assert total == 0


@pytest.mark.asyncio
async def test_a_freed_leg_gives_its_funds_back(world: World) -> None:
    await open_accounts(world, alice=100, bob=0)
    prepare = world.prepare((("alice", -80),), "p")
    await world.answer(world.submit(prepare))
    assert (await world.answer(world.submit(Abort(prepare.xid)))).code is Code.FREED
    assert (
        await world.answer(world.submit(world.pay("alice", "bob", 80, "k")))
    ).code is Code.COMMITTED


@pytest.mark.asyncio
async def test_flushes_go_on_after_a_snapshot_took_the_database_over(world: World) -> None:
    """The flush loop once waited for ever on the flusher from before the snapshot."""
    await open_accounts(world, alice=100, bob=0)
    await world.until(
        lambda: world.database.row and world.database.row.applied == world.group.index
    )
    world.group.commit_c.put(Restored(world.group.index, 1, ConfState()))
    world.group.lead(term=2)
    await world.answer(world.submit(world.pay("alice", "bob", 30, "k")))
    await world.until(
        lambda: world.database.row and world.database.row.applied == world.group.index
    )
    view = await world.reply(world.read("bob"))
    assert isinstance(view, AccountViews)
    assert view.views[0] is not None
    assert view.views[0].balance == 30


@pytest.mark.asyncio
async def test_a_database_that_refuses_behind_a_snapshot_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An installation may have used the disk up; opening the database writes, and ended the process."""
    await open_accounts(world, alice=100, bob=0)
    await world.until(
        lambda: world.database.row and world.database.row.applied == world.group.index
    )
    open_, refusals = world.database.open, [DatabaseUnavailable("database or disk is full")] * 2

    async def refuse(bucket: int, writer: bytes) -> ResidentState:
        if refusals:
            raise refusals.pop()
        return await open_(bucket, writer)

    monkeypatch.setattr(world.database, "open", refuse)
    world.group.commit_c.put(Restored(world.group.index, 1, ConfState()))
    world.group.lead(term=2)
    await world.until(lambda: not refusals and world.service._replica.leading)
    await world.answer(world.submit(world.pay("alice", "bob", 30, "k")))
    assert caplog.text.count("waits for the database behind a snapshot") == 2


@pytest.mark.asyncio
async def test_a_follower_stops_where_its_database_is_too_far_behind() -> None:
    """It has nobody to turn away: it leaves what is committed to the log, which costs no memory."""
    world = World()
    world.settings = ResourceSettings("test", 3, flush_pause=0.001, unflushed=1_000)
    await world.open()
    async with Supervisor() as supervisor:
        supervisor.spawn("service", world.service.run())
        world.group.lead(term=2, leading=False, leader=2)
        can_write = asyncio.Event()
        flush = world.database.flush

        async def wait_and_flush(*given: object, **named: object) -> bool:
            await can_write.wait()
            return await flush(*given, **named)  # type: ignore[arg-type]

        world.database.flush = wait_and_flush  # type: ignore[method-assign]
        for number in range(30):
            pays = tuple(world.pay("alice", "bob", 1, f"{number}-{n}") for n in range(500))
            batch = Batch(TC, 0, pays)
            world.group.commit(encode(Proposal(1, number, 12, number, (batch,))))
            await asyncio.sleep(0)
        service = world.service
        await world.until(lambda: service._replica.flusher.behind >= 1_000)
        for _ in range(200):
            await asyncio.sleep(0)
        assert service._replica.flusher.behind <= 1_500
        can_write.set()
        await world.until(lambda: service._replica.rows.bucket.applied == 30)
        await world.until(lambda: service._replica.flusher.behind == 0)


@pytest.mark.asyncio
async def test_what_no_rule_can_read_is_failed_at_every_replay(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Each replica died of it, was started, and died of it again: the bucket was gone until somebody edited a log."""
    await open_accounts(world, alice=100, bob=0)
    pay = world.pay("alice", "bob", 5, "k")
    poison = [
        msgspec.structs.replace(pay, own=(5,)),
        Resolve(b"p", 1, world.xid(), b"h"),
        world.prepare((("bob", 5),), "p", anchor=99),
        RecordRefusal(b"p" * 16, Kind.PAYMENT, "", 0, Reason.CANCELLED),
    ]
    for each in poison:
        assert (await world.answer(world.submit(each))).code is Code.FAILED
    assert "alike on every replica" in caplog.text
    assert (await world.answer(world.submit(pay))).code is Code.COMMITTED
    assert not world.buckets.asked, "no anchor that isn't there is asked for anything"

    again = World()
    await again.open()
    async with Supervisor() as supervisor:
        supervisor.spawn("service", again.service.run())
        for entry in world.group.entries:
            again.group.commit(entry.data)
        applied = len(world.group.entries)
        await again.until(lambda: again.service._replica.rows.bucket.applied == applied)
        hashes = [each.service._replica.rows.state_hash() for each in (world, again)]
        assert hashes[0] == hashes[1]


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
