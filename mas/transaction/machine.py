"""The coordinator's side of two-phase commit, as data: what has happened goes in, effects come out.

A `GlobalTransaction` is one payment's run for one caller: its attempts one after another, each with its
`LocalTransaction`s, one for every bucket outside the anchor. Everything that can change one is in this file.
Nothing here waits, reads a clock, or knows where a bucket lives.

    LOCATING ─ LOOKING ─ LOCKING ─ PREPARING ── all yes ──> DECIDING ── lost sight ──> ASKING
               (repeat)             │      │                   │                         │
                                 a no    gives up              └── the anchor's word ────┤
                                    │      │                                             │
                                 ENDING  CHECKING ── an outcome ──> REPEATING ──────────> DONE
                                    └──────┴───────── the anchor's word ───────────────────┘

Before DECIDE is sent, the attempt is the coordinator's to end, and the anchor is asked before the client hears
an error (rule 8). From then on it is the anchor's: nothing is freed, and nothing said, before the anchor has
spoken of this xid (rules 6, 8). An attempt that has done nothing is followed by the next one, under a new xid.

Every event appends its effects to the list handed in; their order is the order in which they must be done.
"""

from collections.abc import Mapping
from enum import IntEnum

import msgspec

from mas.ledger.instructions import (
    EXTERNAL,
    Abort,
    Answer,
    Body,
    Code,
    Commit,
    Decide,
    Instruction,
    Kind,
    LockMode,
    Prepare,
    QueryRecord,
    Reason,
    RecordRefusal,
    RejectReason,
    Resolve,
    Token,
    parties,
    payer,
)
from mas.transaction.outcome import PaymentResult, Status
from mas.transaction.participant import instruct
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
    ASKING = 6
    """Has sent DECIDE and doesn't know: asks, with the abort (rule 11)."""
    ENDING = 7
    """Writes another bucket's no at the anchor (rule 8)."""
    CHECKING = 8
    """Has ended its attempt by itself: asks the anchor before its client hears so (rule 8)."""
    REPEATING = 9
    """There is an outcome: lets the anchor say it, or that this body isn't the one (rule 6)."""
    DONE = 10
    """Has nothing more to say; legs may still be on their way to their outcome."""


class Vote(IntEnum):
    """Where a bucket's part in an attempt stands."""

    ASKED = 1
    YES = 2
    COMMITTING = 3
    ROLLING_BACK = 4
    POSTED = 5
    FREED = 6
    """Or never prepared."""


# On CPython 3.11 a member looked up in its enum costs as much as a call; every payment passes these.
_LOCATING, _PREPARING, _DECIDING, _REPEATING, _DONE = (
    Phase.LOCATING,
    Phase.PREPARING,
    Phase.DECIDING,
    Phase.REPEATING,
    Phase.DONE,
)
_ASKED, _YES, _COMMITTING, _POSTED = Vote.ASKED, Vote.YES, Vote.COMMITTING, Vote.POSTED
_PREPARED, _COMMITTED, _CREATION = Code.PREPARED, Code.COMMITTED, Kind.CREATION


class LocalTransaction(msgspec.Struct, gc=False, eq=False):
    """One bucket's part in an attempt."""

    bucket: int
    vote: Vote = Vote.ASKED
    unknown: bool = False
    """A copy of its `Prepare` was lost sight of: it may take effect at any time."""
    away: bool = False
    """No copy of its `Prepare` is under way, and none has prepared anything."""


class Attempt(msgspec.Struct, gc=False, eq=False):
    """One try, under its own xid (rule 2)."""

    xid: bytes
    number: int
    anchor: int
    """The anchor that its legs name, for all time (rule 3)."""
    locals: list[LocalTransaction]
    awaited: int = 0
    """Votes still to come."""
    unsettled: int = 0
    """Buckets that may hold legs of this attempt."""
    unknown: bool = False
    """A copy of its `Decide` was lost sight of."""
    away: bool = False
    """No copy of its `Decide` is under way."""


