"""The router to the buckets' leaders, over a transport that does what the test says."""

import asyncio
from collections.abc import Callable
from random import Random

import pytest

from mas import limits
from mas.channels import Channel
from mas.errors import RequestFailed, Unavailable
from mas.ledger.instructions import (
    Abort,
    Answer,
    Batch,
    Code,
    Commit,
    Instruction,
    Mark,
    RejectReason,
    Token,
    decode_batch,
)
from mas.rpc.client import BucketClient
from mas.rpc.messages import (
    AccountViews,
    Answers,
    PassOn,
    ReadAccounts,
    ReadBucket,
    ReadLevel,
    ReadReplica,
    Rejected,
    ReplicaState,
    ReplicaView,
    Reply,
    Request,
    Submit,
    decode_requests,
    encode,
)
from mas.rpc.settings import BucketClientSettings
from mas.runtime import SystemClock

DONE = Answer(Code.DONE)
SETTINGS = BucketClientSettings(timeout=30.0, query_timeout=30.0, pause=0.02, beginning_max=10)
QUICK = BucketClientSettings(timeout=0.3, query_timeout=0.1, pause=0.02, beginning_max=10)
"""For what is to run out of time."""


class FakePeers:
    """Keeps what was sent, by peer."""

    def __init__(self, *connected: int) -> None:
        self.connected = set(connected)
        self.full: set[int] = set()
        self.frames: list[tuple[int, bytes]] = []
        self.arrived = asyncio.Event()

    def send(self, peer: int, channel: int, payload: bytes) -> bool:
        assert channel == Channel.REQUEST
        too_large = len(payload) > limits.FRAME_BYTES_MAX
        if peer not in self.connected or peer in self.full or too_large:
            return False
        self.frames.append((peer, payload))
        self.arrived.set()
        return True

    def is_connected(self, peer: int) -> bool:
        return peer in self.connected


class Caller:
    """Submits, and keeps the answers by position."""

    def __init__(
        self, *connected: int, settings: BucketClientSettings = SETTINGS, seed: int = 1
    ) -> None:
        self.peers = FakePeers(*(connected or (1, 2, 3)))
        self.router = BucketClient(
            self.peers,
            {1: [1, 2, 3], 2: [2, 3, 1]},
            clock=SystemClock(),
            dice=Random(seed),
            settings=settings,
        )
        self.answers: list[tuple[int, Answer | Rejected]] = []

    def submit(self, *instructions: Instruction, bucket: int = 1) -> None:
        self.router.submit(
            bucket,
            Batch(b"", 0, instructions),
            lambda position, answer: self.answers.append((position, answer)),
        )

    async def next(self) -> tuple[int, tuple[Request, ...]]:
        """The next frame sent: its peer, and what is in it."""
        while not self.peers.frames:
            self.peers.arrived.clear()
            await self.peers.arrived.wait()
        peer, frame = self.peers.frames.pop(0)
        return peer, decode_requests(frame)

    async def next_submit(self) -> tuple[int, Submit]:
        peer, requests = await self.next()
        (request,) = requests
        assert isinstance(request, Submit)
        return peer, request

    def reply(self, peer: int, *replies: Reply) -> None:
        self.router.on_reply(peer, encode(replies))

    def whys(self) -> dict[int, RejectReason]:
        return {i: each.why for i, each in self.answers if isinstance(each, Rejected)}


def commits(count: int) -> list[Commit]:
    return [Commit(bytes((i,)), i) for i in range(count)]


def marks(count: int) -> list[Mark]:
    return [Mark(f"account-{i}", Token(1, i)) for i in range(count)]


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


@pytest.mark.asyncio
async def test_answers_come_back_by_position_in_any_order() -> None:
    caller = Caller()
    caller.submit(*commits(3))
    peer, request = await caller.next_submit()
    assert peer == 1
    assert decode_batch(request.batch).instructions == tuple(commits(3))
    caller.reply(1, Answers(request.request, ((2, DONE),)))
    caller.reply(1, Answers(request.request, ((0, DONE), (1, Answer(Code.OVER)))))
    assert caller.answers == [(2, DONE), (0, DONE), (1, Answer(Code.OVER))]


