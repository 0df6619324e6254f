"""Clients: they pay, create, read, cancel, repeat, freeze and lock, at whichever manager, and remember what they were told.

Each is a person with one thing on his mind at a time. Who isn't told an outcome asks again by the same key, marked as a repeat,
at another manager if he likes.
"""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any, Protocol

from mas.errors import MasError, OutcomeUnknown, Unavailable
from mas.ledger import EXTERNAL, Answer, Body, Code, Kind, LockMode, SetAccount
from mas.ledger.instructions import payer
from mas.locks import ACCOUNT
from mas.locks.table import Grant
from mas.sim.plan import pick
from mas.sim.system.history import (
    NEVER,
    Cancel,
    History,
    Hold,
    Look,
    Read,
    Setting,
    Statement,
    Try,
)
from mas.sim.system.node import Node
from mas.sim.system.plan import Plan
from mas.sim.trace import WORLD, Trace
from mas.transaction.messages import AccountView, PostingView, ReadLevel
from mas.transaction.outcome import (
    PaymentRequest,
    PaymentResult,
    Status,
    name,
)

CURRENCY = "USD"
ACCOUNTS = 8
_AMOUNT = 1 << 40
"""Amounts are drawn below that: of twenty of them no two sums are likely to be equal."""
_OPENING = 1 << 42
_TIMEOUTS = (0.5, 2.0, 4.0, 4.0)
_LAST_SECONDS = 10.0
"""What whoever asks waits once all is well."""
_GRACE_SECONDS = 1.0
_TRIES = 4
_LEASE_SECONDS = 2.0
_APPETITES = (0, 1, 1, 1, 8)
"""What a client likes most is another thing in each seed: calls of one kind meet more often."""
_CERTAIN = (Status.COMMITTED, Status.REFUSED)


class Managers(Protocol):
    """A cluster, as its clients see it."""

    plan: Plan
    trace: Trace

    @property
    def managers(self) -> Sequence[Node]:
        """Those that coordinate."""

    def on_answer(self, node: Node, *, is_creation: bool) -> None:
        """A manager has just said that a payment is committed."""


