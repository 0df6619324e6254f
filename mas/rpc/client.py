"""The way to whichever node leads a bucket.

What is sent has one live copy, never two (rule 6, decide): it goes to one replica, and to another only once the first
has said that it has done nothing, or when it never went out. Who leads is a guess, mended by what the replicas say. All
messages of one turn of the loop to one peer are one frame, and answers come back position by position (rule 37,
batches).
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from mas import limits
from mas.channels import Channel
from mas.errors import NetworkError, RequestFailed, Unavailable
from mas.ledger.instructions import Answer, Batch, RejectReason, begins
from mas.ledger.instructions import encode as encode_batch
from mas.rpc.leaders import NOWHERE, Leaders
from mas.rpc.messages import (
    MESSAGE_BYTES_MAX,
    Answers,
    ForLeader,
    PassOn,
    ReadReplica,
    ReadRequest,
    Rejected,
    ReplicaView,
    Reply,
    Request,
    Submit,
    batches,
    can_answer,
    decode_replies,
    encode,
    frame_of,
)
from mas.rpc.ports import OnAnswer, Peers
from mas.runtime import Clock, Dice
from mas.telemetry import Seldom

_log = logging.getLogger(__name__)

_SCAN_SECONDS = 0.05
_SILENCE_SECONDS = 0.5
"""After which the other replicas are asked who leads, and for which their answers are waited for."""
_LOOK_SECONDS = 0.25
"""Between two such questions about one bucket."""
_LOST_SECONDS = 1.0
"""After which a leader that others hear, and nothing comes from, is taken for out of reach from here."""


class BucketClientSettings(msgspec.Struct, frozen=True):
    """How long a router tries, and how much it carries."""

    timeout: float = 5.0
    """Seconds until what was submitted is unknown, or turned away if no replica has taken it."""
    query_timeout: float = limits.QUESTION_SECONDS_MAX
    """Seconds that one replica has to answer a read, before another is asked."""
    pause: float = 0.05
    """Seconds before the replicas are tried again, when none of them leads."""
    beginning_max: int = limits.MAILBOX_ITEMS_MAX
    """Instructions under way that begin something; what ends something always has room (rule 16, admission)."""


class _Submission:
    """A batch under way; `peer` holds its live copy, or is `NOWHERE`."""

    __slots__ = (
        "answered",
        "batch",
        "beginning",
        "bucket",
        "data",
        "deadline",
        "hops",
        "left",
        "number",
        "on_answer",
        "passed_on",
        "peer",
        "resume",
        "sent",
        "trouble",
    )
    kind: type[Request] = Submit

    def __init__(
        self, bucket: int, batch: Batch, on_answer: OnAnswer, deadline: float, *, passed_on: bool
    ) -> None:
        self.bucket = bucket
        self.batch = batch
        self.passed_on = passed_on
        self.data = msgspec.Raw(encode_batch(batch))
        self.on_answer = on_answer
        self.deadline = deadline
        self.left = len(batch.instructions)
        self.answered = bytearray(self.left)
        self.beginning = 0
        self.number = 0
        self.peer = NOWHERE
        self.hops = 0
        self.resume = 0.0
        self.sent = 0.0
        self.trouble = "no replica is connected"

    def misanswered(self, position: int) -> NetworkError:
        """An answer for what wasn't asked."""
        return NetworkError(
            f"node {self.peer} answers instruction {position} of {len(self.answered)}"
        )

    def unanswered(self) -> list[int]:
        return [position for position, flag in enumerate(self.answered) if not flag]

    def answer(self, positions: Iterable[int], answer: Rejected) -> None:
        for position in positions:
            if not self.answered[position]:
                self.answered[position] = 1
                self.left -= 1
                self.on_answer(position, answer)


