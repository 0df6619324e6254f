"""Every method of every service, with whatever a client may send: an answer or a clear error, and nothing else happens."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any, cast

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mas.api import (
    ClusterSecret,
    LockServicer,
    NodeServicer,
    Role,
    TransactionServicer,
)
from mas.api.auth import CLUSTER_SECRET_KEY, Authenticator
from mas.errors import NotFound
from mas.ledger.instructions import Answer, Batch, RejectReason
from mas.membership import Operations, Roster
from mas.rpc.messages import Rejected
from mas.wire.status import DETAILS_KEY
from tests.api.edge import SECRET, FakeCoordinator, HandClock, api_server, secure_channel, serving
from tests.api.fuzz import METHODS, requests
from tests.api.test_server import FakeBuckets, FakeLocks, FakeNode


class NoOperations:
    """Refuses everything, as a cluster of no nodes would."""

    roster = Roster()

    def __getattr__(self, name: str) -> Any:
        async def refuse(*_: object) -> None:
            raise NotFound("there is no such thing")

        return refuse


class NoBuckets(FakeBuckets):
    """Turns everything away at once."""

    def submit(
        self, bucket: int, batch: Batch, on_answer: Callable[[int, Answer | Rejected], None]
    ) -> None:
        for position in range(len(batch.instructions)):
            asyncio.get_running_loop().call_soon(
                on_answer, position, Rejected(0, RejectReason.UNAVAILABLE)
            )


def servicer(service: str) -> Any:
    secret = ClusterSecret(SECRET)
    return {
        "LockService": lambda: LockServicer(FakeLocks(), Authenticator(SECRET, HandClock())),
        "NodeService": lambda: NodeServicer(FakeNode(), cast(Operations, NoOperations()), secret),
        "TransactionService": lambda: TransactionServicer(NoBuckets(), secret),
    }[service]()


class Doors:
    """A server of each service on one loop, and channels to them."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._metadata: tuple[tuple[str, str], ...] = ()

    async def open(self) -> None:
        edge = await self._stack.enter_async_context(serving(FakeCoordinator()))
        channel = await self._stack.enter_async_context(edge.channel())
        self._channels["AccountService"] = channel
        token = edge.token("operator:root", Role.GATEWAY)
        self._metadata = ((CLUSTER_SECRET_KEY, SECRET.decode()), ("authorization", token))
        for service in ("LockService", "NodeService", "TransactionService"):
            server = api_server(servicer(service))
            await server.start()
            self._stack.push_async_callback(server.stop, 0)
            channel = secure_channel(f"127.0.0.1:{server.port}")
            self._channels[service] = await self._stack.enter_async_context(channel)

    async def close(self) -> None:
        await self._stack.aclose()

    async def tell(self, method: MethodDescriptor, data: bytes) -> grpc.aio.AioRpcError | None:
        """Send it; the error that came back, if one did."""
        service = method.containing_service
        call = self._channels[service.name].stream_stream(f"/{service.full_name}/{method.name}")
        try:
            stream = call(metadata=self._metadata, timeout=10)
            await stream.write(data)
            await stream.done_writing()
            while await stream.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as error:
            return error
        return None


@pytest.fixture(scope="module")
def doors() -> Iterator[Doors]:
    doors = Doors()
    with doors.runner as runner:
        runner.run(doors.open())
        yield doors
        runner.run(doors.close())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_security_b11_every_method_answers_whatever_it_is_sent(
    doors: Doors, method: MethodDescriptor, data: st.DataObject
) -> None:
    sent = data.draw(requests(method.input_type))
    error = doors.runner.run(doors.tell(method, sent))
    if error is not None:
        # UNKNOWN would be an exception that nobody named.
        assert error.code() is not grpc.StatusCode.UNKNOWN, error
        assert DETAILS_KEY in dict(cast(Any, error.trailing_metadata()) or ()), error
