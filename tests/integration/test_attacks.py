"""An attacker at its limit, for each thing that a caller can hold, against a real cluster: others' payments go on beside it.

The attacker shares a process and a machine with those who pay, so what is asked of the rate is little; each of these
attacks once took all of it, for as long as it lasted.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mas.api.tokens import Role
from mas.client import Client
from mas.daemon.open_files import raise_file_limit
from mas.testing import LocalCluster
from mas.wire.gen.mas.v1 import account_pb2 as pb
from mas.wire.gen.mas.v1.account_pb2_grpc import AccountServiceStub

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

_log = logging.getLogger(__name__)

_WINDOW_SECONDS = 2.0
_CALLERS = 16
_SHARE_MAX = 256
"""Calls that an account may have under way; of the rest it may have fewer."""
_MEMORY_MIB_MAX = 250
"""That an attack may cost the coordinator: its share of everything, as Python keeps it."""

Attack = Callable[["Attacker"], Awaitable[None]]


class Attacker:
    """Connections of one owner, or of nobody, and what it holds on to."""

    def __init__(self, cluster: LocalCluster, stack: AsyncExitStack) -> None:
        self._cluster = cluster
        self._stack = stack
        self.token = (("authorization", cluster.token("account:mallory")),)
        self.held: list[Any] = []

    async def connect(self) -> grpc.aio.Channel:
        authority = Path(self._cluster.directory / "tls" / "ca.crt").read_bytes()
        channel = grpc.aio.secure_channel(
            self._cluster.address,
            grpc.ssl_channel_credentials(authority),
            options=[("grpc.use_local_subchannel_pool", 1)],
        )
        return await self._stack.enter_async_context(channel)

    def ports(self) -> list[int]:
        """Where anybody can knock: the peer ports, and the API."""
        nodes = self._cluster.nodes.values()
        return [*(node.listen.peer for node in nodes), self._cluster.transaction_manager.listen.api]

    def keep(self, work: Awaitable[Any]) -> None:
        self.held.append(asyncio.ensure_future(work))

    async def settled(self) -> None:
        """Once what is above the share has been refused."""
        while sum(not call.done() for call in self.held) > _SHARE_MAX:
            await asyncio.sleep(0.05)

    async def end(self) -> None:
        for each in self.held:
            each.cancel()
        await asyncio.gather(
            *(each for each in self.held if isinstance(each, asyncio.Future)),
            return_exceptions=True,
        )


async def watches(attacker: Attacker) -> None:
    """B4: four thousand watches of the health, without a token."""
    for _ in range(4):
        stub = health_pb2_grpc.HealthStub(await attacker.connect())
        attacker.held += [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(1_024)]
    await attacker.settled()


async def silent_calls(attacker: Attacker) -> None:
    """B4: four thousand calls whose request never comes."""
    for _ in range(4):
        call = (await attacker.connect()).stream_unary("/mas.v1.AccountService/GetAccount")
        attacker.held += [call(metadata=attacker.token) for _ in range(1_024)]
    await attacker.settled()


async def streams(attacker: Attacker) -> None:
    """B5: four thousand streams of one owner."""
    for _ in range(4):
        stub = AccountServiceStub(await attacker.connect())
        attacker.held += [stub.CreatePayments(metadata=attacker.token) for _ in range(1_024)]
    await attacker.settled()


async def giants(attacker: Attacker) -> None:
    """B6: batches of two million empty payments, and as many as are allowed, whose results are never read."""
    channel = await attacker.connect()
    call = channel.stream_stream("/mas.v1.AccountService/CreatePayments")
    allowed = pb.PaymentBatch(linked=True).SerializeToString() + b"\x12\x00" * 8_192

    async def flood(message: bytes) -> None:
        while True:
            stream = call(metadata=attacker.token)
            try:
                while True:
                    await stream.write(message)
                    await asyncio.sleep(0.01)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await asyncio.sleep(0.1)

    attacker.keep(flood(b"\x12\x00" * 2_000_000))
    attacker.keep(flood(allowed))


async def statements(attacker: Attacker) -> None:
    """B8: statements of one's own account, two hundred at a time."""
    stub = AccountServiceStub(await attacker.connect())
    request = pb.ListPostingsRequest(account_number="mallory", limit=1_000)

    async def read() -> None:
        while True:
            try:
                await stub.ListPostings(request, metadata=attacker.token, timeout=10)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)

    for _ in range(200):
        attacker.keep(read())


async def idle_sockets(attacker: Attacker) -> None:
    """B7: at each peer port and at the API a thousand sockets over which nothing is said; whoever is hung up on knocks again."""
    raise_file_limit()

    async def knock(port: int) -> None:
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    await reader.read()
                finally:
                    writer.close()
            await asyncio.sleep(1.0)

    for port in attacker.ports():
        for _ in range(1_000):
            attacker.keep(knock(port))


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    async with LocalCluster(resource_managers=1, buckets=1) as cluster:
        yield cluster


def _memory_mib(cluster: LocalCluster) -> float:
    process = cluster.transaction_manager.pid
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


async def _paid(client: Client) -> int:
    """Payments committed in one window."""
    committed = 0
    over = asyncio.get_running_loop().time() + _WINDOW_SECONDS

    async def pay() -> None:
        nonlocal committed
        while asyncio.get_running_loop().time() < over:
            committed += (await client.pay("alice", "bob", 1, timeout=20)).committed

    await asyncio.gather(*(pay() for _ in range(_CALLERS)))
    return committed


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "attack", [watches, silent_calls, streams, giants, statements, idle_sockets]
)
async def test_security_b4_to_b8_payments_go_on_beside_an_attacker_at_its_limit(
    cluster: LocalCluster, attack: Attack
) -> None:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(cluster.client("operator:shop", Role.GATEWAY))
        for number in ("alice", "bob", "mallory"):
            assert (await client.create_account(number, 10**6)).receipt.committed
        await _paid(client)
        memory, before = _memory_mib(cluster), await _paid(client)
        attacker = Attacker(cluster, stack)
        await attack(attacker)
        await asyncio.sleep(0.5)
        beside = await _paid(client)
        grown = _memory_mib(cluster) - memory
        # Somebody who comes only now gets in, and reads.
        late = await stack.enter_async_context(cluster.client("account:bob"))
        assert (await late.account("bob", timeout=20)) is not None
        await attacker.end()
        told = f"{before} payments before, {beside} beside it, {grown:+.0f} MiB"
        _log.info("%s: %s", attack.__name__, told)
        assert beside > before / 10, told
        assert grown < _MEMORY_MIB_MAX, told
