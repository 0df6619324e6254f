"""One port: TLS, health, reflection, a clear word when it can't be had, and secrets at the cluster's own doors."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast

import grpc
import msgspec
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mas import errors
from mas.api import (
    Authenticator,
    ClusterSecret,
    LockServicer,
    NodeServicer,
    NodeView,
    TokenIssuer,
    TransactionServicer,
)
from mas.api.auth import CLUSTER_SECRET_KEY
from mas.api.server import SERVER_OPTIONS
from mas.ledger.instructions import (
    Abort,
    Answer,
    Batch,
    Code,
    Commit,
    LockMode,
    RejectReason,
    Resolve,
    Token,
    encode,
)
from mas.membership import Operations
from mas.rpc.messages import Answers, Rejected, decode_replies
from mas.wire.gen.mas.v1 import account_pb2 as pb
from mas.wire.gen.mas.v1 import (
    account_pb2_grpc,
    lock_pb2,
    lock_pb2_grpc,
    node_pb2,
    node_pb2_grpc,
    transaction_pb2,
    transaction_pb2_grpc,
)
from mas.wire.status import error_from_rpc
from tests.api.edge import SECRET, HandClock, api_server, secure_channel, serving


@asynccontextmanager
async def on_a_port(service) -> AsyncIterator[grpc.aio.Channel]:  # noqa: ANN001 - any servicer
    server = api_server(service)
    await server.start()
    async with secure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel
    await server.stop(0)


async def heard(call) -> object:  # noqa: ANN001 - any call
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error) from None


@pytest.mark.asyncio
async def test_an_occupied_port_is_a_clear_error() -> None:
    async with serving() as edge:
        with pytest.raises(errors.ConfigError, match=rf"{edge.address}.*in use"):
            async with serving(port=edge.server.port):
                pass


@pytest.mark.asyncio
async def test_plaintext_gets_nowhere() -> None:
    async with serving() as edge, grpc.aio.insecure_channel(edge.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await account_pb2_grpc.AccountServiceStub(channel).ListBuckets(
                pb.ListBucketsRequest(), timeout=5
            )
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.asyncio
async def test_health_and_reflection() -> None:
    async with serving() as edge, edge.channel() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "mas.v1.AccountService"):
            reply = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        listing = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        [answer] = [each async for each in listing]
        names = [each.name for each in answer.list_services_response.service]
        assert "mas.v1.AccountService" in names
        assert "grpc.health.v1.Health" in names


@pytest.mark.asyncio
async def test_a_message_has_a_bound() -> None:
    async with serving() as edge, edge.channel() as channel:
        stub = account_pb2_grpc.AccountServiceStub(channel)
        token = (("authorization", edge.token()),)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CreatePayment(pb.Payment(reference="r" * 5_000_000), metadata=token)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert edge.coordinator.requests == []


# -- what is for the cluster itself --------------------------------------------------------------


class FakeBuckets:
    def __init__(self) -> None:
        self.batches: list[tuple[int, Batch]] = []
        self.answers: Sequence[Answer | Rejected | None] = ()

    def all(self) -> list[int]:
        return [4]

    def submit(
        self, bucket: int, batch: Batch, on_answer: Callable[[int, Answer | Rejected], None]
    ) -> None:
        self.batches.append((bucket, batch))
        for position, answer in reversed(list(enumerate(self.answers))):
            if answer is not None:
                asyncio.get_running_loop().call_soon(on_answer, position, answer)


class FakeNode:
    def view(self) -> NodeView:
        return NodeView(3, "mas", "1.2.3", ("rm",), (1, 2), (2,))


INSIDE = ((CLUSTER_SECRET_KEY, SECRET.decode()),)
PHASES = ["ProcessPhase1", "ProcessPhase2Commit", "ProcessPhase2Rollback", "Resolve"]
XID = b"x" * 16


def phase(*instructions: object) -> transaction_pb2.Phase:
    return transaction_pb2.Phase(bucket=4, batch=encode(Batch(b"", 0, instructions)))


@pytest.mark.asyncio
@pytest.mark.parametrize("method", PHASES)
async def test_phases_want_the_secret_of_the_cluster(method: str) -> None:
    buckets = FakeBuckets()
    token = TokenIssuer(SECRET).issue("operator:root")
    async with on_a_port(TransactionServicer(buckets, ClusterSecret(SECRET))) as channel:
        call = getattr(transaction_pb2_grpc.TransactionServiceStub(channel), method)
        for metadata in ((), ((CLUSTER_SECRET_KEY, "wrong"),), (("authorization", token),)):
            with pytest.raises(errors.Unauthenticated):
                await heard(call(phase(Abort(XID)), metadata=metadata))
    assert buckets.batches == []


@pytest.mark.asyncio
@pytest.mark.parametrize("method", PHASES)
async def test_a_phase_takes_only_its_own_instructions(method: str) -> None:
    buckets = FakeBuckets()
    wrong = Commit(XID, 1) if method != "ProcessPhase2Commit" else Abort(XID)
    async with on_a_port(TransactionServicer(buckets, ClusterSecret(SECRET))) as channel:
        call = getattr(transaction_pb2_grpc.TransactionServiceStub(channel), method)
        for bad in (phase(wrong), phase(), transaction_pb2.Phase(bucket=4, batch=b"\xc1")):
            with pytest.raises(errors.InvalidRequest):
                await heard(call(bad, metadata=INSIDE))
    assert buckets.batches == []


@pytest.mark.asyncio
async def test_a_phase_brings_every_answer() -> None:
    buckets = FakeBuckets()
    away = Rejected(9, RejectReason.NOT_LEADING, (1,), 5)
    buckets.answers = (Answer(Code.FREED), away, Answer(Code.OVER))
    async with on_a_port(TransactionServicer(buckets, ClusterSecret(SECRET))) as channel:
        stub = transaction_pb2_grpc.TransactionServiceStub(channel)
        reply = await stub.ProcessPhase2Rollback(phase(*[Abort(XID)] * 3), metadata=INSIDE)
        assert decode_replies(reply.frame) == (
            Answers(0, ((0, Answer(Code.FREED)), (2, Answer(Code.OVER)))),
            msgspec.structs.replace(away, request=0),
        )
        assert buckets.batches[0][0] == 4
        buckets.answers = (None,)
        with pytest.raises(errors.DeadlineExceeded, match="0 of 1"):
            await heard(
                stub.Resolve(phase(Resolve(XID, 1, XID, XID)), metadata=INSIDE, timeout=0.1)
            )


def no_operations() -> Operations:
    """What is asked of it fails the test."""
    return cast(Operations, None)


@pytest.mark.asyncio
async def test_a_node_tells_its_state_to_its_own() -> None:
    async with on_a_port(
        NodeServicer(FakeNode(), no_operations(), ClusterSecret(SECRET))
    ) as channel:
        stub = node_pb2_grpc.NodeServiceStub(channel)
        with pytest.raises(errors.Unauthenticated):
            await heard(stub.GetStatus(node_pb2.GetStatusRequest()))
        status = await stub.GetStatus(node_pb2.GetStatusRequest(), metadata=INSIDE)
        assert (status.node, list(status.leads)) == (3, [2])


# -- locks -----------------------------------------------------------------------------------------


class FakeLocks:
    def __init__(self) -> None:
        self.acquired: list[tuple[bytes, tuple[str, ...], LockMode]] = []
        self.released: list[bytes] = []

    async def acquire(
        self, owner: bytes, numbers: Sequence[str], mode: LockMode, timeout: float
    ) -> tuple[dict[str, Token], float]:
        self.acquired.append((owner, tuple(numbers), mode))
        return {number: Token(7, place, mode) for place, number in enumerate(numbers, 1)}, 1.5

    async def release(self, owner: bytes) -> None:
        self.released.append(owner)


@pytest.mark.asyncio
async def test_locks_belong_to_who_took_them() -> None:
    locks, clock = FakeLocks(), HandClock()
    issuer = TokenIssuer(SECRET, clock=clock)
    root, other, alice = (
        (("authorization", issuer.issue(subject)),)
        for subject in ("operator:root", "operator:other", "account:alice")
    )
    both = lock_pb2.AcquireLockRequest(lock_ids=["bob", "alice", "bob"], owner="job-1")
    async with on_a_port(LockServicer(locks, Authenticator(SECRET, clock))) as channel:
        stub = lock_pb2_grpc.LockServiceStub(channel)
        with pytest.raises(errors.Unauthenticated):
            await heard(stub.AcquireLock(both))
        with pytest.raises(errors.Unauthenticated):
            await heard(stub.ReleaseLock(lock_pb2.ReleaseLockRequest(owner="job-1")))
        with pytest.raises(errors.PermissionDenied):
            await heard(stub.AcquireLock(both, metadata=alice))
        reply = await stub.AcquireLock(both, metadata=root)
        assert [(t.lock_id, t.epoch, t.counter) for t in reply.tokens] == [
            ("alice", 7, 1),
            ("bob", 7, 2),
        ]
        own = lock_pb2.AcquireLockRequest(
            lock_ids=["alice"], owner="job-1", mode=lock_pb2.LOCK_MODE_SHARED
        )
        await stub.AcquireLock(own, metadata=alice)
        for metadata in (root, other, alice):
            await stub.ReleaseLock(lock_pb2.ReleaseLockRequest(owner="job-1"), metadata=metadata)
        for bad in (
            lock_pb2.AcquireLockRequest(owner="job"),
            lock_pb2.AcquireLockRequest(lock_ids=["a"]),
            lock_pb2.AcquireLockRequest(lock_ids=["@external"], owner="job"),
        ):
            with pytest.raises(errors.InvalidRequest):
                await heard(stub.AcquireLock(bad, metadata=root))
    assert [mode for _, _, mode in locks.acquired] == [LockMode.EXCLUSIVE, LockMode.SHARED]
    assert locks.released[0] == locks.acquired[0][0]
    assert locks.released[2] == locks.acquired[1][0]
    assert len(set(locks.released)) == 3


@pytest.mark.asyncio
async def test_callers_that_say_nothing_are_few_and_are_hung_up_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = tuple(
        (name, 300 if name == "grpc.server_handshake_timeout_ms" else value)
        for name, value in SERVER_OPTIONS
    )
    assert options != SERVER_OPTIONS
    monkeypatch.setattr("mas.api.server.SERVER_OPTIONS", options)
    server = api_server(connections=10)
    await server.start()
    crowd = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(30)]
    hung_up = [asyncio.ensure_future(reader.read()) for reader, _ in crowd]
    await asyncio.wait(hung_up, return_when=asyncio.FIRST_COMPLETED)
    while sum(map(asyncio.Future.done, hung_up)) < 20:
        await asyncio.sleep(0.005)
    assert not all(map(asyncio.Future.done, hung_up))  # the first ten stand, and for a while
    await asyncio.wait(hung_up)
    async with secure_channel(f"127.0.0.1:{server.port}") as channel:
        await channel.channel_ready()
    for _, writer in crowd:
        writer.close()
    await server.stop(0)
