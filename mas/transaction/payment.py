"""The coordinator's side of two-phase commit, as data: what has happened goes in, effects come out.

A `PaymentRun` is one payment's run for one caller: its attempts one after another, each a two-phase commit of its own
(`mas.transaction.attempt`). Nothing here waits, reads a clock, or knows where a bucket lives. A run goes from phase to
phase, and no other way than this:

    LOCATING  ──> LOOKING, LOCKING, PREPARING, DECIDING, RESOLVING, REFUSING, CHECKING, DONE
    LOOKING   ──> LOCATING, LOCKING, PREPARING, DECIDING, REFUSING, REPEATING, DONE
    LOCKING   ──> PREPARING, DECIDING, CHECKING, DONE
    PREPARING ──> LOCATING, LOCKING, PREPARING, DECIDING, REFUSING, CHECKING
    DECIDING  ──> LOCATING, LOCKING, PREPARING, DECIDING, RESOLVING, CHECKING, DONE
    RESOLVING ──> LOCATING, LOCKING, CHECKING, REPEATING, DONE
    REFUSING  ──> LOCATING, PREPARING, REFUSING, DONE
    CHECKING  ──> LOCATING, REPEATING, DONE
    REPEATING ──> DONE
    DONE

Before DECIDE is sent, the attempt is the coordinator's to end, and the anchor is asked before the client hears
an error (rule 8, ending an attempt). From then on it is the anchor's: nothing is freed, and nothing said, before the
anchor has spoken of this xid (rules 6, 8). An attempt that has done nothing is followed by the next one, under a new xid.

Every event appends to the run's `effects`, in the order in which they must be done. The host takes them.
"""

from collections.abc import Mapping
from enum import IntEnum

import msgspec
from msgspec.structs import replace

from mas.ledger.instructions import (
    EXTERNAL,
    Answer,
    Body,
    Code,
    Kind,
    LockMode,
    QueryRecord,
    Reason,
    RecordRefusal,
    RejectReason,
    Token,
    payer,
)
from mas.transaction.attempt import (
    Attempt,
    Part,
    SendDecide,
    SendFinish,
    SendPrepare,
    SendResolve,
    Vote,
)
from mas.transaction.effects import (
    AcquireLocks,
    Effect,
    Locate,
    ReleaseLocks,
    Reply,
    Retry,
    Send,
    SendQuery,
    SendRefusal,
)
from mas.transaction.outcome import PaymentResult, Status
from mas.transaction.placement import Placement
from mas.transaction.xid_source import XidSource

ATTEMPTS_MAX = 8
"""Attempts of one run. Each ends for a reason of its own: more of them is a system that isn't well."""


class Phase(IntEnum):
    """Where a run stands."""

    LOCATING = 1
    """Whoever runs this is finding out where the accounts are."""
    LOOKING = 2
    """A repeat asks the anchor before phase 1 (rule 8)."""
    LOCKING = 3
    """Waits for its locks (rules 34, 35)."""
    PREPARING = 4
    """Phase 1: waits for votes."""
    DECIDING = 5
    """Phase 2: waits for the anchor."""
    RESOLVING = 6
    """Has sent DECIDE and doesn't know: asks, with the abort (rule 11, the resolver)."""
    REFUSING = 7
    """Writes another bucket's no at the anchor (rule 8)."""
    CHECKING = 8
    """Has ended its attempt by itself: asks the anchor before its client hears so (rule 8)."""
    REPEATING = 9
    """There is an outcome: lets the anchor say it, or that this body isn't the one (rule 6, decide)."""
    DONE = 10
    """Has nothing more to say; legs may still be on their way to their outcome."""


# On CPython 3.11 a member looked up in its enum costs as much as a call; every payment passes these.
_LOCATING, _LOOKING, _LOCKING = Phase.LOCATING, Phase.LOOKING, Phase.LOCKING
_PREPARING, _DECIDING, _RESOLVING = Phase.PREPARING, Phase.DECIDING, Phase.RESOLVING
_REFUSING, _CHECKING = Phase.REFUSING, Phase.CHECKING
_REPEATING, _DONE = Phase.REPEATING, Phase.DONE
_ASKED = Vote.ASKED
_PREPARED, _POSTED, _COMMITTED = Code.PREPARED, Code.POSTED, Code.COMMITTED

