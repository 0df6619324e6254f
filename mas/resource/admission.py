"""What a bucket takes in to propose (rule 16, admission).

Whoever doesn't lead takes nothing. Under overload a leader turns away what begins something, never what ends it: that
is what makes room again.
"""

import math

import msgspec

from mas.errors import InvalidRequest
from mas.ledger import begins, decode_batch
from mas.ledger.instructions import RejectReason
from mas.resource.contention import Contention
from mas.resource.proposals import Item, Proposals
from mas.resource.replica import Replica
from mas.resource.reply_to import ReplyTo, SendReply
from mas.resource.resolver import BucketResolver
from mas.resource.settings import ResourceSettings
from mas.rpc.messages import Rejected, Submit
from mas.runtime import Clock


def deadline_after(now: float, left_ms: int) -> float:
    """Return when a sender gives up, counted from here, as clocks needn't agree; never, where it doesn't say."""
    return now + left_ms / 1000 if left_ms else math.inf


class Admission:
    """Decides which of a request's instructions are proposed, before they are."""

    def __init__(
        self,
        replica: Replica,
        proposals: Proposals,
        contention: Contention,
        resolver: BucketResolver,
        reply: SendReply,
        clock: Clock,
        settings: ResourceSettings,
    ) -> None:
        self._replica = replica
        self._proposals = proposals
        self._contention = contention
        self._resolver = resolver
        self._reply = reply
        self._clock = clock
        self._in_flight = settings.in_flight
        self._unflushed = settings.unflushed

    def admit(self, peer: int, request: Submit) -> None:
        """Have the request's instructions proposed by the next `send`, or reject those that begin something, or all."""
        if not self._replica.leading:
            self._reply(peer, self._replica.not_leading(request.request))
            return
        try:
            batch = decode_batch(request.batch)
        except InvalidRequest as error:
            self._reply(peer, Rejected(request.request, RejectReason.INVALID, detail=str(error)))
            return
        if batch.incarnation:
            self._resolver.on_heard(batch.incarnation)
        if self._contention:
            self._contention.end(batch)
        begun = tuple(i for i, each in enumerate(batch.instructions) if begins(each))
        deadline = deadline_after(self._clock.monotonic(), request.left_ms) if begun else math.inf
        whole = Item(batch, request.batch, ReplyTo(peer, request.request), deadline)
        if not begun:
            self._proposals.add(whole)
            return
        refusal = self._overload()
        if refusal is not None:
            why, detail = refusal
            self._reply(peer, Rejected(request.request, why, positions=begun, detail=detail))
        elif len(begun) == len(batch.instructions):
            self._proposals.add(whole, begins=True)
            return
        else:
            self._proposals.add(whole.part(begun), begins=True)
        ended = [i for i, each in enumerate(batch.instructions) if not begins(each)]
        if ended:
            self._proposals.add(msgspec.structs.replace(whole.part(ended), deadline=math.inf))

    def _overload(self) -> tuple[RejectReason, str] | None:
        bucket, flusher = self._replica.bucket, self._replica.flusher
        if flusher.failing_since is not None:
            return (
                RejectReason.UNAVAILABLE,
                f"bucket {bucket}: the account database can't be written",
            )
        if self._proposals.instructions >= self._in_flight:
            return RejectReason.OVERLOADED, f"bucket {bucket} has too much in flight"
        if flusher.behind >= self._unflushed:
            return (
                RejectReason.OVERLOADED,
                f"bucket {bucket}: the account database is too far behind",
            )
        return None
