"""The participant's side of two-phase commit, as data: prepared legs that wait for their outcome.

A bucket that has prepared legs can't end them by itself; it asks the anchor that they name. Here is when
to ask, and what follows from the answer (rules 10 to 12, 15). Who leads, and how a question travels, is the
Resource Manager's business.
"""

from collections.abc import Iterable
from heapq import heappop, heappush

from mas.ledger.instructions import Abort, Answer, Ask, Code, Commit
from mas.ledger.rows import PreparedLegs

BACK_OFF_MAX = 30.0
"""Seconds between two questions about one xid, at most."""
QUESTIONS_MAX = 1_000
"""Questions of one turn (rule 38)."""


def settle(legs: PreparedLegs, answer: Answer) -> Commit | Abort | None:
    """What the anchor's record means for these legs; None where it doesn't say yet (rule 11)."""
    return instruct(legs.xid, legs.attempt, answer)


def instruct(xid: bytes, attempt: int, answer: Answer) -> Commit | Abort | None:
    """What the anchor's record means for an attempt's legs: only the record's own xid is committed."""
    match answer.code:
        case Code.COMMITTED if answer.xid == xid:
            return Commit(xid, answer.time)
        case Code.COMMITTED | Code.REFUSED | Code.KEY_REUSED:
            return Abort(xid)
        case Code.ABORTED if answer.attempt >= attempt:
            return Abort(xid)
        case _:
            return None


def questions(legs: Iterable[PreparedLegs]) -> dict[int, list[Ask]]:
    """The questions about these legs, by anchor: one message for each of them, an xid once."""
    seen = set()
    by_anchor: dict[int, list[Ask]] = {}
    for one in legs:
        if one.xid not in seen:
            seen.add(one.xid)
            ask = Ask(one.payment_id, one.attempt, one.xid, one.body_hash)
            by_anchor.setdefault(one.anchor, []).append(ask)
    return by_anchor


class Resolver:
    """Which prepared legs of one bucket are due for a question, while this node leads it.

    A leg's age counts from its apply or from the start of this leadership, whichever is later (rule 12). It is
    asked about when it is older than the lock timeout, and then again, each time twice as long after, up
    to `BACK_OFF_MAX`. All times are monotonic seconds, handed in.
    """

    __slots__ = ("_asked", "_lock_timeout", "_order", "_young")

    def __init__(self, lock_timeout: float) -> None:
        assert lock_timeout > 0
        self._lock_timeout = lock_timeout
        # Nearly every leg is settled long before it is due: those cost one entry here, oldest first.
        self._young: dict[bytes, tuple[float, PreparedLegs]] = {}
        # Those asked about: with the pause that follows the next question, and by time of that question.
        self._asked: dict[bytes, tuple[float, PreparedLegs]] = {}
        self._order: list[tuple[float, bytes]] = []

    def __len__(self) -> int:
        return len(self._young) + len(self._asked)

    def lead(self, now: float, legs: Iterable[PreparedLegs]) -> None:
        """This node leads from now on, and these legs are prepared; all ages begin again."""
        self._asked.clear()
        self._order.clear()
        self._young = {one.xid: (now, one) for one in legs}

    def prepared(self, legs: PreparedLegs, now: float) -> None:
        """These legs have just been applied."""
        if legs.xid not in self._asked:
            self._young.setdefault(legs.xid, (now, legs))

    def settled(self, xid: bytes) -> None:
        """The legs of this xid are posted or freed."""
        if self._young.pop(xid, None) is None:
            self._asked.pop(xid, None)

    def due(self, now: float, limit: int = QUESTIONS_MAX) -> list[PreparedLegs]:
        """Legs to ask about now, oldest question first; each counts as asked."""
        due: list[PreparedLegs] = []
        self._ask_again(now, limit, due)
        self._ask_first(now, limit, due)
        return due

    def next(self) -> float | None:
        """When `due` has something to say, if nothing is settled before; None: never."""
        oldest = next(iter(self._young.values()), None)
        times = [] if oldest is None else [oldest[0] + self._lock_timeout]
        return min(times + [when for when, _ in self._order[:1]], default=None)

    def _ask_again(self, now: float, limit: int, due: list[PreparedLegs]) -> None:
        order = self._order
        again: list[tuple[float, bytes]] = []
        while order and order[0][0] <= now and len(due) < limit:
            _, xid = heappop(order)
            if xid in self._asked:
                pause, legs = self._asked[xid]
                self._asked[xid] = (min(2 * pause, BACK_OFF_MAX), legs)
                again.append((now + pause, xid))
                due.append(legs)
        for entry in again:
            heappush(order, entry)

    def _ask_first(self, now: float, limit: int, due: list[PreparedLegs]) -> None:
        ripe = []
        for xid, (since, legs) in self._young.items():
            if len(due) == limit or now - since < self._lock_timeout:
                break
            ripe.append(xid)
            due.append(legs)
        pause = min(self._lock_timeout, BACK_OFF_MAX)
        for xid in ripe:
            _, legs = self._young.pop(xid)
            self._asked[xid] = (min(2 * pause, BACK_OFF_MAX), legs)
            heappush(self._order, (now + pause, xid))
