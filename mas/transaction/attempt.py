"""One two-phase commit, under one xid: which bucket has voted, who is told what, and what is left to settle.

An attempt says what to send and keeps count. When to begin one, what a no means, and what follows its end is decided in
`mas.transaction.payment`.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Protocol, final

import msgspec

from mas.ledger.instructions import (
    Abort,
    Answer,
    Body,
    Code,
    Commit,
    Decide,
    Kind,
    Prepare,
    Resolve,
    Token,
    parties,
)
from mas.transaction.participant import instruct
from mas.transaction.placement import Placement


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
_ASKED, _YES, _COMMITTING, _POSTED = Vote.ASKED, Vote.YES, Vote.COMMITTING, Vote.POSTED
_CREATION = Kind.CREATION

_IMPOSSIBLE = (Code.ALARM, Code.FAILED)
"""Answers to a `Commit` or `Abort` that can't be (rule 10)."""


class Part(msgspec.Struct, gc=False, eq=False):
    """One bucket's part in an attempt."""

    bucket: int
    vote: Vote = Vote.ASKED
    unknown: bool = False
    """A copy of its `Prepare` was lost sight of: it may take effect at any time."""
    away: bool = False
    """No copy of its `Prepare` is under way, and none has prepared anything."""


class Effects(Protocol):
    """Takes what is to be done, in order."""

    def append(self, effect: "AttemptEffect", /) -> None:
        """Put this behind what is there."""


