"""Streams of payments: each payment alone in its fate, results as they come, and bounds that hold."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
import pytest_asyncio

from mas import errors
from mas.api import Role
from mas.api.payment_stream import PaymentStream
from mas.api.shares import Caller, Held, Rank, caller_of
from mas.api.tokens import Principal
from mas.config import ShareConfig, SharesConfig
from mas.ledger.instructions import Reason
from mas.transaction.outcome import PaymentRequest, PaymentResult, Status
from mas.wire.gen.mas.v1 import account_pb2 as pb
from mas.wire.gen.mas.v1.account_pb2_grpc import AccountServiceStub
from mas.wire.status import error_from_rpc
from tests.api.edge import START_US, Edge, FakeCoordinator, commit, serving


@pytest_asyncio.fixture
async def edge() -> AsyncIterator[Edge]:
    share = ShareConfig(payments=3_000)
    async with serving(shares=SharesConfig(account=share)) as edge:
        yield edge


@pytest_asyncio.fixture
async def stream(edge: Edge) -> AsyncIterator["Stream"]:
    async with open_stream(edge) as stream:
        yield stream
        stream.call.cancel()
        await until(lambda: not edge.service._streams)
        edge.coordinator.settle()
        alice = edge.shares.of(Caller("account:alice", Rank.ACCOUNT))
        assert not any(map(alice.held, Held)), "whatever became of the stream, nothing is held"


ALICE = Principal("account:alice", Role.ACCOUNT, "alice", 2 * START_US, "account:alice")


class Stalled:
    """A client that reads nothing until it is let."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def write(self, message: pb.PaymentResults) -> None:
        await asyncio.sleep(0)
        await self.go.wait()


class Endless:
    """Batches, as many as are read."""

    PAYMENTS = 40

    def __init__(self, payment: pb.Payment) -> None:
        self.sent = 0
        self._payments = [payment] * self.PAYMENTS

    def __aiter__(self) -> "Endless":
        return self

    async def __anext__(self) -> pb.PaymentBatch:
        await asyncio.sleep(0)
        self.sent += 1
        return pb.PaymentBatch(batch=self.sent, payments=self._payments)


@asynccontextmanager
async def open_stream(edge: Edge, subject: str = "account:alice") -> AsyncIterator["Stream"]:
    async with edge.channel() as channel:
        call = AccountServiceStub(channel).CreatePayments(
            metadata=(("authorization", edge.token(subject)),)
        )
        yield Stream(call)
        call.cancel()


class Stream:
    """Sends batches, and collects results by (batch, position)."""

    def __init__(self, call) -> None:  # noqa: ANN001 - grpc.aio.StreamStreamCall, generic only in its stubs
        self.call = call
        self.messages = 0

    async def send(self, batch: int, *payments: pb.Payment, **fields: object) -> None:
        await self.call.write(pb.PaymentBatch(batch=batch, payments=payments, **fields))

    async def receive(self, count: int) -> dict[tuple[int, int], pb.PaymentResult]:
        found: dict[tuple[int, int], pb.PaymentResult] = {}
        while len(found) < count:
            message = await self.call.read()
            assert message is not grpc.aio.EOF, f"the stream ended after {len(found)}"
            self.messages += 1
            for result in message.results:
                assert (result.batch, result.position) not in found
                found[result.batch, result.position] = result
        return found


def payment(key: str, payer: str = "alice", amount: int = 1) -> pb.Payment:
    return pb.Payment(from_account=payer, to_account="bob", amount=amount, idempotency_key=key)


async def until(condition) -> None:  # noqa: ANN001 - any callable
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.asyncio
async def test_one_bad_payment_harms_none_beside_it(edge: Edge, stream: Stream) -> None:
    await stream.send(
        7,
        payment("k0"),
        payment("k1", payer="bob2"),
        payment("k2", amount=-1),
        payment(""),
        payment("k4"),
    )
    results = await stream.receive(5)
    assert [results[7, position].outcome for position in range(5)] == [
        pb.OUTCOME_COMMITTED,
        pb.OUTCOME_REJECTED,
        pb.OUTCOME_REJECTED,
        pb.OUTCOME_REJECTED,
        pb.OUTCOME_COMMITTED,
    ]
    names = [results[7, position].error.name for position in (1, 2, 3)]
    assert names == ["PermissionDenied", "InvalidRequest", "InvalidRequest"]
    assert [request.key for request in edge.coordinator.requests] == ["k0", "k4"]


