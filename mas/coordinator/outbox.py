"""What is to be sent to one bucket: a batch a turn, and what is more than a batch in turns between callers (rule 38,
bounded turns).

Nearly always all of it is the next batch. What isn't stands in lines from then on, so that a turn costs what it sends, and
not what waits.
"""

from mas.coordinator.fair_queue import FairQueue
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
from mas.transaction.machine import Send

_SMALL_BYTES: dict[type, int] = {Commit: 32, Abort: 32, Resolve: 80, QueryRecord: 80}
"""About how many bytes an instruction without legs is on its way."""
_BYTES = 120
_LEG_BYTES = 40
_GREATEST_BYTES = _BYTES + _LEG_BYTES * LEGS_PER_PAYMENT_MAX + REFERENCE_CHARACTERS_MAX


class Outbox:
    """What is to be sent to one bucket, in order for each caller."""

    __slots__ = ("_left", "_new")

    def __init__(self) -> None:
        self._new: list[Send] = []
        self._left: FairQueue[list[Send]] = FairQueue()
        """What didn't fit a batch."""

    def __len__(self) -> int:
        return len(self._new) + len(self._left)

    def add(self, send: Send) -> None:
        """Send this behind what the same caller has sent before."""
        self._new.append(send)

    def take(self) -> list[Send]:
        """The next batch's worth; empty only where there is nothing."""
        new, self._new = self._new, []
        if not self._left and _fits(new):
            return new
        lines: dict[str, list[Send]] = {}
        for send in new:
            lines.setdefault(send.transaction.caller, []).append(send)
        for caller, sends in lines.items():
            self._left.put(caller, sends, len(sends))
        return self._take_in_turns()

    def _take_in_turns(self) -> list[Send]:
        """As many at a time as fit however large they are, until that is none."""
        taken: list[Send] = []
        size = 0
        while self._left and (room := _room(len(taken), size)):
            for sends, places in self._left.take(room):
                for place in places:
                    taken.append(sends[place])
                    size += _weigh(sends[place].instruction)
        return taken


def _room(count: int, size: int) -> int:
    return min(TURN_INSTRUCTIONS_MAX - count, max(TURN_BYTES_MAX - size, 0) // _GREATEST_BYTES)


def _fits(sends: list[Send]) -> bool:
    """Tell whether these fit in one batch."""
    if len(sends) > TURN_INSTRUCTIONS_MAX:
        return False
    if len(sends) * _GREATEST_BYTES <= TURN_BYTES_MAX:
        return True
    return sum([_weigh(send.instruction) for send in sends]) <= TURN_BYTES_MAX


def _weigh(instruction: Instruction) -> int:
    small = _SMALL_BYTES.get(type(instruction))
    if small is not None:
        return small
    if isinstance(instruction, Prepare):
        return _BYTES + _LEG_BYTES * len(instruction.legs)
    assert isinstance(instruction, Decide | RecordRefusal)
    body = instruction.body
    return _BYTES if body is None else _BYTES + _LEG_BYTES * len(body.legs) + len(body.reference)
