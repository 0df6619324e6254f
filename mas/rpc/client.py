"""The way to whichever node leads a bucket.

    submit ──► Submissions ─┐                          ┌─► Leaders: who leads, a guess
    query  ──► Query        ├─► calls, by number ──────┤
               LeaderSearch ┘   Outgoing, a frame a peer

Who leads is a guess, mended by what the replicas say. All messages of one turn of the loop to one peer are one frame, and
answers come back position by position (rule 37, batches).
"""

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from mas.channels import Channel
from mas.errors import RequestFailed, Unavailable
from mas.ledger.instructions import Batch, RejectReason
from mas.rpc.bucket_call import BucketCall, BucketCalls
from mas.rpc.calls import Calls
from mas.rpc.leader_search import LeaderSearch
from mas.rpc.leaders import Leaders
from mas.rpc.messages import (
    MESSAGE_BYTES_MAX,
    ReadRequest,
    Rejected,
    Reply,
    Request,
    decode_replies,
    encode,
    to_left_ms,
)
from mas.rpc.outgoing import Message, Outgoing
from mas.rpc.ports import OnAnswer, Peers
from mas.rpc.settings import BucketClientSettings
from mas.rpc.submissions import Submissions
from mas.runtime import Clock, Dice, Promise

_SCAN_SECONDS = 0.05


class Query(BucketCall):
    """A request of one replica, which whoever asked waits for."""

    __slots__ = ("kind", "reply", "seeks_leader")

    def __init__(
        self, bucket: int, node: int, kind: type[Request], sent: float, *, seeks_leader: bool
    ) -> None:
        super().__init__(bucket, node, sent)
        self.kind = kind
        self.seeks_leader = seeks_leader
        self.reply: Promise[Reply] = Promise()

    def on_reply(self, reply: Reply) -> None:
        """See `Call`."""
        self.reply.set(reply)

    def on_lost(self, detail: str) -> None:
        """See `Call`."""
        self.reply.set(Rejected(self.number, RejectReason.UNKNOWN, detail=detail))

    def on_unsent(self) -> None:
        """See `BucketCall`."""
        self.reply.set(Rejected(self.number, RejectReason.UNAVAILABLE, detail="not connected"))

    def on_too_large(self, size: int) -> None:
        """See `BucketCall`."""
        detail = f"a message of {size} bytes can't be sent: at most {MESSAGE_BYTES_MAX} can"
        self.reply.set(Rejected(self.number, RejectReason.FAILED, detail=detail))


class BucketClient:
    """Fits `ports.Buckets`. One per process.

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
        self._clock = clock
        self._settings = settings or BucketClientSettings()
        self._leaders = Leaders(peers.is_connected)
        for bucket in sorted(replicas):
            self.set_replicas(bucket, replicas[bucket])
        self._calls: BucketCalls = Calls(dice)
        self._outgoing = Outgoing(peers, Channel.REQUEST, self._on_unsent)
        self._submissions = Submissions(
            self._calls, self._leaders, self._outgoing, clock, self._settings
        )
        self._search = LeaderSearch(self._calls, self._leaders, self._outgoing, clock)
        self._timer: asyncio.TimerHandle | None = None

    # -- who holds what ---------------------------------------------------------------------------

    def set_replicas(self, bucket: int, nodes: Sequence[int]) -> None:
        """Take these nodes for those that hold the bucket, from now on."""
        self._leaders.set_replicas(bucket, nodes)

    def replicas(self) -> dict[int, list[int]]:
        """See `ports.Buckets`."""
        return {bucket: list(self._leaders.replicas(bucket)) for bucket in self.all()}

    def all(self) -> list[int]:
        """See `ports.Buckets`."""
        return self._leaders.buckets()

    def leader(self, bucket: int) -> int:
        """See `ports.Buckets`."""
        return self._leaders.guess(bucket)

    # -- asking -----------------------------------------------------------------------------------

    def submit(
        self, bucket: int, batch: Batch, on_answer: OnAnswer, *, passed_on: bool = False
    ) -> None:
        """See `ports.Buckets`."""
        self._submissions.submit(bucket, batch, on_answer, passed_on=passed_on)
        self._ensure_timer()

    async def query(
        self,
        bucket: int,
        request: Request,
        timeout: float,
        *,
        replica: int = 0,
        passed_on: bool = False,
    ) -> Reply:
        """See `ports.Buckets`."""
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
        """Ask one replica once. No answer is a `Rejected` too."""
        if not self._leaders.is_connected(node):
            return Rejected(0, RejectReason.UNAVAILABLE, detail="not connected")
        query = Query(
            bucket, node, type(request), self._clock.monotonic(), seeks_leader=not is_named
        )
        number = self._calls.add(query)
        message = msgspec.structs.replace(request, request=number)
        if isinstance(message, ReadRequest):
            message = msgspec.structs.replace(message, left_ms=to_left_ms(timeout))
        if not is_named and not passed_on:
            message = self._leaders.to_leader(bucket, message)
        self._outgoing.add(node, number, encode(message))
        self._ensure_timer()
        try:
            return await query.reply.wait(timeout)
        except TimeoutError:
            return Rejected(number, RejectReason.UNKNOWN, detail="no answer")
        finally:
            self._calls.remove(query)

    # -- what comes -------------------------------------------------------------------------------

    def on_reply(self, peer: int, payload: bytes) -> None:
        """Take a frame of replies.

        Raises:
            NetworkError: it can't be read, or answers what wasn't asked; what it answered will be unknown.
        """
        self._search.heard(peer)
        for reply in decode_replies(payload):
            self._calls.on_reply(peer, reply.request, reply)

    def on_peer(self, peer: int, up: bool) -> None:  # noqa: FBT001 - the transport calls it so
        """Note that a peer came or went. What was under way at one that went is unknown (rule 39, unknown results)."""
        self._leaders.heard(peer)
        if not up:
            self._calls.lose(peer)

    def _on_unsent(self, _: int, messages: Sequence[Message]) -> None:
        for number, data in messages:
            call: BucketCall | None = self._calls.get(number)
            if call is None:
                continue  # it ended in the same turn
            if len(data) > MESSAGE_BYTES_MAX:
                call.on_too_large(len(data))
            else:
                call.on_unsent()

    # -- time -------------------------------------------------------------------------------------

    def _ensure_timer(self) -> None:
        if self._timer is None and (self._calls or self._submissions.is_waiting):
            self._timer = asyncio.get_running_loop().call_later(_SCAN_SECONDS, self._scan)

    def _scan(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        self._submissions.give_up_late(now)
        self._search.scan(now)
        self._submissions.resume(now)
        self._ensure_timer()

    def close(self) -> None:
        """Give up what is under way, and call back a last time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._submissions.close()
