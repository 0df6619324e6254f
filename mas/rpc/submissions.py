"""Batches of instructions under way: each has one live copy, never two (rule 6, decide).

A copy goes to one replica, and to another only once the first has said that it has done nothing, or when the copy never
went out. A copy that may have arrived and has no answer is unknown: nobody sends it again here (rule 39, unknown
results).
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence

import msgspec

from mas.errors import NetworkError
from mas.ledger.instructions import Answer, Batch, RejectReason, begins
from mas.ledger.instructions import encode as encode_batch
from mas.rpc.bucket_call import BucketCall, BucketCalls
from mas.rpc.calls import NOWHERE
from mas.rpc.leaders import Leaders
from mas.rpc.messages import (
    MESSAGE_BYTES_MAX,
    Answers,
    Rejected,
    Reply,
    Request,
    Submit,
    encode,
    to_left_ms,
)
from mas.rpc.outgoing import Outgoing
from mas.rpc.ports import OnAnswer
from mas.rpc.settings import BucketClientSettings
from mas.runtime import Clock
from mas.telemetry import Seldom

_log = logging.getLogger(__name__)


class Submission(BucketCall):
    """A batch under way; `node` holds its live copy, or is `NOWHERE`."""

    __slots__ = (
        "answered",
        "batch",
        "beginning",
        "data",
        "deadline",
        "hops",
        "left",
        "on_answer",
        "owner",
        "passed_on",
        "resume",
        "trouble",
    )
    kind: type[Request] = Submit

    def __init__(
        self,
        owner: "Submissions",
        bucket: int,
        batch: Batch,
        on_answer: OnAnswer,
        deadline: float,
        *,
        passed_on: bool,
    ) -> None:
        super().__init__(bucket)
        self.owner = owner
        self.batch = batch
        self.passed_on = passed_on
        self.data = msgspec.Raw(encode_batch(batch))
        self.on_answer = on_answer
        self.deadline = deadline
        self.left = len(batch.instructions)
        self.answered = bytearray(self.left)
        self.beginning = 0
        """How many of its instructions take room of those that begin something."""
        self.hops = 0
        """How many replicas it was sent to since the last pause."""
        self.resume = 0.0
        """When to try again: monotonic seconds."""
        self.trouble = "no replica is connected"

    def on_reply(self, reply: Reply) -> None:
        """See `Call`."""
        if type(reply) is Answers:
            self.owner.on_answers(self, reply.answers)
        else:
            assert type(reply) is Rejected
            self.owner.on_rejected(self, reply)

    def on_lost(self, detail: str) -> None:
        """See `Call`."""
        self.owner.give_up(self, detail)

    def on_unsent(self) -> None:
        """See `BucketCall`."""
        self.owner.send_to_another(self)

    def on_too_large(self, size: int) -> None:
        """See `BucketCall`."""
        self.owner.refuse_too_large(self, size)

    def misanswered(self, position: int) -> NetworkError:
        """Return the error of a node that answers what wasn't asked."""
        return NetworkError(
            f"node {self.node} answers instruction {position} of {len(self.answered)}"
        )

    def reject(self, positions: Iterable[int], rejected: Rejected) -> None:
        """Call back for those of these positions that have no answer yet."""
        for position in positions:
            if not self.answered[position]:
                self.answered[position] = 1
                self.left -= 1
                self.on_answer(position, rejected)


