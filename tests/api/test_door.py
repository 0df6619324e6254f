"""The door: who calls is counted before anything is read, what can't be read is said so, and strangers have little."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mas import errors
from mas.api import ClusterSecret, LockServicer, Role, TransactionServicer, door
from mas.api.auth import CLUSTER_SECRET_KEY
from mas.api.door import _address
from mas.api.shares import Caller, Held, Rank
from mas.config import ShareConfig, SharesConfig, StrangerShareConfig
from mas.ledger.instructions import Reason
from mas.rpc.messages import PostingView
from mas.transaction.outcome import PaymentResult, Status, payment_id_of
from mas.wire.gen.mas.v1 import account_pb2 as pb
from mas.wire.gen.mas.v1.account_pb2_grpc import AccountServiceStub
from mas.wire.status import error_from_rpc
from tests.api.edge import (
    SECRET,
    Edge,
    FakeCoordinator,
    account,
    api_server,
    certificate,
    secure_channel,
    serving,
)
from tests.api.test_server import FakeBuckets, FakeLocks

SERVICE = "/mas.v1.AccountService/"
METHODS = [method.name for method in pb.DESCRIPTOR.services_by_name["AccountService"].methods]
NONSENSE = (
    b"\xff\xff\xff",
    b"\x12" + b"\xff" * 11,  # a length without an end
    b"\x0b" * 200,  # groups in groups
)


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def until(condition) -> None:  # noqa: ANN001 - any callable
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def watch(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())


async def pays(edge: Edge, channel: grpc.aio.Channel, subject: str = "account:alice") -> None:
    """One payment by call, one by stream."""
    metadata = (("authorization", edge.token(subject)),)
    payer = subject.removeprefix("account:")
    payment = pb.Payment(from_account=payer, to_account="bob", amount=1, idempotency_key="k")
    stub = AccountServiceStub(channel)
    result = await stub.CreatePayment(payment, metadata=metadata, timeout=10)
    assert result.outcome == pb.OUTCOME_COMMITTED
    stream = stub.CreatePayments(metadata=metadata)
    await stream.write(pb.PaymentBatch(payments=[payment]))
    assert len((await stream.read()).results) == 1
    stream.cancel()


# -- what strangers can do -----------------------------------------------------------------------


@pytest.mark.asyncio
async def test_strangers_watch_no_more_than_their_share() -> None:
    """Four thousand watches of the health once took every place there was."""
    shares = SharesConfig(stranger=StrangerShareConfig(streams=3))
    async with serving(shares=shares) as edge, edge.channel() as channel:
        watches = [watch(channel) for _ in range(3)]
        for each in watches:
            assert (await each.read()).status == health_pb2.HealthCheckResponse.SERVING
        for _ in range(20):
            error = await failure(watch(channel).read())
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert isinstance(error_from_rpc(error), errors.Overloaded)
        await pays(edge, channel)
        # Whoever leaves makes room, and a token is another caller.
        token = (("authorization", edge.token("account:alice")),)
        stub = health_pb2_grpc.HealthStub(channel)
        mine = stub.Watch(health_pb2.HealthCheckRequest(), metadata=token)
        assert (await mine.read()).status == health_pb2.HealthCheckResponse.SERVING
        watches[0].cancel()
        stranger = edge.shares.of(Caller("127.0.0.1", Rank.STRANGER))
        await until(lambda: stranger.held(Held.STREAMS) == 2)
        assert (await watch(channel).read()).status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.asyncio
async def test_a_stranger_is_sent_away_after_a_while() -> None:
    async with (
        serving(shares=SharesConfig(stranger_seconds=0.1)) as edge,
        edge.channel() as channel,
    ):
        call = watch(channel)
        await call.read()
        assert (await failure(call.read())).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        # A call whose request never comes, and a stream of questions for the methods that brings none.
        for method in (
            "grpc.health.v1.Health/Check",
            "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ):
            silent = channel.stream_stream(f"/{method}")()
            assert (await failure(silent.read())).code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.asyncio
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("token", ["", "not a token"])
async def test_a_stranger_is_refused_before_its_request_comes(method: str, token: str) -> None:
    metadata = (("authorization", token),) if token else ()
    async with serving() as edge, edge.channel() as channel:
        silent = channel.stream_stream(SERVICE + method)(metadata=metadata)
        async with asyncio.timeout(5):
            error = error_from_rpc(await failure(silent.read()))
        assert isinstance(error, errors.Unauthenticated)
        assert len(edge.shares) == 0


@pytest.mark.asyncio
async def test_a_stranger_says_nothing_long() -> None:
    """The name of the service that is watched was kept as long as the watch, of four million bytes too."""
    async with serving() as edge, edge.channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="x" * 5_000)
        for call in (stub.Watch(request).read(), stub.Check(request)):
            assert type(error_from_rpc(await failure(call))) is errors.InvalidRequest


# -- what callers with a token can do ------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_request_that_never_comes_has_a_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(door, "REQUEST_SECONDS", 0.1)
    async with serving() as edge, edge.channel() as channel:
        metadata = (("authorization", edge.token("account:alice")),)
        silent = channel.stream_unary(SERVICE + "GetAccount")(metadata=metadata)
        error = error_from_rpc(await failure(silent))
        assert isinstance(error, errors.DeadlineExceeded)
        await pays(edge, channel)


@pytest.mark.asyncio
async def test_calls_that_bring_nothing_are_one_callers_and_bounded() -> None:
    share = ShareConfig(calls=6, receiving=2)
    async with serving(shares=SharesConfig(account=share)) as edge, edge.channel() as channel:
        mallory = (("authorization", edge.token("account:mallory")),)
        silent = [channel.stream_unary(SERVICE + "GetAccount")(metadata=mallory) for _ in range(6)]
        held = edge.shares.of(Caller("account:mallory", Rank.ACCOUNT))
        await until(lambda: held.held(Held.CALLS) == 6)
        # gRPC makes room for a message only once it is asked for.
        assert held.held(Held.RECEIVING) == 2
        request = pb.GetAccountRequest(account_numbers=["mallory"])
        stub = AccountServiceStub(channel)
        error = error_from_rpc(await failure(stub.GetAccount(request, metadata=mallory)))
        assert isinstance(error, errors.Overloaded)
        await pays(edge, channel)
        for call in silent:
            call.cancel()
        await until(lambda: not any(map(held.held, Held)))
        edge.coordinator.accounts["mallory"] = account("mallory")
        assert (await stub.GetAccount(request, metadata=mallory)).accounts[0].found


@pytest.mark.asyncio
async def test_a_payment_above_the_share_waits_for_its_callers_own() -> None:
    coordinator = FakeCoordinator(lambda _: None)
    shares = SharesConfig(account=ShareConfig(payments=2))
    async with serving(coordinator, shares=shares) as edge, edge.channel() as channel:
        stub = AccountServiceStub(channel)
        metadata = (("authorization", edge.token("account:alice")),)

        def pay(key: str, timeout: float = 20.0) -> Any:
            payment = pb.Payment(
                from_account="alice", to_account="bob", amount=1, idempotency_key=key
            )
            return stub.CreatePayment(payment, metadata=metadata, timeout=timeout)

        first = [pay("a"), pay("b")]
        await until(lambda: len(coordinator.waiting) == 2)
        impatient = error_from_rpc(await failure(pay("c", timeout=0.2)))
        assert isinstance(impatient, errors.Overloaded | errors.DeadlineExceeded)
        patient = asyncio.ensure_future(pay("d"))
        held = edge.shares.of(Caller("account:alice", Rank.ACCOUNT))
        await until(lambda: held.held(Held.CALLS) == 3)
        assert len(coordinator.requests) == 2
        coordinator.decide = FakeCoordinator().decide
        coordinator.settle()
        assert [(await call).outcome for call in (*first, patient)] == [pb.OUTCOME_COMMITTED] * 3


@pytest.mark.asyncio
async def test_a_reply_that_is_not_read_is_held_by_its_caller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What had been answered counted no more, and its reply stayed: four thousand of them were all calls that there are."""
    shares = SharesConfig(account=ShareConfig(calls=3))
    # gRPC's client takes what it isn't asked for too, unless it is told otherwise.
    lazy = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1_024)]
    credentials = grpc.ssl_channel_credentials(certificate()[0])
    async with serving(shares=shares) as edge:
        edge.coordinator.postings["alice"] = [
            PostingView(number, b"i" * 16, 1, 1, 1, "bob", "r" * 140) for number in range(1_000)
        ]
        metadata = (("authorization", edge.token("account:alice")),)
        request = pb.ListPostingsRequest(account_number="alice", limit=1_000).SerializeToString()
        held = edge.shares.of(Caller("account:alice", Rank.ACCOUNT))
        async with grpc.aio.secure_channel(edge.address, credentials, options=lazy) as channel:
            asked = channel.stream_stream(SERVICE + "ListPostings")
            unread = [asked(metadata=metadata) for _ in range(3)]
            for call in unread:
                await call.write(request)
            await until(lambda: held.held(Held.CALLS) == 3 and not held.held(Held.RECEIVING))
            refused = asked(metadata=metadata)
            assert isinstance(error_from_rpc(await failure(refused.read())), errors.Overloaded)
            page = pb.ListPostingsReply.FromString(await unread[0].read())
            assert len(page.postings) == 1_000
            await until(lambda: held.held(Held.CALLS) == 2)
            unread[1].cancel()
            await until(lambda: held.held(Held.CALLS) == 1)
        # Whoever hangs up in the middle of a reply is nobody's fault.
        await until(lambda: not any(map(held.held, Held)))
    ours = [record for record in caplog.records if record.name.startswith("mas")]
    assert not any(record.exc_info for record in ours)


