"""The way to whichever node leads a bucket.

What is sent has one live copy, never two (rule 6): it goes to one replica, and to another only once the first has said
that it has done nothing, or when it never went out. Who leads is a guess, mended by what the replicas say. All
messages of one turn of the loop to one peer are one frame, and answers come back position by position (rule 37).
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from mas import limits
from mas.errors import RequestFailed, Unavailable
from mas.ledger.instructions import Answer, Chunk, begins
from mas.ledger.instructions import encode as encode_chunk
from mas.network.channels import Channel
from mas.runtime import Clock, Dice
from mas.transaction.messages import (
    MESSAGE_BYTES_MAX,
    Answers,
    Reply,
    Request,
    Submit,
    TurnedAway,
    Why,
    batches,
    decode_replies,
    encode,
    frame_of,
)

OnAnswer = Callable[[int, Answer | TurnedAway], None]

_SCAN_SECONDS = 0.05
_NOWHERE = 0
"""No node has this id."""


class Peers(Protocol):
    """Frames to other nodes, and to oneself; `mas.network.transport.PeerTransport`."""

    def send(self, peer: int, channel: int, payload: bytes) -> bool: ...

    def is_connected(self, peer: int) -> bool: ...


class RouterSettings(msgspec.Struct, frozen=True):
    """How long a router tries, and how much it carries."""

    timeout: float = 5.0
    """Seconds until what was submitted is unknown, or turned away if no replica has taken it."""
    query_timeout: float = limits.QUESTION_SECONDS_MAX
    """Seconds that one replica has to answer a read, before another is asked."""
    pause: float = 0.05
    """Seconds before the replicas are tried again, when none of them leads."""
    beginning_max: int = limits.MAILBOX_ITEMS_MAX
    """Instructions under way that begin something; what ends something always has room (rule 16)."""


class _Submission:
    """A chunk under way; `peer` holds its live copy, or is `_NOWHERE`."""

    __slots__ = (
        "answered",
        "beginning",
        "bucket",
        "chunk",
        "data",
        "deadline",
        "hops",
        "left",
        "number",
        "on_answer",
        "peer",
        "resume",
        "trouble",
    )

    def __init__(self, bucket: int, chunk: Chunk, on_answer: OnAnswer, deadline: float) -> None:
        self.bucket = bucket
        self.chunk = chunk
        self.data = msgspec.Raw(encode_chunk(chunk))
        self.on_answer = on_answer
        self.deadline = deadline
        self.left = len(chunk.instructions)
        self.answered = bytearray(self.left)
        self.beginning = 0
        self.number = 0
        self.peer = _NOWHERE
        self.hops = 0
        self.resume = 0.0
        self.trouble = "no replica is connected"

    def unanswered(self) -> list[int]:
        return [position for position, flag in enumerate(self.answered) if not flag]

    def answer(self, positions: Iterable[int], answer: TurnedAway) -> None:
        for position in positions:
            if not self.answered[position]:
                self.answered[position] = 1
                self.left -= 1
                self.on_answer(position, answer)


class _Question:
    """A read under way at one replica."""

    __slots__ = ("future", "peer")

    def __init__(self, peer: int, future: asyncio.Future[Reply]) -> None:
        self.peer = peer
        self.future = future

    def settle(self, reply: Reply) -> None:
        if not self.future.done():
            self.future.set_result(reply)


class BucketRouter:
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
        settings: RouterSettings | None = None,
    ) -> None:
        self._peers = peers
        self._clock = clock
        self._settings = settings or RouterSettings()
        self._replicas: dict[int, tuple[int, ...]] = {}
        self._guess: dict[int, int] = {}
        for bucket in sorted(replicas):
            self.set_replicas(bucket, replicas[bucket])
        # A reply to this process's previous life must find nobody: numbers never begin alike.
        self._last_number = dice.randrange(1 << 62)
        self._live: dict[int, _Submission | _Question] = {}
        self._parked: list[_Submission] = []
        self._outgoing: dict[int, list[_Outgoing]] = {}
        self._beginning = 0
        self._timer: asyncio.TimerHandle | None = None

    # -- who holds what ---------------------------------------------------------------------------

    def set_replicas(self, bucket: int, nodes: Sequence[int]) -> None:
        """The nodes that hold this bucket, from now on."""
        assert nodes
        self._replicas[bucket] = tuple(nodes)
        if self._guess.get(bucket) not in nodes:
            self._guess[bucket] = nodes[0]

    def replicas(self) -> dict[int, list[int]]:
        """Every bucket of the cluster, and the nodes that hold it."""
        return {bucket: list(self._replicas[bucket]) for bucket in self.all()}

    def all(self) -> list[int]:
        """Every bucket of the cluster, ascending."""
        return sorted(self._replicas)

    def leader(self, bucket: int) -> int:
        """The node that probably leads this bucket."""
        return self._guess[bucket]

    # -- submitting -------------------------------------------------------------------------------

    def submit(self, bucket: int, chunk: Chunk, on_answer: OnAnswer) -> None:
        """Send once to the bucket's leader, following hints while nothing can have happened.

        Calls back once for each position, in any order, on a later turn of the loop. `TurnedAway.why` UNKNOWN: it
        was sent and lost sight of; anything else: it has done nothing and never will.
        """
        assert bucket in self._replicas, f"unknown bucket {bucket}"
        if not chunk.instructions:
            return
        deadline = self._clock.monotonic() + self._settings.timeout
        beginning = sum(map(begins, chunk.instructions))
        if self._beginning + beginning > self._settings.beginning_max and beginning:
            self._submit_without_beginning(bucket, chunk, on_answer, deadline)
        else:
            self._start(_Submission(bucket, chunk, on_answer, deadline), beginning)

    def _start(self, submission: _Submission, beginning: int) -> None:
        submission.beginning = beginning
        self._beginning += beginning
        self._dispatch(submission)
        self._ensure_timer()

    def _submit_without_beginning(
        self, bucket: int, chunk: Chunk, on_answer: OnAnswer, deadline: float
    ) -> None:
        """Overload turns away what begins something, and nothing else (rule 16)."""
        away = [i for i, each in enumerate(chunk.instructions) if begins(each)]
        kept = [i for i, each in enumerate(chunk.instructions) if not begins(each)]
        detail = f"{self._beginning} instructions are under way from this node"
        turned_away = TurnedAway(0, Why.OVERLOADED, detail=detail)
        for position in away:
            asyncio.get_running_loop().call_soon(on_answer, position, turned_away)
        if kept:
            self._start(_part(bucket, chunk, kept, on_answer, deadline), 0)

    def _dispatch(self, submission: _Submission) -> None:
        """Towards the leader as far as it is known; or wait, where there is nobody to send to."""
        node = self._connected_guess(submission.bucket)
        if node == _NOWHERE or submission.hops > len(self._replicas[submission.bucket]):
            submission.resume = self._clock.monotonic() + self._settings.pause
            self._parked.append(submission)
            return
        number = self._next_number()
        submission.number = number
        submission.peer = node
        submission.hops += 1
        self._live[number] = submission
        self._send(node, Submit(number, submission.bucket, submission.data), submission)

    def _finish(self, submission: _Submission) -> None:
        self._live.pop(submission.number, None)
        self._beginning -= submission.beginning
        submission.beginning = 0

    # -- reading ----------------------------------------------------------------------------------

    async def query(
        self, bucket: int, request: Request, timeout: float, *, replica: int = 0
    ) -> Reply:
        """A read at the bucket's leader, or at a named replica; tried again until `timeout` seconds.

        Raises:
            Unavailable: nobody answered in time; the last reason is named.
            RequestFailed: the read raised where it was answered.
        """
        assert bucket in self._replicas, f"unknown bucket {bucket}"
        deadline = self._clock.monotonic() + timeout
        hops = 0
        why = "no replica is connected"
        while (left := deadline - self._clock.monotonic()) > 0:
            node = replica or self._connected_guess(bucket)
            reply = await self._ask(node, request, min(left, self._settings.query_timeout))
            if not isinstance(reply, TurnedAway):
                return reply
            if reply.why is Why.FAILED:
                raise RequestFailed(f"bucket {bucket}, node {node}: {reply.detail}")
            why = f"node {node}: {reply.detail or reply.why.name}" if node else why
            hops += 1
            if (
                replica
                or hops > len(self._replicas[bucket])
                or not self._mend_guess(bucket, reply, node)
            ):
                await self._clock.sleep(min(self._settings.pause, left))
                hops = 0
        raise Unavailable(f"bucket {bucket} can't be read within {timeout:g} s ({why}): try again")

    async def _ask(self, node: int, request: Request, timeout: float) -> Reply:
        if not self._peers.is_connected(node):
            return TurnedAway(0, Why.UNAVAILABLE, detail="not connected")
        number = self._next_number()
        question = _Question(node, asyncio.get_running_loop().create_future())
        self._live[number] = question
        message = msgspec.structs.replace(request, request=number)
        self._send(node, message, question)
        try:
            async with asyncio.timeout(timeout):
                return await question.future
        except TimeoutError:
            return TurnedAway(number, Why.UNKNOWN, detail="no answer")
        finally:
            self._live.pop(number, None)

    # -- frames -----------------------------------------------------------------------------------

    def _send(self, node: int, message: Request, sender: _Submission | _Question) -> None:
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
            if len(data) > MESSAGE_BYTES_MAX:
                self._on_too_large(sender, number, len(data))
            elif isinstance(sender, _Question):
                sender.settle(TurnedAway(number, Why.UNAVAILABLE, detail="not connected"))
            elif self._live.pop(number, None) is not None:
                self._on_unsent(sender, node)

    def _on_too_large(self, sender: _Submission | _Question, number: int, size: int) -> None:
        """No replica would get it, ever."""
        detail = f"a message of {size} bytes can't be sent: at most {MESSAGE_BYTES_MAX} can"
        if isinstance(sender, _Question):
            sender.settle(TurnedAway(number, Why.FAILED, detail=detail))
        elif self._live.get(number) is sender:
            self._finish(sender)
            turned_away = TurnedAway(number, Why.INVALID, detail=detail)
            sender.answer(range(len(sender.answered)), turned_away)

    def _on_unsent(self, submission: _Submission, node: int) -> None:
        submission.peer = _NOWHERE
        self._move_guess(submission.bucket, node)
        self._dispatch(submission)

    def on_reply(self, peer: int, payload: bytes) -> None:
        """Take a frame of replies.

        Raises:
            NetworkError: it can't be read; what it answered will be unknown.
        """
        live = self._live
        for reply in decode_replies(payload):
            asked = live.get(reply.request)
            if asked is None or asked.peer != peer:
                continue  # given up meanwhile, or asked in this process's previous life
            if type(asked) is _Question:
                asked.settle(reply)
            elif type(asked) is _Submission:
                if type(reply) is Answers:
                    self._on_answers(asked, reply.answers)
                elif type(reply) is TurnedAway:
                    self._on_turned_away(asked, reply)

    def _on_answers(self, submission: _Submission, answers: tuple[tuple[int, Answer], ...]) -> None:
        answered, on_answer = submission.answered, submission.on_answer
        for position, answer in answers:
            if not answered[position]:
                answered[position] = 1
                submission.left -= 1
                on_answer(position, answer)
        if not submission.left:
            self._finish(submission)

    def _on_turned_away(self, submission: _Submission, reply: TurnedAway) -> None:
        positions = submission.unanswered()
        if reply.positions:
            positions = [each for each in reply.positions if not submission.answered[each]]
        if reply.why in (Why.NOT_LEADING, Why.INVALID):
            submission.trouble = f"node {submission.peer}: {reply.detail or reply.why.name}"
            self._mend_guess(submission.bucket, reply, submission.peer)
            self._send_elsewhere(submission, positions)
        else:
            submission.answer(positions, reply)
        if not submission.left:
            self._finish(submission)

    def _send_elsewhere(self, submission: _Submission, positions: Sequence[int]) -> None:
        """This copy has done nothing with these positions, and they are nowhere else."""
        if len(positions) == len(submission.answered):
            del self._live[submission.number]
            submission.peer = _NOWHERE
            self._dispatch(submission)
            return
        part = _part(
            submission.bucket,
            submission.chunk,
            positions,
            submission.on_answer,
            submission.deadline,
        )
        part.hops = submission.hops
        part.trouble = submission.trouble
        part.beginning = sum(map(begins, part.chunk.instructions))
        submission.beginning -= part.beginning
        for position in positions:
            submission.answered[position] = 1
        submission.left -= len(positions)
        self._dispatch(part)

    # -- who leads --------------------------------------------------------------------------------

    def _connected_guess(self, bucket: int) -> int:
        """The guessed leader, or else the next replica that is connected; `_NOWHERE` without one."""
        for node in _ring(self._replicas[bucket], self._guess[bucket]):
            if self._peers.is_connected(node):
                self._guess[bucket] = node
                return node
        return _NOWHERE

    def _mend_guess(self, bucket: int, reply: TurnedAway, node: int) -> bool:
        """Believe a hint, or else look at the next replica; False where a pause is better."""
        if reply.request and reply.why in (Why.OVERLOADED, Why.UNAVAILABLE):
            return False  # the leader's own word, most likely: nobody else knows better
        if (
            reply.why is Why.NOT_LEADING
            and reply.leader != node
            and reply.leader in self._replicas[bucket]
        ):
            self._guess[bucket] = reply.leader
        else:
            self._move_guess(bucket, node)
        return self._peers.is_connected(self._guess[bucket])

    def _move_guess(self, bucket: int, node: int) -> None:
        """It wasn't this one. Somebody may have found that out before."""
        if self._guess[bucket] == node:
            self._guess[bucket] = _ring(self._replicas[bucket], node)[
                1 % len(self._replicas[bucket])
            ]

    # -- what goes wrong --------------------------------------------------------------------------

    def on_peer(self, peer: int, up: bool) -> None:  # noqa: FBT001 - the transport calls it so
        """A peer came or went. What was under way at one that went is unknown (rule 39)."""
        if up:
            return
        for asked in [each for each in self._live.values() if each.peer == peer]:
            if isinstance(asked, _Question):
                asked.settle(TurnedAway(0, Why.UNKNOWN, detail="the connection broke"))
            else:
                self._give_up(asked, f"the connection with node {peer} broke")

    def _give_up(self, submission: _Submission, detail: str) -> None:
        why = Why.UNAVAILABLE if submission.peer == _NOWHERE else Why.UNKNOWN
        turned_away = TurnedAway(
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
                self._move_guess(asked.bucket, asked.peer)
                self._give_up(asked, f"no answer from node {asked.peer} in time")
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


_Outgoing = tuple[bytes, int, _Submission | _Question]
"""A message's bytes, its number, and what it is of."""


def _data_of(item: _Outgoing) -> bytes:
    return item[0]


def _part(
    bucket: int, chunk: Chunk, positions: Sequence[int], on_answer: OnAnswer, deadline: float
) -> _Submission:
    """Some positions of a chunk, as a submission of their own."""
    instructions = tuple([chunk.instructions[position] for position in positions])
    part = Chunk(chunk.incarnation, chunk.low_water, instructions)
    return _Submission(bucket, part, lambda i, answer: on_answer(positions[i], answer), deadline)


def _ring(nodes: tuple[int, ...], first: int) -> tuple[int, ...]:
    """All nodes, beginning with this one."""
    start = nodes.index(first) if first in nodes else 0
    return nodes[start:] + nodes[:start]
