"""Asks the buckets for one caller at a time: a payment's record, a cancellation, an administrator's change.

Payments don't come this way. Everything here may be asked again: it changes nothing, or is done once by its name.
"""

import asyncio
import logging

import msgspec

from mas.coordinator.directory import Directory
from mas.coordinator.ports import Locks
from mas.coordinator.waiting import Wait, find, last_word
from mas.errors import NotFound, OutcomeUnknown, Unavailable
from mas.ids import PAYMENT_ID_BYTES, home_bucket
from mas.ledger.instructions import (
    Answer,
    Code,
    Instruction,
    Kind,
    QueryRecord,
    Reason,
    RecordRefusal,
    RejectReason,
    SetAccount,
    Token,
)
from mas.rpc.messages import Rejected
from mas.rpc.ports import Buckets
from mas.rpc.submit_one import submit_one
from mas.runtime import Clock, Dice
from mas.transaction.outcome import PaymentResult, Status

_OWNER_BYTES = 16

_log = logging.getLogger(__name__)

_STATUS = {
    Code.COMMITTED: Status.COMMITTED,
    Code.REFUSED: Status.REFUSED,
}


class _Tries(Wait):
    """A caller's time, and whether a copy that was sent in it may have been done, though nobody answered it."""

    may_be_done = False


class Queries:
    """Asks the buckets for one caller, and waits for `timeout` seconds at the most."""

    def __init__(
        self, directory: Directory, buckets: Buckets, locks: Locks, clock: Clock, dice: Dice
    ) -> None:
        self._directory = directory
        self._buckets = buckets
        self._locks = locks
        self._clock = clock
        self._dice = dice

    # -- a payment's record ------------------------------------------------------------------------------

    async def read_payment(
        self, payment_id: bytes, kind: Kind, payer: str, timeout: float
    ) -> PaymentResult | None:
        """Return the outcome that the anchor has recorded, None: none, so far (rule 8, ending an
        attempt). A dead attempt isn't one (rule 3, anchor and record).
        """
        try:
            look = QueryRecord(payment_id, payer, kind)
            answer = await self._answer_from(payer, kind, look, self._begin(timeout))
        except OutcomeUnknown as error:
            raise Unavailable("the payer's bucket doesn't answer: try again") from error
        if answer is None or answer.code not in _STATUS:
            return None
        return _result(payment_id, answer)

    async def cancel(
        self, payment_id: bytes, kind: Kind, payer: str, timeout: float
    ) -> PaymentResult:
        """End the key for good, unless the payment has an outcome, which is the answer then (rule 9, outcomes)."""
        end = RecordRefusal(payment_id, kind, payer, 0, Reason.CANCELLED)
        try:
            answer = await self._answer_from(payer, kind, end, self._begin(timeout))
        except (Unavailable, OutcomeUnknown) as error:
            return PaymentResult(Status.UNKNOWN, payment_id, Reason.UNAVAILABLE, str(error))
        if answer is None:
            return PaymentResult(Status.REJECTED, payment_id, Reason.ACCOUNT_NOT_FOUND, payer)
        return _result(payment_id, answer)

    async def set_account(self, change: SetAccount, timeout: float) -> Answer:
        """Carry out an administrator's change once under its name; it is given one if it has none.

        If somebody has locked the account, the change queues for the lock with everybody else. LOCK_CONFLICT: its turn
        hasn't come in time, or no lock service is at work; it has done nothing, and will not.

        Raises:
            Unavailable: it has done nothing, and will not.
            OutcomeUnknown: it may have been done, or be done yet.
        """
        if not change.change_id:
            change_id = self._dice.randbytes(PAYMENT_ID_BYTES)
            change = msgspec.structs.replace(change, change_id=change_id)
        tries = self._begin(timeout)
        while True:
            answer = await self._answer_from(change.account, Kind.PAYMENT, change, tries)
            if answer is None:
                return Answer(Code.REFUSED, Reason.ACCOUNT_NOT_FOUND, detail=change.account)
            if answer.code is Code.LOCK_CONFLICT:
                answer = await self._change_in_turn(change, tries) or answer
            if answer.code is not Code.LOCK_CONFLICT or not tries.may_be_done:
                return answer
            # The conflict is this copy's answer alone: one that was sent before may still find the lock gone.

    async def _change_in_turn(self, change: SetAccount, tries: _Tries) -> Answer | None:
        """Take the account's lock, and make the change under it; None: the lock wasn't had.

        This waits for a living holder. The mark of a dead one, which no lock service knows any more, goes with this
        one's (rule 34, escrow mode), so that no payment need come by.
        """
        owner = self._dice.randbytes(_OWNER_BYTES)
        try:
            token = await self._hold(owner, change.account, tries)
            if token is None:
                return None
            under_lock = msgspec.structs.replace(change, token=token)
            return await self._answer_from(change.account, Kind.PAYMENT, under_lock, tries)
        finally:
            self._locks.release(owner)

    async def _hold(self, owner: bytes, number: str, tries: _Tries) -> Token | None:
        try:
            left = tries.left()
            patience = left - last_word(left)
            async with asyncio.timeout(patience):
                return await self._locks.hold(owner, number, patience)
        except (Unavailable, NotFound, TimeoutError) as error:
            _log.info("the lock of %s was not had for a change of it: %s", number, error)
            return None

    def _begin(self, timeout: float) -> _Tries:
        return _Tries(self._clock, timeout)

    async def _answer_from(
        self, number: str, kind: Kind, instruction: Instruction, tries: _Tries
    ) -> Answer | None:
        """Submit it to the bucket of this account, or a creation's home, until that answers. None: nobody has claimed it.

        Raises:
            Unavailable: no bucket has taken it.
            OutcomeUnknown: a copy may have been done, or be done yet.
        """
        try:
            bucket = await self._anchor(number, kind, tries, fresh=False)
            while bucket:
                await tries.pause()
                was_so, tries.may_be_done = tries.may_be_done, True
                answer = await tries.result(submit_one(self._buckets, bucket, instruction))
                tries.may_be_done = was_so or (
                    isinstance(answer, Rejected) and answer.why is RejectReason.UNKNOWN
                )
                if isinstance(answer, Rejected) or answer.code is Code.PENDING_ON:
                    continue
                if answer.code is not Code.WRONG_BUCKET:
                    return answer
                bucket = await self._anchor(number, kind, tries, fresh=True)
        except Unavailable as error:
            if tries.may_be_done:
                raise OutcomeUnknown(
                    "the bucket was told and hasn't answered: ask again by the same key"
                ) from error
            raise
        return None

    async def _anchor(self, number: str, kind: Kind, wait: Wait, *, fresh: bool) -> int:
        if kind is Kind.CREATION:
            return home_bucket(number, self._directory.homes)
        return (await find(self._directory, [number], wait, fresh=fresh))[number]


def _result(payment_id: bytes, answer: Answer) -> PaymentResult:
    status = _STATUS.get(answer.code, Status.UNKNOWN)
    return PaymentResult(
        status, payment_id, answer.reason, answer.detail, answer.time_us, answer.account_bucket
    )