class Attempt(msgspec.Struct, gc=False, eq=False):
    """One try to carry out a payment, under its own xid (rule 2, attempts)."""

    effects: Effects
    """Its run's: what the attempt wants done is put here."""
    xid: bytes
    number: int
    placement: Placement
    """Where the legs are; they name its anchor for all time (rule 3, anchor and record)."""
    payment_id: bytes
    body: Body
    body_hash: bytes
    tokens: Mapping[str, Token]
    """Of the locks that it runs under, by account."""
    parts: list[Part] = []
    """Of every bucket but the anchor."""
    awaited: int = 0
    """Votes still to come."""
    unsettled: int = 0
    """Parts that may hold legs."""
    unknown: bool = False
    """A copy of its `Decide` was lost sight of."""
    away: bool = False
    """No copy of its `Decide` is under way."""

    def prepare(self) -> None:
        """Phase 1: ask every bucket but the anchor for its vote (rule 4, prepare)."""
        effects, placement, body = self.effects, self.placement, self.body
        participants = placement.participants
        self.awaited = self.unsettled = len(participants)
        effects.append(NotePending(self))
        told = parties(body.legs)
        for bucket, positions in placement.others:
            instruction = Prepare(
                self.xid,
                self.payment_id,
                self.number,
                self.body_hash,
                placement.anchor,
                participants,
                body.kind,
                body.currency,
                tuple([body.legs[position] for position in positions]),
                self._tokens_of(positions) if self.tokens else (),
                body.overdraft_limit,
                told,
                body.reference,
            )
            part = Part(bucket)
            self.parts.append(part)
            effects.append(SendPrepare(bucket, instruction, self, part))

    def decide(self) -> None:
        """Phase 2: have the anchor decide; all others have voted yes (rule 5, the last leg decides)."""
        placement = self.placement
        others = placement.participants
        creates = self.body.kind is _CREATION
        instruction = Decide(
            self.xid,
            self.payment_id,
            self.number,
            self.body,
            self.body_hash,
            others,
            placement.own,
            (others[0] if others else placement.anchor) if creates else 0,
            self._tokens_of(placement.own) if self.tokens else (),
        )
        self.effects.append(SendDecide(placement.anchor, instruction, self))

    def resolve(self) -> None:
        """Ask the anchor, which declares the attempt dead unless it has an outcome (rule 11, the resolver)."""
        instruction = Resolve(self.payment_id, self.number, self.xid, self.body_hash)
        self.effects.append(SendResolve(self.placement.anchor, instruction, self))

    def has_done_nothing(self) -> bool:
        """Return whether this is a one-bucket `Decide` no copy of which is alive or lost sight of (rule 6, decide)."""
        return self.away and not self.unknown and not self.parts

    def silent_buckets(self) -> list[int]:
        """Return the buckets whose votes are still to come."""
        return [part.bucket for part in self.parts if part.vote is _ASKED]

    # -- votes -------------------------------------------------------------------------------------------

    def count_yes(self, part: Part) -> bool:
        """Count a vote that was awaited; return whether it was the last one."""
        part.vote = _YES
        self.awaited -= 1
        return not self.awaited

    def on_late_yes(self, part: Part) -> None:
        """Free what was prepared behind its own `Abort`, which came first and found nothing."""
        if not self.unsettled:
            self.effects.append(NotePending(self))
        self.unsettled += 1
        self._abort(part)

    # -- its end -----------------------------------------------------------------------------------------

    def settle(self, outcome: Answer) -> bool:
        """Tell every bucket the outcome: only the record's own xid is committed (rules 7, 11).

        Return whether nothing is left to settle.
        """
        instruction = instruct(self.xid, self.number, outcome)
        if type(instruction) is not Commit:
            return self.roll_back()
        for part in self.parts:
            part.vote = _COMMITTING
            self.effects.append(SendFinish(part.bucket, instruction, self, part))
        return False

    def roll_back(self) -> bool:
        """Free the legs; a `Prepare` that was refused or turned away needs no `Abort` (rule 10, low-water mark).

        Return whether nothing is left to settle, now that something was.
        """
        for part in self.parts:
            if part.away:
                self._finish_part(part, Vote.FREED)
            else:
                self._abort(part)
        return bool(self.parts) and not self.unsettled

    def on_finished(self, part: Part, answer: Answer) -> bool:
        """Take a bucket's word that its part is settled; return whether it was the last one."""
        if answer.code in _IMPOSSIBLE:
            self.effects.append(Alarm(part.bucket, answer))
        if part.vote is _COMMITTING:
            return self._finish_part(part, _POSTED)
        if part.vote is Vote.ROLLING_BACK:
            return self._finish_part(part, Vote.FREED)
        return False

    def _finish_part(self, part: Part, vote: Vote) -> bool:
        part.vote = vote
        self.unsettled -= 1
        if self.unsettled:
            return False
        self.effects.append(Settled(self.xid))
        return True

    def _abort(self, part: Part) -> None:
        part.vote = Vote.ROLLING_BACK
        self.effects.append(SendFinish(part.bucket, Abort(self.xid), self, part))

    def _tokens_of(self, positions: tuple[int, ...]) -> tuple[Token | None, ...]:
        legs = self.body.legs
        return tuple([self.tokens.get(legs[position][0]) for position in positions])


@final
class SendPrepare(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Ask a bucket for its vote."""

    bucket: int
    instruction: Prepare
    attempt: Attempt
    part: Part
    tries: int = 0
    """How often it was sent before."""


@final
class SendDecide(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Have the anchor decide, or say what it has decided."""

    bucket: int
    instruction: Decide
    attempt: Attempt
    tries: int = 0
    """How often it was sent before."""


@final
class SendResolve(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Ask the anchor what became of an attempt, which is dead if nothing did."""

    bucket: int
    instruction: Resolve
    attempt: Attempt
    tries: int = 0
    """How often it was sent before."""


@final
class SendFinish(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Tell a bucket the outcome of what it has prepared."""

    bucket: int
    instruction: Commit | Abort
    attempt: Attempt
    part: Part
    tries: int = 0
    """How often it was sent before."""


class NotePending(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Note the attempt as PENDING, beside phase 1 and not waited for (rule 40, pending notes)."""

    attempt: Attempt


class Settled(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Close the attempt's PENDING note: every leg has its outcome."""

    xid: bytes


class Alarm(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Tell the operator that a bucket has answered what can't be (rule 10, low-water mark)."""

    bucket: int
    answer: Answer


AttemptEffect = SendPrepare | SendDecide | SendResolve | SendFinish | NotePending | Settled | Alarm