class GlobalTransaction(msgspec.Struct, gc=False, eq=False):
    """One payment's run. It begins LOCATING: tell it where its accounts are."""

    payment_id: bytes
    body: Body
    body_hash: bytes
    attempts: XidSource
    repeat: bool = False
    """The caller says that it has asked before (rule 8)."""
    exclusive: bool = False
    """Locks are taken before phase 1 (rule 35)."""
    phase: Phase = Phase.LOCATING
    placement: Placement | None = None
    misplaced: bool = False
    """The anchor under way said WRONG_BUCKET: the next attempt is placed anew (rule 3)."""
    misplacements: int = 0
    """How often accounts weren't where they were said to be: from the second time on, they are looked for after a pause."""
    attempt: Attempt | None = None
    number: int = 0
    """The greatest attempt that is known of."""
    begun: int = 0
    """Attempts of this run."""
    tokens: Mapping[str, Token] = {}
    owner: bytes = b""
    """Of the locks asked for or held."""
    reason: Reason = Reason.NONE
    """Why this run ends without an outcome; while NONE, another attempt may follow."""
    detail: str = ""
    late: bool = False
    """No attempt begins any more."""
    replied: bool = False
    unsettled: int = 0
    """Buckets that may hold legs of any attempt of this run."""
    caller: str = ""
    """Whose it is, or nobody's, if it is taken over from a coordinator that is gone."""

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to say or to settle."""
        return self.phase is Phase.DONE and not self.unsettled

    def take_over(
        self,
        xid: bytes,
        number: int,
        anchor: int,
        participants: tuple[int, ...],
        effects: "list[Effect]",
    ) -> None:
        """Finish an attempt of a coordinator that is gone: ask, then tell every bucket (rule 11). Nobody waits for it."""
        assert self.phase is Phase.LOCATING
        parts = [LocalTransaction(bucket, Vote.YES) for bucket in participants]
        self.replied = True
        self.number = number
        self.unsettled = len(parts)
        self.attempt = Attempt(xid, number, anchor, parts, 0, len(parts))
        self._ask(self.attempt, effects)

    # -- what happens before phase 1 ---------------------------------------------------------------------

    def located(self, placement: Placement, effects: "list[Effect]") -> None:
        """The accounts are there, as far as the directory, or now their homes, say."""
        if self.phase is not _LOCATING:
            return
        self.placement = placement
        self.misplaced = False
        if not placement.anchor:
            status = Status.ABORTED if self.begun else Status.REJECTED
            self._reply(status, effects, Reason.ACCOUNT_NOT_FOUND, placement.missing)
        elif self.reason:
            self._check(effects)
        elif self.repeat:
            self.phase = Phase.LOOKING
            self._look(effects)
        else:
            self.prepare(effects)

    def prepare(self, effects: "list[Effect]") -> None:
        """Take the locks where the policy asks for them; then begin."""
        needs_locks = self.exclusive and not self.tokens
        # Nothing can be locked that doesn't exist.
        if needs_locks and self.body.kind is not _CREATION and not self._place().missing:
            self._lock(effects)
        else:
            self._next(Reason.TIMED_OUT, effects)

    def granted(self, owner: bytes, tokens: Mapping[str, Token], effects: "list[Effect]") -> None:
        """The locks asked for under this owner are held; the next attempt carries their tokens (rule 34)."""
        if self.phase is not Phase.LOCKING or owner != self.owner:
            effects.append(ReleaseLocks(owner))
            return
        self.tokens = tokens
        self._next(Reason.TIMED_OUT, effects)

    def denied(self, owner: bytes, effects: "list[Effect]") -> None:
        """The locks weren't had in time, or there is no lock service."""
        if self.phase is Phase.LOCKING and owner == self.owner:
            self.owner = b""
            reason = Reason.LOCK_CONFLICT if self.begun else Reason.UNAVAILABLE
            self._give_up(reason, "locks not granted in time", effects)

    # -- phase 1 -----------------------------------------------------------------------------------------

    def begin(self, effects: "list[Effect]") -> None:
        """The next attempt, under a new xid: every bucket but the anchor is asked to prepare (rule 4)."""
        placement = self._place()
        self.number += 1
        self.begun += 1
        if placement.missing:
            self._refuse(Reason.ACCOUNT_NOT_FOUND, placement.missing, effects)
        elif placement.others:
            self._begin_phase_1(placement, effects)
        else:
            xid = self.attempts.name()
            self.attempt = Attempt(xid, self.number, placement.anchor, [])
            self.commit(effects)

    def _begin_phase_1(self, placement: Placement, effects: "list[Effect]") -> None:
        body, xid, participants = self.body, self.attempts.begin(), placement.participants
        parts: list[LocalTransaction] = []
        count = len(participants)
        attempt = Attempt(xid, self.number, placement.anchor, parts, count, count)
        self.attempt = attempt
        self.unsettled += count
        self.phase = _PREPARING
        effects.append(NotePending(self, attempt))
        told = parties(body.legs)
        for bucket, positions in placement.others:
            instruction = Prepare(
                xid,
                self.payment_id,
                self.number,
                self.body_hash,
                placement.anchor,
                participants,
                body.kind,
                body.currency,
                tuple([body.legs[position] for position in positions]),
                self._carry(positions) if self.tokens else (),
                body.overdraft_limit,
                told,
                body.reference,
            )
            part = LocalTransaction(bucket)
            parts.append(part)
            effects.append(Send(self, bucket, instruction, attempt, part))

    def _on_vote(self, send: "Send", answer: Answer, effects: "list[Effect]") -> None:
        part, attempt = send.part, send.attempt
        assert part is not None
        assert attempt is not None
        yes = answer.code is _PREPARED or answer.code is Code.POSTED
        if part.vote is not _ASKED:
            if yes and part.vote is Vote.FREED:  # its Abort came first, and found nothing (P12)
                effects.extend([] if attempt.unsettled else [NotePending(self, attempt)])
                attempt.unsettled += 1
                self.unsettled += 1
                self._roll_back_part(part, attempt, effects)
            return
        if yes:
            part.vote = _YES
            attempt.awaited -= 1
            if not attempt.awaited:
                self.commit(effects)
        else:
            part.away = not part.unknown
            self._on_no(attempt, answer, effects)

    def _on_no(self, attempt: Attempt, answer: Answer, effects: "list[Effect]") -> None:
        self.rollback(attempt, effects)
        match answer.code:
            case Code.REFUSED:
                self._refuse(answer.reason, answer.detail, effects)
            case Code.LOCK_CONFLICT:
                self._lock(effects)
            case Code.WRONG_BUCKET:
                self._locate(effects)
            case Code.STALE_XID:
                self.attempts.renew(attempt.xid)
                self._next(Reason.STALE_XID, effects)
            case Code.CONTENDED:
                self._give_up(Reason.CONTENDED, answer.detail, effects)
            case _:
                self._give_up(Reason.UNAVAILABLE, answer.detail, effects)

    def _on_prepare_turned_away(
        self, send: "Send", why: RejectReason, effects: "list[Effect]"
    ) -> None:
        part, attempt = send.part, send.attempt
        assert part is not None
        assert attempt is not None
        if part.vote is not Vote.ASKED:
            return
        if why is RejectReason.UNKNOWN:
            part.unknown = True
        part.away = not part.unknown
        if why is RejectReason.OVERLOADED or why is RejectReason.INVALID:
            self.rollback(attempt, effects)
            self._give_up(_TURNED_AWAY[why], "", effects)
        else:
            effects.append(Later(send))

    # -- phase 2 -----------------------------------------------------------------------------------------

    def commit(self, effects: "list[Effect]") -> None:
        """All have voted yes: the anchor decides (rule 5). From here on the attempt is the anchor's."""
        attempt = self.attempt
        assert attempt is not None
        if attempt.locals:
            self.attempts.leave(attempt.xid)
        self.phase = _DECIDING
        self._decide(attempt, effects)

    def _decide(self, attempt: Attempt, effects: "list[Effect]") -> None:
        placement, creates = self._place(), self.body.kind is _CREATION
        others = placement.participants
        decide = Decide(
            attempt.xid,
            self.payment_id,
            attempt.number,
            self.body,
            self.body_hash,
            others,
            placement.own,
            (others[0] if others else attempt.anchor) if creates else 0,
            self._carry(placement.own) if self.tokens else (),
        )
        effects.append(Send(self, attempt.anchor, decide, attempt))

    def _on_decided(self, send: "Send", answer: Answer, effects: "list[Effect]") -> None:
        """The anchor's record, as DECIDE or a question about this xid was answered (rules 6, 7, 11)."""
        attempt = send.attempt
        assert attempt is not None
        if attempt is not self.attempt or self.phase not in _AT_THE_ANCHOR:
            return  # the other one, DECIDE or the question, was answered first
        code = answer.code
        if code is _COMMITTED or code is Code.REFUSED or code is Code.KEY_REUSED:
            if type(send.instruction) is Resolve and answer.xid != attempt.xid:
                self._repeat(attempt.anchor, effects)
            else:
                self._conclude(answer, effects)
            if attempt.locals:
                self._settle(attempt, answer, effects)
        elif code is Code.ABORTED and answer.attempt >= attempt.number:
            self.number = answer.attempt
            self.rollback(attempt, effects)
            self._on_dead(attempt, answer, effects)
        elif type(send.instruction) is Resolve:
            effects.append(Later(send))
        elif self.phase is _DECIDING:
            self._on_unjudged(attempt, answer, effects)

    def _on_dead(self, attempt: Attempt, answer: Answer, effects: "list[Effect]") -> None:
        """This attempt has done nothing, for certain. Its own DECIDE's reason goes to the client (rule 6)."""
        judged = answer.xid == attempt.xid
        if judged and answer.reason is Reason.LOCK_CONFLICT:
            self._lock(effects)
        elif judged or self.reason or not self._may_go_on():
            reason = answer.reason if judged else self.reason or Reason.TIMED_OUT
            self._reply(Status.ABORTED, effects, reason, answer.detail)
        elif self.misplaced:
            self._locate(effects)
        else:
            self.begin(effects)

    def _on_unjudged(self, attempt: Attempt, answer: Answer, effects: "list[Effect]") -> None:
        """An answer that isn't the record's speaks for that copy alone: over prepared legs, ask (rule 6)."""
        wrong = answer.code is Code.WRONG_BUCKET
        if not wrong:
            self.reason = Reason.UNAVAILABLE
            self.detail = answer.detail
        if attempt.locals or attempt.unknown:
            self.misplaced = wrong
            self._ask(attempt, effects)
        elif wrong:
            self._locate(effects)
        else:
            self._reply(Status.ABORTED, effects, self.reason, self.detail)

    def _on_decide_turned_away(
        self, send: "Send", why: RejectReason, effects: "list[Effect]"
    ) -> None:
        attempt = send.attempt
        assert attempt is not None
        if attempt is not self.attempt or self.phase is not Phase.DECIDING:
            return
        if why is RejectReason.UNKNOWN:
            attempt.unknown = True
        attempt.away = True
        hopeless = why is RejectReason.OVERLOADED or why is RejectReason.INVALID
        if hopeless and self._has_done_nothing(attempt):
            self._reply(self._nothing(), effects, _TURNED_AWAY[why])
        else:
            effects.append(Later(send))

    def _has_done_nothing(self, attempt: Attempt) -> bool:
        """Whether a one-bucket DECIDE, no copy of which is alive or lost sight of, may end by it (rule 6)."""
        return attempt.away and not attempt.unknown and not attempt.locals

    def _ask(self, attempt: Attempt, effects: "list[Effect]") -> None:
        self.phase = Phase.ASKING
        ask = Resolve(self.payment_id, attempt.number, attempt.xid, self.body_hash)
        effects.append(Send(self, attempt.anchor, ask, attempt))

    # -- the other buckets -------------------------------------------------------------------------------

    def _settle(self, attempt: Attempt, outcome: Answer, effects: "list[Effect]") -> None:
        """Tell every bucket the outcome: only the record's own xid is committed (rules 7, 11)."""
        instruction = instruct(attempt.xid, attempt.number, outcome)
        if type(instruction) is not Commit:
            self.rollback(attempt, effects)
            return
        for part in attempt.locals:
            part.vote = _COMMITTING
            effects.append(Send(self, part.bucket, instruction, attempt, part))

    def rollback(self, attempt: Attempt, effects: "list[Effect]") -> None:
        """Free this attempt's legs. A `Prepare` that was refused or turned away needs no `Abort` (rule 10)."""
        self.attempts.leave(attempt.xid)
        for part in attempt.locals:
            if part.away:
                self._over(part, attempt, Vote.FREED, effects)
            else:
                self._roll_back_part(part, attempt, effects)

    def _roll_back_part(
        self, part: LocalTransaction, attempt: Attempt, effects: "list[Effect]"
    ) -> None:
        part.vote = Vote.ROLLING_BACK
        effects.append(Send(self, part.bucket, Abort(attempt.xid), attempt, part))

    def _on_settled(self, send: "Send", answer: Answer, effects: "list[Effect]") -> None:
        assert send.part is not None
        assert send.attempt is not None
        if answer.code in _UNSETTLED:
            effects.append(Alarm(send, answer))
        if send.part.vote is _COMMITTING:
            self._over(send.part, send.attempt, _POSTED, effects)
        elif send.part.vote is Vote.ROLLING_BACK:
            self._over(send.part, send.attempt, Vote.FREED, effects)

    def _over(
        self, part: LocalTransaction, attempt: Attempt, vote: Vote, effects: "list[Effect]"
    ) -> None:
        part.vote = vote
        attempt.unsettled -= 1
        self.unsettled -= 1
        if not attempt.unsettled:
            effects.append(Settled(attempt.xid))
            self._release(effects)

    # -- a no, and an end without an outcome -------------------------------------------------------------

    def _refuse(self, reason: Reason, detail: str, effects: "list[Effect]") -> None:
        """A ledger's no from a bucket is written at the anchor before the client hears it (rule 8)."""
        self.phase = Phase.ENDING
        end = RecordRefusal(
            self.payment_id,
            self.body.kind,
            payer(self.body),
            self.number,
            reason,
            detail,
            self.body,
            self.body_hash,
        )
        effects.append(Send(self, self._place().anchor, end))

    def _on_ended(self, send: "Send", answer: Answer, effects: "list[Effect]") -> None:
        if self.phase is not Phase.ENDING:
            return
        match answer.code:
            case Code.COMMITTED | Code.REFUSED | Code.KEY_REUSED:
                self._conclude(answer, effects)
            case Code.ABORTED if self._may_go_on():  # this no was an attempt's that is dead
                self.number = max(self.number, answer.attempt)
                self.begin(effects)
            case Code.ABORTED:
                self._reply(Status.ABORTED, effects, Reason.TIMED_OUT)
            case Code.WRONG_BUCKET:
                self._locate(effects)
            case _:
                effects.append(Later(send))

    def _give_up(self, reason: Reason, detail: str, effects: "list[Effect]") -> None:
        """End the run without an outcome: before DECIDE was sent, or once its attempt is dead."""
        self.reason = reason
        self.detail = detail
        if not self.begun:
            self._reply(Status.REJECTED, effects, reason, detail)
        else:
            self._check(effects)

    def _check(self, effects: "list[Effect]") -> None:
        self.phase = Phase.CHECKING
        self._look(effects)

    def _look(self, effects: "list[Effect]") -> None:
        look = QueryRecord(self.payment_id, payer(self.body), self.body.kind)
        effects.append(Send(self, self._place().anchor, look))

    def _on_looked(self, send: "Send", answer: Answer, effects: "list[Effect]") -> None:
        if self.phase is not Phase.LOOKING and self.phase is not Phase.CHECKING:
            return
        match answer.code:
            case Code.COMMITTED | Code.REFUSED:
                self._repeat(send.bucket, effects)
            case Code.NONE | Code.ABORTED if self.phase is Phase.LOOKING:
                self.repeat = False
                self.number = answer.attempt
                self.prepare(effects)
            case Code.NONE | Code.ABORTED:
                self._reply(Status.ABORTED, effects, self.reason, self.detail)
            case Code.WRONG_BUCKET:
                self._locate(effects)
            case _:
                effects.append(Later(send))

    def _repeat(self, anchor: int, effects: "list[Effect]") -> None:
        """There is an outcome, which never changes, but maybe not of this body: DECIDE is answered with either (rule 6)."""
        if self.replied:
            self._done(effects)
            return
        self.phase = Phase.REPEATING
        self.number += 1
        self.attempt = Attempt(self.attempts.name(), self.number, anchor, [])
        self._decide(self.attempt, effects)

    def _on_repeated(self, send: "Send", answer: Answer, effects: "list[Effect]") -> None:
        if answer.code in _OUTCOMES:
            self._conclude(answer, effects)
        else:
            effects.append(Later(send))

    def _next(self, reason: Reason, effects: "list[Effect]") -> None:
        """The attempt has ended before DECIDE: another one, if its client is still there."""
        if self._may_go_on():
            self.begin(effects)
        else:
            self._give_up(reason, "", effects)

    def _may_go_on(self) -> bool:
        return not (self.replied or self.late or self.begun >= ATTEMPTS_MAX)

    # -- places and locks --------------------------------------------------------------------------------

    def _place(self) -> Placement:
        assert self.placement is not None
        return self.placement

    def _locate(self, effects: "list[Effect]") -> None:
        """A bucket lacks what was named to it there: find the accounts anew (rule 3)."""
        if not self.reason and not self._may_go_on():
            self.reason = Reason.WRONG_BUCKET
        self.phase = Phase.LOCATING
        effects.append(Locate(self, self.misplacements))
        self.misplacements += 1

    def _lock(self, effects: "list[Effect]") -> None:
        """Queue for all accounts of the payment in one request (rules 34, 35)."""
        if not self._may_go_on():
            self._give_up(Reason.LOCK_CONFLICT, "", effects)
            return
        if self.owner:
            effects.append(ReleaseLocks(self.owner))
        self.phase = Phase.LOCKING
        self.tokens = {}
        self.owner = self.attempts.name()
        numbers = sorted({number for number, _ in self.body.legs if number != EXTERNAL})
        mode = LockMode.EXCLUSIVE if self.exclusive else LockMode.ESCROW
        effects.append(NeedLocks(self, self.owner, numbers, mode))

    def _carry(self, positions: tuple[int, ...]) -> tuple[Token | None, ...]:
        return tuple([self.tokens.get(self.body.legs[position][0]) for position in positions])

    def _release(self, effects: "list[Effect]") -> None:
        """The attempt that carries the tokens has ended, and its legs are settled."""
        if self.owner and self.phase is _DONE and not self.unsettled:
            effects.append(ReleaseLocks(self.owner))
            self.owner = b""

    # -- answers to the client ---------------------------------------------------------------------------

    def _conclude(self, outcome: Answer, effects: "list[Effect]") -> None:
        status = Status.COMMITTED if outcome.code is _COMMITTED else _OUTCOMES[outcome.code]
        self._done(effects)
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
            effects.append(Reply(self, result))

    def _reply(
        self,
        status: Status,
        effects: "list[Effect]",
        reason: Reason = Reason.NONE,
        detail: str = "",
    ) -> None:
        """Say that this run has no outcome to tell, once."""
        self._done(effects)
        if not self.replied:
            self.replied = True
            effects.append(Reply(self, PaymentResult(status, self.payment_id, reason, detail)))

    def _done(self, effects: "list[Effect]") -> None:
        self.phase = _DONE
        self._release(effects)

    def _nothing(self) -> Status:
        """What a one-bucket attempt that never was is called: an earlier attempt is on record, or may be."""
        return Status.ABORTED if self.begun > 1 else Status.REJECTED

    # -- time --------------------------------------------------------------------------------------------

    def late_now(self, effects: "list[Effect]") -> None:
        """Time for an end that can still be told: no attempt begins, and the one under way ends if it can."""
        self.late = True
        attempt = self.attempt
        if self.phase is Phase.PREPARING:
            assert attempt is not None
            silent = self._silent()
            self.rollback(attempt, effects)
            self._give_up(Reason.TIMED_OUT, silent, effects)
        elif self.phase is Phase.DECIDING:
            assert attempt is not None
            if self._has_done_nothing(attempt):
                self._reply(self._nothing(), effects, Reason.UNAVAILABLE, self._silent())
            else:
                self.reason = Reason.TIMED_OUT
                self._ask(attempt, effects)

    def expired(self, effects: "list[Effect]") -> None:
        """The client waits no longer: what isn't certain is UNKNOWN (rule 9). Prepared legs are asked about further."""
        if not self.late:
            self.late_now(effects)
        if self.replied:
            return
        begun = self.begun or self.repeat or self.number
        status = Status.UNKNOWN if begun else Status.REJECTED
        result = PaymentResult(status, self.payment_id, Reason.TIMED_OUT, self._silent())
        self.replied = True
        effects.append(Reply(self, result))
        if self.phase not in _AT_THE_ANCHOR or not self.unsettled:
            self._done(effects)

    def _silent(self) -> str:
        """Who hasn't answered: what whoever gives up waiting is told."""
        if self.phase is Phase.LOCATING:
            return "the buckets that know where its accounts are have not answered in time"
        if self.phase is Phase.LOCKING:
            return "the lock service has not answered in time"
        attempt = self.attempt
        buckets = [attempt.anchor if attempt else self._place().anchor]
        if self.phase is Phase.PREPARING and attempt is not None:
            buckets = [part.bucket for part in attempt.locals if part.vote is Vote.ASKED]
        if len(buckets) == 1:
            return f"bucket {buckets[0]} has not answered in time"
        return f"buckets {', '.join(map(str, buckets))} have not answered in time"

    def again(self, send: "Send", effects: "list[Effect]") -> None:
        """The pause of a `Later` is over: send it once more, if it still matters."""
        instruction, attempt, part = send.instruction, send.attempt, send.part
        matters: bool
        match instruction:
            case Prepare():
                matters = part is not None and part.vote is Vote.ASKED
                if part is not None:
                    part.away = False
            case Commit() | Abort():
                matters = part is not None and part.vote in _SETTLING
            case Decide():
                matters = attempt is self.attempt and self.phase in _SENDS_DECIDE
                if attempt is not None:
                    attempt.away = False
            case Resolve():
                matters = attempt is self.attempt and self.phase is Phase.ASKING
            case RecordRefusal():
                matters = self.phase is Phase.ENDING and instruction.attempt == self.number
            case _:
                matters = self.phase is Phase.LOOKING or self.phase is Phase.CHECKING
        if matters:
            effects.append(Send(self, send.bucket, instruction, attempt, part, send.tries + 1))

    # -- answers of the buckets --------------------------------------------------------------------------

    def answered(self, send: "Send", answer: Answer, effects: "list[Effect]") -> None:
        """A bucket's ledger has answered what was sent."""
        kind = type(send.instruction)
        if kind is Prepare:
            self._on_vote(send, answer, effects)
        elif kind is Commit or kind is Abort:
            self._on_settled(send, answer, effects)
        elif self.phase is _REPEATING:
            self._on_repeated(send, answer, effects)
        elif kind is Decide or kind is Resolve:
            self._on_decided(send, answer, effects)
        elif kind is RecordRefusal:
            self._on_ended(send, answer, effects)
        else:
            self._on_looked(send, answer, effects)

    def turned_away(self, send: "Send", why: RejectReason, effects: "list[Effect]") -> None:
        """A copy of what was sent gets no answer of the ledger's (rules 6, 16, 39)."""
        kind = type(send.instruction)
        if kind is Prepare:
            self._on_prepare_turned_away(send, why, effects)
        elif kind is Decide and self.phase is not Phase.REPEATING:
            self._on_decide_turned_away(send, why, effects)
        else:
            effects.append(Later(send))