@pytest.mark.asyncio
async def test_all_of_one_turn_is_one_frame_a_peer() -> None:
    caller = Caller()
    for _ in range(5):
        caller.submit(*commits(2))
        caller.submit(*commits(2), bucket=2)
    frames = [await caller.next(), await caller.next()]
    assert [(peer, len(requests)) for peer, requests in frames] == [(1, 5), (2, 5)]
    assert not caller.peers.frames


@pytest.mark.asyncio
async def test_a_frame_is_bounded() -> None:
    caller = Caller()
    for _ in range(60):
        caller.submit(Abort(bytes(20_000)))
    await until(lambda: len(caller.peers.frames) >= 5)
    sizes = [len(frame) for _, frame in caller.peers.frames]
    assert max(sizes) < limits.TURN_BYTES_MAX + 1_000
    assert sum(len(decode_requests(frame)) for _, frame in caller.peers.frames) == 60


@pytest.mark.asyncio
async def test_a_hint_is_followed_and_remembered() -> None:
    caller = Caller()
    caller.submit(*commits(2))
    peer, request = await caller.next_submit()
    caller.reply(peer, Rejected(request.request, RejectReason.NOT_LEADING, leader=3))
    peer, again = await caller.next_submit()
    assert peer == 3
    assert again.batch == request.batch
    caller.reply(3, Answers(again.request, ((0, DONE), (1, DONE))))
    assert caller.answers == [(0, DONE), (1, DONE)]
    caller.submit(*commits(1))
    assert (await caller.next())[0] == 3
    assert caller.router.leader(1) == 3


@pytest.mark.asyncio
async def test_without_a_hint_the_other_replicas_are_tried_then_all_again() -> None:
    caller = Caller()
    caller.submit(*commits(1))
    asked = []
    for _ in range(8):
        peer, request = await caller.next_submit()
        asked.append(peer)
        caller.reply(peer, Rejected(request.request, RejectReason.NOT_LEADING))
    assert set(asked[:3]) == {1, 2, 3}
    peer, request = await caller.next_submit()
    caller.reply(peer, Answers(request.request, ((0, DONE),)))
    assert caller.answers == [(0, DONE)]


@pytest.mark.asyncio
async def test_only_what_was_turned_away_is_sent_elsewhere() -> None:
    caller = Caller()
    caller.submit(*commits(4))
    peer, request = await caller.next_submit()
    caller.reply(
        peer, Rejected(request.request, RejectReason.NOT_LEADING, positions=(1, 3), leader=2)
    )
    peer, part = await caller.next_submit()
    assert peer == 2
    assert decode_batch(part.batch).instructions == (commits(4)[1], commits(4)[3])
    caller.reply(2, Answers(part.request, ((1, DONE), (0, Answer(Code.OVER)))))
    caller.reply(1, Answers(request.request, ((0, DONE), (2, DONE))))
    assert sorted(caller.answers, key=lambda each: each[0]) == [
        (0, DONE),
        (1, Answer(Code.OVER)),
        (2, DONE),
        (3, DONE),
    ]


@pytest.mark.asyncio
async def test_the_rest_of_a_half_answered_request_is_sent_elsewhere() -> None:
    caller = Caller()
    caller.submit(*commits(3))
    peer, request = await caller.next_submit()
    caller.reply(peer, Answers(request.request, ((1, DONE),)))
    caller.reply(peer, Rejected(request.request, RejectReason.NOT_LEADING, leader=2))
    _, part = await caller.next_submit()
    assert decode_batch(part.batch).instructions == (commits(3)[0], commits(3)[2])


@pytest.mark.asyncio
async def test_rule_6_there_is_one_live_copy() -> None:
    """A copy that was neither answered nor turned away is never sent again, whatever else happens."""
    caller = Caller(settings=QUICK)
    caller.submit(*commits(1))
    await caller.next_submit()
    caller.router.on_peer(2, False)
    caller.router.on_peer(2, True)
    await until(lambda: caller.answers)
    assert caller.whys() == {0: RejectReason.UNKNOWN}
    assert not caller.peers.frames


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "why", [RejectReason.UNKNOWN, RejectReason.OVERLOADED, RejectReason.UNAVAILABLE]
)
async def test_other_refusals_are_passed_on_for_their_positions(why: RejectReason) -> None:
    caller = Caller()
    caller.submit(*commits(3))
    peer, request = await caller.next_submit()
    caller.reply(peer, Rejected(request.request, why, positions=(0,)))
    assert caller.whys() == {0: why}
    caller.reply(peer, Rejected(request.request, why))
    assert caller.whys() == {0: why, 1: why, 2: why}
    assert not caller.peers.frames


