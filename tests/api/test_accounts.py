"""AccountService over real gRPC and TLS: who may do what, and what is refused before it reaches a coordinator."""

from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from mas import errors
from mas.api import Role
from mas.api.tokens import CLUSTER_KEY_SPACE
from mas.errors import MasError
from mas.ids import payment_id
from mas.ledger.instructions import EXTERNAL, AccountState, Answer, Code, Kind, Reason
from mas.limits import AMOUNT_MAX
from mas.rpc.messages import PostingView, ReadLevel
from mas.transaction.outcome import PaymentResult, Status
from mas.wire.gen.mas.v1 import account_pb2 as pb
from mas.wire.gen.mas.v1.account_pb2_grpc import AccountServiceStub
from mas.wire.status import error_from_rpc
from tests.api.edge import Edge, account, serving

FROZEN = AccountState(frozen=True, closed=False, overdraft_limit=70)


class Caller:
    """Calls with a token, and hears our errors."""

    def __init__(self, stub: AccountServiceStub, token: str) -> None:
        self._stub = stub
        self._metadata = (("authorization", token),) if token else ()

    async def __call__(self, method: str, request, timeout: float = 5.0):  # noqa: ANN001, ANN204
        try:
            return await getattr(self._stub, method)(
                request, metadata=self._metadata, timeout=timeout
            )
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from None


@pytest_asyncio.fixture
async def edge() -> AsyncIterator[Edge]:
    async with serving() as edge:
        yield edge


@pytest_asyncio.fixture
async def stub(edge: Edge) -> AsyncIterator[AccountServiceStub]:
    async with edge.channel() as channel:
        yield AccountServiceStub(channel)


@pytest.fixture
def alice(edge: Edge, stub: AccountServiceStub) -> Caller:
    return Caller(stub, edge.token("account:alice"))


@pytest.fixture
def root(edge: Edge, stub: AccountServiceStub) -> Caller:
    return Caller(stub, edge.token())


@pytest.fixture
def auditor(edge: Edge, stub: AccountServiceStub) -> Caller:
    return Caller(stub, edge.token("operator:eve", Role.AUDITOR))


@pytest.fixture
def gateway(edge: Edge, stub: AccountServiceStub) -> Caller:
    return Caller(stub, edge.token("operator:shop", Role.GATEWAY))


def payment(**changes: object) -> pb.Payment:
    fields: dict = {
        "from_account": "alice",
        "to_account": "bob",
        "amount": 1250,
        "idempotency_key": "k1",
    }
    return pb.Payment(**(fields | changes))


@pytest.mark.asyncio
async def test_a_payment_reaches_the_coordinator_whole(edge: Edge, alice: Caller) -> None:
    reply = await alice("CreatePayment", payment(reference="rent", repeat=True), timeout=2.0)
    [request] = edge.coordinator.requests
    assert request.key_space == "account:alice"
    assert request.key == "k1"
    assert request.body.legs == (("alice", -1250), ("bob", 1250))
    assert (request.body.kind, request.body.currency) == (Kind.PAYMENT, "USD")
    assert request.body.reference == "rent"
    assert request.repeat
    assert 0 < request.timeout < 2.0
    assert reply.outcome == pb.OUTCOME_COMMITTED
    assert reply.payment_id == payment_id(Kind.PAYMENT, "account:alice", "alice", "k1")
    assert reply.idempotency_key == ""


@pytest.mark.asyncio
async def test_who_brings_no_key_is_told_the_one_made(edge: Edge, alice: Caller) -> None:
    first = await alice("CreatePayment", payment(idempotency_key=""))
    second = await alice("CreatePayment", payment(idempotency_key=""))
    keys = [request.key for request in edge.coordinator.requests]
    assert keys == [first.idempotency_key, second.idempotency_key]
    assert len(set(keys)) == 2


@pytest.mark.asyncio
async def test_deposits_and_withdrawals(edge: Edge, root: Caller) -> None:
    await root("CreatePayment", payment(from_account=EXTERNAL))
    await root("CreatePayment", payment(to_account=EXTERNAL))
    deposit, withdrawal = [request.body for request in edge.coordinator.requests]
    assert (deposit.kind, deposit.legs) == (Kind.DEPOSIT, ((EXTERNAL, -1250), ("bob", 1250)))
    assert (withdrawal.kind, withdrawal.legs) == (
        Kind.WITHDRAWAL,
        (("alice", -1250), (EXTERNAL, 1250)),
    )