@pytest.mark.asyncio
async def test_streams_of_one_caller_leave_room_for_others() -> None:
    """Ten thousand streams of one token once kept everybody else out."""
    async with serving() as edge, edge.channel() as channel:
        metadata = (("authorization", edge.token("account:mallory")),)
        stub = AccountServiceStub(channel)
        streams = [stub.CreatePayments(metadata=metadata) for _ in range(40)]
        held = edge.shares.of(Caller("account:mallory", Rank.ACCOUNT))
        await until(lambda: sum(stream.done() for stream in streams) == 24)
        assert held.held(Held.STREAMS) == 16
        refused = next(stream for stream in streams if stream.done())
        assert isinstance(error_from_rpc(await failure(refused.read())), errors.Overloaded)
        await pays(edge, channel)
        for stream in streams:
            stream.cancel()
        await until(lambda: not any(map(held.held, Held)))


@pytest.mark.asyncio
async def test_statements_of_one_caller_wait_for_each_other_and_for_nobody_else() -> None:
    coordinator = Slow()
    shares = SharesConfig(account=ShareConfig(statements=2))
    async with serving(coordinator, shares=shares) as edge, edge.channel() as channel:
        stub = AccountServiceStub(channel)
        alice, bob = (
            (("authorization", edge.token(subject)),)
            for subject in ("account:alice", "account:bob")
        )
        pages = [
            asyncio.ensure_future(
                stub.ListPostings(pb.ListPostingsRequest(account_number="alice"), metadata=alice)
            )
            for _ in range(10)
        ]
        held = edge.shares.of(Caller("account:alice", Rank.ACCOUNT))
        await until(lambda: held.held(Held.CALLS) == 10 and held.held(Held.RECEIVING) == 0)
        assert coordinator.reading == ["alice"] * 2
        other = asyncio.ensure_future(
            stub.ListPostings(pb.ListPostingsRequest(account_number="bob"), metadata=bob)
        )
        await until(lambda: "bob" in coordinator.reading)
        coordinator.go.set()
        await asyncio.gather(*pages, other)
        assert coordinator.most == 3