@pytest.mark.asyncio
async def test_rule_39_what_was_at_a_lost_peer_is_unknown() -> None:
    caller = Caller()
    caller.submit(*commits(2))
    caller.submit(*commits(1), bucket=2)
    _, request = await caller.next_submit()
    caller.reply(1, Answers(request.request, ((0, DONE),)))
    caller.router.on_peer(1, False)
    assert caller.answers[0] == (0, DONE)
    assert caller.whys() == {1: RejectReason.UNKNOWN}
    caller.reply(1, Answers(request.request, ((1, DONE),)))
    assert len(caller.answers) == 2, "a late answer was given a second time"


@pytest.mark.asyncio
async def test_no_answer_in_time_is_unknown_and_another_replica_is_asked_next() -> None:
    caller = Caller(settings=QUICK)
    caller.submit(*commits(1))
    await caller.next_submit()
    await until(lambda: caller.answers)
    assert caller.whys() == {0: RejectReason.UNKNOWN}
    caller.submit(*commits(1))
    assert (await caller.next())[0] == 2


@pytest.mark.asyncio
async def test_what_nobody_took_in_time_has_done_nothing() -> None:
    caller = Caller(settings=QUICK)
    caller.peers.connected = set()
    caller.submit(*commits(2))
    await until(lambda: len(caller.answers) == 2)
    assert caller.whys() == {0: RejectReason.UNAVAILABLE, 1: RejectReason.UNAVAILABLE}


@pytest.mark.asyncio
async def test_a_frame_that_did_not_go_out_goes_to_another() -> None:
    caller = Caller()
    caller.peers.full = {1}
    caller.submit(*commits(1))
    peer, request = await caller.next_submit()
    assert peer == 2
    caller.reply(2, Answers(request.request, ((0, DONE),)))
    assert caller.answers == [(0, DONE)]


@pytest.mark.asyncio
async def test_a_peer_that_comes_up_gets_what_waited() -> None:
    caller = Caller()
    caller.peers.connected = set()
    caller.submit(*commits(1))
    await asyncio.sleep(0)
    caller.peers.connected = {3}
    assert (await caller.next())[0] == 3


@pytest.mark.asyncio
async def test_replies_of_others_and_of_other_lives_are_nobodys() -> None:
    caller, later = Caller(seed=1), Caller(seed=2)
    caller.submit(*commits(1))
    later.submit(*commits(1))
    _, request = await caller.next_submit()
    caller.reply(2, Answers(request.request, ((0, DONE),)))
    later.reply(1, Answers(request.request, ((0, DONE),)))
    assert caller.answers == later.answers == []


@pytest.mark.asyncio
async def test_rule_16_overload_turns_away_what_begins_and_nothing_else() -> None:
    caller = Caller()
    caller.submit(*marks(8))
    caller.submit(marks(1)[0], *commits(2), *marks(3))
    await until(lambda: len(caller.answers) == 4)
    assert caller.whys() == dict.fromkeys((0, 3, 4, 5), RejectReason.OVERLOADED)
    _, (first, rest) = await caller.next()
    assert isinstance(rest, Submit)
    assert decode_batch(rest.batch).instructions == tuple(commits(2))
    caller.reply(1, Answers(rest.request, ((1, DONE),)))
    assert caller.answers[-1] == (2, DONE)
    caller.reply(1, Answers(first.request, tuple((i, DONE) for i in range(8))))
    caller.submit(*marks(10))
    _, request = await caller.next_submit()
    assert len(decode_batch(request.batch).instructions) == 10


@pytest.mark.asyncio
async def test_room_is_given_back_however_it_ends() -> None:
    caller = Caller(settings=QUICK)
    caller.submit(*marks(5))
    _, request = await caller.next_submit()
    caller.reply(1, Rejected(request.request, RejectReason.NOT_LEADING, positions=(0, 1), leader=2))
    await caller.next_submit()
    caller.router.on_peer(1, False)
    await until(lambda: len(caller.answers) == 5)
    assert caller.router._submissions.beginning == 0
    caller.submit(*marks(10))
    await caller.next_submit()
    caller.router.close()
    assert len(caller.answers) == 15
    assert caller.router._submissions.beginning == 0


