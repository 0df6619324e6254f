"""Rule 15: what would be refused only because of a leg still undecided isn't refused at once.

The bucket's leader asks the anchors of those legs, all questions of a turn to one anchor in one message and an xid
once, then proposes again, one time, behind what it has learned. What is still undecided then has been answered to
nobody, so the second proposal names it and the ledger leaves it out.
"""

from collections.abc import Callable

import msgspec

from mas.ledger import (
    NONE_LEFT_OUT,
    Abort,
    Answer,
    Chunk,
    Commit,
    Decide,
    Instruction,
    Look,
    Mark,
    Prepare,
    PreparedLegs,
)
from mas.resource.ports import Buckets
from mas.resource.routes import Route
from mas.transaction.messages import TurnedAway
from mas.transaction.participant import settle


class Waiting(msgspec.Struct, gc=False):
    """An instruction that the ledger answered PENDING_ON, and whom its answer is for."""

    route: Route
    position: int
    instruction: Prepare | Decide | Mark
    xids: tuple[bytes, ...]


class Round:
    """The questions of one turn. Calls `conclude` once, when every anchor has answered or can't."""

    def __init__(
        self,
        waiting: list[Waiting],
        legs: dict[bytes, PreparedLegs],
        conclude: Callable[["Round"], None],
    ) -> None:
        self.waiting = waiting
        self._conclude = conclude
        self._asked: dict[int, list[PreparedLegs]] = {}
        self._settled: dict[bytes, Commit | Abort] = {}
        self._undecided: dict[bytes, None] = {}
        """Undecided by the word of their anchors. Where an anchor is out of reach, its legs are not among them."""
        for xid in dict.fromkeys(xid for item in waiting for xid in item.xids):
            if prepared := legs.get(xid):
                self._asked.setdefault(prepared.anchor, []).append(prepared)
        self._outstanding = sum(map(len, self._asked.values()))

    def ask(self, buckets: Buckets) -> None:
        """Send one message to each anchor; without a question open, conclude at once."""
        if not self._outstanding:
            self._conclude(self)
            return
        for anchor, asked in self._asked.items():
            looks = tuple(Look(prepared.payment_id) for prepared in asked)
            buckets.submit(anchor, Chunk(b"", 0, looks), self._hear(asked))

    def _hear(self, asked: list[PreparedLegs]) -> Callable[[int, Answer | TurnedAway], None]:
        def on_answer(position: int, answer: Answer | TurnedAway) -> None:
            prepared = asked[position]
            if isinstance(answer, Answer):
                decided = settle(prepared, answer)
                if decided is None:
                    self._undecided[prepared.xid] = None
                else:
                    self._settled[prepared.xid] = decided
            self._outstanding -= 1
            if not self._outstanding:
                self._conclude(self)

        return on_answer

    def settled(self) -> tuple[Instruction, ...]:
        """What the anchors' answers mean for this bucket; goes before what waited."""
        return tuple(self._settled.values())

    def again(self, item: Waiting) -> Instruction:
        """The second proposal of what waited. A mark has no ledger's no to be spared, and stays as it is."""
        if isinstance(item.instruction, Mark):
            return item.instruction
        left_out = tuple(xid for xid in item.xids if xid in self._undecided)
        return msgspec.structs.replace(item.instruction, left_out=left_out or NONE_LEFT_OUT)
