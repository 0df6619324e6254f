"""Reads of a bucket: which index they wait for, which legs, and what they do to nobody else (rules 29, 30)."""

import asyncio

import pytest

from mas.ledger import RejectReason
from mas.ledger.instructions import (
    Abort,
    Answer,
    Code,
    Commit,
    Kind,
    Prepare,
    QueryRecord,
    RegisterNode,
    Resolve,
)
from mas.ledger.rows import NodeRow
from mas.multiraft.events import ReadReady
from mas.resource import reader
from mas.rpc.messages import (
    AccountViews,
    Nodes,
    Postings,
    ReadAccounts,
    ReadLevel,
    ReadNodes,
    ReadPostings,
    Rejected,
    decode_replies,
    decode_requests,
)
from mas.rpc.messages import encode as encode_message
from mas.runtime import Supervisor
from mas.transaction.participant import Resolver
from tests.resource.harness import CALLER, World, balance, committed, open_accounts, two_incoming


@pytest.mark.asyncio
async def test_a_read_that_raises_is_answered_and_ends_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that the database can't take raises what nobody named: once it ended the process, and then the next."""
    await open_accounts(world, alice=100)

    async def postings(bucket: int, number: str, before: int, limit: int) -> None:
        raise OverflowError("Python int too large to convert to a 64-bit integer")

    monkeypatch.setattr(world.database, "postings", postings, raising=False)
    statement = await world.reply(world.ask(ReadPostings(0, 1, "alice", 2**63 + 1, 10)))
    assert isinstance(statement, Rejected)
    assert statement.why is RejectReason.FAILED
    # Siblings: a read from memory, and one whose rows must be loaded.
    monkeypatch.setattr(reader, "view_accounts", _raise)
    monkeypatch.setattr(reader, "Noted", _raise)
    for level in (ReadLevel.LINEARIZABLE, ReadLevel.READ_COMMITTED):
        for number in ("alice", "not in memory"):
            reply = await world.reply(world.read(number, level=level))
            assert isinstance(reply, Rejected)
            assert reply.why is RejectReason.FAILED
    monkeypatch.undo()
    assert isinstance(await world.reply(world.read("alice")), AccountViews)
    await open_accounts(world, bob=0)


def _raise(*_: object) -> None:
    raise ValueError("a fault")