@pytest.mark.asyncio
async def test_a_callback_may_submit_again() -> None:
    caller = Caller()

    def again(_position: int, answer: Answer | Rejected) -> None:
        assert isinstance(answer, Rejected)
        caller.submit(*commits(1))

    caller.router.submit(1, Batch(b"", 0, (Abort(b"x"),)), again)
    await caller.next_submit()
    caller.peers.connected = {2, 3}
    caller.router.on_peer(1, False)
    peer, request = await caller.next_submit()
    assert peer == 2
    caller.reply(2, Answers(request.request, ((0, DONE),)))
    assert caller.answers == [(0, DONE)]


READ = ReadAccounts(0, 1, ReadLevel.LINEARIZABLE, ("alice",))


@pytest.mark.asyncio
async def test_a_read_follows_the_leader_until_it_is_answered() -> None:
    caller = Caller()
    reading = asyncio.create_task(caller.router.query(1, READ, 30.0))
    peer, (request,) = await caller.next()
    caller.reply(peer, Rejected(request.request, RejectReason.NOT_LEADING, leader=3))
    peer, (request,) = await caller.next()
    assert peer == 3
    caller.reply(3, AccountViews(request.request, (None,)))
    assert await reading == AccountViews(request.request, (None,))
    assert not caller.router._calls


@pytest.mark.asyncio
async def test_a_read_that_is_not_answered_is_asked_of_another() -> None:
    caller = Caller(settings=QUICK)
    reading = asyncio.create_task(caller.router.query(1, READ, 30.0))
    first, _ = await caller.next()
    peer, (request,) = await caller.next()
    assert peer != first
    caller.reply(peer, AccountViews(request.request, (None,)))
    await reading


@pytest.mark.asyncio
async def test_a_read_of_a_lost_peer_goes_on_at_another() -> None:
    caller = Caller()
    reading = asyncio.create_task(caller.router.query(1, READ, 30.0))
    await caller.next()
    caller.peers.connected = {2, 3}
    caller.router.on_peer(1, False)
    peer, (request,) = await caller.next()
    caller.reply(peer, AccountViews(request.request, (None,)))
    await reading


@pytest.mark.asyncio
async def test_a_read_that_nobody_answers_is_unavailable() -> None:
    caller = Caller()
    reading = asyncio.create_task(caller.router.query(1, READ, 0.2))
    peer, (request,) = await caller.next()
    caller.reply(
        peer, Rejected(request.request, RejectReason.UNAVAILABLE, detail="the disk is full")
    )
    with pytest.raises(Unavailable, match=r"within 0\.2 s"):
        await reading


@pytest.mark.asyncio
async def test_a_read_that_raised_is_asked_of_nobody_else() -> None:
    caller = Caller()
    reading = asyncio.create_task(caller.router.query(1, READ, 30.0))
    peer, (request,) = await caller.next()
    caller.reply(peer, Rejected(request.request, RejectReason.FAILED, detail="it raised"))
    with pytest.raises(RequestFailed, match="it raised"):
        await reading
    assert not caller.peers.frames


@pytest.mark.asyncio
async def test_a_named_replica_is_asked_and_no_other() -> None:
    caller = Caller()
    reading = asyncio.create_task(caller.router.query(1, ReadBucket(0, 1), 0.3, replica=2))
    for _ in range(2):
        peer, (request,) = await caller.next()
        assert peer == 2
        caller.reply(2, Rejected(request.request, RejectReason.UNAVAILABLE))
    with pytest.raises(Unavailable):
        await reading


@pytest.mark.asyncio
async def test_the_buckets_and_their_nodes() -> None:
    caller = Caller()
    assert caller.router.all() == [1, 2]
    caller.router.set_replicas(3, [7])
    caller.router.set_replicas(1, [4, 5])
    assert caller.router.replicas() == {1: [4, 5], 2: [2, 3, 1], 3: [7]}
    assert caller.router.leader(1) == 4


