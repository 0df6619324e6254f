"""What has become of the legs prepared here: only the anchors that they name can say (rules 11, 15, 30).

Whoever waits for a prepared leg asks here. All questions of a turn to one anchor go in one message, cut at a turn's bound,
and an xid is under way once, however many wait for it. Whoever comes while it is under way is content with an outcome, which
is for ever; "undecided" may have been judged before they came, so for them the anchor is asked anew.
A leg that is settled here meanwhile answers everybody.
"""

import asyncio
from collections.abc import Callable, Iterable
from enum import Enum

import msgspec

from mas.ledger import Abort, Answer, Batch, Commit, PreparedLegs, QueryRecord, Resolve
from mas.limits import TURN_INSTRUCTIONS_MAX
from mas.rpc.messages import Rejected
from mas.rpc.ports import Buckets
from mas.transaction.participant import settle

_PAUSE_SHORTEST_SECONDS = 0.01
_PAUSE_LONGEST_SECONDS = 0.25


class Open(Enum):
    """Why a question has brought no outcome."""

    UNDECIDED = 1
    """The anchor's own word."""
    UNANSWERED = 2
    """The anchor is out of reach."""


Word = Commit | Abort | Open
Hear = Callable[[bytes, Word], None]
"""Takes an xid, and what has become of it."""
OnOutcome = Callable[[bytes, Commit | Abort], None]


class _Query(msgspec.Struct, eq=False):
    """One xid that is being asked about."""

    legs: PreparedLegs
    hears: list[Hear]
    abort: bool
    """The attempt is declared dead where it is undecided (rule 11, the resolver)."""
    settle: bool
    """Its outcome is applied here by whoever asked, not only by its coordinator."""
    late: "_Query | None" = None
    """For those who came when it was under way."""


class _Wait(msgspec.Struct, eq=False):
    """Those who wait until one xid is decided, or even settled here."""

    legs: PreparedLegs
    abort_at: float
    """On the loop's clock: from then on its anchor is asked with the abort."""
    decided: dict[OnOutcome, None]
    settled: dict[OnOutcome, None]
    tries: int = 0
    pause: asyncio.TimerHandle | None = None


