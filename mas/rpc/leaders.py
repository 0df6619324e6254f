"""Who leads each bucket, as far as this process can tell, and whom it reaches.

A guess, mended by what the replicas say: a hint is believed, otherwise the next replica is tried. A node may be connected
and silent all the same (it stands still, or the network swallows its frames); whoever is counted as silent is reached
again as soon as it says anything.
"""

from collections.abc import Callable, Sequence

from mas.ledger.instructions import RejectReason
from mas.rpc.calls import NOWHERE
from mas.rpc.messages import ForLeader, PassOn, Rejected, ReplicaView, Request


class Leaders:
    """The replicas of every bucket, and which of them probably leads."""

    def __init__(self, is_connected: Callable[[int], bool]) -> None:
        self.is_connected = is_connected
        self._replicas: dict[int, tuple[int, ...]] = {}
        self._guess: dict[int, int] = {}
        self._terms: dict[int, int] = {}
        self._silent: dict[int, None] = {}
        self._away: dict[int, int] = {}

    def set_replicas(self, bucket: int, nodes: Sequence[int]) -> None:
        """Take these nodes for those that hold the bucket, from now on."""
        assert nodes
        self._replicas[bucket] = tuple(nodes)
        if self._guess.get(bucket) not in nodes:
            self._guess[bucket] = nodes[0]

    def replicas(self, bucket: int) -> tuple[int, ...]:
        """Return the nodes that hold this bucket."""
        return self._replicas[bucket]

    def buckets(self) -> list[int]:
        """Return every bucket of the cluster, ascending."""
        return sorted(self._replicas)

    def __contains__(self, bucket: int) -> bool:
        return bucket in self._replicas

    def guess(self, bucket: int) -> int:
        """Return the node that probably leads this bucket."""
        return self._guess[bucket]

    def reaches(self, node: int) -> bool:
        """Tell whether what is sent there is likely to arrive."""
        return self.is_connected(node) and node not in self._silent

    def next_hop(self, bucket: int) -> int:
        """Return the guessed leader, or else the next replica that is reached; `NOWHERE` without one."""
        for node in _ring(self._replicas[bucket], self._guess[bucket]):
            if self.reaches(node):
                self._guess[bucket] = node
                return node
        return NOWHERE

    def away(self, bucket: int) -> int:
        """Return the leader where it is known and out of reach, so that somebody has to pass on; else `NOWHERE`."""
        leader = self._away.get(bucket, NOWHERE)
        return NOWHERE if leader == NOWHERE or self.reaches(leader) else leader

    def to_leader(self, bucket: int, message: Request) -> Request:
        """Wrap what is for the leader, where somebody has to pass it on."""
        leader = self.away(bucket)
        if leader != NOWHERE and isinstance(message, ForLeader):
            return PassOn(message.request, bucket, leader, message)
        return message

    # -- what is heard ------------------------------------------------------------------------------

    def mend(self, bucket: int, reply: Rejected, node: int) -> bool:
        """Believe a hint, or else look at the next replica; False where a pause is better."""
        if reply.request and reply.why in (RejectReason.OVERLOADED, RejectReason.UNAVAILABLE):
            return False  # the leader's own word, most likely: nobody else knows better
        is_hint = reply.why is RejectReason.NOT_LEADING and reply.leader != node
        if not is_hint or reply.leader not in self._replicas[bucket]:
            self.move(bucket, node)
        elif self.reaches(reply.leader):
            self._away.pop(bucket, None)
            self._guess[bucket] = reply.leader
        else:
            self._away[bucket] = reply.leader
            return True
        return self.reaches(self._guess[bucket])

    def move(self, bucket: int, node: int) -> None:
        """Guess the next replica, since this one doesn't lead; unless another caller has moved on before."""
        if self._guess[bucket] == node:
            replicas = self._replicas[bucket]
            self._guess[bucket] = _ring(replicas, node)[1 % len(replicas)]

    def learn(self, bucket: int, view: ReplicaView, silent: int) -> bool:
        """Believe a replica that says who leads while `silent` doesn't answer; tell whether that is somebody else."""
        if view.leader not in self._replicas[bucket] or view.term < self._terms.get(bucket, 0):
            return False
        self._terms[bucket] = view.term
        if view.leader == silent:
            self._away[bucket] = silent
            return False
        self._away.pop(bucket, None)
        self._guess[bucket] = view.leader
        return True

    def lose(self, node: int) -> None:
        """Count a node as silent: it is connected and others hear it, but nothing comes from it to here."""
        self._silent[node] = None

    def heard(self, node: int) -> None:
        """Count a node as silent no longer: it has said something, or its connection is a new one."""
        self._silent.pop(node, None)


def _ring(nodes: tuple[int, ...], first: int) -> tuple[int, ...]:
    """Return all nodes, beginning with this one."""
    start = nodes.index(first) if first in nodes else 0
    return nodes[start:] + nodes[:start]
