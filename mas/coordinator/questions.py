"""What callers ask one at a time: a payment's record, a cancellation, an administrator's change.

Payments don't come this way. Everything here may be asked again: it changes nothing, or the same twice.
"""

import asyncio

from mas.coordinator.directory import Directory
from mas.coordinator.ports import Buckets
from mas.coordinator.waiting import Wait, find
from mas.errors import Unavailable
from mas.ids import home_bucket
from mas.ledger.instructions import (
    Answer,
    Chunk,
    Code,
    End,
    Instruction,
    Kind,
    Look,
    Reason,
    SetAccount,
)
from mas.runtime import Clock
from mas.transaction.messages import TurnedAway
from mas.transaction.outcome import PaymentResult, Status

_STATUS = {
    Code.COMMITTED: Status.COMMITTED,
    Code.REFUSED: Status.REFUSED,
    Code.ABORTED: Status.ABORTED,
}


class Questions:
    """Asks the buckets for one caller, and waits. Everything raises `Unavailable` when `timeout` seconds are over."""

    def __init__(self, directory: Directory, buckets: Buckets, clock: Clock) -> None:
        self._directory = directory
        self._buckets = buckets
        self._clock = clock

    # -- a payment's record ------------------------------------------------------------------------------

    async def read_payment(
        self, payment_id: bytes, kind: Kind, payer: str, timeout: float
    ) -> PaymentResult | None:
        """What the anchor has recorded, None: nothing (rule 8)."""
        answer = await self._tell(payer, kind, Look(payment_id, payer, kind), timeout)
        if answer is None or answer.code is Code.NONE:
            return None
        return _result(payment_id, answer)

    async def cancel(
        self, payment_id: bytes, kind: Kind, payer: str, timeout: float
    ) -> PaymentResult:
        """End the key for good, unless the payment has an outcome, which is the answer then (rule 9)."""
        end = End(payment_id, kind, payer, 0, Reason.CANCELLED)
        try:
            answer = await self._tell(payer, kind, end, timeout)
        except Unavailable as error:
            return PaymentResult(Status.UNKNOWN, payment_id, Reason.UNAVAILABLE, str(error))
        if answer is None:
            return PaymentResult(Status.TURNED_AWAY, payment_id, Reason.ACCOUNT_NOT_FOUND, payer)
        return _result(payment_id, answer)

    async def set_account(self, change: SetAccount, timeout: float) -> Answer:
        """An administrator's change. Asked again when it was lost sight of: it sets what it sets."""
        answer = await self._tell(change.account, Kind.PAYMENT, change, timeout)
        if answer is None:
            return Answer(Code.REFUSED, Reason.ACCOUNT_NOT_FOUND, detail=change.account)
        return answer

    async def _tell(
        self, number: str, kind: Kind, instruction: Instruction, timeout: float
    ) -> Answer | None:
        """Tell it to the bucket of this account, or a creation's home, until that answers. None: nobody has claimed it."""
        wait = Wait(self._clock, timeout)
        bucket = await self._anchor(number, kind, wait, fresh=False)
        while bucket:
            await wait.pause()
            answer = await self._submit(bucket, instruction, wait)
            if isinstance(answer, TurnedAway) or answer.code is Code.PENDING_ON:
                continue
            if answer.code is not Code.WRONG_BUCKET:
                return answer
            bucket = await self._anchor(number, kind, wait, fresh=True)
        return None

    async def _anchor(self, number: str, kind: Kind, wait: Wait, *, fresh: bool) -> int:
        if kind is Kind.CREATION:
            return home_bucket(number, self._directory.homes)
        return (await find(self._directory, [number], wait, fresh=fresh))[number]

    async def _submit(
        self, bucket: int, instruction: Instruction, wait: Wait
    ) -> Answer | TurnedAway:
        future: asyncio.Future[Answer | TurnedAway] = asyncio.get_running_loop().create_future()

        def on_answer(_: int, answer: Answer | TurnedAway) -> None:
            if not future.done():
                future.set_result(answer)

        self._buckets.submit(bucket, Chunk(b"", 0, (instruction,)), on_answer)
        return await wait.result(future)


def _result(payment_id: bytes, answer: Answer) -> PaymentResult:
    status = _STATUS.get(answer.code, Status.UNKNOWN)
    return PaymentResult(
        status, payment_id, answer.reason, answer.detail, answer.time, answer.number
    )