@pytest.mark.asyncio
async def test_statements_of_a_turn_share_a_flush_and_keep_no_other_read_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waited for a flush of its own, one behind the other, and whatever had to be loaded behind them all."""
    monkeypatch.setattr(reader, "QUESTION_SECONDS_MAX", 60.0)  # on the busiest machine
    await open_accounts(world, alice=100, bob=0)
    go, reading = asyncio.Event(), 0
    read = world.database.postings

    async def postings(bucket: int, number: str, before: int, limit: int) -> object:
        nonlocal reading
        reading += 1
        await go.wait()
        return await read(bucket, number, before, limit)

    monkeypatch.setattr(world.database, "postings", postings)
    waited, wait_flushed = 0, world.service._replica.flusher.wait_flushed

    async def count_waits() -> None:
        nonlocal waited
        waited += 1
        await wait_flushed()

    monkeypatch.setattr(world.service._replica.flusher, "wait_flushed", count_waits)
    first = world.ask(ReadPostings(0, 1, "alice", 0, 10))
    await world.until(lambda: reading)
    others = [world.ask(ReadPostings(0, 1, "alice", 0, 100)) for _ in range(50)]
    views = await world.reply(world.read("not in memory"))
    assert isinstance(views, AccountViews)
    assert reading == 1
    go.set()
    for request in (first, *others):
        assert isinstance(await world.reply(request), Postings)
    assert reading == 51
    assert waited <= 3


@pytest.mark.asyncio
async def test_what_nobody_waits_for_any_more_is_not_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await open_accounts(world, alice=100)
    asked: list[str] = []
    read = world.database.postings

    async def postings(bucket: int, number: str, before: int, limit: int) -> object:
        asked.append(number)
        return await read(bucket, number, before, limit)

    monkeypatch.setattr(world.database, "postings", postings)
    monkeypatch.setattr(reader, "QUESTION_SECONDS_MAX", -1.0)
    abandoned = [world.ask(ReadPostings(0, 1, "alice", 0, 10)) for _ in range(20)]
    await world.until(lambda: world.group.reads and not world.service._reader._indexing)
    monkeypatch.undo()
    monkeypatch.setattr(world.database, "postings", postings)
    assert isinstance(await world.reply(world.ask(ReadPostings(0, 1, "alice", 0, 10))), Postings)
    assert asked == ["alice"]
    assert not any(map(world.reply_to, abandoned))


@pytest.mark.asyncio
async def test_a_read_waits_for_its_index(world: World) -> None:
    await open_accounts(world, alice=100)
    world.group.read_indexes_held = True
    request = world.read("alice")
    await world.until(lambda: world.group.reads)
    world.group.commit_c.put(ReadReady((world.group.reads[-1],), world.group.index + 1))
    other = world.submit(world.create("bob", 0))
    await world.answer(other)
    reply = await world.reply(request)
    assert isinstance(reply, AccountViews)


@pytest.mark.asyncio
async def test_the_register_is_read_at_its_index_and_without_the_database(world: World) -> None:
    empty = await world.reply(world.read_nodes())
    assert empty == Nodes(empty.request, 0, ())
    world.group.read_indexes_held = True
    request = world.read_nodes()
    await world.until(lambda: len(world.group.reads) == 2)
    index = world.group.index + 1
    world.group.commit_c.put(ReadReady((world.group.reads[-1],), index))
    join = RegisterNode(4, "d:1", ("tc", "rm"), "rack", b"s" * 16)
    assert (await world.answer(world.submit(join))).value == index
    reply = await world.reply(request)
    row = NodeRow(4, "d:1", ("tc", "rm"), "rack", b"s" * 16)
    assert reply == Nodes(request, index, (row,))
    world.database.down, world.group.read_indexes_held = True, False
    again = await world.reply(world.read_nodes())
    assert again == Nodes(again.request, index, (row,))
    assert decode_replies(encode_message((reply,))) == (reply,)
    ask = ReadNodes(request, 1)
    assert decode_requests(encode_message((ask,))) == (ask,)


@pytest.mark.asyncio
async def test_a_follower_knows_of_no_register_that_it_would_vouch_for(world: World) -> None:
    world.group.lead(term=2, leading=False, leader=2)
    await world.until(lambda: not world.service._replica.leading)
    turned = await world.reply(world.read_nodes())
    assert turned == Rejected(turned.request, RejectReason.NOT_LEADING, leader=2)


@pytest.mark.asyncio
async def test_bank_1_a_read_waits_until_every_leg_it_noted_is_decided(world: World) -> None:
    """Two payments to one account, and two anchors: answered half and half, no order would explain two reads."""
    one, two = await two_incoming(world)
    first = world.read("alice")
    await world.until(lambda: len(world.buckets.asked) == 2)
    (_, _, hear_one), (_, asked_two, hear_two) = world.buckets.asked
    assert asked_two.instructions == (QueryRecord(two.payment_id),)
    hear_one(0, committed(one))
    hear_two(0, Answer(Code.NONE))  # judged before it was committed
    second = world.read("alice")
    await world.until(lambda: len(world.buckets.asked) == 3)
    assert world.reply_to(first) is None, "undecided isn't 'not there'"
    anchor, again, hear_again = world.buckets.asked[2]
    assert (anchor, again.instructions) == (3, (QueryRecord(two.payment_id),)), (
        "asked again, once for both"
    )
    hear_again(0, committed(two))
    assert (await balance(world, first), await balance(world, second)) == (157, 157)


@pytest.mark.asyncio
async def test_bank_1_a_read_behind_another_one_shows_no_less(world: World) -> None:
    """What the first one found committed isn't posted yet; the next one notes the account at the same index."""
    one, two = await two_incoming(world)
    first = world.read("alice")
    await world.until(lambda: len(world.buckets.asked) == 2)
    world.group.held = []  # nothing is posted meanwhile
    world.buckets.asked[0][2](0, committed(one))
    world.buckets.asked[1][2](0, committed(two))
    assert await balance(world, first) == 157
    assert await balance(world, world.read("alice")) == 157
    assert list(world.service._replica.rows.legs) == [one.xid, two.xid]


@pytest.mark.asyncio
async def test_bank_1_later_payments_do_not_count(world: World) -> None:
    """A busy account delays no read, and shows no payment without one that was answered before it began."""
    _, two = await two_incoming(world)
    request = world.read("alice")
    await world.until(lambda: len(world.buckets.asked) == 2)
    late = world.prepare((("alice", 1_000),), "late")
    await world.answer(world.submit(late))
    await world.answer(world.submit(Commit(late.xid, 9)))
    assert world.reply_to(request) is None
    world.buckets.asked[0][2](0, Answer(Code.ABORTED, attempt=1))
    world.buckets.asked[1][2](0, committed(two))
    assert await balance(world, request) == 107


