"""One client's stream of payments: batches come in, results go out as they come.

What comes together from the coordinator while the last message is on its way out is the next message, whatever
batches it answers. A payment counts in its caller's share from before it is looked at until its result has been written,
so a client that sends more than its share has room for isn't read until there is, and one that doesn't read its results
isn't read either.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

from mas.api.auth import Authenticator
from mas.api.ports import Coordinator
from mas.api.requests import to_payment, to_timeout
from mas.api.shares import Held, Share, Shares, caller_of
from mas.api.tokens import Principal
from mas.errors import InvalidRequest, MasError, NotSupported, Unavailable
from mas.limits import PAYMENTS_PER_BATCH_MAX, TURN_INSTRUCTIONS_MAX
from mas.runtime import Supervisor
from mas.transaction.outcome import PaymentRequest, PaymentResult, Status
from mas.wire.gen.mas.v1 import account_pb2 as pb
from mas.wire.messages import add_error, add_result

RESULTS_PER_MESSAGE_MAX = 1_000
_REFUSED = Status.REFUSED
_REFUSALS_PER_TURN = 256
"""Each costs several times what a good payment does."""


class Writer(Protocol):
    """Where results go."""

    async def write(self, message: pb.PaymentResults, /) -> None: ...


class PaymentStream:
    """Carries out the payments of one stream, until its client ends it, its token expires, or the server stops."""

    def __init__(
        self,
        coordinator: Coordinator,
        authenticator: Authenticator,
        principal: Principal,
        shares: Shares,
    ) -> None:
        self._coordinator = coordinator
        self._authenticator = authenticator
        self._principal = principal
        self._shares = shares
        self._share: Share = shares.of(caller_of(principal))
        self._answers: deque[tuple[int, int, PaymentResult | MasError]] = deque()
        """Batch, position, and what became of it."""
        self._in_flight = 0
        """Payments that the coordinator hasn't answered."""
        self._ended = False
        self._gone = False
        self._failure: MasError | None = None
        self._changed = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def run(self, batches: AsyncIterator[pb.PaymentBatch], writer: Writer) -> None:
        """Serve to the end.

        Raises:
            Unauthenticated: the token has expired; what was begun has been answered.
            InvalidRequest: a message that can't be read, or with too much in it; what stood before it has been answered.
        """
        try:
            async with Supervisor() as supervisor:
                self._reader = supervisor.spawn("payment stream", self._read(batches))
                self._reader.add_done_callback(self._on_read_to_the_end)
                while self._answers or self._in_flight or not self._ended:
                    if self._answers:
                        message = self._next_message()
                        try:
                            await writer.write(message)
                        finally:
                            self._share.give(Held.PAYMENTS, len(message.results))
                    else:
                        self._changed.clear()
                        await self._changed.wait()
        finally:
            # Its client may have gone: what the coordinator still carries out counts until it is done.
            self._gone = True
            self._share.give(Held.PAYMENTS, len(self._answers))
        if self._failure is not None:
            raise self._failure

    def finish(self) -> None:
        """Read no more: the stream ends once everything begun has been answered."""
        if self._reader is not None:
            self._reader.cancel()

    def _on_read_to_the_end(self, _: asyncio.Task[None]) -> None:
        self._ended = True
        self._changed.set()

    async def _read(self, batches: AsyncIterator[pb.PaymentBatch]) -> None:
        try:
            async for message in batches:
                self._authenticator.check_expiry(self._principal)
                await self._begin(message)
        except MasError as error:
            self._failure = error

    async def _begin(self, message: pb.PaymentBatch) -> None:
        count = len(message.payments)
        if count > PAYMENTS_PER_BATCH_MAX:
            raise InvalidRequest(
                f"batch {message.batch} has {count} payments: expected at most {PAYMENTS_PER_BATCH_MAX}"
            )
        start = 0
        while start < count:
            await self._share.room(Held.PAYMENTS)
            room = min(self._share.free(Held.PAYMENTS), TURN_INSTRUCTIONS_MAX, count - start)
            self._share.take(Held.PAYMENTS, room)
            begun = self._submit(message, start, start + room)
            self._share.give(Held.PAYMENTS, room - begun)
            start += begun
            if start < count:
                # One turn's worth at a time, so that nobody waits behind a giant (rule 38).
                await asyncio.sleep(0)

    def _submit(self, message: pb.PaymentBatch, start: int, stop: int) -> int:
        """Begin, or turn away, these positions as far as a turn's time goes: how many."""
        batch = message.batch
        timeout = to_timeout(message.timeout_ms / 1000)
        requests: list[PaymentRequest] = []
        positions: list[int] = []
        refusal = self._refusal(message)
        position = start - 1
        for position, payment in enumerate(message.payments[start:stop], start):
            try:
                if refusal is not None:
                    raise refusal
                requests.append(to_payment(payment, self._principal, timeout))
                positions.append(position)
            except MasError as error:
                # One bad payment harms none beside it (rule 37).
                self._answer(batch, position, error)
                if position - start - len(requests) == _REFUSALS_PER_TURN:
                    break

        def on_result(place: int, result: PaymentResult) -> None:
            self._in_flight -= 1
            if result.status is _REFUSED:
                self._shares.refused(self._share.caller)
            self._answer(batch, positions[place], result)

        self._in_flight += len(requests)
        try:
            self._coordinator.submit(self._share.caller.name, requests, on_result)
        except Unavailable as error:
            self._in_flight -= len(requests)
            for each in positions:
                self._answer(batch, each, error)
        return position + 1 - start

    def _refusal(self, message: pb.PaymentBatch) -> MasError | None:
        """Return why none of these payments is begun, None if they may be."""
        if message.linked:
            return NotSupported("linked payments are not supported yet")
        try:
            self._shares.check_refusals(self._share.caller)
        except MasError as error:
            return error
        return None

    def _answer(self, batch: int, position: int, answer: PaymentResult | MasError) -> None:
        if self._gone:
            self._share.give(Held.PAYMENTS)
            return
        if not self._answers:
            self._changed.set()
        self._answers.append((batch, position, answer))

    def _next_message(self) -> pb.PaymentResults:
        """Collect what there is to say now, as far as it fits one message."""
        message = pb.PaymentResults()
        take = self._answers.popleft
        for _ in range(min(len(self._answers), RESULTS_PER_MESSAGE_MAX)):
            batch, position, answer = take()
            if isinstance(answer, PaymentResult):
                add_result(message, batch, position, answer)
            else:
                add_error(message, batch, position, answer)
        return message
