"""The AccountService against a group of one, a database of dicts and other buckets that the test speaks for."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec
import pytest
import pytest_asyncio

from mas.errors import DatabaseUnavailable, NotLeading, Overloaded
from mas.ids import make_xid
from mas.ledger import RejectReason, rules
from mas.ledger.instructions import (
    EXTERNAL,
    Abort,
    Answer,
    Batch,
    Body,
    CloseIncarnation,
    Code,
    Commit,
    Decide,
    Instruction,
    Kind,
    Mark,
    Prepare,
    Proposal,
    QueryRecord,
    Reason,
    RecordRefusal,
    RegisterNode,
    Resolve,
    RetireNode,
    Token,
    Unmark,
    decode_proposal,
    encode,
)
from mas.ledger.rows import NodeRow, ResidentState
from mas.multiraft.events import ReadReady, Refused, Restored
from mas.raft import ConfState
from mas.resource import AccountService, Ports, ResourceSettings, reader, resolver
from mas.rpc.messages import (
    AccountViews,
    Answers,
    Nodes,
    Postings,
    ReadAccounts,
    ReadLevel,
    ReadNodes,
    ReadPostings,
    Rejected,
    Reply,
    Submit,
    decode_replies,
    decode_requests,
)
from mas.rpc.messages import encode as encode_message
from mas.runtime import Supervisor, SystemClock
from mas.transaction.participant import Resolver
from tests.resource.harness import FakeBuckets, FakeDatabase, FakeGroup, Replies

TC = b"coordinate"
CALLER = 7


class World:
    def __init__(self) -> None:
        self.group = FakeGroup()
        self.database = FakeDatabase()
        self.buckets = FakeBuckets()
        self.replies = Replies()
        self.settings = ResourceSettings("test", 3, lock_timeout=0.05, flush_pause=0.001)
        self.counter = 0
        self.requests = 0
        self.service: AccountService

    async def open(self) -> None:
        kept = await self.database.open(1, (99).to_bytes(8, "big"))
        ports = Ports(self.group, self.database, self.buckets, self.replies, 99)  # type: ignore[arg-type]
        self.service = AccountService(1, kept, ports, SystemClock(), self.settings)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0)

    def submit(self, *instructions: Instruction, low_water: int = 0, left_ms: int = 0) -> int:
        self.requests += 1
        raw = msgspec.Raw(encode(Batch(TC, low_water, instructions)))
        self.service.requests.put((CALLER, Submit(self.requests, 1, raw, left_ms)))
        return self.requests

    def read(self, *numbers: str, level: ReadLevel = ReadLevel.LINEARIZABLE) -> int:
        self.requests += 1
        self.service.requests.put((CALLER, ReadAccounts(self.requests, 1, level, numbers)))
        return self.requests

    def read_nodes(self) -> int:
        return self.ask(ReadNodes(0, 1))

    def ask(self, question: ReadNodes | ReadPostings) -> int:
        self.requests += 1
        numbered = msgspec.structs.replace(question, request=self.requests)
        self.service.requests.put((CALLER, numbered))
        return self.requests

    def reply_to(self, request: int) -> Reply | None:
        return next(
            (r for peer, r in self.replies.all if peer == CALLER and r.request == request), None
        )

    async def reply(self, request: int) -> Reply:
        await self.until(lambda: self.reply_to(request) is not None)
        reply = self.reply_to(request)
        assert reply is not None
        return reply

    async def answer(self, request: int) -> Answer:
        reply = await self.reply(request)
        assert isinstance(reply, Answers), reply
        ((position, answer),) = reply.answers
        assert position == 0
        return answer

    def xid(self) -> bytes:
        self.counter += 1
        return make_xid(TC, self.counter)

    def create(self, number: str, opening: int) -> Decide:
        """A creation whose bucket is its own home: one entry."""
        body = Body(Kind.CREATION, "USD", ((number, opening),))
        return Decide(
            self.xid(), number.encode().ljust(16), 1, body, b"h", (), (0,), account_bucket=1
        )

    def pay(self, payer: str, payee: str, amount: int, key: str) -> Decide:
        body = Body(Kind.PAYMENT, "USD", ((payer, -amount), (payee, amount)))
        return Decide(self.xid(), key.encode().ljust(16), 1, body, b"h", (), (0, 1))

    def prepare(self, legs: tuple[tuple[str, int], ...], key: str, anchor: int = 2) -> Prepare:
        return Prepare(
            self.xid(), key.encode().ljust(16), 1, b"h", anchor, (1,), Kind.PAYMENT, "USD", legs
        )


@pytest.fixture(autouse=True)
def _every_number_is_at_home_here() -> Iterator[None]:
    """So that a creation is one entry, whatever the number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "home_bucket", lambda number, buckets: 1)
        yield


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.open()
    async with Supervisor() as supervisor:
        supervisor.spawn("service", world.service.run())
        world.group.lead()
        await world.until(lambda: world.group.entries)  # Genesis
        yield world


