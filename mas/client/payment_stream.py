"""Many payments on one stream: concurrent callers share its messages without knowing of each other.

What waits when the last message went out is the next message; no timer, so one caller alone never waits, and many fill
a message. A payment whose try ended without an outcome is tried again under the same key, until its deadline.

What a caller is told in the end keeps the promises of the answers that came: once a try was lost sight of, only an
outcome makes it anything but UNKNOWN (rule 9, outcomes). Nothing is kept of a payment that has ended, or whose caller
has gone.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc

from mas.client.channel import error_of, readable
from mas.client.receipt import Receipt, receipt_from_wire
from mas.client.retries import backoff_seconds
from mas.errors import MasError, NetworkError, Overloaded, Unavailable
from mas.ledger.instructions import Reason
from mas.limits import TURN_BYTES_MAX, TURN_INSTRUCTIONS_MAX
from mas.runtime import Clock, Dice, Supervisor
from mas.transaction.outcome import Status
from mas.wire.gen.mas.v1 import account_pb2 as pb
from mas.wire.status import error_from_detail, told_by_server

if TYPE_CHECKING:
    from mas.wire.gen.mas.v1.account_pb2_grpc import AccountServiceAsyncStub

    Call = grpc.aio.StreamStreamCall[pb.PaymentBatch, pb.PaymentResults]

IN_FLIGHT_MAX = 8_192
"""Payments sent and unanswered."""
WAITING_MAX = 262_144
"""Payments that wait to be sent, or to be tried again."""
SERVER_TIMEOUT_SECONDS_MAX = 10.0
_SWEEP_SECONDS = 0.05
_FRAMING_BYTES = 8
"""What a message adds to each payment that it holds."""

_NOT_CONNECTED = "there is no connection to the server yet"
_NO_ROOM = "too many payments of this client are waiting: fewer at a time"
_NO_ANSWER = "the server has not answered in time: ask again by the key"

Metadata = tuple[tuple[str, str], ...]


class Order:
    """One payment on its way, and who waits for it."""

    __slots__ = (
        "deadline",
        "done",
        "key",
        "last",
        "on_end",
        "payment",
        "place",
        "size",
        "tries",
        "unknown",
    )

    def __init__(
        self,
        payment: pb.Payment,
        deadline: float,
        place: int,
        on_end: Callable[[int, Receipt | MasError], None],
    ) -> None:
        self.payment = payment
        """Its `repeat`: some try of it may have been begun (rule 8, ending an attempt)."""
        self.size = payment.ByteSize() + _FRAMING_BYTES
        self.key = payment.idempotency_key
        self.deadline = deadline
        self.place = place
        self.on_end = on_end
        self.tries = 0
        self.unknown = False
        """Some try of it was lost sight of, or may still be under way."""
        self.last: Receipt | None = None
        """What its last answered try came to."""
        self.done = False

    def end(self, answer: Receipt | MasError) -> None:
        """Tell whoever waits; a second end is nothing."""
        if not self.done:
            self.done = True
            self.on_end(self.place, answer)

    def abandon(self) -> None:
        """Nobody waits for it any more: it isn't sent, if it hasn't been."""
        self.done = True

    def give_up(self, reason: Reason, detail: str) -> None:
        """End with what is certain of all tries so far."""
        if self.unknown:
            self.end(Receipt(self.key, Status.UNKNOWN, b"", reason, detail))
        else:
            self.end(self.last or Receipt(self.key, Status.REJECTED, b"", reason, detail))


class _Sent:
    """A message on the wire: who waits for which position."""

    __slots__ = ("left", "orders")

    def __init__(self, orders: list[Order]) -> None:
        self.orders: list[Order | None] = list(orders)
        self.left = len(orders)


class PaymentStream:
    """Carries the payments of one client over one stream at a time, and opens the next when it breaks."""

    def __init__(
        self, stub: "AccountServiceAsyncStub", metadata: Metadata, clock: Clock, dice: Dice
    ) -> None:
        self._stub = stub
        self._metadata = metadata
        self._clock = clock
        self._dice = dice
        self._waiting: deque[Order] = deque()
        self._later: dict[Order, float] = {}
        """Orders between two tries, and when the next is due."""
        self._sent: dict[int, _Sent] = {}
        self._in_flight = 0
        self._batch = 0
        self._changed = asyncio.Event()
        self._closed: MasError | None = None
        self._failures = 0
        """Streams that have ended since the last answer."""
        self._trouble = _NOT_CONNECTED
        """Why there is no stream now; empty while there is one."""

    def send(self, order: Order) -> None:
        """Carry out a payment; its `on_end` is called once, on the loop, unless it is abandoned.

        Raises:
            Unavailable: the client is closed.
        """
        if self._closed is not None:
            raise self._closed
        if len(self._waiting) + len(self._later) >= WAITING_MAX:
            order.give_up(Reason.OVERLOADED, _NO_ROOM)
            return
        self._waiting.append(order)
        self._changed.set()

    async def run(self) -> None:
        """Serve until cancelled; whoever still waits then hears what is certain."""
        try:
            async with Supervisor() as supervisor:
                supervisor.spawn("deadlines", self._keep_deadlines())
                await self._keep_connected()
        finally:
            self._closed = Unavailable("the client is closed: open another")
            for order in self._everybody():
                order.give_up(Reason.UNAVAILABLE, "the client was closed before the answer came")

    # -- connections -----------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        while True:
            await self._until_something_waits()
            call: Call = self._stub.CreatePayments(None, metadata=self._metadata)
            try:
                # Until here nothing has been sent, and nothing is unknown.
                await call.wait_for_connection()
                self._trouble = ""
                await self._use(call)
                self._trouble = "the server has ended the stream of payments"
            except grpc.aio.AioRpcError as failure:
                error = error_of(failure)
                self._trouble = str(error)
                # Our server answers what it has begun before it ends a stream. Whoever else ended it, says nothing
                # about what the server does.
                if not told_by_server(failure):
                    self._lose_sight()
                if not error.retryable:
                    self._fail(error)
            except NetworkError as error:
                self._trouble = str(error)
            finally:
                call.cancel()
                self._lose_sight()
            self._failures += 1
            await self._clock.sleep(backoff_seconds(self._failures, self._dice))

    async def _use(self, call: "Call") -> None:
        """Write and read until the stream ends; raises what the server ended it with, if not in peace."""
        async with Supervisor() as supervisor:
            writer = supervisor.spawn("payment writer", self._write(call))
            async for message in call:
                self._take(readable(message))
            writer.cancel()

    async def _write(self, call: "Call") -> None:
        while True:
            await self._until_something_waits()
            message = self._next_message()
            if message is None:
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                await call.write(message)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                # The stream is over: the reader hears why.
                return

    def _next_message(self) -> pb.PaymentBatch | None:
        """All that waits, as far as there is room for it in flight and in one message."""
        room = min(TURN_INSTRUCTIONS_MAX, IN_FLIGHT_MAX - self._in_flight)
        orders: list[Order] = []
        size = 0
        while self._waiting and len(orders) < room:
            order = self._waiting[0]
            if not order.done:
                size += order.size
                if size > TURN_BYTES_MAX and orders:
                    break
                orders.append(order)
                order.tries += 1
            self._waiting.popleft()
        if not orders:
            return None
        self._batch += 1
        self._sent[self._batch] = _Sent(orders)
        self._in_flight += len(orders)
        message = pb.PaymentBatch(batch=self._batch, timeout_ms=self._timeout_ms(orders))
        message.payments.extend([order.payment for order in orders])
        return message

    def _timeout_ms(self, orders: list[Order]) -> int:
        left = max(order.deadline for order in orders) - self._clock.monotonic()
        return max(1, int(1000 * min(left, SERVER_TIMEOUT_SECONDS_MAX)))

    # -- answers ---------------------------------------------------------------------------------

    def _take(self, message: pb.PaymentResults) -> None:
        self._failures = 0
        for result in message.results:
            sent = self._sent.get(result.batch)
            # A server answers once: a second answer, or one to nothing, is its fault and changes nothing.
            if sent is None or result.position >= len(sent.orders):
                continue
            order = sent.orders[result.position]
            if order is None:
                continue
            sent.orders[result.position] = None
            sent.left -= 1
            if not sent.left:
                del self._sent[result.batch]
            self._in_flight -= 1
            if result.outcome == pb.OUTCOME_COMMITTED:
                order.end(
                    Receipt(
                        order.key,
                        Status.COMMITTED,
                        result.payment_id,
                        time_us=result.time_us,
                    )
                )
            else:
                self._take_other(order, result)
        if self._waiting:
            self._changed.set()

    def _take_other(self, order: Order, result: pb.PaymentResult) -> None:
        """Anything but COMMITTED: an outcome ends the order, all else is tried again if that can help."""
        if result.HasField("error"):
            error = error_from_detail(result.error)
            if not error.retryable:
                self._refuse(order, error)
                return
            overloaded = isinstance(error, Overloaded)
            reason = Reason.OVERLOADED if overloaded else Reason.UNAVAILABLE
            receipt = Receipt(order.key, Status.REJECTED, b"", reason, str(error))
        else:
            receipt = receipt_from_wire(order.key, result)
        if receipt.final:
            order.end(receipt)
            return
        order.last = receipt
        begun = receipt.status is not Status.REJECTED
        if not begun and not receipt.is_transient:
            order.give_up(receipt.reason, receipt.detail)
            return
        order.unknown |= receipt.status is Status.UNKNOWN
        order.payment.repeat |= begun
        if not order.done:
            due = self._clock.monotonic() + backoff_seconds(order.tries, self._dice)
            self._later[order] = due

    # -- ends without an answer ------------------------------------------------------------------

    def _lose_sight(self) -> None:
        """The stream has ended: whatever was on it may or may not happen (rule 39, unknown results)."""
        lost = self._on_the_wire()
        self._sent = {}
        self._in_flight = 0
        for order in lost:
            order.unknown = order.payment.repeat = True
            self._waiting.append(order)

    def _fail(self, error: MasError) -> None:
        """No try can help (a token that isn't accepted): whoever waits hears it now."""
        for order in self._everybody():
            self._refuse(order, error)
        self._waiting.clear()
        self._later.clear()
        self._sent.clear()

    def _refuse(self, order: Order, error: MasError) -> None:
        if order.unknown:
            order.give_up(Reason.NONE, str(error))
        else:
            order.end(error)

    def _everybody(self) -> list[Order]:
        return [*self._on_the_wire(), *self._waiting, *self._later]

    def _on_the_wire(self) -> list[Order]:
        return [
            order
            for sent in self._sent.values()
            for order in sent.orders
            if order is not None and not order.done
        ]

    # -- time ------------------------------------------------------------------------------------

    async def _until_something_waits(self) -> None:
        while not self._waiting:
            self._changed.clear()
            await self._changed.wait()

    async def _keep_deadlines(self) -> None:
        """One look at everything a few times a second, instead of a timer for each payment."""
        while True:
            if not (self._sent or self._waiting or self._later):
                # `_changed` is the writer's to clear, and set again by whoever comes.
                await self._changed.wait()
            await self._clock.sleep(_SWEEP_SECONDS)
            self._sweep(self._clock.monotonic())

    def _sweep(self, now: float) -> None:
        for order in [order for order, due in self._later.items() if now >= due]:
            del self._later[order]
            self._waiting.append(order)
        for order in self._on_the_wire():
            if now >= order.deadline:
                # Its answer may still come: to nobody.
                order.unknown = True
                self._give_up(order, Reason.TIMED_OUT, _NO_ANSWER)
        for order in [*self._waiting, *self._later]:
            if now >= order.deadline:
                self._give_up(order, Reason.UNAVAILABLE, self._trouble or _NO_ROOM)
                self._later.pop(order, None)
        # What has ended, or was abandoned, is forgotten also while nothing is sent.
        self._waiting = deque(order for order in self._waiting if not order.done)
        if self._waiting:
            self._changed.set()

    def _give_up(self, order: Order, reason: Reason, detail: str) -> None:
        """Time is up. What its last try was told says more than that, unless the connection has been lost since."""
        if order.last is not None and not self._trouble:
            reason, detail = order.last.reason, order.last.detail
        order.give_up(reason, detail)
