"""A call about a bucket: `BucketClient` makes three kinds of them, submissions, queries and looks for the leader."""

from abc import abstractmethod

from mas.rpc.calls import NOWHERE, Call, Calls
from mas.rpc.messages import Reply, Request, can_answer


class BucketCall(Call[Reply]):
    """One request on its way to a replica."""

    __slots__ = ("bucket", "sent")
    kind: type[Request]
    seeks_leader = True
    """Whether it is for whoever leads, and not for the replica that it was sent to."""

    def __init__(self, bucket: int, node: int = NOWHERE, sent: float = 0.0) -> None:
        super().__init__(node)
        self.bucket = bucket
        self.sent = sent
        """When: monotonic seconds."""

    def accepts(self, reply: Reply) -> bool:
        """See `Call`."""
        return can_answer(self.kind, reply)

    @abstractmethod
    def on_unsent(self) -> None:
        """Go on elsewhere, or end: nothing was sent."""

    @abstractmethod
    def on_too_large(self, size: int) -> None:
        """End: no replica would ever get a message of this many bytes."""


BucketCalls = Calls[BucketCall, Reply]
