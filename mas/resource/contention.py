"""Rule 15: what would be refused only because of a leg still undecided isn't refused at once.

The bucket's leader asks the anchors of those legs, then proposes again, one time, behind what it has learned. What is
still undecided then has been answered to nobody, so the second proposal names it and the ledger leaves it out. Each
instruction goes on when its own questions are answered, or an anchor has kept it waiting for too long: the
leg counts then as it stands, and the attempt ends if it depends on it.
"""

import asyncio
from collections.abc import Callable, Iterable

import msgspec

from mas.ledger import (
    NONE_LEFT_OUT,
    Abort,
    Answer,
    Batch,
    Code,
    Decide,
    Prepare,
    PreparedLegs,
    Reason,
)
from mas.resource.anchors import Anchors, Open, Word
from mas.resource.replica import Replica
from mas.resource.reply_to import ReplyTo, SendReply
from mas.rpc.messages import Answers

_PATIENCE_SECONDS = 1.0
"""Well below the time after which whoever asked gives the bucket up."""


class Waiting(msgspec.Struct, gc=False):
    """An instruction that the ledger answered PENDING_ON, and whom its answer is for."""

    reply_to: ReplyTo
    position: int
    """In the request."""
    instruction: Prepare | Decide
    xids: tuple[bytes, ...]
    """The undecided legs that it met."""


ProposeAgain = Callable[[list[Waiting], tuple[bytes, ...]], None]
"""Takes what is to be proposed a second time, and what is left out then."""


class ContentionRound(msgspec.Struct, eq=False):
    """Instructions that wait for the same legs."""

    items: dict[bytes, Waiting]
    """By their own xids."""
    open: dict[bytes, None]
    """Legs without a word."""
    undecided: dict[bytes, None]
    """By the word of their anchors. Where an anchor is out of reach, its legs are not among them."""
    patience: asyncio.TimerHandle | None = None


class Contention:
    """What waits for the anchors of other payments' legs."""

    def __init__(
        self, replica: Replica, anchors: Anchors, again: ProposeAgain, reply: SendReply
    ) -> None:
        self._replica = replica
        self._anchors = anchors
        self._again = again
        self._reply = reply
        self._rounds: dict[bytes, ContentionRound] = {}

    def __len__(self) -> int:
        return len(self._rounds)

    def add(self, waiting: Iterable[Waiting]) -> None:
        """Set these aside until the legs that they name have a word, or time is up."""
        legs = self._replica.rows.legs
        rounds: dict[tuple[bytes, ...], ContentionRound] = {}
        for item in waiting:
            # Of an earlier copy whoever sent it has lost sight, before it sent this one.
            self._end(item.instruction.xid)
            one = rounds.get(item.xids)
            if one is None:
                one = rounds[item.xids] = ContentionRound({}, {}, {})
            one.items[item.instruction.xid] = item
            self._rounds[item.instruction.xid] = one
        for xids, one in rounds.items():
            self._ask(one, [legs[xid] for xid in xids if xid in legs])

    def _ask(self, one: ContentionRound, legs: list[PreparedLegs]) -> None:
        def hear(xid: bytes, word: Word) -> None:
            if xid not in one.open:
                return
            del one.open[xid]
            if word is Open.UNDECIDED:
                one.undecided[xid] = None
            if not one.open:
                self._conclude(one)

        one.open = {each.xid: None for each in legs}
        loop = asyncio.get_running_loop()
        for each in legs:
            self._anchors.ask(each, hear)
        pause = _PATIENCE_SECONDS if legs else 0.0
        one.patience = loop.call_later(pause, self._conclude, one)

    def _conclude(self, one: ContentionRound) -> None:
        one.open.clear()
        if one.patience is not None:
            one.patience.cancel()
        items = [item for xid, item in one.items.items() if self._rounds.get(xid) is one]
        for item in items:
            del self._rounds[item.instruction.xid]
        if items:
            self._again(items, tuple(one.undecided) or NONE_LEFT_OUT)

    def end(self, batch: Batch) -> None:
        """End what waits here with its attempt: prepared behind its ABORT, it would hold funds for nobody (rule 10, low-water mark)."""
        for instruction in batch.instructions:
            if isinstance(instruction, Abort) and (item := self._end(instruction.xid)):
                answer = Answer(Code.CONTENDED, Reason.CONTENDED, detail="its attempt has ended")
                reply = Answers(item.reply_to.request, ((item.position, answer),))
                self._reply(item.reply_to.peer, reply)

    def _end(self, xid: bytes) -> Waiting | None:
        one = self._rounds.pop(xid, None)
        return None if one is None else one.items.pop(xid)

    def give_up(self) -> None:
        """Turn back all that waits here: it has done nothing, and this node leads no more."""
        items = [one.items[xid] for xid, one in self._rounds.items()]
        for one in dict.fromkeys(self._rounds.values()):
            one.open.clear()
            if one.patience is not None:
                one.patience.cancel()
        self._rounds.clear()
        turn_back(items, self._replica, self._reply)


def turn_back(waiting: Iterable[Waiting], replica: Replica, reply: SendReply) -> None:
    """Send these to the bucket's leader, naming their positions: what else their requests brought may be done."""
    for item in waiting:
        rejected = replica.not_leading(item.reply_to.request, (item.position,))
        reply(item.reply_to.peer, rejected)