BAD_PAYMENTS = {
    "zero": {"amount": 0},
    "negative": {"amount": -1},
    "too much": {"amount": AMOUNT_MAX + 1},
    "greatest integer": {"amount": 2**63 - 1},
    "no payee": {"to_account": ""},
    "no payer": {"from_account": ""},
    "to oneself": {"to_account": "alice"},
    "outside to outside": {"from_account": EXTERNAL, "to_account": EXTERNAL},
    "the system's account": {"to_account": "@external/USD"},
    "long number": {"to_account": "b" * 65},
    "unprintable": {"to_account": "bob\n"},
    "blanks": {"to_account": " bob"},
    "currency": {"currency": "XXX"},
    "currency's case": {"currency": "usd"},
    "long key": {"idempotency_key": "k" * 129},
    "unprintable key": {"idempotency_key": "\0"},
    "long reference": {"reference": "r" * 141},
}


@pytest.mark.asyncio
@pytest.mark.parametrize("changes", BAD_PAYMENTS.values(), ids=BAD_PAYMENTS)
async def test_a_bad_payment_never_reaches_the_coordinator(
    edge: Edge, gateway: Caller, changes: dict
) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        await gateway("CreatePayment", payment(**changes))
    assert type(caught.value) is errors.InvalidRequest
    assert edge.coordinator.requests == []


WAYS_IN = [
    ("CreateAccount", pb.CreateAccountRequest(account_number="carol")),
    ("GetAccount", pb.GetAccountRequest(account_numbers=["alice"])),
    ("CreatePayment", payment()),
    ("CancelPayment", pb.PaymentName(payer="alice", idempotency_key="k")),
    ("GetPayment", pb.PaymentName(payer="alice", idempotency_key="k")),
    ("ListPostings", pb.ListPostingsRequest(account_number="alice")),
    ("SetAccount", pb.SetAccountRequest(account_number="alice", frozen=True)),
    ("CheckBucket", pb.CheckBucketRequest(bucket=1, replica=1)),
    ("ListBuckets", pb.ListBucketsRequest()),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("method", "request_message"), WAYS_IN, ids=[way[0] for way in WAYS_IN])
async def test_every_method_wants_a_good_token(
    edge: Edge, stub: AccountServiceStub, method: str, request_message: object
) -> None:
    expired = edge.token("operator:root", Role.GATEWAY)
    edge.clock.now += 10**15
    for token in ("", "wrong", expired):
        with pytest.raises(errors.Unauthenticated):
            await Caller(stub, token)(method, request_message)
    assert edge.coordinator.requests == []
    assert edge.coordinator.changes == []
    assert edge.coordinator.records == {}


