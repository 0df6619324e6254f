"""What callers ask one at a time: reads, a payment's record, a cancellation, an administrator's change.

Payments don't come this way. Everything here may be asked again: it changes nothing, or the same twice.
"""

import asyncio
from collections.abc import Sequence
from typing import TypeVar

from mas.coordinator.directory import Directory
from mas.coordinator.ports import Buckets
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
from mas.runtime import Clock, Dice
from mas.transaction.messages import (
    AccountView,
    AccountViews,
    BucketView,
    Postings,
    PostingView,
    ReadAccounts,
    ReadBucket,
    ReadLevel,
    ReadPostings,
    TurnedAway,
)
from mas.transaction.outcome import PaymentResult, Status

Waited = TypeVar("Waited")

_PAUSE_SECONDS = 0.05

_STATUS = {
    Code.COMMITTED: Status.COMMITTED,
    Code.REFUSED: Status.REFUSED,
    Code.ABORTED: Status.ABORTED,
}


class Questions:
    """Asks the buckets for one caller, and waits. Everything raises `Unavailable` when `timeout` seconds are over."""

    def __init__(self, directory: Directory, buckets: Buckets, clock: Clock, dice: Dice) -> None:
        self._directory = directory
        self._buckets = buckets
        self._clock = clock
        self._dice = dice

    # -- reads -------------------------------------------------------------------------------------------

    async def read_accounts(
        self, numbers: Sequence[str], level: ReadLevel, timeout: float
    ) -> list[AccountView | None]:
        """One view for each number, None where there is no such account."""
        deadline = self._clock.monotonic() + timeout
        views = await self._read_where_found(numbers, level, deadline, fresh=False)
        lacking = [number for number in dict.fromkeys(numbers) if views.get(number) is None]
        if lacking:  # unclaimed, or the directory was wrong: only the homes' word counts (rule 3)
            views |= await self._read_where_found(lacking, level, deadline, fresh=True)
        return [views.get(number) for number in numbers]

    async def _read_where_found(
        self, numbers: Sequence[str], level: ReadLevel, deadline: float, *, fresh: bool
    ) -> dict[str, AccountView | None]:
        by_bucket: dict[int, list[str]] = {}
        for number, bucket in (await self._find(numbers, deadline, fresh=fresh)).items():
            if bucket:
                by_bucket.setdefault(bucket, []).append(number)
        pages = await asyncio.gather(
            *[self._read_page(bucket, page, level, deadline) for bucket, page in by_bucket.items()]
        )
        return {number: view for page in pages for number, view in page.items()}

    async def _read_page(
        self, bucket: int, numbers: list[str], level: ReadLevel, deadline: float
    ) -> dict[str, AccountView | None]:
        request = ReadAccounts(0, bucket, level, tuple(numbers))
        replica = self._any_replica(bucket) if level is ReadLevel.STALE else 0
        reply = await self._buckets.query(bucket, request, self._left(deadline), replica=replica)
        assert isinstance(reply, AccountViews), f"{reply} in answer to a read of accounts"
        return dict(zip(numbers, reply.views, strict=True))

    def _any_replica(self, bucket: int) -> int:
        replicas = self._buckets.replicas().get(bucket, [])
        return replicas[self._dice.randrange(len(replicas))] if replicas else 0

    async def read_postings(
        self, number: str, before: int, limit: int, timeout: float
    ) -> list[PostingView] | None:
        """A page of a statement, newest first; None where there is no such account."""
        deadline = self._clock.monotonic() + timeout
        for fresh in (False, True):
            bucket = (await self._find([number], deadline, fresh=fresh))[number]
            if not bucket:
                continue
            request = ReadPostings(0, bucket, number, before, limit)
            reply = await self._buckets.query(bucket, request, self._left(deadline))
            assert isinstance(reply, Postings), f"{reply} in answer to a read of postings"
            if reply.found:
                return list(reply.postings)
        return None

    async def read_bucket(self, bucket: int, replica: int, timeout: float) -> BucketView:
        """A named replica's own state."""
        reply = await self._buckets.query(bucket, ReadBucket(0, bucket), timeout, replica=replica)
        assert isinstance(reply, BucketView), f"{reply} in answer to a read of a bucket"
        return reply

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
        deadline = self._clock.monotonic() + timeout
        bucket = await self._anchor(number, kind, deadline, fresh=False)
        while bucket:
            answer = await self._submit(bucket, instruction, deadline)
            if isinstance(answer, TurnedAway):
                await self._clock.sleep(_PAUSE_SECONDS)
            elif answer.code is Code.WRONG_BUCKET:
                bucket = await self._anchor(number, kind, deadline, fresh=True)
            else:
                return answer
        return None

    async def _anchor(self, number: str, kind: Kind, deadline: float, *, fresh: bool) -> int:
        if kind is Kind.CREATION:
            return home_bucket(number, self._directory.homes)
        return (await self._find([number], deadline, fresh=fresh))[number]

    async def _submit(
        self, bucket: int, instruction: Instruction, deadline: float
    ) -> Answer | TurnedAway:
        future: asyncio.Future[Answer | TurnedAway] = asyncio.get_running_loop().create_future()

        def on_answer(_: int, answer: Answer | TurnedAway) -> None:
            if not future.done():
                future.set_result(answer)

        self._buckets.submit(bucket, Chunk(b"", 0, (instruction,)), on_answer)
        return await self._within(future, deadline)

    # -- waiting -----------------------------------------------------------------------------------------

    async def _find(
        self, numbers: Sequence[str], deadline: float, *, fresh: bool
    ) -> dict[str, int]:
        future: asyncio.Future[dict[str, int]] = asyncio.get_running_loop().create_future()

        def on_found(found: dict[str, int]) -> None:
            if not future.done():
                future.set_result(found)

        self._directory.find(numbers, on_found, lambda: not future.done(), fresh=fresh)
        return await self._within(future, deadline)

    async def _within(self, future: asyncio.Future[Waited], deadline: float) -> Waited:
        try:
            async with asyncio.timeout(self._left(deadline)):
                return await future
        except TimeoutError:
            raise Unavailable("no bucket has answered in time: try again") from None

    def _left(self, deadline: float) -> float:
        left = deadline - self._clock.monotonic()
        if left <= 0:
            raise Unavailable("no bucket has answered in time: try again")
        return left


def _result(payment_id: bytes, answer: Answer) -> PaymentResult:
    status = _STATUS.get(answer.code, Status.UNKNOWN)
    return PaymentResult(
        status, payment_id, answer.reason, answer.detail, answer.time, answer.number
    )