class Slow(FakeCoordinator):
    """Reads statements once it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.reading: list[str] = []
        self.most = 0
        self.go = asyncio.Event()

    async def read_postings(
        self, number: str, before: int, limit: int, timeout: float
    ) -> list[Any]:
        self.reading.append(number)
        self.most = max(self.most, len(self.reading))
        await self.go.wait()
        self.reading.remove(number)
        return []


@pytest.mark.asyncio
async def test_security_b15_payments_refused_for_nothing_are_so_many_a_day() -> None:
    coordinator = FakeCoordinator(
        lambda request: PaymentResult(
            Status.REFUSED, payment_id_of(request), Reason.INSUFFICIENT_FUNDS
        )
    )
    shares = SharesConfig(account=ShareConfig(refusals_a_day=3))
    async with serving(coordinator, shares=shares) as edge, edge.channel() as channel:
        stub = AccountServiceStub(channel)
        metadata = (("authorization", edge.token("account:alice")),)

        def payment(key: str) -> pb.Payment:
            return pb.Payment(from_account="alice", to_account="bob", amount=1, idempotency_key=key)

        await stub.CreatePayment(payment("a"), metadata=metadata)
        cancelled = pb.PaymentName(payer="alice", idempotency_key="b")
        await stub.CancelPayment(cancelled, metadata=metadata)
        stream = stub.CreatePayments(metadata=metadata)
        for key, outcome in (("c", pb.OUTCOME_REFUSED), ("d", pb.OUTCOME_REJECTED)):
            await stream.write(pb.PaymentBatch(payments=[payment(key)]))
            [result] = (await stream.read()).results
            assert result.outcome == outcome
        assert result.error.name == "Overloaded"
        for call in (
            stub.CreatePayment(payment("e"), metadata=metadata),
            stub.CancelPayment(cancelled, metadata=metadata),
        ):
            assert isinstance(error_from_rpc(await failure(call)), errors.Overloaded)
        assert [request.key for request in coordinator.requests] == ["a", "c"]
        # Those of others aren't counted with it, and what it has can still be looked at.
        coordinator.decide = FakeCoordinator().decide
        await pays(edge, channel, "account:carol")
        coordinator.accounts["alice"] = account("alice")
        await stub.GetAccount(pb.GetAccountRequest(account_numbers=["alice"]), metadata=metadata)


# -- what can't be read ----------------------------------------------------------------------------


@asynccontextmanager
async def everything() -> AsyncIterator[list[tuple[grpc.aio.Channel, str, Any]]]:
    """Every method of the services for clients and for tools, and what lets one in."""
    tools = api_server(TransactionServicer(FakeBuckets(), ClusterSecret(SECRET)))
    async with serving() as edge:
        locks = api_server(LockServicer(FakeLocks(), edge.authenticator))
        token = (("authorization", edge.token("operator:root", Role.GATEWAY)),)
        secret = ((CLUSTER_SECRET_KEY, SECRET.decode()),)
        methods: list[tuple[grpc.aio.Channel, str, Any]] = []
        await tools.start()
        await locks.start()
        async with (
            edge.channel() as to_edge,
            secure_channel(f"127.0.0.1:{locks.port}") as to_locks,
            secure_channel(f"127.0.0.1:{tools.port}") as to_tools,
        ):
            methods += [(to_edge, f"mas.v1.AccountService/{name}", token) for name in METHODS]
            methods.append((to_edge, "grpc.health.v1.Health/Check", ()))
            methods.append((to_edge, "grpc.health.v1.Health/Watch", ()))
            reflection = "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
            methods.append((to_edge, reflection, ()))
            methods.append((to_locks, "mas.v1.LockService/AcquireLock", token))
            methods.append((to_locks, "mas.v1.LockService/ReleaseLock", token))
            methods.append((to_tools, "mas.v1.TransactionService/Resolve", secret))
            yield methods
        await tools.stop(0)
        await locks.stop(0)


@pytest.mark.asyncio
async def test_security_b11_users_12_what_is_no_message_is_an_invalid_argument_and_no_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One byte without a token once wrote 760 bytes of traceback, and was told UNKNOWN."""
    caplog.set_level(logging.INFO, "mas")
    asked = 0
    async with everything() as methods:
        for channel, method, metadata in methods:
            if method.endswith("/CreatePayment"):
                payments = channel, method, metadata
            for data in NONSENSE:
                for _ in range(3):
                    call = channel.stream_stream(f"/{method}")(metadata=metadata)
                    await call.write(data)
                    error = await failure(call.read())
                    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, (method, data, error)
                    heard = error_from_rpc(error)
                    assert type(heard) is errors.InvalidRequest, method
                    assert not heard.retryable
                    asked += 1
        data = b"\x0a\x02\xc3\x28\x12\x03bob\x18\x01"  # from an account whose name is no UTF-8
        channel, method, metadata = payments
        error = await failure(channel.unary_unary(f"/{method}")(data, metadata=metadata))
        assert type(error_from_rpc(error)) is errors.InvalidRequest
    assert asked > 100
    ours = [record for record in caplog.records if record.name.startswith(("mas.api", "grpc"))]
    assert len(ours) <= 3  # one for each server
    assert not any(record.exc_info for record in ours)


