"""Passing on to a bucket's leader what comes from nodes that don't reach it, and its answers back.

A network may let a coordinator reach the followers and not the leader. The leader is looked for from here, as for this node's
own questions; but what is passed on once isn't passed on again, or two followers that don't reach it would send it back and forth.
"""

from collections.abc import Callable

import msgspec

from mas.errors import InvalidRequest, RequestFailed, Unavailable
from mas.ledger import Answer, decode_batch
from mas.ledger.instructions import RejectReason
from mas.rpc.messages import Answers, ForLeader, Rejected, Reply, Submit
from mas.rpc.ports import Buckets
from mas.runtime import Supervisor

_PASSED_ON_MAX = 1_000
"""Requests under way for others."""
_QUERY_SECONDS = 1.0
"""No longer than whoever asked waits for this node."""


class Relay:
    """Asks the leader of one bucket in others' place."""

    def __init__(self, bucket: int, buckets: Buckets, reply: Callable[[int, Reply], None]) -> None:
        self._bucket = bucket
        self._buckets = buckets
        self._reply = reply
        self._under_way = 0

    def pass_on(self, peer: int, request: ForLeader, supervisor: Supervisor) -> None:
        """Have the leader answer it, and tell this peer."""
        if self._under_way >= _PASSED_ON_MAX:
            detail = f"{self._under_way} requests are passed on by this node already"
            self._reply(peer, Rejected(request.request, RejectReason.OVERLOADED, detail=detail))
        elif isinstance(request, Submit):
            self._submit(peer, request)
        else:
            supervisor.spawn(f"relay-{self._bucket}", self._ask(peer, request))

    def _submit(self, peer: int, request: Submit) -> None:
        try:
            batch = decode_batch(request.batch)
        except InvalidRequest as error:
            self._reply(peer, Rejected(request.request, RejectReason.INVALID, detail=str(error)))
            return
        left = len(batch.instructions)

        def on_answer(position: int, answer: Answer | Rejected) -> None:
            nonlocal left
            left -= 1
            if not left:
                self._under_way -= 1
            if isinstance(answer, Answer):
                self._reply(peer, Answers(request.request, ((position, answer),)))
            else:
                turned = msgspec.structs.replace(
                    answer, request=request.request, positions=(position,)
                )
                self._reply(peer, turned)

        if left:
            self._under_way += 1
            self._buckets.submit(self._bucket, batch, on_answer, passed_on=True)

    async def _ask(self, peer: int, request: ForLeader) -> None:
        self._under_way += 1
        reply: Reply
        try:
            reply = await self._buckets.query(self._bucket, request, _QUERY_SECONDS, passed_on=True)
        except Unavailable as error:
            reply = Rejected(request.request, RejectReason.UNAVAILABLE, detail=str(error))
        except RequestFailed as error:
            reply = Rejected(request.request, RejectReason.FAILED, detail=str(error))
        finally:
            self._under_way -= 1
        self._reply(peer, msgspec.structs.replace(reply, request=request.request))
