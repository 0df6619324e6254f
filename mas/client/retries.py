"""Trying again: how long to wait, what a retry may mend, and what is certain in the end."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from mas.client.channel import error_of, readable
from mas.client.receipt import Receipt, receipt_from_wire
from mas.errors import DeadlineExceeded, MasError, OutcomeUnknown, Unavailable
from mas.ledger.instructions import Reason
from mas.runtime import Clock, Dice
from mas.transaction.outcome import Status
from mas.wire.gen.mas.v1 import account_pb2 as pb
from mas.wire.status import told_by_server

_BACKOFF_SECONDS = 0.02
_BACKOFF_SECONDS_MAX = 1.0
_DOUBLINGS_MAX = 16

T = TypeVar("T")
Call = Callable[[float], Awaitable[T]]
"""Takes the seconds that are left."""


def backoff_seconds(tries: int, dice: Dice) -> float:
    """Return how long to wait after so many tries: twice as long each time, up to a second.

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
        told = ""
        while True:
            try:
                return readable(await call(self._left(deadline)))
            except grpc.aio.AioRpcError as failure:
                error = _error_of(failure, told)
            except MasError as raised:
                error = raised
            tries += 1
            told = str(error)
            if not error.retryable or not await self._pause(tries, deadline):
                raise error

    async def until_final(self, call: Call[pb.PaymentResult], key: str, deadline: float) -> Receipt:
        """For what changes something, under one key: an outcome, or what is certain of all tries.

        Raises:
            MasError: one that no retry would mend, or `Unavailable` where no try has done anything.
        """
        tries = 0
        told = ""
        unknown = False
        while True:
            end: Receipt | MasError
            try:
                end = receipt_from_wire(key, readable(await call(self._left(deadline))))
                unknown |= end.status is Status.UNKNOWN
            except grpc.aio.AioRpcError as failure:
                end = _error_of(failure, told)
                # Whoever else has ended the call says nothing about what the server does.
                unknown |= not told_by_server(failure) or isinstance(end, OutcomeUnknown)
            except MasError as error:
                end = error
                unknown |= not isinstance(error, Unavailable)
            tries += 1
            told = end.detail if isinstance(end, Receipt) else str(end)
            if not _may_mend(end) or not await self._pause(tries, deadline):
                break
        if isinstance(end, MasError):
            if not unknown:
                raise end
            return Receipt(key, Status.UNKNOWN, b"", Reason.TIMED_OUT, told)
        if unknown and not end.final:
            return Receipt(key, Status.UNKNOWN, b"", end.reason, told)
        return end

    def _left(self, deadline: float) -> float:
        left = deadline - self._clock.monotonic()
        if left <= 0:
            raise Unavailable("there was no time to ask: give more")
        return left

    async def _pause(self, tries: int, deadline: float) -> bool:
        """Wait before the next try; False, at once, where there is no time for one."""
        pause = backoff_seconds(tries, self._dice)
        if self._clock.monotonic() + pause >= deadline:
            return False
        await self._clock.sleep(pause)
        return True


def _may_mend(end: Receipt | MasError) -> bool:
    if isinstance(end, MasError):
        return end.retryable
    return end.status in (Status.ABORTED, Status.UNKNOWN)


def _error_of(failure: grpc.aio.AioRpcError, told: str) -> MasError:
    """The error of a call. That its time was up says less than what the try before was told."""
    if failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED and not told_by_server(failure):
        return DeadlineExceeded(told or "the server has not answered in time: ask again")
    return error_of(failure)
