"""What is to be sent to one bucket: a batch a turn, and what is more than a batch in turns between callers (rule 38,
bounded turns).

Nearly always all of it is the next batch. What isn't stands in lines from then on, so that a turn costs what it sends, and
not what waits.
"""

from mas.coordinator.fair_queue import FairQueue
from mas.coordinator.payment import Payment
from mas.ledger.instructions import (
    Abort,
    Commit,
    Decide,
    Instruction,
    Prepare,
    QueryRecord,
    RecordRefusal,
    Resolve,
)
from mas.limits import (
    LEGS_PER_PAYMENT_MAX,
    REFERENCE_CHARACTERS_MAX,
    TURN_BYTES_MAX,
    TURN_INSTRUCTIONS_MAX,
)
from mas.transaction.effects import Send

_SMALL_BYTES: dict[type, int] = {Commit: 32, Abort: 32, Resolve: 80, QueryRecord: 80}
"""About how many bytes an instruction without legs is on its way."""
_BYTES = 120
_LEG_BYTES = 40
_GREATEST_BYTES = _BYTES + _LEG_BYTES * LEGS_PER_PAYMENT_MAX + REFERENCE_CHARACTERS_MAX


Outgoing = tuple[Payment, Send]


class Outbox:
    """What is to be sent to one bucket, in order for each caller."""

    __slots__ = ("_left", "_new")

    def __init__(self) -> None:
        self._new: list[Outgoing] = []
        self._left: FairQueue[list[Outgoing]] = FairQueue()
        """What didn't fit a batch."""

    def __len__(self) -> int:
        return len(self._new) + len(self._left)

    def add(self, payment: Payment, send: Send) -> None:
        """Send this behind what the same caller has sent before."""
        self._new.append((payment, send))

    def take(self) -> list[Outgoing]:
        """Take the next batch's worth; empty only where there is nothing."""
        new, self._new = self._new, []
        if not self._left and _fits(new):
            return new
        lines: dict[str, list[Outgoing]] = {}
        for outgoing in new:
            lines.setdefault(outgoing[0].caller, []).append(outgoing)
        for caller, line in lines.items():
            self._left.put(caller, line, len(line))
        return self._take_in_turns()

    def _take_in_turns(self) -> list[Outgoing]:
        """Take as many at a time as fit however large they are, until that is none."""
        taken: list[Outgoing] = []
        size = 0
        while self._left and (room := _room(len(taken), size)):
            for line, positions in self._left.take(room):
                for position in positions:
                    taken.append(line[position])
                    size += _weigh(line[position][1].instruction)
        return taken


def _room(count: int, size: int) -> int:
    return min(TURN_INSTRUCTIONS_MAX - count, max(TURN_BYTES_MAX - size, 0) // _GREATEST_BYTES)


def _fits(outgoing: list[Outgoing]) -> bool:
    """Return whether these are a batch."""
    if len(outgoing) > TURN_INSTRUCTIONS_MAX:
        return False
    if len(outgoing) * _GREATEST_BYTES <= TURN_BYTES_MAX:
        return True
    return sum([_weigh(send.instruction) for _, send in outgoing]) <= TURN_BYTES_MAX


def _weigh(instruction: Instruction) -> int:
    # Asked for its type, since `isinstance` of a struct that says no costs as much as three calls.
    if type(instruction) is Prepare:
        return _BYTES + _LEG_BYTES * len(instruction.legs) + len(instruction.reference)
    body = None
    if type(instruction) is Decide or type(instruction) is RecordRefusal:
        body = instruction.body
    if body is not None:
        return _BYTES + _LEG_BYTES * len(body.legs) + len(body.reference)
    return _SMALL_BYTES.get(type(instruction), _BYTES)