@pytest.mark.asyncio
async def test_bank_1_what_is_settled_here_meanwhile_answers_too(world: World) -> None:
    one, two = await two_incoming(world)
    request = world.read("alice")
    await world.until(lambda: len(world.buckets.asked) == 2)
    world.submit(Commit(one.xid, 9), Abort(two.xid))
    assert await balance(world, request) == 150


@pytest.mark.asyncio
async def test_bank_1_an_attempt_that_keeps_a_read_waiting_is_declared_dead(world: World) -> None:
    one, _ = await two_incoming(world)
    request = world.read("alice")
    asks = []
    while not asks:
        await asyncio.sleep(0.001)
        for anchor, batch, hear in world.buckets.asked:
            asks += [each for each in batch.instructions if isinstance(each, Resolve)]
            hear(0, Answer(Code.COMMITTED, xid=b"another's") if anchor == 3 else Answer(Code.NONE))
        world.buckets.asked.clear()
    assert asks == [Resolve(one.payment_id, 1, one.xid, b"h")]
    assert world.reply_to(request) is None
    await world.until(lambda: world.buckets.asked)
    world.buckets.asked[0][2](0, Answer(Code.ABORTED, attempt=1))
    assert await balance(world, request) == 100


@pytest.mark.asyncio
async def test_bank_1_reads_of_a_hot_account_ask_about_each_leg_once_and_in_bounded_messages(
    world: World,
) -> None:
    """Rules 15 and 38: twenty reads of 1,500 legs are 1,500 questions, not 30,000, and in messages of 1,000."""
    world.service._resolver._legs = Resolver(1000.0)
    await open_accounts(world, alice=0)
    for start in range(0, 1_500, 500):
        legs = [world.prepare((("alice", 1),), f"k{start + i}") for i in range(500)]
        request = world.submit(*legs)
        await world.until(lambda request=request: world.reply_to(request))  # type: ignore[misc]
    reads = [world.read("alice") for _ in range(20)]
    await world.until(lambda: world.buckets.asked)
    sizes = [len(batch.instructions) for _, batch, _ in world.buckets.asked]
    assert sizes == [1_000, 500]
    for _, batch, hear in world.buckets.asked:
        for position in range(len(batch.instructions)):
            hear(position, Answer(Code.REFUSED))
    assert [await balance(world, each) for each in reads] == [0] * 20


def statement(world: World, number: str, before: int = 0) -> int:
    world.requests += 1
    request = ReadPostings(world.requests, 1, number, before, 10)
    world.service.requests.put((CALLER, request))
    return world.requests


async def amounts(world: World, request: int) -> list[int]:
    reply = await world.reply(request)
    assert isinstance(reply, Postings)
    return [posting.amount for posting in reply.postings]


@pytest.mark.asyncio
async def test_bank_3_a_statement_shows_what_was_answered_before_it_began(world: World) -> None:
    """The payee's bucket hears of it last: the statement asks, has it posted, and shows it, as a read would."""
    one, two = await two_incoming(world)
    request = statement(world, "alice")
    await world.until(lambda: len(world.buckets.asked) == 2)
    world.buckets.asked[0][2](0, committed(one))
    await world.until(lambda: one.xid not in world.service._replica.rows.legs)
    assert world.reply_to(request) is None
    world.buckets.asked[1][2](0, committed(two))
    assert await amounts(world, request) == [7, 50, 100]
    assert await amounts(world, statement(world, "alice", before=3)) == [50, 100]


@pytest.mark.asyncio
async def test_bank_3_a_statement_takes_a_read_index(world: World) -> None:
    """A leader that was deposed meanwhile would show a statement of yesterday."""
    await open_accounts(world, alice=100)
    world.group.read_indexes_held = True
    request = statement(world, "alice")
    await world.until(lambda: world.group.reads)
    assert world.reply_to(request) is None
    world.group.commit_c.put(ReadReady((world.group.reads[0],), world.group.index))
    assert await amounts(world, request) == [100]


@pytest.mark.asyncio
async def test_bank_3_a_page_of_old_postings_waits_for_nobody(world: World) -> None:
    await two_incoming(world)
    assert await amounts(world, statement(world, "alice", before=2)) == [100]
    assert not world.buckets.asked


@pytest.mark.asyncio
async def test_a_statement_of_an_account_whose_creation_was_answered(world: World) -> None:
    world.service._resolver._legs = Resolver(1000.0)
    creation = Prepare(
        world.xid(), b"c".ljust(16), 1, b"h", 2, (1,), Kind.CREATION, "USD", (("carol", 70),)
    )
    assert (await world.answer(world.submit(creation))).code is Code.PREPARED
    request = statement(world, "carol")
    await world.until(lambda: world.buckets.asked)
    world.buckets.asked[0][2](0, committed(creation))
    assert await amounts(world, request) == [70]