@pytest.mark.asyncio
async def test_a_bucket_that_is_not_there_is_an_alarm_and_not_an_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An anchor, or a claim, may name any number: whoever asks hears that it isn't known, later, and asks again."""
    router = BucketClient(
        FakePeers(2), {1: [2]}, clock=SystemClock(), dice=Random(1), settings=SETTINGS
    )
    answers: list[tuple[int, Answer | Rejected]] = []
    batch = Batch(b"", 0, (Commit(bytes(16), 1), Abort(bytes(16))))
    router.submit(99, batch, lambda position, answer: answers.append((position, answer)))
    assert not answers, "never within the call"
    await asyncio.sleep(0)
    assert [(position, answer.why) for position, answer in answers] == [
        (0, RejectReason.UNAVAILABLE),
        (1, RejectReason.UNAVAILABLE),
    ]
    assert "bucket 99" in caplog.text
    with pytest.raises(Unavailable, match="bucket 99"):
        await router.query(99, ReadBucket(0, 99), 1.0)
    router.close()


@pytest.mark.asyncio
async def test_frames_of_questions_are_cut_by_bytes() -> None:
    caller = Caller()
    numbers = tuple(f"{i:064d}" for i in range(1_000))
    asked = [
        asyncio.create_task(
            caller.router.query(1, ReadAccounts(0, 1, ReadLevel.LINEARIZABLE, numbers), 0.2)
        )
        for _ in range(50)
    ]
    await until(lambda: sum(len(decode_requests(frame)) for _, frame in caller.peers.frames) >= 50)
    sizes = [len(frame) for _, frame in caller.peers.frames]
    assert max(sizes) <= limits.TURN_BYTES_MAX + 5
    assert len(sizes) >= 50 * 66_000 // limits.TURN_BYTES_MAX
    for each in asked:
        each.cancel()
    await asyncio.wait(asked)


@pytest.mark.asyncio
async def test_what_no_frame_holds_is_an_error_to_whoever_sent_it() -> None:
    caller = Caller()
    caller.submit(Abort(bytes(limits.FRAME_BYTES_MAX)), *commits(1))
    caller.submit(*commits(1))
    await until(lambda: len(caller.answers) == 2)
    assert caller.whys() == {0: RejectReason.INVALID, 1: RejectReason.INVALID}
    _, request = await caller.next_submit()  # what was asked beside it
    assert decode_batch(request.batch).instructions == tuple(commits(1))
    with pytest.raises(Exception, match="can't be sent"):
        await caller.router.query(
            1, ReadAccounts(0, 1, ReadLevel.LINEARIZABLE, ("x" * limits.FRAME_BYTES_MAX,)), 5.0
        )


# -- a leader that is silent, or out of reach from here ---------------------------------------------------

LONG = BucketClientSettings(timeout=20.0, query_timeout=10.0, pause=0.02)


def view(look: ReadReplica, leader: int, term: int = 5) -> ReplicaView:
    return ReplicaView(look.request, look.bucket, 0, ReplicaState.RUNNING, leader=leader, term=term)


async def looks(caller: Caller) -> dict[int, ReadReplica]:
    """The questions who leads that all three replicas get."""
    asked: dict[int, ReadReplica] = {}
    async with asyncio.timeout(10):
        while len(asked) < 3:
            peer, requests = await caller.next()
            for each in requests:
                if isinstance(each, ReadReplica):
                    asked[peer] = each
    return asked


@pytest.mark.asyncio
async def test_bank_4_who_waits_for_a_silent_leader_learns_of_the_new_one() -> None:
    """It stands still, and its connection with it: the copy there is unknown, and what follows goes to the new leader."""
    caller = Caller(settings=LONG)
    caller.submit(Commit(b"x", 1))
    reading = asyncio.create_task(caller.router.query(1, READ, 10.0))
    peer, _ = await caller.next()
    assert peer == 1
    asked = await looks(caller)
    assert caller.answers == []
    caller.reply(2, view(asked[2], leader=1, term=4))
    assert caller.answers == [], "a leader that others know by the same name is waited for"

    caller.reply(3, view(asked[3], leader=3))

    assert caller.whys() == {0: RejectReason.UNKNOWN}, (
        "rule 39: asked again by the same xid, by whoever asked"
    )
    caller.submit(Commit(b"x", 1))
    sent = []
    while len(sent) < 2:
        peer, requests = await caller.next()
        sent += [(peer, type(each)) for each in requests if not isinstance(each, ReadReplica)]
    assert sorted(sent, key=str) == [(3, ReadAccounts), (3, Submit)]
    reading.cancel()
    caller.router.close()