class Send(msgspec.Struct, gc=False, eq=False):
    """Send one instruction to a bucket; the answer comes back with this same `Send`."""

    transaction: GlobalTransaction
    bucket: int
    instruction: Instruction
    attempt: Attempt | None = None
    part: LocalTransaction | None = None
    tries: int = 0
    """How often it was sent before."""


class Later(msgspec.Struct, gc=False, eq=False):
    """Hand this back to `GlobalTransaction.again` after a pause that grows with `tries`."""

    send: Send


class Reply(msgspec.Struct, gc=False, eq=False):
    """The caller's answer, once."""

    transaction: GlobalTransaction
    result: PaymentResult


class NotePending(msgspec.Struct, gc=False, eq=False):
    """Note the attempt as PENDING, beside phase 1 and not waited for (rule 40)."""

    transaction: GlobalTransaction
    attempt: Attempt


class Settled(msgspec.Struct, gc=False, eq=False):
    """Every leg of the attempt has its outcome: its PENDING entry may be closed."""

    xid: bytes


class Locate(msgspec.Struct, gc=False, eq=False):
    """Ask the accounts' homes, not the directory, and call `GlobalTransaction.located`."""

    transaction: GlobalTransaction
    tries: int
    """How often they were asked before: the first time at once, then after a pause that grows."""


