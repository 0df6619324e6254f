"""Takes request frames of other nodes apart, and gathers the replies of a turn into one frame a peer.

Nothing is decided here: a bucket's service hands in where its requests go, and calls `reply` when it has an answer.
"""

import logging
from collections.abc import Callable, Sequence

from mas.channels import Channel
from mas.errors import MailboxClosed
from mas.ledger.instructions import RejectReason
from mas.rpc.messages import (
    MESSAGE_BYTES_MAX,
    Answers,
    BucketRequest,
    ChangeMembers,
    ReadReplica,
    Rejected,
    Reply,
    Request,
    decode_requests,
    encode,
)
from mas.rpc.outgoing import Message, Outgoing
from mas.rpc.ports import Peers

_log = logging.getLogger(__name__)

Offer = Callable[[tuple[int, BucketRequest]], bool]
"""Takes a request and the node that sent it; False where too many wait. Raises `MailboxClosed`."""
AnswerReplica = Callable[[ReadReplica | ChangeMembers], Reply]
"""Answers at once for a replica of this node, whether it is served or not."""


class BucketServer:
    """Routes requests to the buckets of this node, and replies to their senders. One per node."""

    def __init__(self, peers: Peers, answer_replica: AnswerReplica) -> None:
        self._outgoing = Outgoing(peers, Channel.REPLY, _warn)
        self._answer_replica = answer_replica
        self._offers: dict[int, Offer] = {}

    def add(self, bucket: int, offer: Offer) -> None:
        """Serve one more bucket: its requests are offered here."""
        self._offers[bucket] = offer

    def remove(self, bucket: int) -> None:
        """Serve a bucket no more; what waits for it is unknown to whoever asked (rule 39, unknown results)."""
        self._offers.pop(bucket, None)

    def on_frame(self, peer: int, payload: bytes) -> None:
        """Take a frame of requests from a peer.

        Raises:
            NetworkError: it can't be read; its sender hears nothing but that the connection ends, and asks again.
        """
        for request in decode_requests(payload):
            self._deliver(peer, request)

    def _deliver(self, peer: int, request: Request) -> None:
        if isinstance(request, ReadReplica | ChangeMembers):
            self.reply(peer, self._answer_replica(request))
            return
        offer = self._offers.get(request.bucket)
        if offer is None:
            detail = f"this node holds no replica of bucket {request.bucket}"
            self.reply(peer, Rejected(request.request, RejectReason.INVALID, detail=detail))
            return
        try:
            taken = offer((peer, request))
        except MailboxClosed:
            self.reply(peer, Rejected(request.request, RejectReason.UNAVAILABLE, detail="stopping"))
            return
        if not taken:
            detail = f"bucket {request.bucket} has too many requests waiting"
            self.reply(peer, Rejected(request.request, RejectReason.OVERLOADED, detail=detail))

    def reply(self, peer: int, reply: Reply) -> None:
        """Send a reply with all others of this turn. One that can't be sent is lost: its asker doesn't know, and asks."""
        data = encode(reply)
        if len(data) > MESSAGE_BYTES_MAX:
            detail = (
                f"the answer has {len(data)} bytes, and at most {MESSAGE_BYTES_MAX} can be sent"
            )
            _log.error("to node %d: %s", peer, detail)
            why = RejectReason.UNKNOWN if isinstance(reply, Answers) else RejectReason.FAILED
            data = encode(Rejected(reply.request, why, detail=detail))
        self._outgoing.add(peer, reply.request, data)


def _warn(peer: int, replies: Sequence[Message]) -> None:
    _log.warning("%d replies to node %d are lost: not connected, or too slow", len(replies), peer)
