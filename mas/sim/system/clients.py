"""Clients: they pay, create, read, cancel, repeat, freeze and lock, at whichever manager, and remember what they were told.

Each is a person with one thing on his mind at a time. Who isn't told an outcome asks again by the same key, marked as a repeat,
at another manager if he likes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any, Protocol

import msgspec

from mas.errors import MasError, OutcomeUnknown, Unavailable
from mas.ledger import EXTERNAL, Answer, Body, Code, Kind, LockMode, SetAccount
from mas.ledger.instructions import payer
from mas.locks import ACCOUNT
from mas.locks.table import Grant
from mas.rpc.messages import AccountView, PostingView, ReadLevel
from mas.runtime import Promise
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
from mas.transaction.outcome import (
    PaymentRequest,
    PaymentResult,
    Status,
    payment_id_of,
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
_MOMENT_SECONDS = 0.001
"""What is asked so long after an answer has surely begun after it."""
_LOOKS = 6
"""Until somebody has seen an account frozen, and then at it thawed."""
_CERTAIN = (Status.COMMITTED, Status.REFUSED)


_PURSES = 8
"""Accounts of one client, in the drill of what is on its way."""
_IDLE = 100
"""Accounts that are paid seldom, in the drill of locks."""
_TRANSIT_MS = 30
"""A payment is prepared by then, and not yet decided or posted."""


class _Purse(msgspec.Struct):
    """An account whose client spends all that it has, and all that is coming."""

    balance: int = 0
    """At least, once all that is under way has ended."""
    sources: dict[str, None] = {}
    """Accounts from which something may still be on its way."""


Action = Callable[[int], Awaitable[None]]
"""What a client does next; takes his number."""


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
        self._wanted = 0
        """Which new account is opened next; several clients may want it at a time, and one gets it."""
        self._purses: dict[str, _Purse] = {}
        self._idle: list[str] = []
        self.frozen: dict[str, None] = {}
        """Accounts that somebody has frozen, or may have."""
        self.requests: dict[bytes, PaymentRequest] = {}
        self.is_closing = False
        self._latest: PaymentRequest | None = None

    # -- their lives ---------------------------------------------------------------------------

    async def open_accounts(self) -> None:
        """Everybody begins with an account."""
        opening = [self._open(number) for number in self.numbers]
        plan = self._cluster.plan
        if plan.drill == "transit":
            for client in range(1, plan.clients + 1):
                for i in range(_PURSES):
                    self._purses[f"p{client}-{i}"] = _Purse()
            opening += [self._open(number, is_empty=True) for number in self._purses]
        if plan.drill == "locks":
            self._idle = [f"i{i}" for i in range(_IDLE)]
            opening += [self._open(number, is_empty=True) for number in self._idle]
        await asyncio.gather(*opening)
        if plan.drill == "transit":
            for node in self._cluster.managers:
                await self._get_to_know(node)

    async def _get_to_know(self, node: Node) -> None:
        """The manager learns where everybody is, while every number's home can say it."""
        numbers = [*self.numbers, *self._purses]

        async def read() -> object:
            assert node.coordinator is not None
            return await node.coordinator.reads.accounts(
                numbers, ReadLevel.READ_COMMITTED, _LAST_SECONDS
            )

        await _within(node.call_task("client 0", read), _LAST_SECONDS)

    async def _open(self, number: str, *, is_empty: bool = False) -> None:
        opening = 0 if is_empty else _OPENING + self._dice.randrange(_OPENING)
        body = Body(
            Kind.CREATION,
            CURRENCY,
            ((number, opening),),
            overdraft_limit=pick(self._dice, (0, 0, _OPENING)),
        )
        await self._insist(self._request("operator", body))
        await self.read_all(0, [number], ReadLevel.READ_COMMITTED)

    async def run(self, client: int) -> None:
        """Do one thing after another, until the faults are over."""
        choices = self._meet(client) if self._cluster.plan.meeting else self._like()
        while not self.is_closing:
            pause = self._cluster.plan.pause_client
            await asyncio.sleep(pause * (1 + self._dice.randrange(2000)) / 1000)
            await pick(self._dice, choices)(client)

    def _like(self) -> "list[Action]":
        """List what a client does, as often as it likes to."""
        actions: list[tuple[Action, int]] = [
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
            drilled: dict[str, Action] = {
                "transit": self._spend_in_transit,
                "locks": self._pay_and_hold,
                "openings": self._create_and_ask,
            }
            own = drilled.get(self._cluster.plan.drill)
            actions = actions[:2] if own is None else [(own, 1)]
        return [
            action
            for action, weight in actions
            for _ in range(weight * pick(self._dice, _APPETITES))
        ]

    def _meet(self, client: int) -> "list[Action]":
        """List what brings clients together."""
        meetings: dict[str, list[Action]] = {
            "reads": [self._read_hot if client % 2 else self._credit_hot],
            "creations": [self._create_and_look],
            "attempts": [self._pay_and_look],
            "changes": [self._freeze_and_thaw],
        }
        return meetings[self._cluster.plan.meeting]

    # -- what makes them meet ------------------------------------------------------------------

    async def _credit_hot(self, client: int) -> None:
        """Small amounts, so that nobody runs out of funds."""
        others = self._dice.sample(self.numbers[1:], 2)
        await asyncio.gather(
            *[
                self._pay_between(client, other, self.numbers[0], most=_AMOUNT >> 5)
                for other in others
            ]
        )

    async def _read_hot(self, client: int) -> None:
        async def read_soon() -> None:
            await asyncio.sleep(0.02 * self._dice.randrange(1000) / 1000)
            await self.read_all(client, [self.numbers[0]])

        await asyncio.gather(*[read_soon() for _ in range(3)])

    async def _create_and_look(self, client: int) -> None:
        number = f"c{client}.{len(self.requests)}"
        body = Body(Kind.CREATION, CURRENCY, ((number, self._dice.randrange(_OPENING)),))
        if await self._insist(self._request("operator", body), client) is Status.COMMITTED:
            await asyncio.sleep(_MOMENT_SECONDS)
            await asyncio.gather(
                self._state_of(client, number),
                self.read_all(client, [number], ReadLevel.READ_COMMITTED),
            )

    async def _pay_and_look(self, client: int) -> None:
        one, other = self._dice.sample(self.numbers, 2)
        amount = 1 + self._dice.randrange(_AMOUNT >> 5)
        body = Body(Kind.PAYMENT, CURRENCY, ((one, -amount), (other, amount)))
        request = self._request(one, body)
        paying = asyncio.ensure_future(self._insist(request, client))
        while not paying.done():
            await asyncio.sleep(0.1 * (1 + self._dice.randrange(1000)) / 1000)
            await self.look_at(client, request)
        await paying

    async def _freeze_and_thaw(self, client: int) -> None:
        """One freezes; another, at another manager, sees it, thaws, and looks for a while whether it stays so."""
        number = self.numbers[client % ACCOUNTS]
        self.frozen[number] = None

        async def thaw() -> None:
            for _ in range(_LOOKS):
                await asyncio.sleep(_MOMENT_SECONDS)
                [read] = await self._read_each(client, [number], at=1)
                if read.frozen:
                    break
            if self._dice.randrange(2):
                await self._hold_one(client, number, _LEASE_SECONDS)
            await self.set_frozen(client, number, frozen=False, at=1)
            for _ in range(_LOOKS):
                await asyncio.sleep(0.2)
                await self._read_each(client, [number], at=1)

        await asyncio.gather(self.set_frozen(client, number, frozen=True, at=0), thaw())

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

    async def _pay_between(self, client: int, one: str, other: str, *, most: int = 0) -> None:
        most = most or pick(self._dice, (_AMOUNT, _AMOUNT, 8 * _AMOUNT))
        amount = 1 + self._dice.randrange(most)
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
        wanted = self._wanted
        number = f"n{wanted}"
        body = Body(Kind.CREATION, CURRENCY, ((number, self._dice.randrange(_OPENING)),))
        result = await self._insist(self._request("operator", body), client)
        self._wanted = max(self._wanted, wanted + 1)
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
        payment_id = payment_id_of(request)
        call = Cancel(began=self._loop.time(), client=client, payment_id=payment_id)
        self.history.cancels.append(call)
        kind = Kind.CREATION if body.kind is Kind.CREATION else Kind.PAYMENT
        result = await self._ask(
            client,
            lambda node, timeout: node.coordinator.queries.cancel(
                payment_id, kind, payer(body), timeout
            ),
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
        payment_id = payment_id_of(request)
        call = Look(began=self._loop.time(), client=client, payment_id=payment_id)
        self.history.looks.append(call)
        kind = Kind.CREATION if body.kind is Kind.CREATION else Kind.PAYMENT
        result = await self._ask(
            client,
            lambda node, timeout: node.coordinator.queries.read_payment(
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
            if status in (Status.ABORTED, Status.REJECTED) and self._dice.randrange(2):
                break
            await asyncio.sleep(0.1 * (1 + self._dice.randrange(1000)) / 1000)
        return status

    async def _try(
        self,
        client: int,
        request: PaymentRequest,
        body: Body,
        *,
        repeat: bool,
        node: Node | None = None,
        sources: tuple[str, ...] = (),
    ) -> Status | None:
        """One try; None: nobody answered."""
        plan = self._cluster.plan
        is_patient = plan.is_drill and plan.drill != "locks"
        timeout = _LAST_SECONDS if is_patient else pick(self._dice, _TIMEOUTS)
        request = PaymentRequest(request.key_space, request.key, body, repeat, timeout)
        payment_id = payment_id_of(request)
        self.requests.setdefault(payment_id, request)
        self._latest = request
        call = Try(
            began=self._loop.time(),
            client=client,
            payment_id=payment_id,
            body=body,
            sources=sources,
        )
        self.history.tries.append(call)
        node = node or self._manager()
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
                answer(PaymentResult(Status.REJECTED, payment_id))

        result = await _within(node.call(start), timeout + _GRACE_SECONDS)
        if not isinstance(result, PaymentResult):
            return None
        self._tell(client, "is told of", payment_id.hex()[:8], result.status.name)
        call.status, call.reason, call.time = result.status, result.reason, result.time_us
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
        return all(call.is_known for call in await self._read_each(client, numbers, level))

    async def _read_each(
        self,
        client: int,
        numbers: list[str],
        level: ReadLevel = ReadLevel.LINEARIZABLE,
        at: int | None = None,
    ) -> list[Read]:
        is_firm = level is ReadLevel.LINEARIZABLE
        calls = [
            Read(began=self._loop.time(), client=client, number=number, is_firm=is_firm)
            for number in numbers
        ]
        self.history.reads += calls
        result = await self._ask(
            client,
            lambda node, timeout: node.coordinator.reads.accounts(numbers, level, timeout),
            at,
        )
        if not isinstance(result, list):
            return calls
        for call, view in zip(calls, result, strict=True):
            if isinstance(view, Unavailable):
                continue
            call.ended, call.is_known = self._loop.time(), True
            if isinstance(view, AccountView):
                call.balance, call.frozen = view.balance, view.frozen
                self._tell(client, "reads", call.number, view.balance)
        return calls

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
            lambda node, timeout: node.coordinator.reads.postings(number, 0, 10_000, timeout),
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

    async def set_frozen(
        self, client: int, number: str, *, frozen: bool, at: int | None = None
    ) -> bool:
        """Freeze or thaw an account, at this manager or any; whether anybody has answered."""
        call = Setting(began=self._loop.time(), client=client, number=number, frozen=frozen)
        self.history.settings.append(call)
        result = await self._ask(
            client,
            lambda node, timeout: node.coordinator.queries.set_account(
                SetAccount(number, frozen=frozen), timeout
            ),
            at,
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
        await self._hold_one(client, pick(self._dice, self.numbers))

    async def _hold_one(
        self, client: int, number: str, most: float = 1.0, patience: float | None = None
    ) -> None:
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
                durable=True,
                lease=_LEASE_SECONDS,
            ),
            patience=patience,
        )
        self._tell(client, f"holds {number}:", str(result))
        if not isinstance(result, Grant):
            return
        call.ended = self._loop.time()
        # The lease runs from the request on; clocks may be some percent fast.
        call.until = call.began + 0.9 * _LEASE_SECONDS
        self.history.holds.append(call)
        await asyncio.sleep(most * (1 + self._dice.randrange(1000)) / 1000)
        if not self._dice.randrange(4):
            return  # it forgets: the lease ends by itself
        call.until = min(call.until, self._loop.time())
        await self._ask(
            client,
            lambda node, _: node.locks.release_lock(ACCOUNT + number, owner, result.token),
        )

    # -- drills --------------------------------------------------------------------------------

    async def _spend_in_transit(self, client: int) -> None:
        """Several accounts spend what is on its way to them from accounts of any bucket, all at once."""
        purses = [number for number in self._purses if number.startswith(f"p{client}-")]
        payers = self._dice.sample(self.numbers, len(purses))
        node = self._manager()
        pause = self._dice.randrange(_TRANSIT_MS // 2) / 1000
        await asyncio.gather(
            *[
                self._spend_from(client, payer_, purse, pause, node)
                for payer_, purse in zip(payers, purses, strict=True)
            ]
        )

    async def _spend_from(
        self, client: int, source: str, number: str, pause: float, node: Node | None
    ) -> None:
        purse = self._purses[number]
        purse.sources[source] = None
        amount = 1 + self._dice.randrange(_AMOUNT)
        body = Body(Kind.PAYMENT, CURRENCY, ((source, -amount), (number, amount)))
        coming = asyncio.ensure_future(
            self._try(client, self._request(source, body), body, repeat=False)
        )
        await asyncio.sleep(pause)
        target = pick(self._dice, [each for each in self.numbers if each != source])
        spent = purse.balance + amount
        body = Body(Kind.PAYMENT, CURRENCY, ((number, -spent), (target, spent)))
        sources = tuple(purse.sources)
        status = await self._try(
            client, self._request(number, body), body, repeat=False, node=node, sources=sources
        )
        if status not in (Status.REFUSED, Status.ABORTED, Status.REJECTED):
            purse.balance -= spent
        status = await coming
        if status is Status.COMMITTED:
            purse.balance += amount
        if status in (*_CERTAIN, Status.ABORTED):
            del purse.sources[source]

    async def _pay_and_hold(self, client: int) -> None:
        """Somebody locks an account that is being paid, and that nobody else pays for a while."""
        number, one = pick(self._dice, self._idle), pick(self._dice, self.numbers)
        amount = 1 + self._dice.randrange(_AMOUNT)
        body = Body(Kind.PAYMENT, CURRENCY, ((one, -amount), (number, amount)))
        await asyncio.gather(
            self._try(client, self._request(one, body), body, repeat=False),
            self._hold_soon(client, number),
        )

    async def _hold_soon(self, client: int, number: str) -> None:
        await asyncio.sleep(self._dice.randrange(_TRANSIT_MS) / 1000)
        await self._hold_one(client, number, patience=1.0)

    async def _create_and_ask(self, client: int) -> None:
        """Something is asked for a new account before it is paid: that wouldn't help its creation to its end."""
        number = f"c{self._last_key}"
        body = Body(Kind.CREATION, CURRENCY, ((number, self._dice.randrange(_OPENING)),))
        if await self._insist(self._request("operator", body), client) is not Status.COMMITTED:
            return
        body = Body(Kind.PAYMENT, CURRENCY, ((number, -1), (self.numbers[0], 1)))
        request = self._request(number, body)
        match self._dice.randrange(3):
            case 0:
                await self.look_at(client, request)
            case 1:
                await self.set_frozen(client, number, frozen=False)
            case _:
                await self._try(client, request, body, repeat=True)

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

    def _manager(self, at: int | None = None) -> Node | None:
        up = [node for node in self._cluster.managers if node.is_up]
        if at is not None and up:
            return up[at % len(up)]
        return pick(self._dice, up) if up else None

    async def _ask(
        self,
        client: int,
        make: Any,  # noqa: ANN401  (whatever is asked for)
        at: int | None = None,
        patience: float | None = None,
    ) -> Any:  # noqa: ANN401
        """A call that takes a task at the manager; None: no answer, `NOTHING`: the answer None."""
        is_patient = self.is_closing or self._cluster.plan.is_drill
        timeout = patience or (_LAST_SECONDS if is_patient else pick(self._dice, _TIMEOUTS))
        node = self._manager(at)
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


async def _within(promise: Promise[Any], seconds: float) -> Any:  # noqa: ANN401
    try:
        return await promise.wait(seconds)
    except TimeoutError:
        return None


__all__ = ["NEVER", "NOTHING", "Clients"]
