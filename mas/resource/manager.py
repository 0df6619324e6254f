"""The Resource Manager: one per node, the door to the AccountServices of its buckets.

It takes request frames of coordinators, resolvers and tools apart and gathers the replies of a turn into one frame a
peer. Nothing is decided here.
"""

import asyncio
import logging

from mas.errors import MailboxClosed
from mas.resource.actor import AccountService
from mas.resource.members import ReplicaAdmin
from mas.resource.ports import Peers
from mas.transaction.messages import (
    MESSAGE_BYTES_MAX,
    Answers,
    ChangeMembers,
    ReadReplica,
    Rejected,
    RejectReason,
    Reply,
    Request,
    batches,
    decode_requests,
    encode,
    frame_of,
)

_log = logging.getLogger(__name__)

REPLY_CHANNEL = 3


class ResourceManager:
    """Routes requests to the buckets of this node, and replies to their senders."""

    def __init__(self, peers: Peers, members: ReplicaAdmin) -> None:
        self._peers = peers
        self._members = members
        self._services: dict[int, AccountService] = {}
        self._replies: dict[int, list[bytes]] = {}

    def add(self, service: AccountService) -> None:
        """Serve one more bucket."""
        self._services[service.bucket] = service

    def remove(self, bucket: int) -> None:
        """Serve a bucket no more; what waits for it is unknown to whoever asked (rule 39)."""
        self._services.pop(bucket, None)

    def services(self) -> list[AccountService]:
        """The AccountServices of this node, by bucket."""
        return [self._services[bucket] for bucket in sorted(self._services)]

    def on_frame(self, peer: int, payload: bytes) -> None:
        """Take a frame of requests from a peer.

        Raises:
            NetworkError: it can't be read; its sender hears nothing but that the connection ends, and asks again.
        """
        for request in decode_requests(payload):
            self._deliver(peer, request)

    def _deliver(self, peer: int, request: Request) -> None:
        if isinstance(request, ReadReplica | ChangeMembers):
            self.reply(peer, self._members.answer(request))
            return
        service = self._services.get(request.bucket)
        if service is None:
            detail = f"this node holds no replica of bucket {request.bucket}"
            self.reply(peer, Rejected(request.request, RejectReason.INVALID, detail=detail))
            return
        try:
            taken = service.requests.offer((peer, request))
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
        if not self._replies:
            asyncio.get_running_loop().call_soon(self._send_replies)
        self._replies.setdefault(peer, []).append(data)

    def _send_replies(self) -> None:
        gathered, self._replies = self._replies, {}
        for peer, replies in gathered.items():
            for batch in batches(replies, bytes):
                if not self._peers.send(peer, REPLY_CHANNEL, frame_of(batch)):
                    _log.warning("replies to node %d are lost: not connected, or too slow", peer)