class NeedLocks(msgspec.Struct, gc=False, eq=False):
    """Queue for these locks, and call `granted` or `denied`."""

    transaction: GlobalTransaction
    owner: bytes
    numbers: list[str]
    mode: LockMode


class ReleaseLocks(msgspec.Struct, gc=False, eq=False):
    """Whoever carries this owner's tokens has ended."""

    owner: bytes


class Alarm(msgspec.Struct, gc=False, eq=False):
    """A bucket has answered what can't be (rule 10)."""

    send: Send
    answer: Answer


Effect = Send | Later | Reply | NotePending | Settled | Locate | NeedLocks | ReleaseLocks | Alarm

_AT_THE_ANCHOR = (Phase.DECIDING, Phase.ASKING)
_SENDS_DECIDE = (Phase.DECIDING, Phase.REPEATING)
_SETTLING = (Vote.COMMITTING, Vote.ROLLING_BACK)
_UNSETTLED = (Code.ALARM, Code.FAILED)
_OUTCOMES = {
    Code.COMMITTED: Status.COMMITTED,
    Code.REFUSED: Status.REFUSED,
    Code.KEY_REUSED: Status.KEY_REUSED,
}
_TURNED_AWAY = {
    RejectReason.OVERLOADED: Reason.OVERLOADED,
    RejectReason.INVALID: Reason.UNAVAILABLE,
}