@pytest.mark.asyncio
async def test_results_come_as_they_come(edge: Edge, stream: Stream) -> None:
    edge.coordinator.decide = lambda request: None if request.key == "slow" else commit(request)
    await stream.send(1, payment("slow"), payment("fast"))
    await stream.send(2, payment("other"))
    assert set(await stream.receive(2)) == {(1, 1), (2, 0)}
    edge.coordinator.settle()
    assert set(await stream.receive(1)) == {(1, 0)}


@pytest.mark.asyncio
async def test_refusals_carry_their_reason(edge: Edge, stream: Stream) -> None:
    edge.coordinator.decide = lambda _: PaymentResult(
        Status.REFUSED, b"i" * 16, Reason.INSUFFICIENT_FUNDS, "short by 3"
    )
    await stream.send(1, payment("k"))
    result = (await stream.receive(1))[1, 0]
    assert (result.reason, result.detail) == (pb.REASON_INSUFFICIENT_FUNDS, "short by 3")


@pytest.mark.asyncio
async def test_a_giant_is_cut_into_turns(edge: Edge, stream: Stream) -> None:
    await stream.send(1, *(payment(f"k{number}") for number in range(2_500)), timeout_ms=3_000)
    results = await stream.receive(2_500)
    assert set(results) == {(1, position) for position in range(2_500)}
    assert [len(batch) for batch in edge.coordinator.batches] == [1_000, 1_000, 500]
    assert stream.messages >= 3
    assert {request.timeout for request in edge.coordinator.requests} == {2.7}


@pytest.mark.asyncio
async def test_linked_payments_say_that_they_are_not_supported(stream: Stream) -> None:
    await stream.send(1, payment("a"), payment("b"), linked=True)
    for result in (await stream.receive(2)).values():
        assert (result.outcome, result.error.name) == (pb.OUTCOME_REJECTED, "NotSupported")


@pytest.mark.asyncio
async def test_overload_is_told_for_each(edge: Edge, stream: Stream) -> None:
    edge.coordinator.overloaded = errors.MailboxFull("full")
    await stream.send(1, payment("a"), payment("b"))
    for result in (await stream.receive(2)).values():
        assert (result.error.name, result.error.retryable) == ("Overloaded", True)
    edge.coordinator.overloaded = errors.MailboxClosed("stopping")
    await stream.send(2, payment("a"))
    assert (await stream.receive(1))[2, 0].error.name == "Unavailable"
    edge.coordinator.overloaded = None
    await stream.send(3, payment("a"))
    assert (await stream.receive(1))[3, 0].outcome == pb.OUTCOME_COMMITTED
    # What was not begun is not waited for.
    await stream.call.done_writing()
    assert await stream.call.read() is grpc.aio.EOF


@pytest.mark.asyncio
async def test_a_client_that_floods_is_not_read() -> None:
    shares = SharesConfig(account=ShareConfig(payments=2))
    coordinator = FakeCoordinator(lambda request: None)
    async with serving(coordinator, shares=shares) as edge, open_stream(edge) as stream:
        for batch in range(4):
            await stream.send(batch, payment(f"a{batch}"), payment(f"b{batch}"))
        await until(lambda: len(coordinator.waiting) == 2)
        # The next batch is read only once those before it are answered.
        for answered in range(4):
            await until(lambda: len(coordinator.waiting) == 2)
            assert len(coordinator.requests) == 2 * answered + 2
            coordinator.settle()
            await stream.receive(2)