class Submissions:
    """All batches of this process that are under way."""

    def __init__(
        self,
        calls: BucketCalls,
        leaders: Leaders,
        outgoing: Outgoing,
        clock: Clock,
        settings: BucketClientSettings,
    ) -> None:
        self._calls = calls
        self._leaders = leaders
        self._outgoing = outgoing
        self._clock = clock
        self._settings = settings
        self._seldom = Seldom(_log, clock.monotonic)
        self._parked: list[Submission] = []
        """Those that have nobody to be sent to, for now."""
        self.beginning = 0
        """Instructions under way that begin something."""

    @property
    def is_waiting(self) -> bool:
        """Whether any of them waits for a replica that takes it."""
        return bool(self._parked)

    def submit(self, bucket: int, batch: Batch, on_answer: OnAnswer, *, passed_on: bool) -> None:
        """See `ports.Buckets`."""
        if not batch.instructions:
            return
        if bucket not in self._leaders:
            self._refuse_unknown(bucket, batch, on_answer)
            return
        deadline = self._clock.monotonic() + self._settings.timeout
        submission = Submission(self, bucket, batch, on_answer, deadline, passed_on=passed_on)
        beginning = sum(map(begins, batch.instructions))
        if beginning and self.beginning + beginning > self._settings.beginning_max:
            self._submit_without_beginning(submission)
        else:
            self._start(submission, beginning)

    def _start(self, submission: Submission, beginning: int) -> None:
        submission.beginning = beginning
        self.beginning += beginning
        self._dispatch(submission)

    def _submit_without_beginning(self, submission: Submission) -> None:
        """Overload rejects what begins something, and nothing else (rule 16, admission)."""
        batch, on_answer = submission.batch, submission.on_answer
        refused = [i for i, each in enumerate(batch.instructions) if begins(each)]
        kept = [i for i, each in enumerate(batch.instructions) if not begins(each)]
        detail = f"{self.beginning} instructions are under way from this node"
        rejected = Rejected(0, RejectReason.OVERLOADED, detail=detail)
        for position in refused:
            asyncio.get_running_loop().call_soon(on_answer, position, rejected)
        if kept:
            self._start(self._part_of(submission, kept), 0)

    def _refuse_unknown(self, bucket: int, batch: Batch, on_answer: OnAnswer) -> None:
        """Reject a batch for a bucket that isn't there: its sender asks again, and this process lives on."""
        self._seldom.warning(
            "unknown bucket",
            "%s for bucket %d, which this node doesn't know: nothing was sent. A coordinator has named a bucket that the "
            "cluster doesn't have",
            type(batch.instructions[0]).__name__,
            bucket,
        )
        detail = f"bucket {bucket} is not known here"
        rejected = Rejected(0, RejectReason.UNAVAILABLE, detail=detail)
        for position in range(len(batch.instructions)):
            asyncio.get_running_loop().call_soon(on_answer, position, rejected)

    # -- sending ------------------------------------------------------------------------------------

    def _dispatch(self, submission: Submission) -> None:
        """Send it towards the leader as far as that is known, or park it where there is nobody to send to."""
        node = self._leaders.next_hop(submission.bucket)
        if node == NOWHERE or submission.hops > len(self._leaders.replicas(submission.bucket)):
            submission.resume = self._clock.monotonic() + self._settings.pause
            self._parked.append(submission)
            return
        number = self._calls.add(submission)
        submission.node = node
        submission.hops += 1
        submission.sent = self._clock.monotonic()
        left = to_left_ms(submission.deadline - submission.sent)
        message: Request = Submit(number, submission.bucket, submission.data, left)
        if not submission.passed_on:
            message = self._leaders.to_leader(submission.bucket, message)
        self._outgoing.add(node, number, encode(message))

    def send_to_another(self, submission: Submission) -> None:
        """Go on to the next replica: this copy never went out."""
        self._calls.remove(submission)
        self._leaders.move(submission.bucket, submission.node)
        submission.node = NOWHERE
        self._dispatch(submission)

    def refuse_too_large(self, submission: Submission, size: int) -> None:
        """Reject a batch that fits no frame."""
        self._finish(submission)
        detail = f"a message of {size} bytes can't be sent: at most {MESSAGE_BYTES_MAX} can"
        rejected = Rejected(submission.number, RejectReason.INVALID, detail=detail)
        submission.reject(range(len(submission.answered)), rejected)

    # -- replies ------------------------------------------------------------------------------------

    def on_answers(self, submission: Submission, answers: Iterable[tuple[int, Answer]]) -> None:
        """Pass on the ledger's answers, position by position (rule 37, batches)."""
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

    def on_rejected(self, submission: Submission, reply: Rejected) -> None:
        """Send what the replica has left undone elsewhere, where another one may take it; else pass the rejection on."""
        for position in reply.positions:
            if not 0 <= position < len(submission.answered):
                raise submission.misanswered(position)
        positions = [
            each
            for each in reply.positions or range(len(submission.answered))
            if not submission.answered[each]
        ]
        if reply.why in (RejectReason.NOT_LEADING, RejectReason.INVALID):
            submission.trouble = f"node {submission.node}: {reply.detail or reply.why.name}"
            self._leaders.mend(submission.bucket, reply, submission.node)
            self._send_elsewhere(submission, positions)
        else:
            submission.reject(positions, reply)
        if not submission.left:
            self._finish(submission)

    def _send_elsewhere(self, submission: Submission, positions: Sequence[int]) -> None:
        """Send these positions to another replica: this copy has done nothing with them, and they are nowhere else."""
        if len(positions) == len(submission.answered):
            self._calls.remove(submission)
            submission.node = NOWHERE
            self._dispatch(submission)
            return
        part = self._part_of(submission, positions)
        part.hops = submission.hops
        part.trouble = submission.trouble
        part.beginning = sum(map(begins, part.batch.instructions))
        submission.beginning -= part.beginning
        for position in positions:
            submission.answered[position] = 1
        submission.left -= len(positions)
        self._dispatch(part)

    def _part_of(self, whole: Submission, positions: Sequence[int]) -> Submission:
        """Make a submission of its own of some positions."""
        batch, on_answer = whole.batch, whole.on_answer
        instructions = tuple([batch.instructions[position] for position in positions])
        return Submission(
            self,
            whole.bucket,
            Batch(batch.incarnation, batch.low_water, instructions),
            lambda i, answer: on_answer(positions[i], answer),
            whole.deadline,
            passed_on=whole.passed_on,
        )

    # -- endings ------------------------------------------------------------------------------------

    def give_up(self, submission: Submission, detail: str) -> None:
        """End without an answer: unknown where a copy may have arrived, or else rejected."""
        why = RejectReason.UNAVAILABLE if submission.node == NOWHERE else RejectReason.UNKNOWN
        detail = f"bucket {submission.bucket}: {detail}"
        # Forgotten first: a callback may submit again, or the transport come back to it.
        self._finish(submission)
        submission.reject(
            range(len(submission.answered)), Rejected(submission.number, why, detail=detail)
        )

    def give_up_late(self, now: float) -> None:
        """Give up what is out of time. One look at all deadlines is cheaper than a timer for each."""
        for submission in self._under_way():
            if submission.deadline <= now:
                self._leaders.move(submission.bucket, submission.node)
                self.give_up(submission, f"no answer from node {submission.node} in time")

    def resume(self, now: float) -> None:
        """Try again what had nobody to be sent to."""
        parked, self._parked = self._parked, []
        for submission in parked:
            if submission.deadline <= now:
                self.give_up(submission, f"no leader was found in time ({submission.trouble})")
            elif submission.resume <= now:
                submission.hops = 0
                self._dispatch(submission)
            else:
                self._parked.append(submission)

    def close(self) -> None:
        """Give up everything, and call back a last time."""
        under_way, parked = self._under_way(), self._parked
        self._parked = []
        for submission in under_way + parked:
            self.give_up(submission, "this node is stopping")

    def _under_way(self) -> list[Submission]:
        return [call for call in self._calls if isinstance(call, Submission)]

    def _finish(self, submission: Submission) -> None:
        self._calls.remove(submission)
        self.beginning -= submission.beginning
        submission.beginning = 0
