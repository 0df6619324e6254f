"""Streams of payments: each payment alone in its fate, results as they come, and bounds that hold."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from mas import errors
from mas.api import payment_stream
from mas.ledger.instructions import Reason
from mas.transaction.outcome import PaymentRequest, PaymentResult, Status
from mas.wire.gen.mas.v1 import account_pb2 as pb
from mas.wire.gen.mas.v1.account_pb2_grpc import AccountServiceStub
from mas.wire.status import error_from_rpc
from tests.api.edge import Edge, commit, serving


@pytest_asyncio.fixture
async def edge() -> AsyncIterator[Edge]:
    async with serving() as edge:
        yield edge


@pytest_asyncio.fixture
async def stream(edge: Edge) -> AsyncIterator["Stream"]:
    async with edge.channel() as channel:
        call = AccountServiceStub(channel).CreatePayments(
            metadata=(("authorization", edge.token("account:alice")),)
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
        pb.OUTCOME_TURNED_AWAY,
        pb.OUTCOME_TURNED_AWAY,
        pb.OUTCOME_TURNED_AWAY,
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
        assert (result.outcome, result.error.name) == (pb.OUTCOME_TURNED_AWAY, "NotSupported")


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
async def test_a_client_that_floods_is_not_read(
    edge: Edge, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payment_stream, "IN_FLIGHT_MAX", 2)
    edge.coordinator.decide = lambda request: None
    for batch in range(4):
        await stream.send(batch, payment(f"a{batch}"), payment(f"b{batch}"))
    await until(lambda: len(edge.coordinator.waiting) == 2)
    # The next batch is read only once those before it are answered.
    for answered in range(4):
        await until(lambda: len(edge.coordinator.waiting) == 2)
        assert len(edge.coordinator.requests) == 2 * answered + 2
        edge.coordinator.settle()
        await stream.receive(2)


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
    def at_once(requests: list[PaymentRequest], on_result) -> None:  # noqa: ANN001
        for position, request in enumerate(requests):
            on_result(position, commit(request))

    edge.coordinator.submit = at_once  # type: ignore[method-assign]
    await stream.send(1, payment("a"), payment("b"))
    assert len(await stream.receive(2)) == 2