@pytest.mark.asyncio
@pytest.mark.parametrize("valid", [True, False])
async def test_a_client_that_does_not_read_is_not_read(valid: bool) -> None:
    """Results that wait for their client count, those that were never begun too: once they were without a bound."""
    shares = SharesConfig(account=ShareConfig(payments=100))
    async with serving(shares=shares) as edge, open_stream(edge) as stream:
        writer = Stalled()
        held = PaymentStream(edge.coordinator, edge.authenticator, ALICE, edge.shares)
        share = edge.shares.of(caller_of(ALICE))
        batches = Endless(payment("k", amount=1 if valid else -1))
        running = asyncio.create_task(held.run(batches, writer))
        await until(lambda: share.free(Held.PAYMENTS) == 0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert batches.sent * Endless.PAYMENTS <= 100 + 2 * Endless.PAYMENTS
        assert share.held(Held.PAYMENTS) == 100
        # Another stream of the same caller has no more room; anybody else's has.
        await stream.send(1, payment("k"))
        async with open_stream(edge, "account:bob") as other:
            await other.send(1, payment("k", payer="bob2"))
            await other.receive(1)
        writer.go.set()
        await stream.receive(1)
        running.cancel()
        await asyncio.wait([running])
    assert share.held(Held.PAYMENTS) == 0


@pytest.mark.asyncio
async def test_a_batch_of_too_many_is_refused_as_a_whole(edge: Edge) -> None:
    """Two million empty payments are four million bytes: they are counted before they are decoded."""
    batch = pb.PaymentBatch(batch=2, linked=True)
    giant = batch.SerializeToString() + b"\x12\x00" * 2_000_000
    async with edge.channel() as channel:
        call = channel.stream_stream("/mas.v1.AccountService/CreatePayments")(
            metadata=(("authorization", edge.token("account:alice")),)
        )
        await call.write(pb.PaymentBatch(batch=1, payments=[payment("k")]).SerializeToString())
        await call.write(giant)
        first = pb.PaymentResults.FromString(await call.read())
        assert [result.batch for result in first.results] == [1]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    error = error_from_rpc(caught.value)
    assert type(error) is errors.InvalidRequest
    assert "fields" in str(error)


@pytest.mark.asyncio
async def test_a_token_that_expires_ends_the_stream_after_what_was_begun(
    edge: Edge, stream: Stream
) -> None:
    edge.coordinator.decide = lambda request: None
    await stream.send(1, payment("begun"))
    await until(lambda: edge.coordinator.waiting)
    edge.clock.now += 10**15
    await stream.send(2, payment("late"))
    edge.coordinator.settle()
    assert set(await stream.receive(1)) == {(1, 0)}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.receive(1)
    assert isinstance(error_from_rpc(caught.value), errors.Unauthenticated)
    assert [request.key for request in edge.coordinator.requests] == ["begun"]


@pytest.mark.asyncio
async def test_without_a_token_there_is_no_stream(edge: Edge) -> None:
    async with edge.channel() as channel:
        call = AccountServiceStub(channel).CreatePayments()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert isinstance(error_from_rpc(caught.value), errors.Unauthenticated)


@pytest.mark.asyncio
async def test_the_clients_end_is_an_end_after_all_answers(edge: Edge, stream: Stream) -> None:
    edge.coordinator.decide = lambda request: None
    await stream.send(1, payment("a"))
    await stream.call.done_writing()
    await until(lambda: edge.coordinator.waiting)
    edge.coordinator.settle()
    await stream.receive(1)
    assert await stream.call.read() is grpc.aio.EOF
    assert await stream.call.code() is grpc.StatusCode.OK
    await until(lambda: not edge.service._streams)


@pytest.mark.asyncio
async def test_a_stopping_server_answers_what_it_has_begun(edge: Edge, stream: Stream) -> None:
    edge.coordinator.decide = lambda request: None
    await stream.send(1, payment("a"))
    await until(lambda: edge.coordinator.waiting)
    stopping = asyncio.ensure_future(edge.server.stop(5))
    await asyncio.sleep(0)
    edge.coordinator.settle()
    assert set(await stream.receive(1)) == {(1, 0)}
    assert await stream.call.read() is grpc.aio.EOF
    async with asyncio.timeout(2):
        await stopping


@pytest.mark.asyncio
async def test_a_client_that_vanishes_leaves_nothing_behind(edge: Edge, stream: Stream) -> None:
    edge.coordinator.decide = lambda request: None
    await stream.send(1, payment("a"))
    await until(lambda: edge.coordinator.waiting)
    stream.call.cancel()
    await until(lambda: not edge.service._streams)
    edge.coordinator.settle()  # to nobody, and nothing breaks


@pytest.mark.asyncio
async def test_answers_that_come_within_submit_are_not_lost(edge: Edge, stream: Stream) -> None:
    def at_once(_: str, requests: list[PaymentRequest], on_result) -> None:  # noqa: ANN001
        for position, request in enumerate(requests):
            on_result(position, commit(request))

    edge.coordinator.submit = at_once  # type: ignore[method-assign]
    await stream.send(1, payment("a"), payment("b"))
    assert len(await stream.receive(2)) == 2