_NEXT: dict[Phase, frozenset[Phase]] = {
    _LOCATING: frozenset(
        (_LOOKING, _LOCKING, _PREPARING, _DECIDING, _RESOLVING, _REFUSING, _CHECKING, _DONE)
    ),
    _LOOKING: frozenset((_LOCATING, _LOCKING, _PREPARING, _DECIDING, _REFUSING, _REPEATING, _DONE)),
    _LOCKING: frozenset((_PREPARING, _DECIDING, _CHECKING, _DONE)),
    _PREPARING: frozenset((_LOCATING, _LOCKING, _PREPARING, _DECIDING, _REFUSING, _CHECKING)),
    _DECIDING: frozenset(
        (_LOCATING, _LOCKING, _PREPARING, _DECIDING, _RESOLVING, _CHECKING, _DONE)
    ),
    _RESOLVING: frozenset((_LOCATING, _LOCKING, _CHECKING, _REPEATING, _DONE)),
    _REFUSING: frozenset((_LOCATING, _PREPARING, _REFUSING, _DONE)),
    _CHECKING: frozenset((_LOCATING, _REPEATING, _DONE)),
    _REPEATING: frozenset((_DONE,)),
    _DONE: frozenset(),
}
"""Which phases may follow which."""

_FOLLOWERS = ((), *(tuple(_NEXT[phase]) for phase in Phase))
"""The same by a phase's number: the hash of an enum's member is a function in Python."""

_NOWHERE = Placement(0)