@pytest.mark.asyncio
async def test_users_12_what_stood_before_it_on_the_stream_is_answered() -> None:
    coordinator = FakeCoordinator(lambda _: None)
    async with serving(coordinator) as edge, edge.channel() as channel:
        stream = channel.stream_stream(SERVICE + "CreatePayments")(
            metadata=(("authorization", edge.token("account:alice")),)
        )
        payment = pb.Payment(from_account="alice", to_account="bob", amount=1, idempotency_key="k")
        await stream.write(pb.PaymentBatch(payments=[payment]).SerializeToString())
        await stream.write(b"\xff\xff\xff")
        await until(lambda: coordinator.waiting)
        coordinator.settle()
        results = pb.PaymentResults.FromString(await stream.read()).results
        assert [result.outcome for result in results] == [pb.OUTCOME_COMMITTED]
        assert type(error_from_rpc(await failure(stream.read()))) is errors.InvalidRequest


@pytest.mark.asyncio
async def test_a_fault_of_ours_is_told_as_what_it_is_and_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as edge, edge.channel() as channel:
        monkeypatch.setattr(edge.coordinator, "read_accounts", None)
        stub = AccountServiceStub(channel)
        metadata = (("authorization", edge.token("account:alice")),)
        for _ in range(20):
            error = await failure(
                stub.GetAccount(pb.GetAccountRequest(account_numbers=["alice"]), metadata=metadata)
            )
            assert error.code() is grpc.StatusCode.UNKNOWN
            assert "by a fault of its own" in str(error_from_rpc(error))
    assert sum(record.exc_info is not None for record in caplog.records) == 1