class _Query:
    """A read under way at one replica."""

    __slots__ = ("bucket", "future", "is_named", "kind", "peer", "sent")

    def __init__(
        self,
        bucket: int,
        peer: int,
        kind: type[Request],
        future: asyncio.Future[Reply],
        sent: float,
        *,
        is_named: bool,
    ) -> None:
        self.bucket = bucket
        self.peer = peer
        self.kind = kind
        self.future = future
        self.sent = sent
        self.is_named = is_named
        """This replica was asked for, whoever leads."""

    def settle(self, reply: Reply) -> None:
        if not self.future.done():
            self.future.set_result(reply)


class _Look:
    """A replica is asked who leads a bucket, while `silent` doesn't answer."""

    __slots__ = ("bucket", "peer", "sent", "silent")
    kind: type[Request] = ReadReplica

    def __init__(self, bucket: int, peer: int, silent: int, sent: float) -> None:
        self.bucket = bucket
        self.peer = peer
        self.silent = silent
        self.sent = sent


_Asked = _Submission | _Query | _Look


class BucketClient:
    """Fits the `Buckets` ports of the coordinator, the locks and the resource manager. One per process.

    Have the transport call `on_reply` for frames on `Channel.REPLY` and `on_peer` for peers that come and go.
    """

    def __init__(
        self,
        peers: Peers,
        replicas: Mapping[int, Sequence[int]],
        *,
        clock: Clock,
        dice: Dice,
        settings: BucketClientSettings | None = None,
    ) -> None:
        self._peers = peers
        self._clock = clock
        self._seldom = Seldom(_log, clock.monotonic)
        self._settings = settings or BucketClientSettings()
        self._leaders = Leaders(peers.is_connected)
        for bucket in sorted(replicas):
            self.set_replicas(bucket, replicas[bucket])
        # A reply to this process's previous life must find nobody: numbers never begin alike.
        self._last_number = dice.randrange(1 << 62)
        self._live: dict[int, _Asked] = {}
        self._heard: dict[int, float] = {}
        self._looked: dict[int, float] = {}
        self._parked: list[_Submission] = []
        self._outgoing: dict[int, list[_Outgoing]] = {}
        self._beginning = 0
        self._timer: asyncio.TimerHandle | None = None

    # -- who holds what ---------------------------------------------------------------------------

    def set_replicas(self, bucket: int, nodes: Sequence[int]) -> None:
        """The nodes that hold this bucket, from now on."""
        self._leaders.set_replicas(bucket, nodes)

    def replicas(self) -> dict[int, list[int]]:
        """Every bucket of the cluster, and the nodes that hold it."""
        return {bucket: list(self._leaders.replicas(bucket)) for bucket in self.all()}

    def all(self) -> list[int]:
        """Every bucket of the cluster, ascending."""
        return self._leaders.buckets()

    def leader(self, bucket: int) -> int:
        """The node that probably leads this bucket."""
        return self._leaders.guess(bucket)

    # -- submitting -------------------------------------------------------------------------------

    def submit(
        self, bucket: int, batch: Batch, on_answer: OnAnswer, *, passed_on: bool = False
    ) -> None:
        """Send once to the bucket's leader, following hints while nothing can have happened.

        `passed_on`: it came from a node that doesn't reach the leader, and is passed on to no third one.

        Calls back once for each position, in any order, on a later turn of the loop. `Rejected.why` UNKNOWN: it
        was sent and lost sight of; anything else: it has done nothing and never will.
        """
        if not batch.instructions:
            return
        if bucket not in self._leaders:
            self._refuse_unknown(bucket, batch, on_answer)
            return
        deadline = self._clock.monotonic() + self._settings.timeout
        beginning = sum(map(begins, batch.instructions))
        if self._beginning + beginning > self._settings.beginning_max and beginning:
            self._submit_without_beginning(
                _Submission(bucket, batch, on_answer, deadline, passed_on=passed_on)
            )
        else:
            self._start(
                _Submission(bucket, batch, on_answer, deadline, passed_on=passed_on), beginning
            )

    def _start(self, submission: _Submission, beginning: int) -> None:
        submission.beginning = beginning
        self._beginning += beginning
        self._dispatch(submission)
        self._ensure_timer()

    def _submit_without_beginning(self, submission: _Submission) -> None:
        """Overload turns away what begins something, and nothing else (rule 16)."""
        batch, on_answer = submission.batch, submission.on_answer
        away = [i for i, each in enumerate(batch.instructions) if begins(each)]
        kept = [i for i, each in enumerate(batch.instructions) if not begins(each)]
        detail = f"{self._beginning} instructions are under way from this node"
        turned_away = Rejected(0, RejectReason.OVERLOADED, detail=detail)
        for position in away:
            asyncio.get_running_loop().call_soon(on_answer, position, turned_away)
        if kept:
            self._start(_part(submission, kept), 0)

    def _refuse_unknown(self, bucket: int, batch: Batch, on_answer: OnAnswer) -> None:
        """Somebody has named a bucket that isn't there: whoever waits for it waits on, and this process lives on."""
        self._seldom.warning(
            "unknown bucket",
            "%s for bucket %d, which this node doesn't know: nothing was sent. A coordinator has named a bucket that the "
            "cluster doesn't have",
            type(batch.instructions[0]).__name__,
            bucket,
        )
        turned_away = Rejected(
            0, RejectReason.UNAVAILABLE, detail=f"bucket {bucket} is not known here"
        )
        for position in range(len(batch.instructions)):
            asyncio.get_running_loop().call_soon(on_answer, position, turned_away)

    def _dispatch(self, submission: _Submission) -> None:
        """Towards the leader as far as it is known; or wait, where there is nobody to send to."""
        node = self._leaders.next_hop(submission.bucket)
        if node == NOWHERE or submission.hops > len(self._leaders.replicas(submission.bucket)):
            submission.resume = self._clock.monotonic() + self._settings.pause
            self._parked.append(submission)
            return
        number = self._next_number()
        submission.number = number
        submission.peer = node
        submission.hops += 1
        submission.sent = self._clock.monotonic()
        self._live[number] = submission
        left = _left_ms(submission.deadline - submission.sent)
        message: Request = Submit(number, submission.bucket, submission.data, left)
        if not submission.passed_on:
            message = self._to_pass_on(submission.bucket, message)
        self._send(node, message, submission)

    def _to_pass_on(self, bucket: int, message: Request) -> Request:
        """Where the leader is out of reach from here, a replica that reaches it is asked to pass it on."""
        leader = self._leaders.away(bucket)
        if leader != NOWHERE and isinstance(message, ForLeader):
            return PassOn(message.request, bucket, leader, message)
        return message

    def _finish(self, submission: _Submission) -> None:
        self._live.pop(submission.number, None)
        self._beginning -= submission.beginning
        submission.beginning = 0

    # -- reading ----------------------------------------------------------------------------------

    async def query(
        self,
        bucket: int,
        request: Request,
        timeout: float,
        *,
        replica: int = 0,
        passed_on: bool = False,
    ) -> Reply:
        """A read at the bucket's leader, or at a named replica; tried again until `timeout` seconds.

        `passed_on`: as of `submit`.

        Raises:
            Unavailable: nobody answered in time; the last reason is named.
            RequestFailed: the read raised where it was answered.
        """
        if bucket not in self._leaders:
            raise Unavailable(f"bucket {bucket} is not known here: check its number")
        deadline = self._clock.monotonic() + timeout
        hops = 0
        why = "no replica is connected"
        while (left := deadline - self._clock.monotonic()) > 0:
            node = replica or self._leaders.next_hop(bucket)
            patience = min(left, self._settings.query_timeout)
            reply = await self._ask(
                bucket, node, request, patience, is_named=bool(replica), passed_on=passed_on
            )
            if not isinstance(reply, Rejected):
                return reply
            if reply.why is RejectReason.FAILED:
                raise RequestFailed(f"bucket {bucket}, node {node}: {reply.detail}")
            why = f"node {node}: {reply.detail or reply.why.name}" if node else why
            hops += 1
            if (
                replica
                or hops > len(self._leaders.replicas(bucket))
                or not self._leaders.mend(bucket, reply, node)
            ):
                await self._clock.sleep(min(self._settings.pause, left))
                hops = 0
        raise Unavailable(f"bucket {bucket} can't be read within {timeout:g} s ({why}): try again")

    async def _ask(
        self,
        bucket: int,
        node: int,
        request: Request,
        timeout: float,
        *,
        is_named: bool,
        passed_on: bool,
    ) -> Reply:
        if not self._peers.is_connected(node):
            return Rejected(0, RejectReason.UNAVAILABLE, detail="not connected")
        number = self._next_number()
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        now = self._clock.monotonic()
        question = _Query(bucket, node, type(request), future, now, is_named=is_named)
        self._live[number] = question
        message = msgspec.structs.replace(request, request=number)
        if isinstance(message, ReadRequest):
            message = msgspec.structs.replace(message, left_ms=_left_ms(timeout))
        if not is_named and not passed_on:
            message = self._to_pass_on(bucket, message)
        self._send(node, message, question)
        self._ensure_timer()
        try:
            async with asyncio.timeout(timeout):
                return await question.future
        except TimeoutError:
            return Rejected(number, RejectReason.UNKNOWN, detail="no answer")
        finally:
            self._live.pop(number, None)

    # -- frames -----------------------------------------------------------------------------------

    def _send(self, node: int, message: Request, sender: _Asked) -> None:
        """With all else of this turn to the same node."""
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing.setdefault(node, []).append((encode(message), message.request, sender))

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, {}
        for node, items in outgoing.items():
            for batch in batches(items, _data_of):
                self._send_frame(node, batch)

    def _send_frame(self, node: int, items: Sequence["_Outgoing"]) -> None:
        if self._peers.send(node, Channel.REQUEST, frame_of([data for data, _, _ in items])):
            return
        for data, number, sender in items:
            if isinstance(sender, _Look):
                self._live.pop(number, None)
            elif len(data) > MESSAGE_BYTES_MAX:
                self._on_too_large(sender, number, len(data))
            elif isinstance(sender, _Query):
                sender.settle(Rejected(number, RejectReason.UNAVAILABLE, detail="not connected"))
            elif self._live.pop(number, None) is not None:
                self._on_unsent(sender, node)

    def _on_too_large(self, sender: _Submission | _Query, number: int, size: int) -> None:
        """No replica would get it, ever."""
        detail = f"a message of {size} bytes can't be sent: at most {MESSAGE_BYTES_MAX} can"
        if isinstance(sender, _Query):
            sender.settle(Rejected(number, RejectReason.FAILED, detail=detail))
        elif self._live.get(number) is sender:
            self._finish(sender)
            turned_away = Rejected(number, RejectReason.INVALID, detail=detail)
            sender.answer(range(len(sender.answered)), turned_away)

    def _on_unsent(self, submission: _Submission, node: int) -> None:
        submission.peer = NOWHERE
        self._leaders.move(submission.bucket, node)
        self._dispatch(submission)

    def on_reply(self, peer: int, payload: bytes) -> None:
        """Take a frame of replies.

        Raises:
            NetworkError: it can't be read, or answers what wasn't asked; what it answered will be unknown.
        """
        live = self._live
        self._heard[peer] = self._clock.monotonic()
        self._leaders.heard(peer)
        for reply in decode_replies(payload):
            asked = live.get(reply.request)
            if asked is None or asked.peer != peer:
                continue  # given up meanwhile, or asked in this process's previous life
            if not can_answer(asked.kind, reply):
                raise NetworkError(
                    f"node {peer} answers a {asked.kind.__name__} with {type(reply).__name__}"
                )
            if type(asked) is _Query:
                asked.settle(reply)
            elif type(asked) is _Look:
                del live[reply.request]
                if type(reply) is ReplicaView:
                    self._on_view(asked, reply)
            elif type(asked) is _Submission:
                if type(reply) is Answers:
                    self._on_answers(asked, reply.answers)
                elif type(reply) is Rejected:
                    self._on_turned_away(asked, reply)

    def _on_answers(self, submission: _Submission, answers: tuple[tuple[int, Answer], ...]) -> None:
        answered, on_answer = submission.answered, submission.on_answer
        for position, answer in answers:
            if not 0 <= position < len(answered):
                raise submission.misanswered(position)
            if not answered[position]:
                answered[position] = 1
                submission.left -= 1
                on_answer(position, answer)
        if not submission.left:
            self._finish(submission)

    def _on_turned_away(self, submission: _Submission, reply: Rejected) -> None:
        positions = submission.unanswered()
        for position in reply.positions:
            if not 0 <= position < len(submission.answered):
                raise submission.misanswered(position)
        if reply.positions:
            positions = [each for each in reply.positions if not submission.answered[each]]
        if reply.why in (RejectReason.NOT_LEADING, RejectReason.INVALID):
            submission.trouble = f"node {submission.peer}: {reply.detail or reply.why.name}"
            self._leaders.mend(submission.bucket, reply, submission.peer)
            self._send_elsewhere(submission, positions)
        else:
            submission.answer(positions, reply)
        if not submission.left:
            self._finish(submission)

    def _send_elsewhere(self, submission: _Submission, positions: Sequence[int]) -> None:
        """This copy has done nothing with these positions, and they are nowhere else."""
        if len(positions) == len(submission.answered):
            del self._live[submission.number]
            submission.peer = NOWHERE
            self._dispatch(submission)
            return
        part = _part(submission, positions)
        part.hops = submission.hops
        part.trouble = submission.trouble
        part.beginning = sum(map(begins, part.batch.instructions))
        submission.beginning -= part.beginning
        for position in positions:
            submission.answered[position] = 1
        submission.left -= len(positions)
        self._dispatch(part)

    # -- who leads --------------------------------------------------------------------------------

    def _look_for_leaders(self, now: float) -> None:
        """Ask the replicas of a bucket who leads it, while the one that was sent to is silent."""
        silent: dict[int, int] = {}
        for number, asked in list(self._live.items()):
            if now - asked.sent < _SILENCE_SECONDS:
                continue
            if isinstance(asked, _Look):
                del self._live[number]
            elif asked.bucket and not (isinstance(asked, _Query) and asked.is_named):
                silent[asked.bucket] = asked.peer
        for bucket, peer in silent.items():
            if now - self._looked.get(bucket, 0.0) >= _LOOK_SECONDS:
                self._looked[bucket] = now
                self._look(bucket, peer, now)

    def _look(self, bucket: int, silent: int, now: float) -> None:
        for node in self._leaders.replicas(bucket):
            if self._peers.is_connected(node):
                number = self._next_number()
                look = self._live[number] = _Look(bucket, node, silent, now)
                self._send(node, ReadReplica(number, bucket), look)

    def _on_view(self, look: _Look, view: ReplicaView) -> None:
        """Who waits for a deposed leader learns of the new one (rule 39, unknown results); a silent one is passed by."""
        now = self._clock.monotonic()
        silent, bucket = look.silent, look.bucket
        if self._leaders.learn(bucket, view, silent):
            self._leave(bucket, silent, f"node {view.leader} leads now, node {silent} did")
        elif view.leader == silent and now - self._heard.get(silent, 0.0) > _LOST_SECONDS:
            oldest = min((each.sent for each in self._at(bucket, silent)), default=now)
            if now - oldest > _LOST_SECONDS:
                self._leaders.lose(silent)
                self._leave(bucket, silent, f"node {silent} leads it and isn't heard here")

    def _at(self, bucket: int, node: int) -> list["_Submission | _Query"]:
        return [
            each
            for each in self._live.values()
            if not isinstance(each, _Look) and each.bucket == bucket and each.peer == node
        ]

    def _leave(self, bucket: int, node: int, detail: str) -> None:
        """What is under way at this node is unknown; whoever asked asks again, elsewhere."""
        for asked in self._at(bucket, node):
            if isinstance(asked, _Query):
                asked.settle(Rejected(0, RejectReason.UNKNOWN, detail=detail))
            else:
                self._give_up(asked, detail)

    # -- what goes wrong --------------------------------------------------------------------------

    def on_peer(self, peer: int, up: bool) -> None:  # noqa: FBT001 - the transport calls it so
        """A peer came or went. What was under way at one that went is unknown (rule 39)."""
        self._leaders.heard(peer)
        if up:
            return
        for asked in [each for each in self._live.values() if each.peer == peer]:
            if isinstance(asked, _Look):
                continue  # forgotten in a moment
            if isinstance(asked, _Query):
                asked.settle(Rejected(0, RejectReason.UNKNOWN, detail="the connection broke"))
            else:
                self._give_up(asked, f"the connection with node {peer} broke")

    def _give_up(self, submission: _Submission, detail: str) -> None:
        why = RejectReason.UNAVAILABLE if submission.peer == NOWHERE else RejectReason.UNKNOWN
        turned_away = Rejected(
            submission.number, why, detail=f"bucket {submission.bucket}: {detail}"
        )
        # Forgotten first: a callback may submit again, or the transport come back to it.
        self._finish(submission)
        submission.answer(range(len(submission.answered)), turned_away)

    def _ensure_timer(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SCAN_SECONDS, self._scan)

    def _scan(self) -> None:
        """One look at all deadlines, instead of a timer for each."""
        self._timer = None
        now = self._clock.monotonic()
        for asked in [each for each in self._live.values() if type(each) is _Submission]:
            if asked.deadline <= now:
                self._leaders.move(asked.bucket, asked.peer)
                self._give_up(asked, f"no answer from node {asked.peer} in time")
        self._look_for_leaders(now)
        parked, self._parked = self._parked, []
        for submission in parked:
            self._unpark(submission, now)
        if self._live or self._parked:
            self._ensure_timer()

    def _unpark(self, submission: _Submission, now: float) -> None:
        if submission.deadline <= now:
            self._give_up(submission, f"no leader was found in time ({submission.trouble})")
        elif submission.resume <= now:
            submission.hops = 0
            self._dispatch(submission)
        else:
            self._parked.append(submission)

    def close(self) -> None:
        """Give up what is under way; call back a last time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        parked, self._parked = self._parked, []
        for asked in [*self._live.values(), *parked]:
            if isinstance(asked, _Submission):
                self._give_up(asked, "this node is stopping")

    def _next_number(self) -> int:
        self._last_number += 1
        return self._last_number


_Outgoing = tuple[bytes, int, _Asked]
"""A message's bytes, its number, and what it is of."""


def _data_of(item: _Outgoing) -> bytes:
    return item[0]


def _left_ms(seconds: float) -> int:
    """As it travels, so that what nobody waits for any more isn't begun (rule 16); 0 would mean that nobody knows."""
    return max(1, round(1000 * seconds))


def _part(whole: _Submission, positions: Sequence[int]) -> _Submission:
    """Some positions of a submission, as one of their own."""
    batch, on_answer = whole.batch, whole.on_answer
    instructions = tuple([batch.instructions[position] for position in positions])
    return _Submission(
        whole.bucket,
        Batch(batch.incarnation, batch.low_water, instructions),
        lambda i, answer: on_answer(positions[i], answer),
        whole.deadline,
        passed_on=whole.passed_on,
    )
