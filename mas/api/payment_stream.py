"""One client's stream of payments: batches come in, results go out as they come.

What comes together from the coordinator while the last message is on its way out is the next message, whatever
batches it answers. A client that sends more than it has room for isn't read until there is.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

from mas.api.auth import Authenticator
from mas.api.ports import Coordinator
from mas.api.requests import to_payment, to_timeout
from mas.api.tokens import Principal
from mas.errors import MasError, NotSupported, Unavailable
from mas.limits import TURN_INSTRUCTIONS_MAX
from mas.runtime import Supervisor
from mas.transaction.outcome import PaymentRequest, PaymentResult
from mas.wire.gen.mas.v1 import account_pb2 as pb
from mas.wire.messages import add_error, add_result

IN_FLIGHT_MAX = 8_192
"""Payments that one stream has unanswered."""
RESULTS_PER_MESSAGE_MAX = 1_000


class Writer(Protocol):
    """Where results go."""

    async def write(self, message: pb.PaymentResults, /) -> None: ...


class PaymentStream:
    """Carries out the payments of one stream, until its client ends it, its token expires, or the server stops."""

    def __init__(
        self, coordinator: Coordinator, authenticator: Authenticator, principal: Principal
    ) -> None:
        self._coordinator = coordinator
        self._authenticator = authenticator
        self._principal = principal
        self._answers: deque[tuple[int, int, PaymentResult | MasError]] = deque()
        """Batch, position, and what became of it."""
        self._in_flight = 0
        self._ended = False
        self._failure: MasError | None = None
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def run(self, batches: AsyncIterator[pb.PaymentBatch], writer: Writer) -> None:
        """Serve to the end.

        Raises:
            Unauthenticated: the token has expired; what was begun has been answered.
        """
        async with Supervisor() as supervisor:
            self._reader = supervisor.spawn("payment stream", self._read(batches))
            self._reader.add_done_callback(self._on_read_to_the_end)
            while self._answers or self._in_flight or not self._ended:
                if self._answers:
                    await writer.write(self._next_message())
                else:
                    self._changed.clear()
                    await self._changed.wait()
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
        async for message in batches:
            try:
                self._authenticator.check_expiry(self._principal)
            except MasError as error:
                self._failure = error
                return
            await self._begin(message)

    async def _begin(self, message: pb.PaymentBatch) -> None:
        if message.linked:
            self._turn_away(message, NotSupported("linked payments are not supported yet"))
            return
        payments = message.payments
        for start in range(0, len(payments), TURN_INSTRUCTIONS_MAX):
            # One turn's worth at a time, so that nobody waits behind a giant (rule 38).
            if start:
                await asyncio.sleep(0)
            while self._in_flight >= IN_FLIGHT_MAX:
                self._room.clear()
                await self._room.wait()
            self._submit(message, start, start + TURN_INSTRUCTIONS_MAX)

    def _submit(self, message: pb.PaymentBatch, start: int, stop: int) -> None:
        batch = message.batch
        timeout = to_timeout(message.timeout_ms / 1000)
        requests: list[PaymentRequest] = []
        positions: list[int] = []
        for position, payment in enumerate(message.payments[start:stop], start):
            try:
                requests.append(to_payment(payment, self._principal, timeout))
                positions.append(position)
            except MasError as error:
                # One bad payment harms none beside it (rule 37).
                self._answer(batch, position, error)

        def on_result(place: int, result: PaymentResult) -> None:
            self._in_flight -= 1
            self._answer(batch, positions[place], result)

        self._in_flight += len(requests)
        try:
            self._coordinator.submit(requests, on_result)
        except Unavailable as error:
            self._in_flight -= len(requests)
            for position in positions:
                self._answer(batch, position, error)

    def _turn_away(self, message: pb.PaymentBatch, error: MasError) -> None:
        for position in range(len(message.payments)):
            self._answer(message.batch, position, error)

    def _answer(self, batch: int, position: int, answer: PaymentResult | MasError) -> None:
        if not self._answers:
            self._changed.set()
        self._answers.append((batch, position, answer))

    def _next_message(self) -> pb.PaymentResults:
        """What there is to say now, as far as it fits one message."""
        message = pb.PaymentResults()
        take = self._answers.popleft
        for _ in range(min(len(self._answers), RESULTS_PER_MESSAGE_MAX)):
            batch, position, answer = take()
            if isinstance(answer, PaymentResult):
                add_result(message, batch, position, answer)
            else:
                add_error(message, batch, position, answer)
        # Every answer passes here after it has left its place in flight.
        self._room.set()
        return message