@pytest.mark.asyncio
@pytest.mark.parametrize("level", [ReadLevel.READ_COMMITTED, ReadLevel.READ_UNCOMMITTED])
async def test_a_read_of_an_account_to_be_has_its_creation_settled(
    world: World, level: ReadLevel
) -> None:
    """It says "not here" without waiting; whoever knows of the creation asks again, and finds it."""
    world.service._resolver._legs = Resolver(1000.0)
    creation = Prepare(
        world.xid(), b"c".ljust(16), 1, b"h", 2, (1,), Kind.CREATION, "USD", (("carol", 70),)
    )
    await world.answer(world.submit(creation))
    reply = await world.reply(world.read("carol", level=level))
    assert isinstance(reply, AccountViews)
    assert reply.views == (None,)
    await world.until(lambda: world.buckets.asked)
    world.buckets.asked[0][2](0, committed(creation))
    await world.until(lambda: creation.xid not in world.service._replica.rows.legs)
    assert await balance(world, world.read("carol", level=level)) == 70


@pytest.mark.asyncio
async def test_each_account_of_a_read_has_its_own_answer(world: World) -> None:
    """One account waits for an anchor that is away; the others are told."""
    await open_accounts(world, bob=5)
    await two_incoming(world)
    request = world.read("bob", "alice", "nobody")
    reply = await world.reply(request)
    assert isinstance(reply, AccountViews)
    assert reply.views[0] is not None
    assert (reply.views[0].balance, reply.views[1:], reply.undecided) == (5, (None, None), (1,))


@pytest.mark.asyncio
async def test_a_read_sees_an_account_whose_creation_was_answered(world: World) -> None:
    """Rule 30: its client may have been told of it before this bucket was."""
    world.service._resolver._legs = Resolver(1000.0)
    creation = Prepare(
        world.xid(), b"c".ljust(16), 1, b"h", 2, (1,), Kind.CREATION, "USD", (("carol", 70),)
    )
    assert (await world.answer(world.submit(creation))).code is Code.PREPARED
    request = world.read("carol")
    while (reply := world.reply_to(request)) is None:
        for _, batch, on_answer in world.buckets.asked:
            assert batch.instructions == (QueryRecord(creation.payment_id),)
            on_answer(0, Answer(Code.COMMITTED, xid=creation.xid, time_us=9))
        world.buckets.asked.clear()
        await asyncio.sleep(0)
    assert isinstance(reply, AccountViews)
    assert reply.views[0] is not None
    assert reply.views[0].balance == 70


@pytest.mark.asyncio
async def test_reads_under_way_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database is away nothing was turned away, and memory grew with every read."""
    monkeypatch.setattr(reader, "_OPEN_MAX", 10)
    await open_accounts(world, alice=100)
    world.group.read_indexes_held = True
    reads = [world.read("alice") for _ in range(30)]
    last = await world.reply(reads[-1])
    assert isinstance(last, Rejected)
    assert last.why is RejectReason.OVERLOADED
    answered = [request for request in reads if world.reply_to(request) is not None]
    assert len(answered) == 20, "ten hold their places"
    world.group.read_indexes_held = False
    for number in world.group.reads:
        world.group.commit_c.put(ReadReady((number,), world.group.index))
    assert isinstance(await world.reply(reads[0]), AccountViews)
    assert isinstance(await world.reply(world.read("alice")), AccountViews), "places are given back"


@pytest.mark.asyncio
async def test_an_abandoned_read_gives_its_place_back_and_costs_no_work(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_OPEN_MAX", 1)
    monkeypatch.setattr(reader, "_SWEEP_SECONDS", 0.0)
    await open_accounts(world, alice=100)
    world.group.read_indexes_held = True
    world.requests += 1
    abandoned = ReadAccounts(world.requests, 1, ReadLevel.LINEARIZABLE, ("alice",), left_ms=1)
    world.service.requests.put((CALLER, abandoned))
    await world.until(lambda: world.group.reads)
    await asyncio.sleep(0.002)  # what is tested is time itself
    world.group.read_indexes_held = False
    request = world.read("alice")
    assert isinstance(await world.reply(request), AccountViews)
    world.group.commit_c.put(ReadReady((world.group.reads[0],), world.group.index))
    assert isinstance(await world.reply(world.read("alice")), AccountViews)
    assert world.reply_to(abandoned.request) is None


@pytest.mark.asyncio
async def test_a_replica_that_replays_its_log_has_heard_of_nobody() -> None:
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
