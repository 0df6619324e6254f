"""AccountService: accounts and payments, for clients. Thin: who, whether, what; the coordinator does the rest."""

# gRPC calls a method by its name in the .proto file.
# ruff: noqa: N802

import asyncio
from collections.abc import AsyncIterator

import grpc
import msgspec

from mas.api import requests
from mas.api.auth import Authenticator, Metadata
from mas.api.authorise import (
    check_may_end,
    check_may_operate,
    check_may_read,
    check_may_read_all,
)
from mas.api.coalescer import Coalescer
from mas.api.door import Context, metadata_of
from mas.api.payment_stream import PaymentStream
from mas.api.ports import Coordinator
from mas.api.shares import Caller, Held, Share, Shares, caller_of
from mas.api.tokens import Principal, TokenIssuer, account_subject
from mas.errors import InvalidRequest, MasError, NotFound, Overloaded, Unavailable
from mas.ledger.instructions import Answer, Code, Kind, Reason
from mas.limits import shorten
from mas.rpc.ports import Buckets
from mas.runtime import Dice
from mas.transaction.outcome import PaymentRequest, PaymentResult, Status
from mas.wire.gen.mas.v1 import account_pb2 as pb
from mas.wire.gen.mas.v1 import account_pb2_grpc as pb_grpc
from mas.wire.messages import account_to_wire, bucket_to_wire, posting_to_wire, result_to_wire

_KEY_BYTES = 16


class AccountServicer(pb_grpc.AccountServiceServicer):
    """The methods of `mas.v1.AccountService`.

    Without a `token_issuer` (tokens are signed elsewhere) a new account gets no token here.
    """

    name = "mas.v1.AccountService"
    public = True

    def __init__(
        self,
        coordinator: Coordinator,
        buckets: Buckets,
        authenticator: Authenticator,
        token_issuer: TokenIssuer | None,
        shares: Shares,
        dice: Dice,
    ) -> None:
        self._coordinator = coordinator
        self._buckets = buckets
        self._authenticator = authenticator
        self._token_issuer = token_issuer
        self._shares = shares
        self._dice = dice
        self._gathering = Coalescer(coordinator)
        self._streams: dict[PaymentStream, None] = {}

    def register(self, server: grpc.aio.Server) -> None:
        """Serve on this server."""
        pb_grpc.add_AccountServiceServicer_to_server(self, server)

    def identify(self, metadata: Metadata) -> Caller:
        """Find the caller in whose share a call counts."""
        return caller_of(self._authenticator.authenticate(metadata))

    def drain(self) -> None:
        """Begin nothing more on the streams; each ends once all it has begun is answered."""
        for stream in self._streams:
            stream.finish()

    async def CreateAccount(
        self, request: pb.CreateAccountRequest, context: Context
    ) -> pb.CreateAccountReply:
        """Open an account, and issue its token."""
        principal = self._who(context)
        key = request.idempotency_key or self._make_key()
        creation = requests.to_creation(request, principal, key, _timeout(context))
        result = await self._carry_out(creation, principal)
        token = ""
        if result.outcome == pb.OUTCOME_COMMITTED and self._token_issuer is not None:
            token = self._token_issuer.issue(account_subject(request.account_number))
        if not request.idempotency_key:
            result.idempotency_key = key
        return pb.CreateAccountReply(result=result, token=token)

    async def GetAccount(
        self, request: pb.GetAccountRequest, context: Context
    ) -> pb.GetAccountReply:
        """Read accounts."""
        principal = self._who(context)
        numbers = requests.to_numbers(request)
        for number in numbers:
            check_may_read(principal, number)
        level = requests.to_read_level(request.level)
        answers = await self._coordinator.reads.accounts(numbers, level, _timeout(context))
        errors = [answer for answer in answers if isinstance(answer, MasError)]
        if len(errors) == len(answers):
            raise errors[0]
        return pb.GetAccountReply(accounts=map(account_to_wire, numbers, answers))

    async def CreatePayment(self, request: pb.Payment, context: Context) -> pb.PaymentResult:
        """Carry out one payment."""
        principal = self._who(context)
        given = request.idempotency_key
        if not given:
            request.idempotency_key = self._make_key()
        payment = requests.to_payment(request, principal, _timeout(context))
        result = await self._carry_out(payment, principal)
        if not given:
            result.idempotency_key = request.idempotency_key
        return result

    # gRPC takes a coroutine that writes by itself too, and cancels it with its call, which leaves
    # no generator half-way.
    async def CreatePayments(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.PaymentBatch], context: Context
    ) -> None:
        """Carry out batches of payments."""
        principal = self._who(context)
        stream = PaymentStream(self._coordinator, self._authenticator, principal, self._shares)
        self._streams[stream] = None
        try:
            await stream.run(request_iterator, context)
        finally:
            del self._streams[stream]

    async def CancelPayment(self, request: pb.PaymentName, context: Context) -> pb.PaymentResult:
        """End a key for good (rule 9, outcomes)."""
        principal = self._who(context)
        payment_id, kind, payer = requests.to_payment_name(request, principal)
        check_may_end(principal, payer)
        share = self._shares.of(caller_of(principal))
        self._shares.check_refusals(share.caller)
        if request.payment_id:
            return await self._find_outcome(payment_id, kind, payer, context)
        result = await self._coordinator.queries.cancel(payment_id, kind, payer, _timeout(context))
        self._count_refusal(share, result)
        return result_to_wire(result)

    async def _find_outcome(
        self, payment_id: bytes, kind: Kind, payer: str, context: Context
    ) -> pb.PaymentResult:
        """An id alone doesn't show whose it is: it finds what has an outcome, and ends nothing."""
        result = await self._coordinator.queries.read_payment(
            payment_id, kind, payer, _timeout(context)
        )
        if result is None:
            raise InvalidRequest(
                f"payment {payment_id.hex()} of account {shorten(payer)} has no outcome so far, and only its "
                "idempotency_key shows whose it is: cancel it by that"
            )
        return result_to_wire(result)

    async def GetPayment(self, request: pb.PaymentName, context: Context) -> pb.PaymentResult:
        """Look up what has become of a payment."""
        principal = self._who(context)
        payment_id, kind, payer = requests.to_payment_name(request, principal)
        check_may_read(principal, payer)
        result = await self._coordinator.queries.read_payment(
            payment_id, kind, payer, _timeout(context)
        )
        if result is None:
            raise NotFound(
                f"payment {payment_id.hex()} of account {shorten(payer)} has no outcome so far: "
                "check the payer, the key and whose key it is, or ask again; to be certain that it never happens, "
                "cancel it"
            )
        return result_to_wire(result)

    async def ListPostings(
        self, request: pb.ListPostingsRequest, context: Context
    ) -> pb.ListPostingsReply:
        """A page of a statement."""
        principal = self._who(context)
        number, before, limit = requests.to_page(request)
        check_may_read(principal, number)
        async with self._shares.of(caller_of(principal)).turn(Held.STATEMENTS):
            postings = await self._coordinator.reads.postings(
                number, before, limit, _timeout(context)
            )
        if postings is None:
            raise NotFound(f"account {shorten(number)} doesn't exist")
        return pb.ListPostingsReply(postings=map(posting_to_wire, postings))

    async def SetAccount(
        self, request: pb.SetAccountRequest, context: Context
    ) -> pb.SetAccountReply:
        """An administrator's change."""
        principal = self._who(context)
        check_may_operate(principal, "change accounts")
        change = requests.to_set_account(request, principal)
        return _set_account_reply(
            await self._coordinator.queries.set_account(change, _timeout(context))
        )

    async def CheckBucket(self, request: pb.CheckBucketRequest, context: Context) -> pb.BucketState:
        """A replica's own state."""
        principal = self._who(context)
        check_may_read_all(principal, "the state of buckets")
        bucket, replica = requests.to_replica(request)
        if replica not in self._buckets.replicas().get(bucket, ()):
            raise NotFound(
                f"bucket {bucket} has no replica on node {replica}: "
                "expected one that ListBuckets names"
            )
        async with self._shares.of(caller_of(principal)).turn(Held.STATEMENTS):
            view = await self._coordinator.reads.bucket(bucket, replica, _timeout(context))
        return bucket_to_wire(view)

    async def ListBuckets(
        self, request: pb.ListBucketsRequest, context: Context
    ) -> pb.ListBucketsReply:
        """Every bucket and its replicas."""
        check_may_read_all(self._who(context), "the list of buckets")
        return pb.ListBucketsReply(
            buckets=[
                pb.Bucket(bucket=bucket, replicas=replicas)
                for bucket, replicas in sorted(self._buckets.replicas().items())
            ]
        )

    def _who(self, context: Context) -> Principal:
        return self._authenticator.authenticate(metadata_of(context))

    def _make_key(self) -> str:
        return self._dice.randbytes(_KEY_BYTES).hex()

    async def _carry_out(self, request: PaymentRequest, principal: Principal) -> pb.PaymentResult:
        share = self._shares.of(caller_of(principal))
        self._shares.check_refusals(share.caller)
        if not share.free(Held.PAYMENTS):
            request = await _in_turn(request, share)
        result = await self._gathering.submit(request, share)
        _raise_if_turned_away(result)
        self._count_refusal(share, result)
        return result_to_wire(result)

    def _count_refusal(self, share: Share, result: PaymentResult) -> None:
        if result.status is Status.REFUSED:
            self._shares.refused(share.caller)


