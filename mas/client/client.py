"""The async library: accounts and payments of a MAS cluster.

    async with Client("127.0.0.1:9008", token=token, ca=Path("ca.crt")) as client:
        receipt = await client.pay("alice", "bob", "12.50")

Every method keeps trying what may be tried, under one idempotency key, until its timeout. Refusals of the domain are
receipts; what is raised is a `MasError`.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from mas.client import requests
from mas.client.channel import check_bearer, connected, open_channel, readable
from mas.client.payment_stream import Order, PaymentStream
from mas.client.receipt import NewAccount, Payment, Receipt, receipt_from_wire
from mas.client.retries import Call, Retries
from mas.errors import MasError, NotFound
from mas.ledger.instructions import EXTERNAL, AccountState, Kind
from mas.limits import check_timeout
from mas.money import DEFAULT_CURRENCY
from mas.rpc.messages import AccountView, BucketView, PostingView, ReadLevel
from mas.runtime import Clock, Dice, Promise, Supervisor, SystemClock, SystemDice
from mas.transaction.outcome import Status
from mas.wire import messages
from mas.wire.gen.mas.v1 import account_pb2 as pb
from mas.wire.gen.mas.v1.account_pb2_grpc import AccountServiceStub

DEFAULT_TIMEOUT_SECONDS = 10.0
_KEY_PREFIX_BYTES = 8

T = TypeVar("T")


class Client:
    """A client of one transaction manager, acting for the bearer of one token.

    Args:
        address: "host:port" of its API.
        token: Who acts. Empty: whatever needs no token.
        ca: The CA that signed the server's certificate, PEM or a file of it; None: those that this machine trusts.
        timeout: Seconds that a method tries, unless it is told otherwise.
        plaintext: No TLS, for a server that has none.

    Raises:
        InvalidRequest: token or timeout can't be one.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str = "",
        ca: Path | bytes | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        plaintext: bool = False,
        clock: Clock | None = None,
        dice: Dice | None = None,
    ) -> None:
        check_timeout(timeout)
        check_bearer(token, "the token")
        self._address = address
        self._ca = ca
        self._plaintext = plaintext
        self._timeout = timeout
        self._metadata = (("authorization", token),) if token else ()
        self._clock = clock or SystemClock()
        self._dice = dice or SystemDice()
        self._retries = Retries(self._clock, self._dice)
        self._supervisor = Supervisor()
        self._key_prefix = self._dice.randbytes(_KEY_PREFIX_BYTES).hex()
        self._keys = 0

    async def __aenter__(self) -> Self:
        """Open the channel; the first call connects.

        Raises:
            ConfigError: the CA's file can't be read.
        """
        self._channel = open_channel(self._address, self._ca, plaintext=self._plaintext)
        self._stub = AccountServiceStub(self._channel)
        self._payments = PaymentStream(self._stub, self._metadata, self._clock, self._dice)
        self._supervisor.spawn("payments", self._payments.run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._supervisor.stop()
        await self._channel.close(None)

    # -- payments --------------------------------------------------------------------------------

    async def pay(
        self,
        payer: str,
        payee: str,
        amount: str | int,
        *,
        currency: str = DEFAULT_CURRENCY,
        key: str = "",
        reference: str = "",
        repeat: bool = False,
        timeout: float | None = None,
    ) -> Receipt:
        """Pay, and wait for what becomes of it. Concurrent calls travel together.

        Args:
            amount: "12.50", or 1250 minor units.
            key: Names this payment for all time: with the same key it happens once, however often it is asked for,
                also by other tokens of the same key space (an account's own token has one of its own, all others
                share the cluster's unless issued with another). Keys of different payers are different keys.
                Empty: a new one, in the receipt.
            repeat: This was asked before under this key, by another client or program.

        Raises:
            InvalidRequest: the request can't be carried out as it is, or (`Unauthenticated`, `PermissionDenied`) not
                by this token's bearer.
        """
        payment = requests.to_payment(payer, payee, amount, currency, self._key(key), reference)
        payment.repeat = bool(repeat)
        receipt: Promise[Receipt] = Promise()

        def on_end(_: int, answer: Receipt | MasError) -> None:
            if isinstance(answer, Receipt):
                receipt.set(answer)
            else:
                receipt.fail(answer)

        order = Order(payment, self._deadline(timeout), 0, on_end)
        self._payments.send(order)
        try:
            return await receipt
        finally:
            order.abandon()

    async def pay_many(
        self, payments: Sequence[Payment], *, timeout: float | None = None
    ) -> list[Receipt]:
        """Carry out a batch, each payment alone in its fate; one receipt for each, in their order.

        A payment that can't be carried out as it is gets a receipt too: REJECTED, saying why.
        """
        deadline = self._deadline(timeout)
        receipts: list[Receipt | None] = [None] * len(payments)
        everybody_ended = asyncio.Event()
        left = len(payments)

        def on_end(place: int, answer: Receipt | MasError) -> None:
            nonlocal left
            if isinstance(answer, MasError):
                answer = _rejected(keys[place], answer)
            receipts[place] = answer
            left -= 1
            if not left:
                everybody_ended.set()

        keys = [self._key(payment.key) for payment in payments]
        orders: list[Order] = []
        for place, payment in enumerate(payments):
            try:
                message = _message(payment, keys[place])
            except MasError as error:
                on_end(place, error)
            else:
                orders.append(Order(message, deadline, place, on_end))
        for order in orders:
            self._payments.send(order)
        try:
            if orders:
                await everybody_ended.wait()
        finally:
            for order in orders:
                order.abandon()
        return [receipt for receipt in receipts if receipt is not None]

    async def deposit(
        self,
        account: str,
        amount: str | int,
        *,
        currency: str = DEFAULT_CURRENCY,
        key: str = "",
        reference: str = "",
        timeout: float | None = None,
    ) -> Receipt:
        """Bring money in, from outside. Operators only; otherwise as `pay`."""
        return await self.pay(
            EXTERNAL,
            account,
            amount,
            currency=currency,
            key=key,
            reference=reference,
            timeout=timeout,
        )

    async def withdraw(
        self,
        account: str,
        amount: str | int,
        *,
        currency: str = DEFAULT_CURRENCY,
        key: str = "",
        reference: str = "",
        timeout: float | None = None,
    ) -> Receipt:
        """Take money out. Operators only; otherwise as `pay`."""
        return await self.pay(
            account,
            EXTERNAL,
            amount,
            currency=currency,
            key=key,
            reference=reference,
            timeout=timeout,
        )

    async def payment(
        self,
        payer: str,
        key: str = "",
        *,
        payment_id: bytes = b"",
        kind: Kind = Kind.PAYMENT,
        timeout: float | None = None,
    ) -> Receipt:
        """Look up what has become of a payment, named by its payer and a key of this token's key space, or by its id.

        For a deposit and for the creation of an account (`kind`), the account stands for the payer.

        Raises:
            NotFound: no outcome is recorded, so far.
        """
        name = requests.to_payment_name(payer, key, payment_id, kind)
        reply = await self._read(
            lambda seconds: self._stub.GetPayment(name, timeout=seconds, metadata=self._metadata),
            timeout,
        )
        return receipt_from_wire(key, reply)

    async def cancel(
        self,
        payer: str,
        key: str = "",
        *,
        payment_id: bytes = b"",
        kind: Kind = Kind.PAYMENT,
        timeout: float | None = None,
    ) -> Receipt:
        """End a key for good: REFUSED with the reason CANCELLED, or the outcome that was there before.

        Raises:
            InvalidRequest: named by its id, and it has no outcome so far: an id doesn't show whose it is.
        """
        name = requests.to_payment_name(payer, key, payment_id, kind)
        return await self._change(
            lambda seconds: self._stub.CancelPayment(
                name, timeout=seconds, metadata=self._metadata
            ),
            timeout,
            key,
        )

    # -- accounts --------------------------------------------------------------------------------

    async def create_account(
        self,
        number: str,
        balance: str | int = 0,
        *,
        currency: str = DEFAULT_CURRENCY,
        overdraft_limit: str | int = 0,
        key: str = "",
        timeout: float | None = None,
    ) -> NewAccount:
        """Open an account. Operators only."""
        key = self._key(key)
        request = requests.to_creation(number, balance, currency, overdraft_limit, key)
        token = ""

        async def create(seconds: float) -> pb.PaymentResult:
            nonlocal token
            try:
                reply = readable(
                    await self._stub.CreateAccount(
                        request, timeout=seconds, metadata=self._metadata
                    )
                )
            finally:
                request.repeat = True
            token = reply.token
            return reply.result

        return NewAccount(await self._change(create, timeout, key), token)

    async def account(
        self,
        number: str,
        *,
        level: ReadLevel = ReadLevel.LINEARIZABLE,
        timeout: float | None = None,
    ) -> AccountView:
        """Read one account.

        Raises:
            NotFound: there is none.
        """
        [view] = await self.accounts([number], level=level, timeout=timeout)
        if view is None:
            raise NotFound(f"account {number!r} doesn't exist")
        if isinstance(view, MasError):
            raise view
        return view

    async def accounts(
        self,
        numbers: Sequence[str],
        *,
        level: ReadLevel = ReadLevel.LINEARIZABLE,
        timeout: float | None = None,
    ) -> list[AccountView | MasError | None]:
        """Read accounts, each with an answer of its own: None where there is no such account, an error where it can't be read
        now. Raised is only what concerns them all.
        """
        request = requests.to_reads(numbers, level)
        reply = await self._read(
            lambda seconds: self._stub.GetAccount(
                request, timeout=seconds, metadata=self._metadata
            ),
            timeout,
        )
        return [messages.account_from_wire(account) for account in reply.accounts]

    async def postings(
        self, number: str, *, before: int = 0, limit: int = 100, timeout: float | None = None
    ) -> list[PostingView]:
        """A page of a statement, newest first, below the sequence number `before` (0: from the newest).

        Raises:
            NotFound: there is no such account.
        """
        request = requests.to_page(number, before, limit)
        reply = await self._read(
            lambda seconds: self._stub.ListPostings(
                request, timeout=seconds, metadata=self._metadata
            ),
            timeout,
        )
        return [messages.posting_from_wire(posting) for posting in reply.postings]

    async def set_account(
        self,
        number: str,
        *,
        frozen: bool | None = None,
        closed: bool | None = None,
        overdraft_limit: int | None = None,
        key: str = "",
        timeout: float | None = None,
    ) -> Receipt:
        """Freeze, close, or set the overdraft limit (minor units); None leaves a property as it is. Operators only.

        Only an empty account can be closed, and closed is for good. The receipt of what was done has the account's
        `state`. A locked account is waited for; ABORTED: its turn hasn't come in time. Under one `key` a change is carried
        out once: asked for again after UNKNOWN, it undoes nothing that came after it.
        """
        key = self._key(key)
        request = requests.to_change(
            number, key, frozen=frozen, closed=closed, overdraft_limit=overdraft_limit
        )

        state: AccountState | None = None

        async def change(seconds: float) -> pb.PaymentResult:
            nonlocal state
            reply = readable(
                await self._stub.SetAccount(request, timeout=seconds, metadata=self._metadata)
            )
            state = AccountState(reply.frozen, reply.closed, reply.overdraft_limit)
            return pb.PaymentResult(outcome=reply.outcome, reason=reply.reason, detail=reply.detail)

        receipt = await self._change(change, timeout, key)
        return msgspec.structs.replace(receipt, state=state) if receipt.committed else receipt

    # -- buckets ---------------------------------------------------------------------------------

    async def buckets(self, *, timeout: float | None = None) -> dict[int, list[int]]:
        """Every bucket, and the nodes that hold its replicas. Operators only."""
        reply = await self._read(
            lambda seconds: self._stub.ListBuckets(
                pb.ListBucketsRequest(), timeout=seconds, metadata=self._metadata
            ),
            timeout,
        )
        return {each.bucket: list(each.replicas) for each in reply.buckets}

    async def bucket(
        self, bucket: int, replica: int, *, timeout: float | None = None
    ) -> BucketView:
        """Ask one replica for the state of its bucket. Operators only."""
        request = requests.to_message(pb.CheckBucketRequest, bucket=bucket, replica=replica)
        reply = await self._read(
            lambda seconds: self._stub.CheckBucket(
                request, timeout=seconds, metadata=self._metadata
            ),
            timeout,
        )
        return messages.bucket_from_wire(reply)

    # -- the inside ------------------------------------------------------------------------------

    async def _read(self, call: Call[T], timeout: float | None) -> T:
        return await self._retries.until_answered(call, self._deadline(timeout))

    async def _change(
        self, call: Call[pb.PaymentResult], timeout: float | None, key: str = ""
    ) -> Receipt:
        deadline = self._deadline(timeout)
        # Connected first: what was never sent is not unknown.
        await connected(self._channel, self._address, deadline - self._clock.monotonic())
        return await self._retries.until_final(call, key, deadline)

    def _deadline(self, timeout: float | None) -> float:
        if timeout is None:
            timeout = self._timeout
        check_timeout(timeout)
        return self._clock.monotonic() + timeout

    def _key(self, given: str) -> str:
        """The caller's key, or a new one where that is empty."""
        if given != "":
            return given
        self._keys += 1
        return f"{self._key_prefix}-{self._keys:x}"


def _message(payment: Payment, key: str) -> pb.Payment:
    return requests.to_payment(
        payment.payer, payment.payee, payment.amount, payment.currency, key, payment.reference
    )


def _rejected(key: str, error: MasError) -> Receipt:
    return Receipt(key, Status.REJECTED, detail=str(error))