async def open_accounts(world: World, **balances: int) -> None:
    for number, balance in balances.items():
        assert (
            await world.answer(world.submit(world.create(number, balance)))
        ).code is Code.COMMITTED


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
async def test_security_b1_a_read_that_raises_is_answered_and_ends_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that the database can't take raises what nobody named: once it ended the process, and then the next."""
    await open_accounts(world, alice=100)

    async def postings(bucket: int, number: str, before: int, limit: int) -> None:
        raise OverflowError("int too big to convert")

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
async def test_security_b8_statements_of_a_turn_share_a_flush_and_keep_no_other_read_waiting(
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
async def test_security_b8_what_nobody_waits_for_any_more_is_not_read(
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


async def two_incoming(world: World) -> tuple[Prepare, Prepare]:
    """Alice has 100, and two payments to her are prepared, of the anchors 2 and 3."""
    world.service._resolver._legs = Resolver(1000.0)
    await open_accounts(world, alice=100)
    legs = (
        world.prepare((("alice", 50),), "a", anchor=2),
        world.prepare((("alice", 7),), "b", anchor=3),
    )
    for each in legs:
        assert (await world.answer(world.submit(each))).code is Code.PREPARED
    return legs


async def balance(world: World, request: int) -> int:
    reply = await world.reply(request)
    assert isinstance(reply, AccountViews)
    (view,) = reply.views
    assert view is not None
    return view.balance


def committed(prepared: Prepare) -> Answer:
    return Answer(Code.COMMITTED, xid=prepared.xid, time_us=9)


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
async def test_twopc_c4_a_statement_of_an_account_whose_creation_was_answered(world: World) -> None:
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
async def test_twopc_c4_a_read_of_an_account_to_be_has_its_creation_settled(
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
async def test_twopc_b2_each_instruction_goes_on_when_its_own_questions_are_answered(
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
async def test_twopc_b2_an_anchor_that_is_silent_ends_an_attempt_soon(world: World) -> None:
    """Before whoever asked takes it for lost, and sends it again to somebody else."""
    _, _, _, r2 = await two_that_wait(world)
    before = time.monotonic()
    answer = await world.answer(r2)
    assert (answer.code, answer.reason) == (Code.ABORTED, Reason.CONTENDED)
    assert time.monotonic() - before < 3


@pytest.mark.asyncio
async def test_twopc_b2_who_comes_later_is_not_content_with_an_older_no(world: World) -> None:
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
async def test_twopc_a2_a_mark_is_not_proposed_again(world: World) -> None:
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
async def test_twopc_a2_what_was_set_aside_ends_with_its_attempt(world: World) -> None:
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
async def test_twopc_b3_a_question_about_an_account_to_be_has_its_creation_settled(
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
async def test_twopc_b2_each_account_of_a_read_has_its_own_answer(world: World) -> None:
    """One account waits for an anchor that is away; the others are told."""
    await open_accounts(world, bob=5)
    await two_incoming(world)
    request = world.read("bob", "alice", "nobody")
    reply = await world.reply(request)
    assert isinstance(reply, AccountViews)
    assert reply.views[0] is not None
    assert (reply.views[0].balance, reply.views[1:], reply.undecided) == (5, (None, None), (1,))


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
async def test_consensus_c4_a_database_that_refuses_behind_a_snapshot_is_waited_for(
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


# -- What goes first, and what goes no more ------------------------------------------------------------------


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
async def test_twopc_d1_what_ends_a_payment_goes_before_all_that_begins_one(world: World) -> None:
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
async def test_twopc_d1_what_nobody_waits_for_any_more_is_not_begun(world: World) -> None:
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
async def test_twopc_d2_an_incarnation_is_forgotten_only_once_it_is_closed(
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
async def test_consensus_d2_reads_under_way_are_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
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
async def test_consensus_d2_an_abandoned_read_gives_its_place_back_and_costs_no_work(
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
async def test_consensus_d4_a_follower_stops_where_its_database_is_too_far_behind() -> None:
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
async def test_twopc_a1_what_no_rule_can_read_is_failed_at_every_replay(
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
async def test_twopc_a2_what_waits_to_be_prepared_ends_with_its_attempt(world: World) -> None:
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