async def _in_turn(request: PaymentRequest, share: Share) -> PaymentRequest:
    """Wait behind the payments that the same caller has under way, within its own time."""
    now = asyncio.get_running_loop().time
    began = now()
    try:
        async with asyncio.timeout(request.timeout):
            await share.room(Held.PAYMENTS)
    except TimeoutError:
        raise Overloaded(
            f"all {share.held(Held.PAYMENTS)} payments of {shorten(share.caller.name)}'s share are under way, and none has "
            "ended in time: try again later"
        ) from None
    return msgspec.structs.replace(request, timeout=request.timeout - (now() - began))


def _timeout(context: Context) -> float:
    return requests.to_timeout(context.time_remaining())


def _raise_if_turned_away(result: PaymentResult) -> None:
    """Overload and outages are statuses, where a call has one."""
    if result.status is not Status.REJECTED:
        return
    if result.reason is Reason.OVERLOADED:
        raise Overloaded(result.detail or "the bucket has no room for more: try again later")
    if result.reason is Reason.UNAVAILABLE:
        raise Unavailable(result.detail or "the bucket has no leader: try again later")


def _set_account_reply(answer: Answer) -> pb.SetAccountReply:
    match answer.code:
        case Code.DONE | Code.UNCHANGED:
            state = answer.state
            assert state is not None, "whoever changed the account says what it is now"
            return pb.SetAccountReply(
                outcome=pb.OUTCOME_COMMITTED,
                frozen=state.frozen,
                closed=state.closed,
                overdraft_limit=state.overdraft_limit,
            )
        case Code.REFUSED:
            outcome = pb.OUTCOME_REFUSED
        case Code.KEY_REUSED:
            outcome = pb.OUTCOME_KEY_REUSED
        case _:
            outcome = pb.OUTCOME_ABORTED
    detail = answer.detail or answer.code.name
    return pb.SetAccountReply(
        outcome=outcome, reason=pb.Reason.ValueType(answer.reason), detail=detail
    )