NOT_ALLOWED = {
    "alice opens an account": ("account:alice", *WAYS_IN[0]),
    "alice reads bob": (
        "account:alice",
        "GetAccount",
        pb.GetAccountRequest(account_numbers=["alice", "bob"]),
    ),
    "alice pays from bob": (
        "account:alice",
        "CreatePayment",
        payment(from_account="bob", to_account="alice"),
    ),
    "alice makes money": ("account:alice", "CreatePayment", payment(from_account=EXTERNAL)),
    "alice withdraws": ("account:alice", "CreatePayment", payment(to_account=EXTERNAL)),
    "alice cancels bob's": (
        "account:alice",
        "CancelPayment",
        pb.PaymentName(payer="bob", idempotency_key="k"),
    ),
    "alice looks up bob's": (
        "account:alice",
        "GetPayment",
        pb.PaymentName(payer="bob", payment_id=b"i" * 16),
    ),
    "alice reads bob's statement": (
        "account:alice",
        "ListPostings",
        pb.ListPostingsRequest(account_number="bob"),
    ),
    "alice thaws herself": (
        "account:alice",
        "SetAccount",
        pb.SetAccountRequest(account_number="alice", frozen=False),
    ),
    "alice checks a bucket": ("account:alice", *WAYS_IN[7]),
    "alice lists buckets": ("account:alice", *WAYS_IN[8]),
    "an operator pays from alice": ("operator:root", *WAYS_IN[2]),
    "an auditor opens an account": ("auditor", *WAYS_IN[0]),
    "an auditor deposits": ("auditor", "CreatePayment", payment(from_account=EXTERNAL)),
    "an auditor cancels": ("auditor", *WAYS_IN[3]),
    "an auditor freezes": ("auditor", *WAYS_IN[6]),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("case", NOT_ALLOWED.values(), ids=NOT_ALLOWED)
async def test_not_allowed(edge: Edge, stub: AccountServiceStub, case: tuple) -> None:
    who, method, request = case
    token = edge.token("operator:eve", Role.AUDITOR) if who == "auditor" else edge.token(who)
    with pytest.raises(errors.PermissionDenied):
        await Caller(stub, token)(method, request)
    assert edge.coordinator.requests == []
    assert edge.coordinator.changes == []
    assert edge.coordinator.records == {}


@pytest.mark.asyncio
async def test_a_gateway_pays_from_any_account(edge: Edge, gateway: Caller) -> None:
    await gateway("CreatePayment", payment())
    assert edge.coordinator.requests[0].key_space == CLUSTER_KEY_SPACE


@pytest.mark.asyncio
async def test_a_new_account_comes_with_a_token_that_pays_from_it(
    edge: Edge, root: Caller, stub: AccountServiceStub
) -> None:
    creation = pb.CreateAccountRequest(
        account_number="carol", currency="EUR", opening_balance=7, overdraft_limit=3
    )
    reply = await root("CreateAccount", creation)
    [request] = edge.coordinator.requests
    assert request.body.kind is Kind.CREATION
    assert (request.body.currency, request.body.legs) == ("EUR", (("carol", 7),))
    assert request.body.overdraft_limit == 3
    assert reply.result.idempotency_key == request.key
    assert reply.result.bucket == 1
    carol = Caller(stub, reply.token)
    await carol("CreatePayment", payment(from_account="carol"))
    with pytest.raises(errors.PermissionDenied):
        await carol("CreatePayment", payment())


@pytest.mark.asyncio
async def test_an_account_that_was_refused_has_no_token(edge: Edge, root: Caller) -> None:
    edge.coordinator.decide = lambda request: PaymentResult(
        Status.REFUSED, b"i" * 16, Reason.ACCOUNT_EXISTS
    )
    reply = await root("CreateAccount", pb.CreateAccountRequest(account_number="carol"))
    assert reply.token == ""
    assert reply.result.reason == pb.REASON_ACCOUNT_EXISTS


@pytest.mark.asyncio
async def test_overload_and_outage_are_statuses_of_a_call(edge: Edge, alice: Caller) -> None:
    edge.coordinator.overloaded = errors.MailboxFull("full")
    with pytest.raises(errors.Overloaded, match="full"):
        await alice("CreatePayment", payment())
    edge.coordinator.overloaded = None
    for reason, error in [
        (Reason.OVERLOADED, errors.Overloaded),
        (Reason.UNAVAILABLE, errors.Unavailable),
    ]:
        edge.coordinator.decide = lambda _, r=reason: PaymentResult(Status.REJECTED, b"", r)
        with pytest.raises(error):
            await alice("CreatePayment", payment())
    edge.coordinator.decide = lambda _: PaymentResult(
        Status.REJECTED, b"", Reason.ACCOUNT_NOT_FOUND
    )
    reply = await alice("CreatePayment", payment())
    assert (reply.outcome, reply.reason) == (
        pb.OUTCOME_REJECTED,
        pb.REASON_ACCOUNT_NOT_FOUND,
    )


@pytest.mark.asyncio
async def test_reading_accounts(edge: Edge, root: Caller, alice: Caller, auditor: Caller) -> None:
    edge.coordinator.accounts["alice"] = account("alice", 5)
    numbers = pb.GetAccountRequest(account_numbers=["nobody", "alice"])
    for caller in (root, auditor):
        reply = await caller("GetAccount", numbers)
        assert [(a.number, a.found, a.balance) for a in reply.accounts] == [
            ("nobody", False, 0),
            ("alice", True, 5),
        ]
    stale = pb.GetAccountRequest(account_numbers=["alice"], level=pb.READ_LEVEL_STALE)
    await alice("GetAccount", stale)
    assert edge.coordinator.levels == [ReadLevel.LINEARIZABLE] * 2 + [ReadLevel.STALE]
    for bad in (pb.GetAccountRequest(), pb.GetAccountRequest(account_numbers=["a"] * 1_001)):
        with pytest.raises(errors.InvalidRequest, match="account_numbers"):
            await root("GetAccount", bad)
    unknown = pb.GetAccountRequest(account_numbers=["alice"])
    unknown.MergeFromString(bytes((0x10, 77)))
    with pytest.raises(errors.NotSupported, match="LINEARIZABLE"):
        await alice("GetAccount", unknown)


@pytest.mark.asyncio
async def test_a_payment_is_found_by_key_or_by_id(edge: Edge, alice: Caller, root: Caller) -> None:
    identity = payment_id(Kind.PAYMENT, "account:alice", "alice", "k1")
    done = PaymentResult(Status.COMMITTED, identity, time_us=9)
    edge.coordinator.records[identity, Kind.PAYMENT, "alice"] = done
    by_key = pb.PaymentName(payer="alice", idempotency_key="k1")
    by_id = pb.PaymentName(payer="alice", payment_id=identity)
    for caller, name in [(alice, by_key), (alice, by_id), (root, by_id)]:
        assert (await caller("GetPayment", name)).time_us == 9
    assert (await alice("CancelPayment", by_key)).outcome == pb.OUTCOME_COMMITTED
    with pytest.raises(errors.NotFound):
        await root("GetPayment", by_key)  # another key space: another payment
    for bad in (
        pb.PaymentName(payer="alice"),
        pb.PaymentName(payer="alice", idempotency_key="k", payment_id=identity),
        pb.PaymentName(payer="alice", payment_id=b"short"),
        pb.PaymentName(idempotency_key="k"),
    ):
        with pytest.raises(errors.InvalidRequest):
            await alice("GetPayment", bad)


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", [Kind.PAYMENT, Kind.CREATION, Kind.DEPOSIT])
async def test_an_id_ends_nothing(edge: Edge, alice: Caller, root: Caller, kind: Kind) -> None:
    """Anybody can compute the id of a payment that its payer will make: named as one of the caller's own it was ended for ever."""
    hers = payment_id(Kind.PAYMENT, "account:bob", "bob", "order 4711")
    name = pb.PaymentName(payer="alice", kind=pb.Kind.ValueType(kind), payment_id=hers)
    for caller in (alice, root):
        with pytest.raises(errors.InvalidRequest, match="cancel it by"):
            await caller("CancelPayment", name)
    assert edge.coordinator.records == {}


@pytest.mark.asyncio
async def test_cancelling_writes_an_outcome(alice: Caller) -> None:
    name = pb.PaymentName(payer="alice", idempotency_key="never")
    cancelled = await alice("CancelPayment", name)
    assert (cancelled.outcome, cancelled.reason) == (pb.OUTCOME_REFUSED, pb.REASON_CANCELLED)
    assert (await alice("GetPayment", name)).reason == pb.REASON_CANCELLED


@pytest.mark.asyncio
async def test_a_statement_in_pages(edge: Edge, alice: Caller, root: Caller) -> None:
    edge.coordinator.postings["alice"] = [
        PostingView(sequence, b"p" * 16, -1, sequence, 7, "bob", f"rent {sequence}")
        for sequence in range(5, 0, -1)
    ]
    request = pb.ListPostingsRequest(account_number="alice", before=4, limit=2)
    page = (await alice("ListPostings", request)).postings
    told = [(p.sequence, p.counterparty, p.reference) for p in page]
    assert told == [(3, "bob", "rent 3"), (2, "bob", "rent 2")]
    with pytest.raises(errors.InvalidRequest, match="limit"):
        await alice("ListPostings", pb.ListPostingsRequest(account_number="alice", limit=1_001))
    with pytest.raises(errors.NotFound):
        await root("ListPostings", pb.ListPostingsRequest(account_number="nobody"))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Answer(Code.DONE, state=FROZEN), pb.OUTCOME_COMMITTED),
        (Answer(Code.UNCHANGED, state=FROZEN), pb.OUTCOME_COMMITTED),
        (Answer(Code.REFUSED, Reason.LEGS_PREPARED), pb.OUTCOME_REFUSED),
        (Answer(Code.LOCK_CONFLICT, Reason.LOCK_CONFLICT), pb.OUTCOME_ABORTED),
    ],
)
async def test_an_operator_changes_only_what_is_named(
    edge: Edge, root: Caller, answer: Answer, outcome: int
) -> None:
    edge.coordinator.answer = answer
    reply = await root("SetAccount", pb.SetAccountRequest(account_number="bob", frozen=False))
    [change] = edge.coordinator.changes
    assert (change.frozen, change.closed, change.overdraft_limit) == (False, None, None)
    assert (reply.outcome, reply.reason) == (outcome, answer.reason)
    if outcome == pb.OUTCOME_COMMITTED:
        assert (reply.frozen, reply.closed, reply.overdraft_limit) == (True, False, 70)


@pytest.mark.asyncio
async def test_buckets(root: Caller) -> None:
    listed = await root("ListBuckets", pb.ListBucketsRequest())
    assert [(b.bucket, list(b.replicas)) for b in listed.buckets] == [(1, [1, 2]), (2, [1, 3])]
    state = await root("CheckBucket", pb.CheckBucketRequest(bucket=2, replica=3))
    assert (state.bucket, state.leader, dict(state.balances)) == (2, 3, {"USD": 5})
    for bucket, replica in [(2, 2), (9, 1)]:
        with pytest.raises(errors.NotFound):
            await root("CheckBucket", pb.CheckBucketRequest(bucket=bucket, replica=replica))


@pytest.mark.asyncio
async def test_a_failure_of_ours_is_told_as_unknown(edge: Edge, alice: Caller) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    edge.coordinator.read_accounts = broken  # type: ignore[method-assign]
    with pytest.raises(MasError) as caught:
        await alice("GetAccount", pb.GetAccountRequest(account_numbers=["alice"]))
    assert type(caught.value) is errors.OutcomeUnknown