@pytest.mark.asyncio
async def test_a_call_without_a_request_and_a_method_that_is_not_there_are_told_so() -> None:
    async with serving() as edge, edge.channel() as channel:
        metadata = (("authorization", edge.token("account:alice")),)
        call = channel.stream_unary(SERVICE + "GetAccount")(metadata=metadata)
        await call.done_writing()
        assert isinstance(error_from_rpc(await failure(call)), errors.InvalidRequest)
        error = await failure(channel.unary_unary(SERVICE + "Nothing")(b"", metadata=metadata))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.asyncio
async def test_inner_services_do_not_tell_strangers_their_methods() -> None:
    server = api_server(TransactionServicer(FakeBuckets(), ClusterSecret(SECRET)))
    await server.start()
    async with secure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        )()
        assert (await failure(call.read())).code() is grpc.StatusCode.UNIMPLEMENTED
        stub = health_pb2_grpc.HealthStub(channel)
        reply = await stub.Check(health_pb2.HealthCheckRequest())
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    await server.stop(0)


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.7:4711", "10.0.0.7"),
        ("ipv6:%5B::1%5D:4711", "::/64"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:4711", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:4711", "fe80::/64"),
        ("unix:/tmp/socket", "unix:/tmp/socket"),
        ("", ""),
    ],
)
def test_an_address_is_a_callers_without_its_port(peer: str, address: str) -> None:
    assert _address(peer) == address