class Clients:
    """All of them."""

    def __init__(self, cluster: Managers, dice: Random) -> None:
        self.history = History()
        self._cluster = cluster
        self._dice = dice
        self._loop = asyncio.get_running_loop()
        self._last_key = 0
        self.numbers = [f"a{i}" for i in range(ACCOUNTS)]
        self.frozen: dict[str, None] = {}
        """Accounts that somebody has frozen, or may have."""
        self.requests: dict[bytes, PaymentRequest] = {}
        self.is_closing = False
        self._latest: PaymentRequest | None = None

    # -- their lives ---------------------------------------------------------------------------

    async def open_accounts(self) -> None:
        """Everybody begins with an account."""
        await asyncio.gather(*[self._open(number) for number in list(self.numbers)])

    async def _open(self, number: str) -> None:
        body = Body(
            Kind.CREATION,
            CURRENCY,
            ((number, _OPENING + self._dice.randrange(_OPENING)),),
            overdraft_limit=pick(self._dice, (0, 0, _OPENING)),
        )
        await self._insist(self._request("operator", body))
        await self.read_all(0, [number], ReadLevel.READ_COMMITTED)

    async def run(self, client: int) -> None:
        """Do one thing after another, until the faults are over."""
        actions = [
            (self._pay, 40),
            (self._pay_hot, 30),
            (self._pay_outside, 4),
            (self._read, 30),
            (self._read_state, 8),
            (self._state, 10),
            (self._cancel, 4),
            (self._repeat, 6),
            (self._create, 6),
            (self._hold, 3),
            (self._freeze, 3),
            (self._look, 8),
        ]
        if self._cluster.plan.is_drill:
            actions = actions[:2]
        choices = [
            action
            for action, weight in actions
            for _ in range(weight * pick(self._dice, _APPETITES))
        ]
        while not self.is_closing:
            pause = self._cluster.plan.pause_client
            await asyncio.sleep(pause * (1 + self._dice.randrange(2000)) / 1000)
            await pick(self._dice, choices)(client)

    # -- payments ------------------------------------------------------------------------------

    async def _pay(self, client: int) -> None:
        one, other = self._dice.sample(self.numbers, 2)
        await self._pay_between(client, one, other)

    async def _pay_hot(self, client: int) -> None:
        """Many pay one, and it pays many."""
        others = self.numbers[1:]
        pair = [self.numbers[0], pick(self._dice, others)]
        if self._dice.randrange(3):
            pair.reverse()
        await asyncio.gather(
            *[self._pay_between(client, *pair) for _ in range(pick(self._dice, (1, 2, 4)))]
        )

    async def _pay_between(self, client: int, one: str, other: str) -> None:
        amount = 1 + self._dice.randrange(pick(self._dice, (_AMOUNT, _AMOUNT, 8 * _AMOUNT)))
        body = Body(Kind.PAYMENT, CURRENCY, ((one, -amount), (other, amount)))
        await self._insist(self._request(one, body), client)

    async def _pay_outside(self, client: int) -> None:
        number = pick(self._dice, self.numbers)
        amount = 1 + self._dice.randrange(_AMOUNT)
        if self._dice.randrange(2):
            body = Body(Kind.DEPOSIT, CURRENCY, ((number, amount), (EXTERNAL, -amount)))
        else:
            body = Body(Kind.WITHDRAWAL, CURRENCY, ((number, -amount), (EXTERNAL, amount)))
        await self._insist(self._request("operator", body), client)

    async def _create(self, client: int) -> None:
        """A number that somebody else may want at the same moment."""
        number = f"n{len(self.numbers) // 2}"
        body = Body(Kind.CREATION, CURRENCY, ((number, self._dice.randrange(_OPENING)),))
        result = await self._insist(self._request("operator", body), client)
        if result is Status.COMMITTED:
            self.numbers.append(number)
            if self._dice.randrange(2):
                await self.read_all(client, [number], ReadLevel.READ_COMMITTED)
            if self._dice.randrange(2):
                await self._state_of(client, number)
            await asyncio.gather(
                self._pay_between(client, number, self.numbers[0]), self._look_soon(client)
            )

    async def _look_soon(self, client: int) -> None:
        """At what has just been begun."""
        await asyncio.sleep(0.01)
        request = self._latest
        if request is not None and not self._dice.randrange(2):
            await self.look_at(client, request)

    async def _repeat(self, client: int) -> None:
        """An earlier key again, now and then with another body."""
        request = self._earlier()
        if request is None:
            return
        body = request.body
        if not self._dice.randrange(4) and body.kind is Kind.PAYMENT:
            (one, amount), (other, _) = body.legs
            body = Body(body.kind, body.currency, ((one, amount - 1), (other, 1 - amount)))
        await self._try(client, request, body, repeat=bool(self._dice.randrange(2)))

    async def _cancel(self, client: int) -> None:
        request = self._earlier()
        if request is None:
            return
        body = request.body
        payment_id = name(request)
        call = Cancel(began=self._loop.time(), client=client, payment_id=payment_id)
        self.history.cancels.append(call)
        kind = Kind.CREATION if body.kind is Kind.CREATION else Kind.PAYMENT
        result = await self._ask(
            client,
            lambda node, timeout: node.coordinator.cancel(payment_id, kind, payer(body), timeout),
        )
        if isinstance(result, PaymentResult) and result.status is not Status.UNKNOWN:
            call.ended, call.status, call.reason = self._loop.time(), result.status, result.reason

    async def _look(self, client: int) -> None:
        request = self._earlier()
        if request is not None:
            await self.look_at(client, request)

    async def look_at(self, client: int, request: PaymentRequest) -> bool:
        """Ask what has become of a payment; whether anybody has answered."""
        body = request.body
        payment_id = name(request)
        call = Look(began=self._loop.time(), client=client, payment_id=payment_id)
        self.history.looks.append(call)
        kind = Kind.CREATION if body.kind is Kind.CREATION else Kind.PAYMENT
        result = await self._ask(
            client,
            lambda node, timeout: node.coordinator.read_payment(
                payment_id, kind, payer(body), timeout
            ),
        )
        if isinstance(result, PaymentResult) and result.status is not Status.UNKNOWN:
            call.status, call.reason = result.status, result.reason
            call.ended, call.is_known = self._loop.time(), True
        elif result is NOTHING:
            call.ended, call.is_known = self._loop.time(), True
        return call.is_known

    async def _insist(self, request: PaymentRequest, client: int = 0) -> Status | None:
        """Try until there is an outcome, a few times at the most."""
        body = request.body
        status: Status | None = None
        for number in range(_TRIES):
            status = await self._try(client, request, body, repeat=number > 0)
            if status in (*_CERTAIN, Status.KEY_REUSED):
                break
            if status in (Status.ABORTED, Status.TURNED_AWAY) and self._dice.randrange(2):
                break
            await asyncio.sleep(0.1 * (1 + self._dice.randrange(1000)) / 1000)
        return status

    async def _try(
        self, client: int, request: PaymentRequest, body: Body, *, repeat: bool
    ) -> Status | None:
        """One try; None: nobody answered."""
        timeout = _LAST_SECONDS if self._cluster.plan.is_drill else pick(self._dice, _TIMEOUTS)
        request = PaymentRequest(request.key_space, request.key, body, repeat, timeout)
        payment_id = name(request)
        self.requests.setdefault(payment_id, request)
        self._latest = request
        call = Try(began=self._loop.time(), client=client, payment_id=payment_id, body=body)
        self.history.tries.append(call)
        node = self._manager()
        if node is None:
            return None

        def start(answer: Any) -> None:  # noqa: ANN401  (a node's)
            def on_result(_: int, result: PaymentResult) -> None:
                if result.status is Status.COMMITTED:
                    is_creation = body.kind is Kind.CREATION
                    self._cluster.on_answer(node, is_creation=is_creation)
                answer(result)

            if node.coordinator is None:
                answer(None)
                return
            try:
                node.coordinator.submit(f"client {client}", [request], on_result)
            except MasError:
                answer(PaymentResult(Status.TURNED_AWAY, payment_id))

        result = await _within(node.call(start), timeout + _GRACE_SECONDS)
        if not isinstance(result, PaymentResult):
            return None
        self._tell(client, "is told of", payment_id.hex()[:8], result.status.name)
        call.status, call.reason, call.time = result.status, result.reason, result.time
        call.heard = self._loop.time()
        if result.status is not Status.UNKNOWN:
            call.ended = self._loop.time()
        return result.status

    # -- reads ---------------------------------------------------------------------------------

    async def _read(self, client: int) -> None:
        numbers = [self.numbers[0]] if self._dice.randrange(2) else []
        numbers += self._dice.sample(self.numbers, pick(self._dice, (1, 1, 2)))
        await self.read_all(client, list(dict.fromkeys(numbers)))

    async def read_all(
        self, client: int, numbers: list[str], level: ReadLevel = ReadLevel.LINEARIZABLE
    ) -> bool:
        """Read some accounts in one call; whether all were answered."""
        is_firm = level is ReadLevel.LINEARIZABLE
        calls = [
            Read(began=self._loop.time(), client=client, number=number, is_firm=is_firm)
            for number in numbers
        ]
        self.history.reads += calls
        result = await self._ask(
            client,
            lambda node, timeout: node.coordinator.read_accounts(numbers, level, timeout),
        )
        if not isinstance(result, list):
            return False
        for call, view in zip(calls, result, strict=True):
            if isinstance(view, Unavailable):
                continue
            call.ended, call.is_known = self._loop.time(), True
            if isinstance(view, AccountView):
                call.balance, call.frozen = view.balance, view.frozen
                self._tell(client, "reads", call.number, view.balance)
        return all(call.is_known for call in calls)

    async def _read_state(self, client: int) -> None:
        """Balance and statement, one after the other."""
        number = pick(self._dice, self.numbers)
        await self.read_all(client, [number])
        await self._state_of(client, number)

    async def _state(self, client: int) -> None:
        hot = self._dice.randrange(2)
        await self._state_of(client, self.numbers[0] if hot else pick(self._dice, self.numbers))

    async def _state_of(self, client: int, number: str) -> Statement:
        call = Statement(began=self._loop.time(), client=client, number=number)
        self.history.statements.append(call)
        result = await self._ask(
            client,
            lambda node, timeout: node.coordinator.read_postings(number, 0, 10_000, timeout),
        )
        if isinstance(result, list):
            lines = [line for line in reversed(result) if isinstance(line, PostingView)]
            call.lines = tuple(
                (line.sequence, line.payment_id, line.amount, line.balance) for line in lines
            )
        if isinstance(result, list) or result is NOTHING:
            call.ended, call.is_known = self._loop.time(), True
        return call

    # -- administrators and outsiders ----------------------------------------------------------

    async def _freeze(self, client: int) -> None:
        number = pick(self._dice, self.numbers)
        self.frozen[number] = None
        await self.set_frozen(client, number, frozen=True)
        await asyncio.sleep((1 + self._dice.randrange(1000)) / 1000)
        if self._dice.randrange(4):
            await self.read_all(client, [number])
        await self.set_frozen(client, number, frozen=False)

    async def set_frozen(self, client: int, number: str, *, frozen: bool) -> bool:
        """Freeze or thaw an account; whether anybody has answered."""
        call = Setting(began=self._loop.time(), client=client, number=number, frozen=frozen)
        self.history.settings.append(call)
        result = await self._ask(
            client,
            lambda node, timeout: node.coordinator.set_account(
                SetAccount(number, frozen=frozen), timeout
            ),
        )
        self._tell(client, f"sets {number} to {frozen}:", str(result))
        if isinstance(result, Answer):
            call.is_done = result.code in (Code.DONE, Code.UNCHANGED)
            call.is_refused = not call.is_done
        call.is_refused |= isinstance(result, Unavailable)
        if call.is_done or call.is_refused:
            call.ended = self._loop.time()
        return call.is_answered

    async def _hold(self, client: int) -> None:
        """Take an account's lock, do nothing with it for a while, and let go."""
        number = pick(self._dice, self.numbers)
        owner = self._dice.randbytes(16)
        call = Hold(began=self._loop.time(), client=client, number=number)
        result = await self._ask(
            client,
            lambda node, timeout: node.locks.acquire_locks(
                owner,
                [ACCOUNT + number],
                LockMode.EXCLUSIVE,
                timeout,
                marked=True,
                kept=True,
                lease=_LEASE_SECONDS,
            ),
        )
        self._tell(client, f"holds {number}:", str(result))
        if not isinstance(result, Grant):
            return
        call.ended = self._loop.time()
        # The lease runs from the request on; clocks may be some percent fast.
        call.until = call.began + 0.9 * _LEASE_SECONDS
        self.history.holds.append(call)
        await asyncio.sleep((1 + self._dice.randrange(1000)) / 1000)
        if not self._dice.randrange(4):
            return  # it forgets: the lease ends by itself
        call.until = min(call.until, self._loop.time())
        await self._ask(
            client,
            lambda node, _: node.locks.release_lock(ACCOUNT + number, owner, result.token),
        )

    # -- small things --------------------------------------------------------------------------

    def _request(self, key_space: str, body: Body) -> PaymentRequest:
        self._last_key += 1
        return PaymentRequest(key_space, f"key {self._last_key}", body)

    def _earlier(self) -> PaymentRequest | None:
        """Mostly one of the latest payments."""
        requests = list(self.requests.values())
        if self._dice.randrange(4):
            requests = requests[-12:]
        return pick(self._dice, requests) if requests else None

    def _manager(self) -> Node | None:
        up = [node for node in self._cluster.managers if node.is_up]
        return pick(self._dice, up) if up else None

    async def _ask(self, client: int, make: Any) -> Any:  # noqa: ANN401  (whatever is asked for)
        """A call that takes a task at the manager; None: no answer, `NOTHING`: the answer None."""
        timeout = _LAST_SECONDS if self.is_closing else pick(self._dice, _TIMEOUTS)
        node = self._manager()
        if node is None:
            return None

        async def call() -> Any:  # noqa: ANN401
            if node.coordinator is None:
                return None
            result = await make(node, timeout)
            return NOTHING if result is None else result

        result = await _within(node.call_task(f"client {client}", call), timeout + _GRACE_SECONDS)
        if isinstance(result, Exception) and not isinstance(
            result, Unavailable | OutcomeUnknown | MasError
        ):
            self._cluster.trace.violate(node.id, f"a client's call fails: {result!r}")
        return result

    def _tell(self, client: int, what: str, *details: object) -> None:
        self._cluster.trace.add(WORLD, f"client {client} {what}", *details)


NOTHING = object()
"""What was asked for isn't there, as the manager says."""


async def _within(future: "asyncio.Future[Any]", seconds: float) -> Any:  # noqa: ANN401
    try:
        async with asyncio.timeout(seconds):
            return await future
    except TimeoutError:
        return None


__all__ = ["NEVER", "NOTHING", "Clients"]