class PaymentRun(msgspec.Struct, gc=False, eq=False):
    """One payment's run. It begins LOCATING: tell it where its accounts are."""

    payment_id: bytes
    body: Body
    body_hash: bytes
    xids: XidSource
    repeat: bool = False
    """The caller says that it has asked before (rule 8)."""
    exclusive: bool = False
    """Locks are taken before phase 1 (rule 35, exclusive mode)."""
    effects: list[Effect] = []
    """What it wants done and nobody has taken yet."""
    phase: Phase = Phase.LOCATING
    placement: Placement = _NOWHERE
    misplaced: bool = False
    """The anchor under way said WRONG_BUCKET: the next attempt is placed anew (rule 3, anchor and record)."""
    misplacements: int = 0
    """How often accounts weren't where they were said to be: from the second time on, they are looked for after a pause."""
    attempt: Attempt | None = None
    number: int = 0
    """The greatest attempt that is known of."""
    begun: int = 0
    """Attempts of this run."""
    tokens: Mapping[str, Token] = {}
    lock_owner: bytes = b""
    """Of the locks asked for or held."""
    reason: Reason = Reason.NONE
    """Why this run ends without an outcome; while NONE, another attempt may follow."""
    detail: str = ""
    late: bool = False
    """No attempt begins any more."""
    replied: bool = False
    unsettled: int = 0
    """Attempts of this run that may have legs somewhere."""

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to say or to settle."""
        return self.phase is _DONE and not self.unsettled

    def take_over(self, xid: bytes, number: int, placement: Placement) -> None:
        """Finish an attempt of a coordinator that is gone: ask, then tell every bucket (rule 11). Nobody waits for it."""
        parts = [Part(bucket, Vote.YES) for bucket in placement.participants]
        self.replied = True
        self.number = number
        self.unsettled = 1
        self.placement = placement
        attempt = self._make_attempt(xid)
        attempt.parts, attempt.unsettled = parts, len(parts)
        self._resolve(attempt)

    # -- what happens before phase 1 ---------------------------------------------------------------------

    def on_located(self, placement: Placement) -> None:
        """Go on with the accounts there, as far as the directory, or now their homes, say."""
        if self.phase is not _LOCATING:
            return
        self.placement = placement
        self.misplaced = False
        if not placement.anchor:
            status = Status.ABORTED if self.begun else Status.REJECTED
            self._reply(status, Reason.ACCOUNT_NOT_FOUND, placement.missing)
        elif self.reason:
            self._check()
        elif self.repeat:
            self._enter(_LOOKING)
            self._query()
        else:
            self._start()

    def _start(self) -> None:
        """Take the locks where the policy asks for them; then begin."""
        needs_locks = self.exclusive and not self.tokens
        # Nothing can be locked that doesn't exist.
        if needs_locks and self.body.kind is not Kind.CREATION and not self.placement.missing:
            self._lock()
        else:
            self._begin_next(Reason.TIMED_OUT)

    def on_locks_granted(self, owner: bytes, tokens: Mapping[str, Token]) -> None:
        """Begin an attempt that carries the tokens of these locks (rule 34, escrow mode), if they are still wanted."""
        if self.phase is not _LOCKING or owner != self.lock_owner:
            self.effects.append(ReleaseLocks(owner))
            return
        self.tokens = tokens
        self._begin_next(Reason.TIMED_OUT)

    def on_locks_denied(self, owner: bytes) -> None:
        """End: the locks weren't had in time, or there is no lock service."""
        if self.phase is _LOCKING and owner == self.lock_owner:
            self.lock_owner = b""
            reason = Reason.LOCK_CONFLICT if self.begun else Reason.UNAVAILABLE
            self._give_up(reason, "locks not granted in time")

    # -- phase 1 -----------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Begin the next attempt, under a new xid."""
        placement = self.placement
        self.number += 1
        self.begun += 1
        if placement.missing:
            self._refuse(Reason.ACCOUNT_NOT_FOUND, placement.missing)
        elif placement.others:
            self.unsettled += 1
            self._enter(_PREPARING)
            self._make_attempt(self.xids.begin()).prepare()
        else:
            self._decide(self._make_attempt(self.xids.next_xid()))

    def _begin_next(self, reason: Reason) -> None:
        """Begin another attempt, behind none or one that has ended before DECIDE, if its client is still there."""
        if self._may_go_on():
            self._begin()
        else:
            self._give_up(reason, "")

    def _may_go_on(self) -> bool:
        return not (self.replied or self.late or self.begun >= ATTEMPTS_MAX)

    def _make_attempt(self, xid: bytes) -> Attempt:
        attempt = self.attempt = Attempt(
            self.effects,
            xid,
            self.number,
            self.placement,
            self.payment_id,
            self.body,
            self.body_hash,
            self.tokens,
        )
        return attempt

    def _on_vote(self, send: SendPrepare, answer: Answer) -> None:
        attempt, part, code = send.attempt, send.part, answer.code
        is_yes = code is _PREPARED or code is _POSTED
        if part.vote is not _ASKED:
            if is_yes and part.vote is Vote.FREED:
                if not attempt.unsettled:
                    self.unsettled += 1
                attempt.on_late_yes(part)
        elif is_yes:
            if attempt.count_yes(part):
                self._decide(attempt)
        else:
            part.away = not part.unknown
            self._on_no(attempt, answer)

    def _on_no(self, attempt: Attempt, answer: Answer) -> None:
        self._roll_back(attempt)
        match answer.code:
            case Code.REFUSED:
                self._refuse(answer.reason, answer.detail)
            case Code.LOCK_CONFLICT:
                self._lock()
            case Code.WRONG_BUCKET:
                self._locate()
            case Code.STALE_XID:
                self.xids.renew(attempt.xid)
                self._begin_next(Reason.STALE_XID)
            case Code.CONTENDED:
                self._give_up(Reason.CONTENDED, answer.detail)
            case _:
                self._give_up(Reason.UNAVAILABLE, answer.detail)

    def _on_prepare_rejected(self, send: SendPrepare, why: RejectReason) -> None:
        attempt, part = send.attempt, send.part
        if part.vote is not _ASKED:
            return
        if why is RejectReason.UNKNOWN:
            part.unknown = True
        part.away = not part.unknown
        if why in _HOPELESS:
            self._roll_back(attempt)
            self._give_up(_HOPELESS[why], "")
        else:
            self.effects.append(Retry(send))

    # -- phase 2 -----------------------------------------------------------------------------------------

    def _decide(self, attempt: Attempt) -> None:
        """Send DECIDE: all have voted yes. From here on the attempt is the anchor's (rule 5, the last leg decides)."""
        if attempt.parts:
            self.xids.leave(attempt.xid)
        self._enter(_DECIDING)
        attempt.decide()

    def _resolve(self, attempt: Attempt) -> None:
        self._enter(_RESOLVING)
        attempt.resolve()

    def _on_decided(self, send: SendDecide | SendResolve, answer: Answer) -> None:
        """Hear the anchor's record, as DECIDE or a question about this xid was answered (rules 6, 7, 11)."""
        attempt = send.attempt
        if attempt is not self.attempt or self.phase not in _AT_THE_ANCHOR:
            return  # the other one, DECIDE or the question, was answered first
        code = answer.code
        if code is _COMMITTED or code is Code.REFUSED or code is Code.KEY_REUSED:
            if type(send) is SendResolve and answer.xid != attempt.xid:
                self._repeat()
            else:
                self._conclude(answer)
            self._settle(attempt, answer)
        elif code is Code.ABORTED and answer.attempt >= attempt.number:
            self.number = answer.attempt
            self._roll_back(attempt)
            self._on_dead(attempt, answer)
        elif type(send) is SendResolve:
            self.effects.append(Retry(send))
        elif self.phase is _DECIDING:
            self._on_unjudged(attempt, answer)

    def _on_dead(self, attempt: Attempt, answer: Answer) -> None:
        """This attempt has done nothing, for certain. Its own DECIDE's reason goes to the client (rule 6)."""
        judged = answer.xid == attempt.xid
        if judged and answer.reason is Reason.LOCK_CONFLICT:
            self._lock()
        elif judged or self.reason or not self._may_go_on():
            reason = answer.reason if judged else self.reason or Reason.TIMED_OUT
            self._reply(Status.ABORTED, reason, answer.detail)
        elif self.misplaced:
            self._locate()
        else:
            self._begin()

    def _on_unjudged(self, attempt: Attempt, answer: Answer) -> None:
        """An answer that isn't the record's speaks for that copy alone: over prepared legs, ask (rule 6)."""
        wrong = answer.code is Code.WRONG_BUCKET
        if not wrong:
            self.reason = Reason.UNAVAILABLE
            self.detail = answer.detail
        if attempt.parts or attempt.unknown:
            self.misplaced = wrong
            self._resolve(attempt)
        elif wrong:
            self._locate()
        else:
            self._reply(Status.ABORTED, self.reason, self.detail)

    def _on_decide_rejected(self, send: SendDecide, why: RejectReason) -> None:
        attempt = send.attempt
        if attempt is not self.attempt or self.phase is not _DECIDING:
            return
        if why is RejectReason.UNKNOWN:
            attempt.unknown = True
        attempt.away = True
        if why in _HOPELESS and attempt.has_done_nothing():
            self._reply(self._status_of_nothing(), _HOPELESS[why])
        else:
            self.effects.append(Retry(send))

    # -- the other buckets -------------------------------------------------------------------------------

    def _settle(self, attempt: Attempt, outcome: Answer) -> None:
        if attempt.parts and attempt.settle(outcome):
            self._on_settled()

    def _roll_back(self, attempt: Attempt) -> None:
        self.xids.leave(attempt.xid)
        if attempt.roll_back():
            self._on_settled()

    def _on_finished(self, send: SendFinish, answer: Answer) -> None:
        if send.attempt.on_finished(send.part, answer):
            self._on_settled()

    def _on_settled(self) -> None:
        self.unsettled -= 1
        self._release()

    # -- a no, and an end without an outcome -------------------------------------------------------------

    def _refuse(self, reason: Reason, detail: str) -> None:
        """Write a bucket's no at the anchor before the client hears it (rule 8)."""
        self._enter(_REFUSING)
        refusal = RecordRefusal(
            self.payment_id,
            self.body.kind,
            payer(self.body),
            self.number,
            reason,
            detail,
            self.body,
            self.body_hash,
        )
        self.effects.append(SendRefusal(self.placement.anchor, refusal))

    def _on_refused(self, send: SendRefusal, answer: Answer) -> None:
        if self.phase is not _REFUSING:
            return
        match answer.code:
            case Code.COMMITTED | Code.REFUSED | Code.KEY_REUSED:
                self._conclude(answer)
            case Code.ABORTED if self._may_go_on():  # this no was an attempt's that is dead
                self.number = max(self.number, answer.attempt)
                self._begin()
            case Code.ABORTED:
                self._reply(Status.ABORTED, Reason.TIMED_OUT)
            case Code.WRONG_BUCKET:
                self._locate()
            case _:
                self.effects.append(Retry(send))

    def _give_up(self, reason: Reason, detail: str) -> None:
        """End the run without an outcome: before DECIDE was sent, or once its attempt is dead."""
        self.reason = reason
        self.detail = detail
        if not self.begun:
            self._reply(Status.REJECTED, reason, detail)
        else:
            self._check()

    def _check(self) -> None:
        self._enter(_CHECKING)
        self._query()

    def _query(self) -> None:
        query = QueryRecord(self.payment_id, payer(self.body), self.body.kind)
        self.effects.append(SendQuery(self.placement.anchor, query))

    def _on_queried(self, send: SendQuery, answer: Answer) -> None:
        if self.phase is not _LOOKING and self.phase is not _CHECKING:
            return
        match answer.code:
            case Code.COMMITTED | Code.REFUSED:
                self._repeat()
            case Code.NONE | Code.ABORTED if self.phase is _LOOKING:
                self.repeat = False
                self.number = answer.attempt
                self._start()
            case Code.NONE | Code.ABORTED:
                self._reply(Status.ABORTED, self.reason, self.detail)
            case Code.WRONG_BUCKET:
                self._locate()
            case _:
                self.effects.append(Retry(send))

    def _repeat(self) -> None:
        """Send DECIDE, which tells the outcome, that never changes, or that it is another body's (rule 6)."""
        if self.replied:
            self._finish()
            return
        self._enter(_REPEATING)
        self.number += 1
        self._make_attempt(self.xids.next_xid()).decide()

    def _on_repeated(self, send: Send, answer: Answer) -> None:
        if answer.code in _OUTCOMES:
            self._conclude(answer)
        else:
            self.effects.append(Retry(send))

    # -- places and locks --------------------------------------------------------------------------------

    def _locate(self) -> None:
        """Find the accounts anew: a bucket lacks what was named to it there (rule 3)."""
        if not self.reason and not self._may_go_on():
            self.reason = Reason.WRONG_BUCKET
        self._enter(_LOCATING)
        self.effects.append(Locate(self.misplacements))
        self.misplacements += 1

    def _lock(self) -> None:
        """Queue for all accounts of the payment in one request (rules 34, 35)."""
        if not self._may_go_on():
            self._give_up(Reason.LOCK_CONFLICT, "")
            return
        if self.lock_owner:
            self.effects.append(ReleaseLocks(self.lock_owner))
        self._enter(_LOCKING)
        self.tokens = {}
        self.lock_owner = self.xids.next_xid()
        numbers = sorted({number for number, _ in self.body.legs if number != EXTERNAL})
        mode = LockMode.EXCLUSIVE if self.exclusive else LockMode.ESCROW
        self.effects.append(AcquireLocks(self.lock_owner, numbers, mode))

    def _release(self) -> None:
        """Give the locks back once the attempt that carries their tokens has ended, and its legs are settled."""
        if self.lock_owner and self.phase is _DONE and not self.unsettled:
            self.effects.append(ReleaseLocks(self.lock_owner))
            self.lock_owner = b""

    # -- answers to the client ---------------------------------------------------------------------------

    def _conclude(self, outcome: Answer) -> None:
        """Tell the outcome, once."""
        status = Status.COMMITTED if outcome.code is _COMMITTED else _OUTCOMES[outcome.code]
        self._finish()
        if not self.replied:
            self.replied = True
            result = PaymentResult(
                status,
                self.payment_id,
                outcome.reason,
                outcome.detail,
                outcome.time_us,
                outcome.account_bucket,
            )
            self.effects.append(Reply(result))

    def _reply(self, status: Status, reason: Reason = Reason.NONE, detail: str = "") -> None:
        """Say that this run has no outcome to tell, once."""
        self._finish()
        if not self.replied:
            self.replied = True
            self.effects.append(Reply(PaymentResult(status, self.payment_id, reason, detail)))

    def _finish(self) -> None:
        self._enter(_DONE)
        self._release()

    def _status_of_nothing(self) -> Status:
        """What a one-bucket attempt that never was is called: an earlier attempt is on record, or may be."""
        return Status.ABORTED if self.begun > 1 else Status.REJECTED

    def _enter(self, phase: Phase) -> None:
        assert phase in _FOLLOWERS[self.phase], f"{self.phase.name} isn't followed by {phase.name}"
        self.phase = phase

    # -- time --------------------------------------------------------------------------------------------

    def on_soft_deadline(self) -> None:
        """Time for an end that can still be told: no attempt begins, and the one under way ends if it can."""
        self.late = True
        attempt = self.attempt
        if attempt is None:
            return
        if self.phase is _PREPARING:
            silent = self._silent()
            self._roll_back(attempt)
            self._give_up(Reason.TIMED_OUT, silent)
        elif self.phase is _DECIDING:
            if attempt.has_done_nothing():
                self._reply(self._status_of_nothing(), Reason.UNAVAILABLE, self._silent())
            else:
                self.reason = Reason.TIMED_OUT
                self._resolve(attempt)

    def on_deadline(self) -> None:
        """The client waits no longer: what isn't certain is UNKNOWN (rule 9, outcomes). Prepared legs are asked about further."""
        if not self.late:
            self.on_soft_deadline()
        if self.replied:
            return
        begun = self.begun or self.repeat or self.number
        status = Status.UNKNOWN if begun else Status.REJECTED
        result = PaymentResult(status, self.payment_id, Reason.TIMED_OUT, self._silent())
        self.replied = True
        self.effects.append(Reply(result))
        if self.phase not in _AT_THE_ANCHOR or not self.unsettled:
            self._finish()

    def _silent(self) -> str:
        """Say who hasn't answered, to whoever gives up waiting."""
        if self.phase is _LOCATING:
            return "the buckets that know where its accounts are have not answered in time"
        if self.phase is _LOCKING:
            return "the lock service has not answered in time"
        if self.phase is _PREPARING and self.attempt is not None:
            buckets = self.attempt.silent_buckets()
        else:
            buckets = [self.placement.anchor]
        if len(buckets) == 1:
            return f"bucket {buckets[0]} has not answered in time"
        return f"buckets {', '.join(map(str, buckets))} have not answered in time"

    def on_retry_due(self, send: Send) -> None:
        """Send once more what a `Retry` has held back, if it still matters."""
        matters: bool
        match send:
            case SendPrepare():
                matters = send.part.vote is _ASKED
                send.part.away = False
            case SendFinish():
                matters = send.part.vote in _SETTLING
            case SendDecide():
                matters = send.attempt is self.attempt and self.phase in _SENDS_DECIDE
                send.attempt.away = False
            case SendResolve():
                matters = send.attempt is self.attempt and self.phase is _RESOLVING
            case SendRefusal():
                matters = self.phase is _REFUSING and send.instruction.attempt == self.number
            case SendQuery():
                matters = self.phase is _LOOKING or self.phase is _CHECKING
        if matters:
            self.effects.append(replace(send, tries=send.tries + 1))

    # -- answers of the buckets --------------------------------------------------------------------------

    def on_answer(self, send: Send, answer: Answer) -> None:
        """Hear what a bucket's ledger has answered to what was sent."""
        if type(send) is SendPrepare:
            self._on_vote(send, answer)
        elif type(send) is SendFinish:
            self._on_finished(send, answer)
        elif self.phase is _REPEATING:
            self._on_repeated(send, answer)
        elif type(send) is SendDecide or type(send) is SendResolve:
            self._on_decided(send, answer)
        elif type(send) is SendRefusal:
            self._on_refused(send, answer)
        else:
            self._on_queried(send, answer)

    def on_rejected(self, send: Send, why: RejectReason) -> None:
        """Hear that a copy of what was sent gets no answer of the ledger's (rules 6, 16, 39)."""
        if isinstance(send, SendPrepare):
            self._on_prepare_rejected(send, why)
        elif isinstance(send, SendDecide) and self.phase is not _REPEATING:
            self._on_decide_rejected(send, why)
        else:
            self.effects.append(Retry(send))


_AT_THE_ANCHOR = (_DECIDING, _RESOLVING)
_SENDS_DECIDE = (_DECIDING, _REPEATING)
_SETTLING = (Vote.COMMITTING, Vote.ROLLING_BACK)
_OUTCOMES = {
    Code.COMMITTED: Status.COMMITTED,
    Code.REFUSED: Status.REFUSED,
    Code.KEY_REUSED: Status.KEY_REUSED,
}
_HOPELESS = {
    RejectReason.OVERLOADED: Reason.OVERLOADED,
    RejectReason.INVALID: Reason.UNAVAILABLE,
}
"""What a copy is rejected for that another copy would be rejected for too, and what a caller hears then."""
