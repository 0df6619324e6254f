"""What services ask of the cluster's buckets, and what carries it: the same for all of them, so written once."""

from collections.abc import Callable
from typing import Protocol

from mas.ledger.instructions import Answer, Batch
from mas.rpc.messages import Rejected, Reply, Request

OnAnswer = Callable[[int, Answer | Rejected], None]
"""Takes the answer to one instruction, by its position in the batch."""


class Buckets(Protocol):
    """Whichever node leads a bucket. One live copy of what is submitted, never two (rule 6, decide)."""

    def submit(
        self, bucket: int, batch: Batch, on_answer: OnAnswer, *, passed_on: bool = False
    ) -> None:
        """Send once to the bucket's leader, following NOT_LEADING hints while nothing can have happened.

        Calls back once for each position, in any order, on a later turn of the loop. `Rejected.why` UNKNOWN: it was
        sent and lost sight of; anything else: it has done nothing and never will.

        `passed_on`: it came from a node that doesn't reach the leader, and is passed on to no third one.
        """

    async def query(
        self,
        bucket: int,
        request: Request,
        timeout: float,
        *,
        replica: int = 0,
        passed_on: bool = False,
    ) -> Reply:
        """Ask the bucket's leader, or the named replica alone, again and again until `timeout` seconds are over.

        The request is numbered on its way. `passed_on`: as of `submit`.

        Raises:
            Unavailable: nobody answered in time; the last reason is named.
            RequestFailed: the read raised where it was answered.
        """

    def all(self) -> list[int]:
        """Return every bucket of the cluster, ascending."""

    def replicas(self) -> dict[int, list[int]]:
        """Return every bucket of the cluster, ascending, and the nodes that hold its replicas."""

    def leader(self, bucket: int) -> int:
        """Return the node that probably leads this bucket."""


class Peers(Protocol):
    """Frames to other nodes, and to oneself."""

    def send(self, peer: int, channel: int, payload: bytes) -> bool:
        """Send a frame, and never wait. False: nothing was sent."""

    def is_connected(self, peer: int) -> bool:
        """Tell whether frames to this node have a connection to go by."""
