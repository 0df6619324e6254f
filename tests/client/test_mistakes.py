"""One caller's mistake is one caller's: it is told at once, and whoever shares the client goes on."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import pytest_asyncio

from mas import errors
from mas.api import Role
from mas.client import Client, Payment, payment_stream
from mas.client.operator import OperatorClient
from mas.client.payment_stream import Order, PaymentStream
from mas.ledger.instructions import Reason
from mas.limits import TURN_BYTES_MAX
from mas.runtime import SystemClock, SystemDice
from mas.transaction.outcome import PaymentRequest, PaymentResult, Status, payment_id_of
from mas.wire.gen.mas.v1 import account_pb2 as pb
from mas.wire.gen.mas.v1 import account_pb2_grpc as pb_grpc
from tests.api.edge import Edge, account, certificate, serving
from tests.api.test_node_service import JOINER, Operations, operating

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def edge() -> AsyncIterator[Edge]:
    async with serving() as edge:
        yield edge


@pytest_asyncio.fixture
async def client(edge: Edge) -> AsyncIterator[Client]:
    token = edge.token("operator:shop", Role.GATEWAY)
    async with Client(edge.address, token=token, ca=certificate()[0], timeout=5.0) as client:
        yield client


# -- what can't be sent ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount": 2**63},
        {"amount": -1},
        {"amount": 0},
        {"amount": 1.5},
        {"amount": "1.005"},
        {"amount": None},
        {"key": 4711},
        {"key": 0},
        {"key": None},
        {"key": "k" * 129},
        {"key": "cafe\u0301"},
        {"payer": 1},
        {"payer": ["alice"]},
        {"payer": "x" * 65},
        {"payee": "bob\u200b"},
        {"payee": "\ud800"},
        {"currency": "XXX"},
        {"currency": ["USD"]},
        {"reference": "y" * 5_000},
        {"reference": b"rent"},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"timeout": "3"},
        {"timeout": -1},
    ],
    ids=str,
)
async def test_users_8_a_wrong_payment_is_raised_and_the_others_are_paid(
    edge: Edge, client: Client, wrong: dict[str, Any]
) -> None:
    good: dict[str, Any] = {"payer": "alice", "payee": "bob", "amount": 1}
    ends = await asyncio.gather(
        client.pay(**good), client.pay(**(good | wrong)), client.pay(**good), return_exceptions=True
    )
    assert isinstance(ends[1], errors.InvalidRequest)
    [field] = wrong
    assert field in str(ends[1])
    for end in (ends[0], ends[2], await client.pay(**good)):
        assert not isinstance(end, BaseException)
        assert end.committed
    assert len(edge.coordinator.requests) == 3


async def test_users_9_a_batch_of_wrong_payments_leaves_the_good_one(
    edge: Edge, client: Client
) -> None:
    batch = [Payment("alice", "bob", 1, reference="y" * 5_000)] * 999 + [Payment("alice", "bob", 1)]
    receipts = await client.pay_many(batch, timeout=3)
    assert [receipt.status for receipt in receipts] == [Status.REJECTED] * 999 + [Status.COMMITTED]
    assert "reference 'yyy" in receipts[0].detail
    assert "0 to 140 characters" in receipts[0].detail
    assert len(edge.coordinator.requests) == 1


async def test_users_9_the_largest_payments_travel_in_messages_that_a_server_takes(
    edge: Edge, client: Client
) -> None:
    """Cut by bytes as well as by number: these thousand are 1.6 MB."""
    wide = "\N{SNOWMAN}"
    batch = [
        Payment(
            f"{n:04}" + wide * 60, wide * 64, 1, key=f"{n:04}" + wide * 124, reference=wide * 140
        )
        for n in range(1_000)
    ]
    receipts = await client.pay_many(batch, timeout=20)
    assert all(receipt.committed for receipt in receipts)
    sizes = [
        sum(len(request.key.encode()) + len(request.body.reference.encode()) for request in one)
        for one in edge.coordinator.batches
    ]
    assert len(sizes) > 4
    assert max(sizes) <= TURN_BYTES_MAX


async def test_users_10_a_batch_has_a_receipt_for_each(edge: Edge, client: Client) -> None:
    wrong: list[tuple[Payment, str]] = [
        (Payment("alice", "bob", "1.005", key="k"), "'1.005' is not an amount of USD"),
        (Payment("alice", "bob", "1.00", "XYZ"), "currency 'XYZ' is not known"),
        (Payment("alice", "bob", 2**64), "amount 18446744073709551616 is not allowed"),
        (Payment("alice", "bob", 1.5), "amount 1.5 is not allowed"),  # type: ignore[arg-type]
        (Payment("alice", "bob", 1, key=7), "key 7 is not allowed"),  # type: ignore[arg-type]
        (Payment("", "bob", 1), "payer '' is not allowed"),
    ]
    batch = [Payment("alice", "bob", "1.00"), *(one for one, _ in wrong)]
    first, *others = await client.pay_many(batch)
    assert first.committed
    assert others[0].key == "k"
    for receipt, (_, why) in zip(others, wrong, strict=True):
        assert receipt.status is Status.REJECTED
        assert why in receipt.detail
    assert len(edge.coordinator.requests) == 1
    assert [one.status for one in await client.pay_many(batch[1:])] == [Status.REJECTED] * 6


# -- every method, every field -----------------------------------------------------------------------

STRANGE: list[Any] = [
    *(None, True, -1, 0, 2**31, 2**32, 2**63, 2**64, -(2**63) - 1, 10**5_000),
    *(1.5, float("nan"), float("inf"), 1j, object(), [], ["a"], {}, b"", b"\xff", b"x" * 40),
    *("", "a", "-1", "\ud800", "\x00", "x" * 100_000, "cafe\u0301", "alice\u200b"),
]

METHODS: dict[str, dict[str, Any]] = {
    "pay": {"payer": "a", "payee": "b", "amount": 1},
    "deposit": {"account": "a", "amount": 1},
    "withdraw": {"account": "a", "amount": 1},
    "payment": {"payer": "a", "key": "k"},
    "cancel": {"payer": "a", "key": "k"},
    "create_account": {"number": "a"},
    "account": {"number": "a"},
    "accounts": {"numbers": ["a"]},
    "postings": {"number": "a"},
    "set_account": {"number": "a"},
    "buckets": {},
    "bucket": {"bucket": 1, "replica": 1},
    "pay_many": {"payments": []},
}
OPERATOR_METHODS: dict[str, dict[str, Any]] = {
    "cluster": {},
    "add_node": {"cluster": "mas", "node": JOINER, "buckets": (1,)},
    "retire_node": {"node": 4},
    "replicas": {"bucket": 1},
    "replica": {"bucket": 1, "node": 1},
    "add_replica": {"bucket": 1, "node": 1},
    "remove_replica": {"bucket": 1, "node": 1},
    "transfer_leader": {"bucket": 1, "node": 1},
}


def public(of: type) -> dict[str, list[str]]:
    """Its methods, and what each takes."""
    return {
        method: [one for one in inspect.signature(function).parameters if one != "self"]
        for method, function in vars(of).items()
        if inspect.iscoroutinefunction(function) and method[0] != "_"
    }


async def test_every_method_is_tried() -> None:
    assert public(Client).keys() == METHODS.keys()
    assert public(OperatorClient).keys() == OPERATOR_METHODS.keys()


@pytest.mark.parametrize("method", METHODS)
async def test_users_11_whatever_a_method_is_given_what_it_raises_is_ours(
    edge: Edge, client: Client, method: str
) -> None:
    edge.coordinator.accounts["a"] = account("a")
    edge.coordinator.postings["a"] = []
    refused = 0
    for field in public(Client)[method]:
        if field == "payments":
            continue  # a sequence of our own structs: the tests above try what is in them
        for strange in STRANGE:
            fields = METHODS[method] | {field: strange}
            refused += await _is_ours(getattr(client, method)(**fields), fields)
    assert refused or method in ("buckets", "pay_many")
    assert (await client.pay("a", "b", 1)).committed


@pytest.mark.parametrize("method", OPERATOR_METHODS)
async def test_users_11_also_what_an_operator_asks(method: str) -> None:
    async with operating(Operations()) as operator:
        for field in public(OperatorClient)[method]:
            if field == "node" and method == "add_node":
                continue  # a struct
            for strange in STRANGE:
                fields = OPERATOR_METHODS[method] | {field: strange}
                await _is_ours(getattr(operator, method)(**fields), fields)


async def _is_ours(call: Awaitable[object], fields: dict[str, Any]) -> int:
    """1 where the call was refused."""
    [end] = await asyncio.gather(call, return_exceptions=True)
    if not isinstance(end, BaseException):
        return 0
    assert isinstance(end, errors.MasError), f"{fields}: {end!r}"
    assert not end.retryable or fields.get("timeout") == 0, f"{fields}: {end!r}"
    assert len(str(end)) < 400
    return 1


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda client: client.postings("a", before=-1), "before -1"),
        (lambda client: client.postings("a", limit=-1), "limit -1"),
        (lambda client: client.bucket(-1, 1), "bucket -1"),
        (lambda client: client.create_account("x", 2**63), "balance 9223372036854775808"),
        (
            lambda client: client.set_account("a", overdraft_limit=2**63),
            "overdraft_limit 9223372036854775808",
        ),
        (lambda client: client.payment("a", payment_id="ff"), "payment_id 'ff'"),
        (lambda client: client.accounts("alice"), "numbers 'alice'"),
    ],
)
async def test_users_11_the_field_is_named(
    client: Client, call: Callable[[Client], Awaitable[object]], field: str
) -> None:
    with pytest.raises(errors.InvalidRequest, match=field):
        await call(client)


@pytest.mark.parametrize("token", ["t\u00f6ken", "t\nk", 5])
async def test_a_token_that_no_call_can_carry_is_refused(token: Any) -> None:
    with pytest.raises(errors.InvalidRequest, match="the token is not one"):
        Client("127.0.0.1:1", token=token)
    with pytest.raises(errors.InvalidRequest, match="secret is not one"):
        OperatorClient("127.0.0.1:1", secret=b"\xff\n", ca=None)


# -- what has ended is forgotten ---------------------------------------------------------------------


async def test_nothing_is_kept_of_payments_that_ended_in_an_outage() -> None:
    async with Client("127.0.0.1:9", plaintext=True) as client:
        stream = client._payments
        for _ in range(3):
            receipts = await client.pay_many([Payment("a", "b", 1)] * 3_000, timeout=0.1)
            assert {receipt.status for receipt in receipts} == {Status.REJECTED}
        async with asyncio.timeout(5):
            while stream._waiting or stream._later or stream._sent:
                await asyncio.sleep(0.01)


async def test_a_payment_that_nobody_waits_for_any_more_is_not_sent(edge: Edge) -> None:
    port, token = edge.server.port, edge.token("operator:shop", Role.GATEWAY)
    await edge.server.stop(0)
    async with Client(f"127.0.0.1:{port}", token=token, ca=certificate()[0], timeout=20) as client:
        left = [
            asyncio.ensure_future(client.pay("a", "b", 1, key="left")),
            asyncio.ensure_future(client.pay_many([Payment("a", "b", 1, key="left")] * 3)),
        ]
        stays = asyncio.ensure_future(client.pay("a", "b", 1, key="stays"))
        await asyncio.sleep(0)
        for each in left:
            each.cancel()
        async with serving(port=port) as there:
            assert (await stays).committed
            assert [request.key for request in there.coordinator.requests] == ["stays"]


async def test_what_waits_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payment_stream, "WAITING_MAX", 2)
    async with Client("127.0.0.1:9", plaintext=True) as client:
        receipts = await client.pay_many([Payment("a", "b", 1)] * 3, timeout=0.1)
    assert [receipt.reason for receipt in receipts] == [
        Reason.UNAVAILABLE,
        Reason.UNAVAILABLE,
        Reason.OVERLOADED,
    ]


# -- what somebody else says -------------------------------------------------------------------------


class Between(pb_grpc.AccountServiceServicer):
    """Something between client and server: it lets one request through, and ends the call by itself."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self.code = code
        self.seen = 0

    async def CreatePayments(self, batches: Any, context: Any) -> Any:  # noqa: N802
        async for batch in batches:
            self.seen += len(batch.payments)
            await context.abort(self.code, "policy of the proxy")
        yield pb.PaymentResults()

    async def CreateAccount(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.seen += 1
        await context.abort(self.code, "policy of the proxy")

    CancelPayment = SetAccount = CreateAccount


@asynccontextmanager
async def between(code: grpc.StatusCode) -> AsyncIterator[tuple[Between, Client]]:
    server = grpc.aio.server()
    servicer = Between(code)
    pb_grpc.add_AccountServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with Client(f"127.0.0.1:{port}", plaintext=True) as client:
            yield servicer, client
    finally:
        await server.stop(None)


CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


async def test_a_status_of_somebody_between_says_nothing_of_what_is_under_way() -> None:
    async def ended(code: grpc.StatusCode) -> None:
        async with between(code) as (proxy, client):
            one, many = await asyncio.gather(
                client.pay("a", "b", 1, timeout=2),
                client.pay_many([Payment("a", "b", 1)] * 2, timeout=2),
            )
            assert proxy.seen
            for receipt in (one, *many):
                assert (code, receipt.status) == (code, Status.UNKNOWN)
                assert "policy of the proxy" in receipt.detail

    async with asyncio.TaskGroup() as group:
        for code in CODES:
            group.create_task(ended(code))


async def test_nor_of_a_call() -> None:
    async def ended(code: grpc.StatusCode) -> None:
        async with between(code) as (proxy, client):
            made, *others = await asyncio.gather(
                client.create_account("a", timeout=2),
                client.set_account("a", frozen=True, timeout=2),
                client.cancel("a", "k", timeout=2),
            )
            assert proxy.seen >= 3
            for receipt in (made.receipt, *others):
                assert (code, receipt.status) == (code, Status.UNKNOWN)

    async with asyncio.TaskGroup() as group:
        for code in CODES:
            group.create_task(ended(code))


async def test_what_was_never_sent_is_refused_by_its_error(client: Client, edge: Edge) -> None:
    """Our own server's word that a token isn't accepted is true of what was not begun."""
    edge.clock.now += 10**15
    with pytest.raises(errors.Unauthenticated):
        await client.pay("a", "b", 1)
    [receipt] = await client.pay_many([Payment("a", "b", 1)])
    assert receipt.status is Status.REJECTED


async def test_an_answer_that_cannot_be_read_is_no_answer() -> None:
    class Garbage(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            async def answer(request: Any, context: Any) -> bytes:
                return b"\xff\xff\xff"

            async def stream(requests: Any, context: Any) -> AsyncIterator[bytes]:
                async for _ in requests:
                    yield b"\xff\xff\xff"

            if details.method.endswith("CreatePayments"):
                return grpc.stream_stream_rpc_method_handler(stream)
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.aio.server(handlers=[Garbage()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with Client(f"127.0.0.1:{port}", plaintext=True, timeout=0.3) as client:
            receipt = await client.pay("a", "b", 1)
            assert (receipt.status, "can't be read" in receipt.detail) == (Status.UNKNOWN, True)
            made = await client.create_account("a")
            changed = await client.set_account("a", frozen=True)
            assert made.receipt.status is changed.status is Status.UNKNOWN
            with pytest.raises(errors.NetworkError, match="can't be read"):
                await client.account("a")
    finally:
        await server.stop(None)


async def test_an_answer_to_a_place_that_is_not_there_changes_nothing() -> None:
    stream = PaymentStream(None, (), SystemClock(), SystemDice())  # type: ignore[arg-type]
    ended: list[object] = []
    stream.send(Order(pb.Payment(idempotency_key="k"), 1e12, 0, lambda _, end: ended.append(end)))
    assert stream._next_message() is not None
    committed = pb.PaymentResult(outcome=pb.OUTCOME_COMMITTED, batch=1, position=1)
    stream._take(pb.PaymentResults(results=[committed]))
    assert not ended
    committed.position = 0
    stream._take(pb.PaymentResults(results=[committed]))
    assert len(ended) == 1


# -- whose trouble is told ---------------------------------------------------------------------------


async def test_users_17_the_detail_is_of_this_trouble(edge: Edge, client: Client) -> None:
    assert (await client.pay("a", "b", 1)).committed

    def silent(request: PaymentRequest) -> PaymentResult:
        return PaymentResult(
            Status.UNKNOWN, payment_id_of(request), Reason.TIMED_OUT, "bucket 1 doesn't answer"
        )

    edge.coordinator.decide = silent
    receipt = await client.pay("a", "b", 1, timeout=0.3)
    assert (receipt.status, receipt.detail) == (Status.UNKNOWN, "bucket 1 doesn't answer")
    [receipt] = await client.pay_many([Payment("a", "b", 1)], timeout=0.3)
    assert receipt.detail == "bucket 1 doesn't answer"
    edge.coordinator.decide = lambda request: None
    receipt = await client.pay("a", "b", 1, timeout=0.1)
    assert "has not answered in time" in receipt.detail


async def test_users_17_a_lost_connection_is_told_while_it_is_lost(edge: Edge) -> None:
    token = edge.token("operator:shop", Role.GATEWAY)
    async with Client(edge.address, token=token, ca=certificate()[0], timeout=0.5) as client:
        assert (await client.pay("a", "b", 1)).committed
        await edge.server.stop(0)
        receipt = await client.pay("a", "b", 1)
        assert not receipt.final
        assert receipt.reason is Reason.UNAVAILABLE
        assert "can't be reached" in receipt.detail


async def test_users_17_a_read_tells_what_its_tries_were_told(
    edge: Edge, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def read(*_: object) -> Any:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise errors.Unavailable("bucket 1 can't be read: node 2 doesn't answer")
        await asyncio.sleep(60)

    monkeypatch.setattr(edge.coordinator, "read_accounts", read)
    with pytest.raises(errors.DeadlineExceeded, match="node 2 doesn't answer"):
        await client.account("a", timeout=0.5)
    assert tries >= 2
