"""The participant's side of two-phase commit, as data: prepared legs that wait for their outcome.

A bucket that has prepared legs can't end them by itself; it asks the anchor that they name. Here is when
to ask, and what follows from the answer (rules 10 to 12, 15). Who leads, and how a question travels, is the
Resource Manager's business.
"""

from collections.abc import Mapping

from mas.ledger.instructions import Abort, Answer, Code, Commit
from mas.ledger.rows import PreparedLegs

BACK_OFF_MAX = 30.0
"""Seconds between two questions about one xid, at most."""
QUESTIONS_MAX = 1_000
"""Questions of one turn (rule 38, bounded turns)."""

# Looked up once: on CPython 3.11 that costs as much as a call, and every payment passes here.
_COMMITTED = Code.COMMITTED


def settle(legs: PreparedLegs, answer: Answer) -> Commit | Abort | None:
    """Return what the anchor's record means for these legs; None where it doesn't say yet (rule 11, the resolver)."""
    return instruct(legs.xid, legs.attempt, answer)


def instruct(xid: bytes, attempt: int, answer: Answer) -> Commit | Abort | None:
    """Return what the anchor's record means for an attempt's legs: only the record's own xid is committed."""
    if answer.code is _COMMITTED and answer.xid == xid:
        return Commit(xid, answer.time_us)
    match answer.code:
        case Code.COMMITTED | Code.REFUSED | Code.KEY_REUSED:
            return Abort(xid)
        case Code.ABORTED if answer.attempt >= attempt:
            return Abort(xid)
        case _:
            return None


class Resolver:
    """Which prepared legs of one bucket are due for a question, while this node leads it.

    A leg's age counts from when it was first seen here, or from the start of this leadership, whichever is later
    (rule 12, time decides no outcome). It is asked about when it is older than the lock timeout, and then again, each
    time after twice as long, up to `BACK_OFF_MAX`. Nearly every leg is settled long before: so nothing is told of each
    one, and the bucket shows now and then what is prepared. All times are monotonic seconds, handed in.
    """

    __slots__ = ("_legs", "_lock_timeout", "_questions")

    def __init__(self, lock_timeout: float) -> None:
        assert lock_timeout > 0
        self._lock_timeout = lock_timeout
        self._legs: Mapping[bytes, PreparedLegs] = {}
        # By xid: when to ask, and the pause that follows. Those asked about go to the end.
        self._questions: dict[bytes, tuple[float, float]] = {}

    def lead(self, now: float, legs: Mapping[bytes, PreparedLegs]) -> None:
        """This node leads from now on, and these legs are prepared, by xid; all ages begin again."""
        self._questions.clear()
        self.observe(now, legs)

    def observe(self, now: float, legs: Mapping[bytes, PreparedLegs]) -> None:
        """These legs are prepared now: age those that are new, forget those that are gone."""
        questions = self._questions
        for xid in [xid for xid in questions if xid not in legs]:
            del questions[xid]
        new = (now + self._lock_timeout, self._lock_timeout)
        for xid in legs:
            if xid not in questions:
                questions[xid] = new
        self._legs = legs

    def due(self, now: float, limit: int = QUESTIONS_MAX) -> list[PreparedLegs]:
        """Legs still prepared to ask about now, longest unasked first; each counts as asked."""
        ripe = [
            (xid, pause)
            for xid, (when, pause) in self._questions.items()
            if when <= now and xid in self._legs
        ][:limit]
        for xid, pause in ripe:
            del self._questions[xid]
            self._questions[xid] = (now + pause, min(2 * pause, BACK_OFF_MAX))
        return [self._legs[xid] for xid, _ in ripe]
