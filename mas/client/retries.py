"""Trying again: how long to wait, what a retry may mend, and what is certain in the end."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from mas.client.channel import answered
from mas.client.receipt import Receipt, receipt_from_wire
from mas.errors import DeadlineExceeded, MasError, Unavailable
from mas.ledger.instructions import Reason
from mas.runtime import Clock, Dice
from mas.transaction.outcome import Status
from mas.wire.gen.mas.v1 import account_pb2 as pb

_BACKOFF_SECONDS = 0.02
_BACKOFF_SECONDS_MAX = 1.0
_DOUBLINGS_MAX = 16

T = TypeVar("T")
Call = Callable[[float], Awaitable[T]]
"""Takes the seconds that are left."""


def backoff_seconds(tries: int, dice: Dice) -> float:
    """How long to wait after so many tries: twice as long each time, up to a second.

    Half of it is chance, so that those who failed together don't come back together.
    """
    longest: float = min(_BACKOFF_SECONDS * 2 ** min(tries, _DOUBLINGS_MAX), _BACKOFF_SECONDS_MAX)
    return longest * (1000 + dice.randrange(1001)) / 2000


class Retries:
    """Keeps calling until a deadline, on the clock's monotonic seconds."""

    def __init__(self, clock: Clock, dice: Dice) -> None:
        self._clock = clock
        self._dice = dice

    async def until_answered(self, call: Call[T], deadline: float) -> T:
        """For what changes nothing: the first answer.

        Raises:
            MasError: one that no retry would mend, or the last before the deadline.
        """
        tries = 0
        while True:
            try:
                return await answered(call(self._left(deadline)))
            except MasError as error:
                tries += 1
                if not error.retryable or not await self._pause(tries, deadline):
                    raise

    async def until_final(self, call: Call[pb.PaymentResult], key: str, deadline: float) -> Receipt:
        """For what changes something, under one key: an outcome, or what is certain of all tries.

        Raises:
            MasError: one that no retry would mend, or `Unavailable` where no try has done anything.
        """
        tries = 0
        unknown = False
        while True:
            failure: MasError | None = None
            receipt = Receipt(key, Status.UNKNOWN, b"", Reason.TIMED_OUT)
            try:
                receipt = receipt_from_wire(key, await answered(call(self._left(deadline))))
                unknown |= receipt.status is Status.UNKNOWN
            except MasError as error:
                failure = error
                unknown |= error.retryable and not isinstance(error, Unavailable)
            tries += 1
            if not _may_mend(receipt, failure) or not await self._pause(tries, deadline):
                break
        if unknown and not receipt.final:
            detail = str(failure) if failure is not None else receipt.detail
            return Receipt(key, Status.UNKNOWN, b"", receipt.reason, detail)
        if failure is not None:
            raise failure
        return receipt

    def _left(self, deadline: float) -> float:
        left = deadline - self._clock.monotonic()
        if left <= 0:
            raise DeadlineExceeded("no answer in time: ask again")
        return left

    async def _pause(self, tries: int, deadline: float) -> bool:
        """Wait before the next try; False, at once, where there is no time for one."""
        pause = backoff_seconds(tries, self._dice)
        if self._clock.monotonic() + pause >= deadline:
            return False
        await self._clock.sleep(pause)
        return True


def _may_mend(receipt: Receipt, failure: MasError | None) -> bool:
    if failure is not None:
        return failure.retryable
    return receipt.status in (Status.ABORTED, Status.UNKNOWN)