class Anchors:
    """Asks the anchors of one bucket's prepared legs."""

    def __init__(
        self, buckets: Buckets, patience: float, on_outcome: Callable[[Commit | Abort], None]
    ) -> None:
        """`patience`: seconds that a leg may keep a reader waiting before it is asked about with the abort.

        `on_outcome` is told of each outcome that an anchor says: it settles the leg here.
        """
        self._buckets = buckets
        self._patience = patience
        self._on_outcome = on_outcome
        self._questions: dict[bytes, _Query] = {}
        self._outgoing: dict[bytes, _Query] = {}
        self._waits: dict[bytes, _Wait] = {}

    # -- asking once ----------------------------------------------------------------------------------

    def ask(
        self, legs: PreparedLegs, hear: Hear, *, abort: bool = False, settle: bool = True
    ) -> None:
        """Ask what has become of these legs; calls back once, on a later turn of the loop."""
        question = self._questions.get(legs.xid)
        if question is None:
            self._begin(_Query(legs, [hear], abort, settle))
        elif legs.xid in self._outgoing:
            _join(question, hear, abort=abort, settle=settle)
        elif question.late is None:
            question.late = _Query(legs, [hear], abort, settle)
        else:
            _join(question.late, hear, abort=abort, settle=settle)

    def ask_to_settle(self, legs: PreparedLegs, *, abort: bool = False) -> None:
        """Ask, so that these legs are settled here; whoever wanted it asks this bucket again by itself."""
        self.ask(legs, _nobody, abort=abort)

    def _begin(self, question: _Query) -> None:
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._send)
        xid = question.legs.xid
        self._questions[xid] = self._outgoing[xid] = question

    def _send(self) -> None:
        outgoing, self._outgoing = self._outgoing, {}
        by_anchor: dict[int, list[_Query]] = {}
        for question in outgoing.values():
            by_anchor.setdefault(question.legs.anchor, []).append(question)
        for anchor, asked in by_anchor.items():
            for start in range(0, len(asked), TURN_INSTRUCTIONS_MAX):
                self._submit(anchor, asked[start : start + TURN_INSTRUCTIONS_MAX])

    def _submit(self, anchor: int, asked: list[_Query]) -> None:
        def on_answer(position: int, answer: Answer | Rejected) -> None:
            question = asked[position]
            if self._questions.get(question.legs.xid) is question:
                self._on_word(question, _word(question.legs, answer))

        instructions = tuple([_to_instruction(question) for question in asked])
        self._buckets.submit(anchor, Batch(b"", 0, instructions), on_answer)

    def _on_word(self, question: _Query, word: Word) -> None:
        xid, late = question.legs.xid, question.late
        del self._questions[xid]
        if isinstance(word, Open):
            if late is not None:
                self._begin(late)
        elif question.settle or (late is not None and late.settle):
            self._on_outcome(word)
        _tell(question, word)

    # -- waiting for an outcome -------------------------------------------------------------------------

    def wait(
        self, legs: Iterable[PreparedLegs], on_outcome: OnOutcome, *, settled: bool = False
    ) -> None:
        """Ask until these legs are decided; calls back once for each, unless `leave` comes first.

        `settled`: calls back only once the outcome has been applied in this bucket as well.
        """
        now = asyncio.get_running_loop().time()
        for one in legs:
            wait = self._waits.get(one.xid)
            if wait is None:
                wait = self._waits[one.xid] = _Wait(one, now + self._patience, {}, {})
                # Once: most likely its coordinator's word is on its way here, and settles it.
                self.ask(one, self._on_waited, settle=settled)
            (wait.settled if settled else wait.decided)[on_outcome] = None

    def leave(self, xids: Iterable[bytes], on_outcome: OnOutcome) -> None:
        """Wait no longer for these."""
        for xid in xids:
            wait = self._waits.get(xid)
            if wait is not None:
                wait.decided.pop(on_outcome, None)
                wait.settled.pop(on_outcome, None)
                if not wait.decided and not wait.settled:
                    self._forget(wait)

    def _on_waited(self, xid: bytes, word: Word) -> None:
        wait = self._waits.get(xid)
        if wait is None:
            return
        if not isinstance(word, Open):
            decided, wait.decided = wait.decided, {}
            for on_outcome in decided:
                on_outcome(xid, word)
            if not wait.settled:
                self._forget(wait)
                return
        pause = min(_PAUSE_SHORTEST_SECONDS * 2 ** min(wait.tries, 8), _PAUSE_LONGEST_SECONDS)
        wait.tries += 1
        wait.pause = asyncio.get_running_loop().call_later(pause, self._ask_again, wait)

    def _ask_again(self, wait: _Wait) -> None:
        wait.pause = None
        abort = asyncio.get_running_loop().time() >= wait.abort_at
        self.ask(wait.legs, self._on_waited, abort=abort)

    def _forget(self, wait: _Wait) -> None:
        if self._waits.get(wait.legs.xid) is wait:
            del self._waits[wait.legs.xid]
        if wait.pause is not None:
            wait.pause.cancel()

    # -- what is settled here ---------------------------------------------------------------------------

    def on_settled(self, word: Commit | Abort) -> None:
        """These legs have just been posted or freed in this bucket."""
        xid = word.xid
        wait = self._waits.get(xid)
        if wait is not None:
            self._forget(wait)
            for on_outcome in (*wait.decided, *wait.settled):
                on_outcome(xid, word)
        self._outgoing.pop(xid, None)
        if (question := self._questions.pop(xid, None)) is not None:
            _tell(question, word)

    @property
    def is_asked(self) -> bool:
        """Whether anybody waits for anything here."""
        return bool(self._questions or self._waits)


def _nobody(_: bytes, __: Word) -> None:
    """Whatever it is, it is settled here, and nobody waits for it."""


def _join(question: _Query, hear: Hear, *, abort: bool, settle: bool) -> None:
    question.hears.append(hear)
    question.abort |= abort
    question.settle |= settle


def _tell(question: _Query, word: Word) -> None:
    """Those who came late aren't content with "undecided"."""
    for hear in question.hears:
        hear(question.legs.xid, word)
    if question.late is not None and not isinstance(word, Open):
        _tell(question.late, word)


def _to_instruction(question: _Query) -> Resolve | QueryRecord:
    legs = question.legs
    if question.abort:
        return Resolve(legs.payment_id, legs.attempt, legs.xid, legs.body_hash)
    return QueryRecord(legs.payment_id)


def _word(legs: PreparedLegs, answer: Answer | Rejected) -> Word:
    if isinstance(answer, Rejected):
        return Open.UNANSWERED
    return settle(legs, answer) or Open.UNDECIDED
