"""Asks the replicas of a bucket who leads it, while the node that was taken for its leader is silent.

A node that stands still keeps its connections, and a network may swallow frames one way: neither shows by itself. So
what waits for a leader that was deposed meanwhile learns of the new one from the others (rule 39, unknown results).
"""

from collections.abc import Iterator

from mas.rpc.bucket_call import BucketCall, BucketCalls
from mas.rpc.leaders import Leaders
from mas.rpc.messages import ReadReplica, ReplicaView, Reply, Request, encode
from mas.rpc.outgoing import Outgoing
from mas.runtime import Clock

_SILENCE_SECONDS = 0.5
"""After which the other replicas are asked who leads, and for which their answers are waited for."""
_LOOK_SECONDS = 0.25
"""Between two such looks at one bucket."""
_LOST_SECONDS = 1.0
"""After which a leader that others hear, and nothing comes from, is taken for out of reach from here."""


class Look(BucketCall):
    """A replica is asked who leads a bucket, while `silent` doesn't answer."""

    __slots__ = ("owner", "silent")
    kind: type[Request] = ReadReplica
    seeks_leader = False

    def __init__(
        self, owner: "LeaderSearch", bucket: int, node: int, silent: int, sent: float
    ) -> None:
        super().__init__(bucket, node, sent)
        self.owner = owner
        self.silent = silent

    def on_reply(self, reply: Reply) -> None:
        """See `Call`."""
        self.owner.end(self)
        if type(reply) is ReplicaView:
            self.owner.on_view(self, reply)

    def on_lost(self, detail: str) -> None:
        """See `Call`."""
        self.owner.end(self)

    def on_unsent(self) -> None:
        """See `BucketCall`."""
        self.owner.end(self)

    def on_too_large(self, size: int) -> None:
        """See `BucketCall`."""
        raise AssertionError(f"a look at a bucket has {size} bytes")


class LeaderSearch:
    """Watches the calls of one `BucketClient` for nodes that don't answer."""

    def __init__(
        self, calls: BucketCalls, leaders: Leaders, outgoing: Outgoing, clock: Clock
    ) -> None:
        self._calls = calls
        self._leaders = leaders
        self._outgoing = outgoing
        self._clock = clock
        self._heard: dict[int, float] = {}
        """When each node has said something last: monotonic seconds."""
        self._looked: dict[int, float] = {}
        """When each bucket was looked at last, likewise."""

    def heard(self, node: int) -> None:
        """Note that a node has said something."""
        self._heard[node] = self._clock.monotonic()
        self._leaders.heard(node)

    def scan(self, now: float) -> None:
        """Ask about each bucket whose leader has owed an answer for too long; forget looks that nobody answers."""
        silent: dict[int, int] = {}
        for call in self._calls:
            if now - call.sent < _SILENCE_SECONDS:
                continue
            if isinstance(call, Look):
                self.end(call)
            elif call.seeks_leader:
                silent[call.bucket] = call.node
        for bucket, node in silent.items():
            if now - self._looked.get(bucket, 0.0) >= _LOOK_SECONDS:
                self._looked[bucket] = now
                self._look(bucket, node, now)

    def _look(self, bucket: int, silent: int, now: float) -> None:
        for node in self._leaders.replicas(bucket):
            if self._leaders.is_connected(node):
                number = self._calls.add(Look(self, bucket, node, silent, now))
                self._outgoing.add(node, number, encode(ReadReplica(number, bucket)))

    def on_view(self, look: Look, view: ReplicaView) -> None:
        """Turn to the node that leads now; or pass by one that leads, is heard by others and isn't heard here."""
        now = self._clock.monotonic()
        silent, bucket = look.silent, look.bucket
        if self._leaders.learn(bucket, view, silent):
            self._abandon(bucket, silent, f"node {view.leader} leads now, node {silent} did")
        elif view.leader == silent and now - self._heard.get(silent, 0.0) > _LOST_SECONDS:
            oldest = min((call.sent for call in self._waiting_for(bucket, silent)), default=now)
            if now - oldest > _LOST_SECONDS:
                self._leaders.lose(silent)
                self._abandon(bucket, silent, f"node {silent} leads it and isn't heard here")

    def _abandon(self, bucket: int, node: int, detail: str) -> None:
        """Wait for this node no longer: what is under way there is unknown, and its callers ask again, elsewhere."""
        for call in list(self._waiting_for(bucket, node)):
            call.on_lost(detail)

    def _waiting_for(self, bucket: int, node: int) -> Iterator[BucketCall]:
        for call in self._calls:
            if call.bucket == bucket and call.node == node and not isinstance(call, Look):
                yield call

    def end(self, look: Look) -> None:
        """Wait for its reply no longer."""
        self._calls.remove(look)
