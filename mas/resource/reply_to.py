"""Whom an applied instruction's answer is for: only the node that proposed an entry answers for it, and each
answer goes to the request that brought its instruction, never to whoever happens to wait."""

import msgspec

from mas.ledger import Batch


class ReplyTo(msgspec.Struct, gc=False):
    """The request behind one batch of a proposal. `peer` 0: this bucket's own, nobody to answer."""

    peer: int
    request: int
    positions: tuple[int, ...] = ()
    """Where the batch isn't the request's whole: each instruction's place in the request, -1 for our own."""

    def place(self, position: int) -> int:
        """The place in the request of the batch's instruction at `position`."""
        return self.positions[position] if self.positions else position


OWN = ReplyTo(0, 0)


class Proposed(msgspec.Struct, gc=False):
    """Batches that travel together, and whom the answers of each are for."""

    batches: tuple[Batch, ...]
    routes: tuple[ReplyTo, ...]

    def instructions(self) -> int:
        """How many there are in all batches."""
        return sum(len(batch.instructions) for batch in self.batches)
