"""Whom an applied instruction's answer is for: only the node that proposed an entry answers for it, and each
answer goes to the request that brought its instruction, never to whoever happens to wait."""

from collections.abc import Callable

import msgspec

from mas.errors import InvalidRequest, MasError, NotLeading, Overloaded
from mas.ledger import Batch
from mas.ledger.instructions import RejectReason
from mas.rpc.messages import Reply

SendReply = Callable[[int, Reply], None]
"""Takes a node and the reply for it."""


class ReplyTo(msgspec.Struct, gc=False):
    """The request behind one batch of a proposal. `peer` 0: this bucket's own, nobody to answer."""

    peer: int
    request: int
    positions: tuple[int, ...] = ()
    """Where the batch isn't the request's whole: each instruction's position in the request."""

    def position_in_request(self, position: int) -> int:
        """The position in the request of the batch's instruction at `position`."""
        return self.positions[position] if self.positions else position


OWN = ReplyTo(0, 0)


class Proposed(msgspec.Struct, gc=False):
    """Batches that travel together, and whom the answers of each are for."""

    batches: tuple[Batch, ...]
    reply_to: tuple[ReplyTo, ...]

    def instructions(self) -> int:
        """Count the instructions of all batches."""
        return sum(len(batch.instructions) for batch in self.batches)


def reject_reason(error: MasError) -> tuple[RejectReason, int]:
    """Return why a request that this error has ended is rejected, and the node to ask instead, 0 where unknown."""
    match error:
        case NotLeading():
            return RejectReason.NOT_LEADING, error.leader
        case InvalidRequest():
            return RejectReason.INVALID, 0
        case Overloaded():
            return RejectReason.OVERLOADED, 0
        case _:
            return RejectReason.UNAVAILABLE, 0