@pytest.mark.asyncio
async def test_bank_4_an_old_word_of_a_leader_is_not_believed() -> None:
    caller = Caller(settings=LONG)
    caller.submit(Commit(b"x", 1))
    asked = await looks(caller)
    caller.reply(3, view(asked[3], leader=3, term=7))
    caller.submit(Commit(b"y", 1))
    again = await looks(caller)
    caller.reply(2, view(again[2], leader=2, term=6))
    assert caller.router.leader(1) == 3
    caller.router.close()


@pytest.mark.asyncio
async def test_bank_5_a_follower_passes_on_to_a_leader_out_of_reach_from_here() -> None:
    caller = Caller(2, 3, settings=LONG)
    caller.submit(Commit(b"x", 1))
    peer, submit = await caller.next_submit()
    assert peer == 2
    caller.reply(2, Rejected(submit.request, RejectReason.NOT_LEADING, leader=1))
    peer, (passed,) = await caller.next()
    assert isinstance(passed, PassOn)
    again = Submit(passed.request, 1, submit.batch, passed.message.left_ms)
    assert (peer, passed.message) == (2, again)
    caller.reply(2, Answers(passed.request, ((0, DONE),)))
    assert caller.answers == [(0, DONE)]

    reading = asyncio.create_task(caller.router.query(1, READ, 10.0))
    _, (read,) = await caller.next()
    assert isinstance(read, PassOn)
    assert isinstance(read.message, ReadAccounts)
    caller.reply(2, AccountViews(read.request, (None,)))
    assert isinstance(await reading, AccountViews)

    caller.peers.connected.add(1)
    caller.router.on_peer(1, True)
    caller.submit(Commit(b"y", 1))
    peer, submit = await caller.next_submit()
    caller.reply(peer, Rejected(submit.request, RejectReason.NOT_LEADING, leader=1))
    assert (await caller.next_submit())[0] == 1, "reached again"
    caller.router.close()


@pytest.mark.asyncio
async def test_bank_5_what_was_passed_on_is_not_passed_on_again() -> None:
    """Two followers that don't reach the leader sent it back and forth, and one alone to itself, a thousand at a time."""
    caller = Caller(2, 3, settings=LONG)
    caller.submit(Commit(b"x", 1))
    _, submit = await caller.next_submit()
    caller.reply(2, Rejected(submit.request, RejectReason.NOT_LEADING, leader=1))
    _, (own,) = await caller.next()
    assert isinstance(own, PassOn), "the leader is known to be out of reach"
    assert own.leader == 1

    batch = Batch(b"", 0, (Commit(b"y", 1),))
    caller.router.submit(1, batch, lambda *_: None, passed_on=True)
    _, (submit_too,) = await caller.next()
    assert isinstance(submit_too, Submit)
    reading = asyncio.create_task(caller.router.query(1, READ, 10.0, passed_on=True))
    _, (read,) = await caller.next()
    assert isinstance(read, ReadAccounts)
    caller.reply(2, AccountViews(read.request, (None,)))
    await reading

    caller.reply(2, Rejected(own.request, RejectReason.NOT_LEADING, leader=3))
    peer, _ = await caller.next_submit()
    assert peer == 3, "whoever is told of another leader goes there"
    caller.router.close()


@pytest.mark.asyncio
async def test_bank_5_a_leader_that_others_hear_and_nothing_comes_from_is_passed_by() -> None:
    """The network swallows what it says to this node alone: an election doesn't come, and nobody else tells."""
    caller = Caller(settings=LONG)
    caller.submit(Commit(b"x", 1))
    async with asyncio.timeout(10):
        while not caller.answers:
            for peer, look in (await looks(caller)).items():
                if peer != 1:
                    caller.reply(peer, view(look, leader=1))
    assert caller.whys() == {0: RejectReason.UNKNOWN}
    caller.submit(Commit(b"x", 1))
    while True:
        peer, requests = await caller.next()
        passed = [each for each in requests if isinstance(each, PassOn)]
        if passed:
            break
    assert peer != 1
    caller.router.on_reply(1, encode(()))
    caller.submit(Commit(b"y", 1))
    async with asyncio.timeout(10):
        while not any(isinstance(each, Submit) for each in (await caller.next())[1]):
            continue
    caller.router.close()
